"""Compare with what a user would pick instead: the same slices, machine and minutes for each.

python benchmarks/rivals.py --data DIR --minutes M --out DIR [--only NAME ...] [--image-size S]
    [--json FILE] [--figure FILE]

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

Each contender writes its figures, samples and reconstructions into --out when it has finished. A
later call with the same folder does not train it again, nor does one whose --json file holds its
figures. Every call joins what is there. The figure shows those in --out.
"""

import importlib.util
import math
import pathlib
from collections.abc import Sequence

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
from contenders import recorded
from contenders.contender import STAGES, Contender
from contenders.keras_rivals import Report, Tutorial
from contenders.ours import Ours
from contenders.remote import Remote

from dataset import load_images
from evaluation.metrics import mean_ssim, quality
from evaluation.panels import GREY_SCALE, brain_box, make_panels, save_figure, show_row
from fitting.devices import compute_device
from fitting.run_directory import RunDirectory
from sources.folder import Slices, find_slices, open_slices
from sources.images import to_unit
from utils import InputError, Parser, between, command_line, read_json, replacing

# Flags of train.py. Those of the finer model are the sizes of the shipped one.
OURS = {
    "ours": [],
    "ours-fine": ["--reduction", "4", "--width", "64", "--prior-width", "96"],
}
NAMES = (*OURS, "tutorial", "report", "monai")
LEVELS = (0.80, 0.85, 0.90, 0.92)  # of SSIM, whose minutes are asked for
WATCHED = 15  # each so many validation slices are restored; odd, so that all levels are among them
EARLY_LOOKS = (0.1, 0.25, 0.5)  # minutes: some contenders are good at once
SAMPLES = 8


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    path = {"metavar": "FILE", "type": pathlib.Path}
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add(
        "--minutes",
        type=between(float, 0.001, 10**5),
        required=True,
        metavar="M",
        help="minutes of training of each contender",
    )
    add("--out", metavar="DIR", type=pathlib.Path, required=True, help="folder of the results")
    add("--only", nargs="+", choices=NAMES, default=NAMES, help="train these (default: all)")
    add(
        "--image-size",
        type=between(int, 16, 2048),
        default=256,
        metavar="S",
        help="pixels of a side (default: %(default)s)",
    )
    add("--json", help="write the figures of all finished contenders here", **path)
    add("--figure", help="draw the samples of all finished contenders here, a PNG", **path)
    return parser.parse_args(arguments)


def main(args):
    """Train the contenders that have not finished, and join the figures of all."""
    slices = open_slices(find_slices(args.data))
    conditions = {
        "minutes": args.minutes,
        "image_size": args.image_size,
        "fingerprint": slices.fingerprint,
    }
    images = load(slices, args.image_size)
    known = held(args.json, conditions)
    for name in args.only:
        if name in known or finished(args.out, name, conditions):
            print(f"{name}: finished before.", flush=True)
        elif name == "monai" and not has_monai():
            print("monai is left out: pip install -r benchmarks/requirements-rivals.txt.")
        else:
            contender = make(name, images, slices, args)
            report, arrays = compete(name, contender, images, args.minutes)
            write(args.out, name, {**conditions, **report}, arrays)
    names = [name for name in NAMES if finished(args.out, name, conditions)]
    known |= {name: read_json(result(args.out, name)) for name in names}
    reports = {name: known[name] for name in NAMES if name in known}
    show(reports)
    if args.json:
        recorded.write(args.json, {**conditions, "contenders": reports})
    if args.figure and names:
        draw(args.figure, args.out, names, images["test"], args.minutes)


def load(slices: Slices, image_size: int) -> dict[str, np.ndarray]:
    """Slices that contenders learn from, are watched on and are tested on, uint8 `(N, S, S)`."""
    validate = slices.splits["validate"]
    splits = {
        "train": slices.splits["train"],
        "watched": validate.pick(range(0, len(validate), WATCHED)),
        "test": slices.splits["test"],
    }
    return {name: load_images(split, image_size) for name, split in splits.items()}


def has_monai() -> bool:
    """Whether MONAI and PyTorch are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "monai"))


def make(name: str, images: dict[str, np.ndarray], slices: Slices, args) -> Contender:
    """Make an untrained contender."""
    minutes = args.minutes / 2
    if name in OURS:
        flags = [*OURS[name], "--image-size", str(args.image_size)]
        return Ours(images, minutes, slices, flags, RunDirectory(args.out / name))
    if name == "monai":
        return Remote("contenders.monai_rival", images=images, minutes=minutes)
    return {"tutorial": Tutorial, "report": Report}[name](images, minutes)


def compete(
    name: str, contender: Contender, images: dict[str, np.ndarray], minutes: float
) -> tuple[dict, dict[str, np.ndarray]]:
    """Train a contender, watch it, and measure what it has learnt.

    Args:
        name: Name of the contender.
        contender: The contender, untrained.
        images: What `load` returned.
        minutes: Minutes of training.

    Returns:
        Its figures, and the images `samples` and `restored`.
    """
    curve, losses = [], {stage: [] for stage in STAGES}
    looks = np.linspace(0, minutes / 2, max(2, round(minutes / 2)) + 1)[1:]
    early = [until for until in EARLY_LOOKS if until < looks[0]]
    for stage in STAGES:
        spent = 0.0
        for until in (*early, *looks):
            if spent >= until:  # a step can take longer than the time between two looks
                continue
            spent, loss = contender.train(stage, until)
            losses[stage].append(loss)
            note = ""
            if stage == "vqvae":
                curve.append((spent, mean_ssim(images["watched"], contender.restore("watched"))))
                note = f", SSIM {curve[-1][1]:.3f}"
            print(f"{name}: {stage}, {spent:.1f} min, loss {loss:.4f}{note}", flush=True)
    restored, codes = contender.restore("test"), contender.codes("test")
    about = contender.describe()
    bits = {kind: float(np.mean(values)) for kind, values in contender.prior_bits().items()}
    report = {
        "device": compute_device(),
        **about,
        "losses": losses,
        "curve": curve,
        "minutes_to": {f"{level:.2f}": minutes_to(curve, level) for level in LEVELS},
        "grid": codes.shape[1:],
        "index_bits": codes[0].size * math.log2(about["codebook_size"]),
        **bits,
        **quality(images["test"], restored),
    }
    return report, {"samples": contender.draw(SAMPLES), "restored": restored[spread(restored)]}


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


def spread(images: np.ndarray) -> np.ndarray:
    """Indices of the slices that a figure shows, evenly apart."""
    return np.linspace(0, len(images) - 1, SAMPLES).round().astype(int)


def result(out: pathlib.Path, name: str) -> pathlib.Path:
    """File of the figures of a contender, which is there once the contender has finished."""
    return out / f"{name}.json"


def finished(out: pathlib.Path, name: str, conditions: dict) -> bool:
    """Whether a contender has finished.

    Raises:
        InputError: It has, under other conditions.
    """
    path = result(out, name)
    if path.exists():
        read_same(path, conditions, "remove it", "name another --out folder")
    return path.exists()


def held(path: pathlib.Path | None, conditions: dict) -> dict[str, dict]:
    """Figures of the contenders that the file of --json holds already, by name.

    Raises:
        InputError: They are of other conditions.
    """
    if not (path and path.exists()):
        return {}
    other = "name another --json file"
    return read_same(path, conditions, other, other, "contenders")["contenders"]


def read_same(path, conditions, damaged, other, *keys):
    """Read a JSON file of these conditions, or say what the user can do about it."""
    report = read_json(path, [*conditions, *keys], damaged)
    differ = {key: report[key] for key in conditions if report[key] != conditions[key]}
    if differ:
        raise InputError(f"{path} is of other conditions, {differ}: {other}.")
    return report


def write(out: pathlib.Path, name: str, report: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write what a contender has shown. Its figures come last, because they say that it has."""
    with replacing(out / f"{name}.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    recorded.write(result(out, name), report)


def show(reports: dict[str, dict]) -> None:
    """Print a line for each contender."""
    reached = "".join(f"{f'to {level:.2f}':>9}" for level in LEVELS)
    print(f"{'':<12}{'SSIM':>8}{'brain':>8}{'index bits':>12}{'prior bits':>12}{reached}   steps")
    for name, report in reports.items():
        minutes = [report["minutes_to"][f"{level:.2f}"] for level in LEVELS]
        cells = "".join(f"{'never' if value is None else f'{value:.1f}':>9}" for value in minutes)
        steps = " + ".join(str(report["stages"][stage]["steps"]) for stage in STAGES)
        print(
            f"{name:<12}{report['ssim']:>8.3f}{report['brain_ssim']:>8.3f}"
            f"{report['index_bits']:>12.0f}{report['prior_bits']:>12.0f}{cells}   {steps}"
        )


def draw(
    path: pathlib.Path, out: pathlib.Path, names: Sequence[str], images: np.ndarray, minutes: float
) -> None:
    """Draw samples of each contender under real slices."""
    rows = {"real": images[spread(images)]}
    for name in names:
        with np.load(out / f"{name}.npz") as arrays:
            rows[name] = arrays["samples"]
    box = brain_box(to_unit(rows["real"]))
    figure, axes = make_panels(len(rows), SAMPLES, box)
    for line, (name, shown) in zip(axes, rows.items()):
        show_row(line, to_unit(shown), box, name)
    caption = f"Test slices, and slices drawn after {minutes:g} minutes of training. {GREY_SCALE}"
    save_figure(figure, path, caption)


if __name__ == "__main__":
    command_line(main, parse())
