"""Compare with what a user would pick instead: the same slices, machine and minutes for each.

python benchmarks/rivals.py --data DIR --minutes M --out DIR [--json FILE]
    [--only NAME ...] [--image-size S] [--figure FILE]

Half of the minutes go to the VQ-VAE and half to the prior, with all that the prior needs before its
first step. About once a minute, and more often at first, SSIM is taken on each 15th validation
slice. The time of that does not count, and `minutes_to` follows from it. All other figures are of
the test split.

Contenders are

- ours and ours-fine, with 8 x 8 and with 4 x 4 pixels a code,
- tutorial, the VQ-VAE and the PixelCNN of keras.io,
- report, the highest credible published figure for OASIS slices,
- monai, the VQ-VAE of MONAI with its transformer. It is left out where that is not installed.

Ours has the precision that train.py chooses. The others have float32, which is what they come with.

The figures of each contender are written into the --json file when it has finished, and its samples
into --out. A later call with the same file does not train it again. The figure
shows all contenders whose samples are in --out.
"""

import math
import pathlib
from collections.abc import Sequence

from common import MADE, continue_report, has_packages, make_parser, show, write_report

# isort: split
import numpy as np
from contenders.contender import STAGES, Contender
from contenders.keras_rivals import Report, Tutorial
from contenders.ours import Ours
from contenders.remote import Remote

from dataset import load_images
from evaluation.metrics import quality
from evaluation.plots import GREY_SCALE, Row, rows_of_images
from fitting.devices import compute_device
from fitting.run_directory import RunDirectory
from sources.folder import Slices, find_slices, open_slices
from sources.images import to_unit
from utils import between, command_line, replacing, spread

# Flags of train.py. Those of the finer model are the sizes of the shipped one.
OURS = {"ours": [], "ours-fine": ["--reduction", "4", "--width", "64", "--prior-width", "96"]}
NAMES = (*OURS, "tutorial", "report", "monai")
LEVELS = (0.80, 0.85, 0.90, 0.92)  # of SSIM, whose minutes are asked for
WATCHED = 15  # each so many validation slices are restored; odd, so that all levels are among them
EARLY_LOOKS = (0.1, 0.25, 0.5)  # minutes: some contenders are good at once
SAMPLES = 8


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--out", "--json", "--figure")
    add = parser.add_argument
    minutes = {"type": between(float, 0.001, 10**5), "metavar": "M"}
    size = {"type": between(int, 16, 2048), "metavar": "S", "default": 256}
    add("--minutes", required=True, help="minutes of training of each contender", **minutes)
    add("--only", nargs="+", choices=NAMES, default=NAMES, help="train these (default: all)")
    add("--image-size", help="pixels of a side (default: %(default)s)", **size)
    return parser.parse_args(arguments)


def main(args):
    """Train the contenders that have not finished, and join the figures of all."""
    slices = open_slices(find_slices(args.data))
    conditions = {
        "minutes": args.minutes,
        "image_size": args.image_size,
        "fingerprint": slices.fingerprint,
    }
    report = continue_report(args.json, conditions)
    known = report.setdefault("contenders", {})
    images = load(slices, args.image_size)
    for name in args.only:
        if name in known:
            print(f"{name}: finished before.", flush=True)
        elif name != "monai" or has_packages("torch", "monai"):
            contender = make(name, images, slices, args)
            figures = compete(name, contender, images, args.minutes)
            with replacing(args.out / f"{name}.npz") as temporary:
                np.savez_compressed(temporary, samples=contender.draw(SAMPLES))
            known[name] = {"made": MADE, **figures}
            write_report(args.json, report)
    for name, figures in known.items():
        show(name, figures, "ssim", "brain_ssim", "index_bits", "prior_bits", "minutes_to")
    if args.figure:
        draw(args.figure, args.out, images["test"], args.minutes)


def load(slices: Slices, image_size: int) -> dict[str, np.ndarray]:
    """Slices that contenders learn from, are watched on and are tested on, uint8 `(N, S, S)`."""
    validate = slices.splits["validate"]
    splits = {
        "train": slices.splits["train"],
        "watched": validate.pick(range(0, len(validate), WATCHED)),
        "test": slices.splits["test"],
    }
    return {name: load_images(split, image_size) for name, split in splits.items()}


def make(name: str, images: dict[str, np.ndarray], slices: Slices, args) -> Contender:
    """Make an untrained contender."""
    minutes = args.minutes / 2
    if name in OURS:
        flags = [*OURS[name], "--image-size", str(args.image_size)]
        return Ours(images, minutes, slices, flags, RunDirectory(args.out / name))
    if name == "monai":
        return Remote("contenders.monai_rival", images=images, minutes=minutes)
    return {"tutorial": Tutorial, "report": Report}[name](images, minutes)


def compete(name: str, contender: Contender, images: dict[str, np.ndarray], minutes: float) -> dict:
    """Train a contender, watch it, and return the figures of what it has learnt.

    Args:
        name: Name of the contender.
        contender: The contender, untrained.
        images: What `load` returned.
        minutes: Minutes of training.
    """
    curve = []
    looks = np.linspace(0, minutes / 2, max(2, round(minutes / 2)) + 1)[1:]
    early = [until for until in EARLY_LOOKS if until < looks[0]]
    for stage in STAGES:
        spent = 0.0
        for until in (*early, *looks):
            if spent >= until:  # a step can take longer than the time between two looks
                continue
            spent, loss = contender.train(stage, until)
            note = ""
            if stage == "vqvae":
                ssim = quality(images["watched"], contender.restore("watched"))["ssim"]
                curve.append((spent, ssim))
                note = f", SSIM {ssim:.3f}"
            print(f"{name}: {stage}, {spent:.1f} min, loss {loss:.4f}{note}", flush=True)
    codes, about = contender.codes("test"), contender.describe()
    return {
        "device": compute_device(),
        **about,
        "curve": curve,
        "minutes_to": {f"{level:.2f}": minutes_to(curve, level) for level in LEVELS},
        "grid": codes.shape[1:],
        "index_bits": codes[0].size * math.log2(about["codebook_size"]),
        **{kind: float(np.mean(bits)) for kind, bits in contender.prior_bits().items()},
        **quality(images["test"], contender.restore("test")),
    }


def minutes_to(curve: Sequence[tuple[float, float]], level: float) -> float:
    """Minutes after which a curve first reaches a level, on a straight line between two looks.

    Args:
        curve: Minutes and SSIM of each look, in order.
        level: SSIM to reach.

    Returns:
        The minutes. Those of the first look if it is there already, and NaN if none is.
    """
    for number, (minutes, ssim) in enumerate(curve):
        if ssim >= level:
            if number == 0:
                return minutes
            before, lower = curve[number - 1]
            return before + (minutes - before) * (level - lower) / (ssim - lower)
    return math.nan


def draw(path: pathlib.Path, out: pathlib.Path, images: np.ndarray, minutes: float) -> None:
    """Draw samples of each contender under real slices."""
    rows = {"real": images[spread(len(images), SAMPLES)]}
    for name in NAMES:
        if (out / f"{name}.npz").exists():
            with np.load(out / f"{name}.npz") as arrays:
                rows[name] = arrays["samples"]
    panels = [Row(to_unit(images), name) for name, images in rows.items()]
    caption = f"Test slices, and slices drawn after {minutes:g} minutes of training. {GREY_SCALE}"
    rows_of_images(path, panels, titles=(), caption=caption)


if __name__ == "__main__":
    command_line(main, parse())
