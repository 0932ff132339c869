"""Compare quality against bytes a slice: models at several rate weights, and image codecs.

python benchmarks/rate_distortion.py --data DIR --run DIR [--run DIR ...] [--split test]
    [--every N] [--rate-weights L ...] [--models-alone] [--learned DIR --learned-python FILE]
    [--json FILE] [--figure FILE]

All of them compress the same slices. Bytes of a model are those of real files, headers included,
as compress.py writes them: one a case, and for the curves "single slices" one a slice. The ideal
code length and the index bits stand beside them. Codecs have a file a slice, but "AVIF sequences"
has a file a case. We count their payload: file size minus the size of an all-black file.

`--learned DIR` adds a learned codec, the scale hyperprior of CompressAI. It is trained on the same
training slices first, for `--learned-minutes` in all, and its weights are kept in DIR. It needs an
environment of its own, with requirements-codec.txt, whose Python `--learned-python` names. Its
streams have no header, so all their bytes count. Those of its weights do not.

The weights of a model are sent once. `paid_after` says after how many slices they and the files of
the model are smaller than the payloads of a codec at the same SSIM. There models of whole cases
meet AVIF sequences, and models of single slices meet the other codecs.

A slice takes up to a second at each rate weight or quality. With --json every point is written as
soon as it is known. Points that the file holds are kept, so that the work can be spread. Curves are
compared once they are whole.

`--every N` takes each N-th case, for models and codecs alike. With `--split validate
--models-alone` the figures are those by which one chooses the rate weight of a model.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
from contenders import recorded
from rates import codecs
from rates.comparison import (
    LEVELS,
    WHOLE_CASES,
    compare,
    frontier,
    paid_after,
    show,
    show_paid,
)
from rates.files import Alone, every_case, write_files
from rates.learned import WEIGHTS, Learned

from coding.slices import BATCH, Codec
from dataset import load_images
from evaluation import curves
from evaluation.metrics import quality
from fitting.run_directory import RunDirectory
from sources.folder import Split, find_slices, open_slices
from sources.images import to_grey
from sources.layout import SPLITS
from utils import InputError, Parser, between, command_line, read_json

RATE_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0)
TUNED_ON = 7  # each so many validation cases choose the thresholds of codecs
LEARNED_MINUTES = 180
GROUPS = ("models", "single", "codecs", "learned")  # of curves
ALONE = ", single slices"  # ends the name of a model's curve of single slices


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    path = {"metavar": "FILE", "type": pathlib.Path}
    add("--run", metavar="DIR", action="append", required=True, help="run of train.py; repeatable")
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    add("--every", type=between(int, 1, 1000), default=1, metavar="N", help="take each N-th case")
    add(
        "--rate-weights",
        type=between(float, 0, 1e6),
        nargs="+",
        default=RATE_WEIGHTS,
        metavar="L",
        help="prices of one bit, a point of the models' curves each (default: %(default)s)",
    )
    add("--models-alone", action="store_true", help="leave out codecs and single slices")
    add("--learned", help="folder of the learned codec's weights", metavar="DIR", type=pathlib.Path)
    add("--learned-python", help="Python that has CompressAI (default: this one)", metavar="FILE")
    add(
        "--learned-minutes",
        type=between(float, 0.001, 10**5),
        metavar="M",
        help=f"minutes of its training (default: {LEARNED_MINUTES})",
    )
    add("--json", help="write all points here", **path)
    add("--figure", help="draw the curves here, a PNG", **path)
    args = parser.parse_args(arguments)
    if not args.learned and (args.learned_python or args.learned_minutes):
        parser.error("argument --learned-python/--learned-minutes: give --learned DIR too")
    args.learned_minutes = args.learned_minutes or LEARNED_MINUTES
    return args


def main(args):
    """Measure models and codecs, compare them, and write the points and the figure."""
    slices = open_slices(find_slices(args.data))
    split = every_case(slices.splits[args.split], args.every)
    runs = [Codec(RunDirectory(run)) for run in args.run]
    measured_on, tuning = codec_slices(runs, split, slices.splits["validate"])
    data = {
        "name": slices.name,
        "split": args.split,
        "images": len(split),
        "every": args.every,
        "image_size": measured_on.images.shape[1],
        "fingerprint": slices.fingerprint,
    }
    report = begin_report(args.json, data)
    add = functools.partial(add_curve, report, args.json)
    if args.learned:
        made_of = {"minutes": args.learned_minutes, "tuned_on": TUNED_ON}
        frame = runs[0].vqvae.frame
        measured = functools.partial(learned_points, args, slices, frame, measured_on, tuning)
        add("learned", "hyperprior", made_of, WEIGHTS, measured)
    for codec in runs:
        made_of, name = {"models": codec.digest.hex()}, run_name(codec)
        report["weight_bytes"][name] = weight_bytes(codec.run)
        curves_of = {("models", name): split}
        if not args.models_alone:
            curves_of["single", name + ALONE] = Alone(**vars(split))
        for which, part in curves_of.items():
            measured = functools.partial(model_points, codec, part, measured_on.images)
            add(*which, made_of, args.rate_weights, measured)
    for name in () if args.models_alone else codecs.available():
        made_of = {"version": codecs.versions().get(name), "tuned_on": TUNED_ON}
        measured = functools.partial(codecs.codec_points, name, measured_on, tuning)
        add("codecs", name, made_of, codecs.CODECS[name], measured)
    for measure in LEVELS:
        show(report["at_equal"][measure], measure)
    for rows in report["paid_after"].values():
        show_paid(rows, report["weight_bytes"])
    if args.figure:
        size = " x ".join(map(str, measured_on.images.shape[1:]))
        caption = f"{slices.name}, {args.split} split, {len(split)} slices of {size}."
        draw(args.figure, report, caption)


def begin_report(path: pathlib.Path | None, data: dict[str, Any]) -> dict[str, Any]:
    """Report of these data: what the file holds, or a new one.

    Raises:
        InputError: The file holds curves of other data, or is none of this benchmark.
    """
    advice = "name another --json file"
    groups = {group: {} for group in ("made_of", "weight_bytes", *GROUPS)}
    if not (path and path.exists()):
        return {"data": data, "unfinished": [], **groups}
    report = {"unfinished": [], **groups, **read_json(path, ["data", "made_of"], advice)}
    report.pop("made", None)  # this call writes its own
    if report["data"] != data:
        raise InputError(f"{path} holds curves of other slices: {advice}.")
    return report


def add_curve(
    report: dict[str, Any],
    path: pathlib.Path | None,
    group: str,
    name: str,
    made_of: dict[str, Any],
    settings: Sequence[Any],
    measured: Callable[[Sequence[Any]], Iterable[dict[str, Any]]],
) -> None:
    """Measure the points of a curve that the report does not hold, and write the report.

    Names of curves that are not whole yet stand under `unfinished`.

    Args:
        report: The report, which grows.
        path: Where to write it, or None.
        group: One of `GROUPS`.
        name: Name of the curve.
        made_of: What its points follow from, beside their settings. A curve that was made of
            something else is replaced.
        settings: What its points are measured at. Points at other settings are kept too.
        measured: Function that measures a point at each of some settings.
    """
    points = report[group].get(name, []) if report["made_of"].get(name) == made_of else []
    known = [setting_of(point) for point in points]
    missing = [setting for setting in settings if setting not in known]
    others = [other for other in report["unfinished"] if other != name]
    report["made_of"][name], report[group][name] = made_of, points
    report["unfinished"] = [*others, name]
    if points:
        print(f"  {name}: {len(points)} points kept from {path}.", flush=True)
    for point in measured(missing) if missing else ():
        show_point(name, point)
        points.append({**point, "commit": recorded.MADE["commit"]})
        if path:
            recorded.write(path, report)
    report["unfinished"] = others
    compare_curves(report)
    if path:
        recorded.write(path, report)


def setting_of(point: dict[str, Any]) -> Any:
    """What a point was measured at: a rate weight, options of a codec, or weight of distortion."""
    if "rate_weight" in point:
        return point["rate_weight"]
    return point["options"].get("weight", point["options"])


def compare_curves(report: dict[str, Any]) -> None:
    """Compare whole curves. Weights pay off against codecs that see as much of a case."""
    models, single, rivals = whole_curves(report)
    ours = {"models": models, "single": single}
    report["at_equal"] = {measure: compare(ours, rivals, measure) for measure in LEVELS}
    whole = {name: points for name, points in rivals.items() if name in WHOLE_CASES}
    alone = {name: points for name, points in rivals.items() if name not in WHOLE_CASES}
    own = {name.removesuffix(ALONE): points for name, points in single.items()}
    report["paid_after"] = {
        "models": paid_after(models, whole, report["weight_bytes"]),
        "single": paid_after(own, alone, report["weight_bytes"]),
    }


def whole_curves(report: dict[str, Any]) -> list[dict[str, list[dict]]]:
    """Curves that are whole: of models, of models of single slices, and of all codecs."""
    groups = report["models"], report["single"], report["codecs"] | report["learned"]
    return [
        {name: points for name, points in group.items() if name not in report["unfinished"]}
        for group in groups
    ]


def codec_slices(runs: list[Codec], split: Split, validate: Split) -> list[codecs.Slices]:
    """Slices for the codecs, as the models see them: those of the split, and some of validation.

    Raises:
        InputError: The runs see slices of different sizes.
    """
    sizes = {codec.vqvae.settings["image_size"] for codec in runs}
    if len(sizes) > 1:
        raise InputError(
            f"the runs are of image sizes {sorted(sizes)}: name --run directories of one size."
        )
    (size,) = sizes
    tuning = every_case(validate, TUNED_ON)
    return [codecs.Slices(load_images(part, size), part.cases) for part in (split, tuning)]


def run_name(codec: Codec) -> str:
    """Name of a run with its sizes."""
    height, width = codec.vqvae.grid
    size = codec.vqvae.settings["codebook_size"]
    return f"{codec.run.path.resolve().name}: {height} x {width} codes of {size}"


def weight_bytes(run: RunDirectory) -> int:
    """Bytes of the model files that encoder and decoder need."""
    return sum(run.model(stage).stat().st_size for stage in ("vqvae", "prior"))


def model_points(
    codec: Codec, split: Split, images: np.ndarray, rate_weights: Sequence[float]
) -> Iterator[dict]:
    """Measure a run at each rate weight."""
    for rate_weight in rate_weights:
        yield model_point(codec, split, images, rate_weight)


def model_point(codec: Codec, split: Split, images: np.ndarray, rate_weight: float) -> dict:
    """Write the files of all cases, or slices, at one rate weight, and measure them.

    Args:
        codec: The codec of a run.
        split: The slices, or an `Alone` of them.
        images: Their images, uint8 `(N, S, S)`.
        rate_weight: Price of one bit when codes are chosen.

    Returns:
        Mean bytes a slice: `file_bytes` of the files, `prior_bytes` of the ideal code length, and
        `index_bytes` of plain indices; `codes_used`; and what `quality` gives.
    """
    written = write_files(codec, split, rate_weight)
    codes = written.codes
    batches = [codes[begin : begin + BATCH] for begin in range(0, len(codes), BATCH)]
    restored = [to_grey(codec.vqvae.decode(batch))[..., 0] for batch in batches]
    return {
        "rate_weight": float(rate_weight),
        "file_bytes": int(written.sizes.sum()) / len(split),
        "prior_bytes": float(written.ideal.sum()) / len(split),
        "index_bytes": codes[0].size * float(np.log2(codec.vqvae.settings["codebook_size"])) / 8,
        "codes_used": len(np.unique(codes)),
        **quality(images, np.concatenate(restored)),
    }


def learned_points(args, slices, frame, measured_on, tuning, weights) -> Iterator[dict]:
    """Train the learned codec, and measure it at these of its weights."""
    training = load_images(slices.splits["train"], measured_on.images.shape[1])
    rival = Learned(args.learned_python or sys.executable, args.learned, training, frame)
    return rival.points(args.learned_minutes, measured_on, tuning, weights)


def show_point(name: str, point: dict[str, Any]) -> None:
    """Print a point of a curve in one line."""
    of_model = "rate_weight" in point
    rate = "file_bytes" if of_model else "payload_bytes"
    choice = "rate_weight" if of_model else "threshold"
    print(
        f"  {name:<20}{point[rate]:>8.1f} bytes   SSIM {point['ssim']:.4f}   in the brain "
        f"{point['brain_ssim']:.4f}, {point['brain_psnr']:.2f} dB   gradient "
        f"{point['gradient_ratio']:.3f}   fine spectrum {point['spectrum_ratio']:.3f}   "
        f"{choice.replace('_', ' ')} {point[choice]:g}",
        flush=True,
    )


def draw(path: pathlib.Path, report: dict[str, Any], caption: str) -> None:
    """Draw all curves in each quality, without points that others of their curve beat."""
    rates = "file_bytes", "file_bytes", "payload_bytes"
    panels = {
        measure: tuple(
            {name: frontier(points, rate, measure) for name, points in group.items()}
            for group, rate in zip(whole_curves(report), rates)
        )
        for measure in LEVELS
    }
    curves.rate_distortion(path, panels, caption)


if __name__ == "__main__":
    command_line(main, parse())
