"""Compare quality against bytes a slice: models at several rate weights, and image codecs.

python benchmarks/rate_distortion.py --data DIR --run DIR [--run DIR ...] [--split test]
    [--every N] [--rate-weights L ...] [--models-alone] [--json FILE] [--figure FILE]

All of them compress the same slices. Bytes of a model are those of real files, headers included,
as compress.py writes them: one a case, and for the curves "single slices" one a slice. The ideal
code length and the index bits stand beside them. Codecs have a file a slice, but "AVIF sequences"
has a file a case. We count their payload: file size minus the size of an all-black file.

A slice takes up to a second at each rate weight or quality. With --json every curve is written as
soon as it is known. Points that the file holds are kept, so that the work can be spread.

`--every N` takes each N-th case, for models and codecs alike. With `--split validate
--models-alone` the figures are those by which one chooses the rate weight of a model.
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common import MADE, continue_report, make_parser, show, write_report

# isort: split
import image_codecs as codecs
import numpy as np
from compression import Alone, every_case, write_files
from contenders.contender import in_batches
from matplotlib.figure import Figure

from coding.slices import Codec
from dataset import load_images
from evaluation.metrics import quality
from evaluation.plots import BLUE, GREEN, ORANGE, our_style, save_figure
from fitting.run_directory import RunDirectory
from sources.folder import Split, find_slices, open_slices
from sources.images import to_grey
from utils import InputError, between, command_line, progress

RATE_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0)
TUNED_ON = 7  # each so many validation cases choose the thresholds of codecs
GROUPS = ("models", "single", "codecs")  # of curves
ALONE = ", single slices"  # ends the name of a model's curve of single slices
# Where bytes are compared.
LEVELS = {
    "ssim": (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97),
    "brain_ssim": (0.75, 0.80, 0.825, 0.85, 0.875, 0.90, 0.92),
    "brain_psnr": (22.0, 23.0, 24.0, 25.0, 26.0, 28.0, 30.0),
}
TITLES = dict(
    ssim="SSIM", brain_ssim="SSIM inside the brain", brain_psnr="PSNR inside the brain, dB"
)
CODEC_COLOURS = (ORANGE, "#E69F00", GREEN, "#CC79A7", "0.45", "black", "#56B4E9")
BYTE_TICKS = (50, 100, 200, 500, 1000, 2000)
Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--split", "--every", "--json", "--figure")
    add = parser.add_argument
    weights = {"type": between(float, 0, 1e6), "nargs": "+", "default": RATE_WEIGHTS}
    add("--run", metavar="DIR", action="append", required=True, help="run of train.py; repeatable")
    add("--rate-weights", metavar="L", help="prices of one bit (default: %(default)s)", **weights)
    add("--models-alone", action="store_true", help="leave out codecs and single slices")
    return parser.parse_args(arguments)


def main(args):
    """Measure models and codecs, compare them, and write the points and the figure."""
    slices = open_slices(find_slices(args.data))
    split = every_case(slices.splits[args.split], args.every)
    runs = [Codec(RunDirectory(run)) for run in args.run]
    size = image_size(runs)
    stacks, tuning = (
        stacks_of(part, size) for part in (split, every_case(slices.splits["validate"], TUNED_ON))
    )
    data = {
        "name": slices.name,
        "split": args.split,
        "images": len(split),
        "every": args.every,
        "image_size": size,
        "fingerprint": slices.fingerprint,
    }
    report = continue_report(args.json, {"data": data})
    for group in ("made_of", *GROUPS):
        report.setdefault(group, {})
    add = functools.partial(add_curve, report, args.json)
    for codec in runs:
        made_of, name = {"models": codec.digest.hex()}, run_name(codec)
        point = functools.partial(model_point, codec, images=np.concatenate(stacks))
        add("models", name, made_of, args.rate_weights, functools.partial(point, split))
        if not args.models_alone:
            single = functools.partial(point, Alone(**vars(split)))
            add("single", name + ALONE, made_of, args.rate_weights, single)
    if not args.models_alone:
        point = functools.partial(codecs.codec_point, stacks=stacks, tuning=tuning)
        for name, version in codecs.available().items():
            made_of = {"version": version, "tuned_on": TUNED_ON}
            add("codecs", name, made_of, codecs.CODECS[name], point)
    ours = {"models": report["models"], "single": report["single"]}
    report["at_equal"] = {measure: compare(ours, report["codecs"], measure) for measure in LEVELS}
    write_report(args.json, report)
    for row in itertools.chain(*report["at_equal"].values()):
        show("bytes a slice", row)
    if args.figure:
        caption = f"{slices.name}, {args.split} split, {len(split)} slices of {size} x {size}."
        draw(args.figure, report, caption)


def image_size(runs: list[Codec]) -> int:
    """Pixels of a side of the slices that all runs see.

    Raises:
        InputError: They see slices of different sizes.
    """
    sizes = {codec.vqvae.settings["image_size"] for codec in runs}
    if len(sizes) > 1:
        raise InputError(
            f"the runs are of image sizes {sorted(sizes)}: name --run directories of one size."
        )
    return sizes.pop()


def stacks_of(split: Split, size: int) -> list[np.ndarray]:
    """Slices of each case, uint8 `(L, size, size)`, as the models see them."""
    images = load_images(split, size)
    return np.split(images, np.flatnonzero(np.diff(split.cases)) + 1)


def run_name(codec: Codec) -> str:
    """Name of a run with its sizes."""
    height, width = codec.vqvae.grid
    size = codec.vqvae.settings["codebook_size"]
    return f"{codec.run.path.resolve().name}: {height} x {width} codes of {size}"


def model_point(codec: Codec, split: Split, rate_weight: float, images: np.ndarray) -> dict:
    """Write the files of all cases, or slices, at one rate weight, and measure them.

    Args:
        codec: The codec of a run.
        split: The slices, or an `Alone` of them.
        rate_weight: Price of one bit when codes are chosen.
        images: Images of the slices, uint8 `(N, S, S)`.

    Returns:
        Mean bytes a slice: `file_bytes` of the files, `prior_bytes` of the ideal code length, and
        `index_bytes` of plain indices; `codes_used`; and what `quality` gives.
    """
    written = write_files(codec, split, rate_weight)
    codes = written.codes
    restored = in_batches(lambda part: to_grey(codec.vqvae.decode(part))[..., 0], codes)
    return {
        "rate_weight": float(rate_weight),
        "file_bytes": int(written.sizes.sum()) / len(split),
        "prior_bytes": float(written.ideal.sum()) / len(split),
        "index_bytes": codes[0].size * float(np.log2(codec.vqvae.settings["codebook_size"])) / 8,
        "codes_used": len(np.unique(codes)),
        **quality(images, restored),
    }


def add_curve(
    report: dict[str, Any],
    path: pathlib.Path | None,
    group: str,
    name: str,
    made_of: dict[str, Any],
    settings: Sequence[Any],
    measure: Callable[[Any], dict[str, Any]],
) -> None:
    """Measure the points of a curve that the report lacks, and write the report.

    Args:
        report: The report, which grows.
        path: Where to write it, or None.
        group: One of `GROUPS`.
        name: Name of the curve.
        made_of: What its points follow from, beside their settings. A curve that was made of
            something else is replaced.
        settings: What its points are measured at: rate weights, or options of a codec. Points at
            other settings are kept too.
        measure: Function that measures a point at a setting.
    """
    points = report[group].get(name, []) if report["made_of"].get(name) == made_of else []
    known = [point.get("rate_weight", point.get("options")) for point in points]
    missing = [setting for setting in settings if setting not in known]
    if points:
        print(f"  {name}: {len(points)} points kept from {path}.", flush=True)
    for setting in progress(missing, name, unit="point"):
        points = [*points, {**measure(setting), "commit": MADE["commit"]}]
        show(name, points[-1])
    report["made_of"][name], report[group][name] = made_of, points
    write_report(path, report)


def bytes_at(points: Sequence[Mapping], rate: str, measure: str, level: float) -> float:
    """Return the least bytes a slice that reach a mean quality, or more.

    Two points together reach every quality between theirs: some slices are compressed at the one,
    and the rest at the other.

    Args:
        points: Points of a curve.
        rate: Name of the bytes.
        measure: Name of the quality.
        level: Mean quality to reach.

    Returns:
        Bytes, NaN where no point reaches the level.
    """
    sizes = [point[rate] for point in points if point[measure] >= level]
    for low in points:
        for high in points:
            if low[measure] < level < high[measure]:
                share = (level - low[measure]) / (high[measure] - low[measure])
                sizes.append(low[rate] + (high[rate] - low[rate]) * share)
    return min(sizes, default=math.nan)


def frontier(points: Sequence[dict], rate: str, measure: str) -> list[dict]:
    """Keep the points that no other point beats with a higher quality in as few bytes."""

    def beats(one, other):
        return one[measure] > other[measure] and one[rate] <= other[rate]

    return [point for point in points if not any(beats(other, point) for other in points)]


def compare(ours: Mapping[str, Curves], codecs: Curves, measure: str) -> list[dict[str, Any]]:
    """Compare bytes a slice at equal quality.

    Args:
        ours: Curves of each run by its name: of `models`, and of models of `single` slices.
        codecs: Curve of each codec, by its name.
        measure: A key of `LEVELS`.

    Returns:
        One dict for each level: `measure` itself; `models` and `single`, the file bytes of all
        runs together; and `payload_bytes` by codec. NaN stands where a level is not reached.
    """
    every = {kind: [p for points in runs.values() for p in points] for kind, runs in ours.items()}
    return [
        {
            measure: level,
            **{kind: bytes_at(p, "file_bytes", measure, level) for kind, p in every.items()},
            "payload_bytes": {
                name: bytes_at(points, "payload_bytes", measure, level)
                for name, points in codecs.items()
            },
        }
        for level in LEVELS[measure]
    ]


@our_style()
def draw(path: pathlib.Path, report: dict[str, Any], caption: str) -> None:
    """Draw quality against bytes a slice, a panel for each measure of quality.

    Points that others of their curve beat are left out.
    """
    figure = Figure((12.6, 5), layout="constrained")
    axes = figure.subplots(1, len(LEVELS))
    for axis, (measure, title) in zip(axes, TITLES.items()):

        def plot(points, rate, measure=measure, axis=axis, **look):
            points = sorted((point[rate], point[measure]) for point in points)
            axis.plot(*zip(*points), **look)

        for group, line in (("models", "-"), ("single", "--")):
            look = {"color": BLUE, "linestyle": line, "linewidth": 2}
            for (name, points), marker in zip(report[group].items(), itertools.cycle("osD^v")):
                best = frontier(points, "file_bytes", measure)
                plot(best, "file_bytes", marker=marker, label=name, **look)
        looks = zip(itertools.cycle(CODEC_COLOURS), itertools.cycle("vxP*+1D"))
        for (name, points), (colour, marker) in zip(report["codecs"].items(), looks):
            look = {"color": colour, "marker": marker, "markersize": 4}
            best = frontier(points, "payload_bytes", measure)
            plot(best, "payload_bytes", label=f"{name}, payload", **look)
            plot(best, "file_bytes", color=colour, linestyle=":", linewidth=1)
        axis.set(xscale="log", xlim=(50, 3000), xlabel="bytes a slice", ylabel=title)
        axis.set_xticks(BYTE_TICKS, map(str, BYTE_TICKS))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=3, fontsize=8, handlelength=4)
    save_figure(
        figure,
        path,
        f"{caption} Models: real files with their heads, one a case, or one for a single "
        "slice. Codecs: payload, which is the file minus a black file; dotted: the whole "
        "file. AVIF sequences: a sequence a case. Other codecs: a file a slice.",
    )


if __name__ == "__main__":
    command_line(main, parse())
