"""Compare SSIM against bytes a slice: models at several rate weights, and the codecs of Pillow.

python benchmarks/rate_distortion.py --data DIR --run DIR [--run DIR ...] [--split test]
    [--json FILE] [--figure FILE]

All of them compress the same slices. The rate of a model is the negative log2-likelihood of a
slice's codes under its prior; an entropy coder needs that much to within a few bits. The index bits
stand beside it.

Neither side pays for what is sent once. For codecs we count the payload: file size minus the size
of an all-black slice. For models we do not count the weights.
"""

import io
import math
import pathlib
from collections.abc import Sequence

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
from PIL import Image

from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from measures import metrics
from measures.evaluation import check_levels, evaluate
from measures.images import to_unit
from sources.folder import find_slices, open_slices
from sources.layout import SLICE_SIDE, SPLITS
from utils import InputError, Parser, command_line, progress, write_json

RATE_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.25, 3.5, 6.0, 10.0)
# Options of Pillow, one a point of the curve, each at its slowest useful setting, without colour.
CODECS = {
    "AVIF": [
        {"format": "AVIF", "quality": quality, "speed": 4, "subsampling": "4:0:0"}
        for quality in (2, 8, 15, 20, 30, 40, 55)
    ],
    "WebP": [
        {"format": "WEBP", "quality": quality, "method": 6} for quality in (2, 10, 20, 35, 55)
    ],
    "JPEG 2000": [
        {
            "format": "JPEG2000",
            "quality_mode": "rates",
            "quality_layers": [rate],
            "irreversible": True,
        }
        for rate in (80, 60, 45, 35, 25)
    ],
    "JPEG": [
        {"format": "JPEG", "quality": quality, "optimize": True} for quality in (8, 10, 15, 20, 35)
    ],
}
SSIM_LEVELS = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97)  # where bytes are compared
BATCH = 32  # images whose SSIM is computed together


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--run",
        metavar="DIR",
        type=pathlib.Path,
        action="append",
        required=True,
        help="run directory of train.py; may be given again",
    )
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add(
        "--split",
        choices=SPLITS,
        default="test",
        help="split to compress (default: %(default)s)",
    )
    add("--json", metavar="FILE", type=pathlib.Path, help="write all points here")
    add("--figure", metavar="FILE", type=pathlib.Path, help="draw the curves here, a PNG")
    return parser.parse_args(arguments)


def main(args):
    """Measure models and codecs, compare them, and write the points and the figure."""
    slices = open_slices(find_slices(args.data))
    split = slices.splits[args.split]
    models = {}
    for run in args.run:
        name, models[name], images = model_points(run, split)
    codecs = {name: codec_points(name, images) for name in CODECS}
    rows = compare(models, codecs)
    show_comparison(rows)
    if args.json:
        data = {
            "name": slices.name,
            "split": args.split,
            "images": len(split),
            "fingerprint": slices.fingerprint,
        }
        report = {"data": data, "models": models, "codecs": codecs, "at_equal_ssim": rows}
        write_json(args.json, report)
    if args.figure:
        curves = {name: frontier(points, "payload_bytes") for name, points in codecs.items()}
        size = f"{SLICE_SIDE} x {SLICE_SIDE}"
        caption = f"{slices.name}, {args.split} split, {len(split)} slices of {size}."
        curves.rate_distortion(args.figure, models, curves, caption)


def model_points(run: pathlib.Path, split) -> tuple[str, list[dict], np.ndarray]:
    """Measure a run at each rate weight, and print a line for each.

    Returns:
        Name of the run with its sizes, points, and images of the split, uint8 `(N, S, S)`.

    Raises:
        InputError: The run cannot be loaded, or does not fit the slices.
    """
    vqvae, prior = load_models(RunDirectory(run))
    check_levels(run, prior, split)
    image_size, codebook_size = (vqvae.settings[name] for name in ("image_size", "codebook_size"))
    if image_size != SLICE_SIDE:
        raise InputError(
            f"--run must be of image size {SLICE_SIDE}, that of the slices the codecs are given. "
            f"Received: {run} of {image_size}"
        )
    points = []
    for rate_weight in RATE_WEIGHTS:
        results = evaluate(vqvae, prior, split, rate_weight)
        points.append(model_point(results, rate_weight, codebook_size))
        show_point(run.name, points[-1], "prior_bytes", f"rate weight {rate_weight}")
    height, width = results["codes"].shape[1:]
    name = f"{run.name}: {height} x {width} codes of {codebook_size}"
    return name, points, results["images"]


def model_point(results, rate_weight, codebook_size):
    """Summarise the results of `evaluate` at one rate weight."""
    codes = results["codes"]
    return {
        "rate_weight": rate_weight,
        "ssim": float(results["ssim"].mean()),
        "brain_ssim": float(np.nanmean(results["brain_ssim"])),
        "prior_bytes": float(results["bits"].sum((1, 2)).mean() / 8),
        "index_bytes": codes[0].size * np.log2(codebook_size) / 8,
        "codes_used": len(np.unique(codes)),
        **metrics.detail(results["images"], results["restored"]),
    }


def codec_points(name, images):
    """Measure a codec at each of its settings, and print a line for each."""
    points = []
    for options in CODECS[name]:
        points.append(codec_point(images, options))
        show_point(name, points[-1], "payload_bytes")
    return points


def codec_point(images: np.ndarray, options: dict) -> dict:
    """Measure one codec at one quality.

    Args:
        images: Uint8 `(N, S, S)`.
        options: Options of `PIL.Image.Image.save`.

    Returns:
        Mean SSIM, mean bytes of the file and of its payload, and the measures of detail.
    """
    container = len(compress(np.zeros_like(images[0]), options))
    files = [
        compress(image, options) for image in progress(images, options["format"], unit="image")
    ]
    restored = [np.asarray(Image.open(io.BytesIO(file)).convert("L")) for file in files]
    restored = np.stack(restored)
    size = float(np.mean([len(file) for file in files]))
    return {
        "ssim": mean_ssim(images, restored),
        "file_bytes": size,
        "payload_bytes": size - container,
        **metrics.detail(images, restored),
    }


def compress(image, options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


def mean_ssim(images, restored):
    """Return the mean SSIM of uint8 images `(N, S, S)`."""
    values = []
    for begin in range(0, len(images), BATCH):
        part = slice(begin, begin + BATCH)
        pair = (to_unit(array[part, ..., None]) for array in (images, restored))
        values.append(metrics.ssim(*pair))
    return float(np.concatenate(values).mean())


def compare(models, codecs):
    """Compare bytes at equal SSIM.

    Returns:
        One dict for each of `SSIM_LEVELS`: `ssim`, and bytes of the best model and of each codec,
        None where the level is not reached.
    """
    all_points = [point for points in models.values() for point in points]
    rows = []
    for ssim in SSIM_LEVELS:
        row = {"model": bytes_at(all_points, "prior_bytes", ssim)}
        row |= {name: bytes_at(points, "payload_bytes", ssim) for name, points in codecs.items()}
        reached = {name: None if math.isnan(size) else size for name, size in row.items()}
        rows.append({"ssim": ssim, **reached})
    return rows


def bytes_at(points: Sequence[dict], rate: str, ssim: float) -> float:
    """Return the least bytes a slice that reach a mean SSIM.

    Two points together reach every SSIM between theirs: some slices are compressed at the one, and
    the rest at the other.

    Args:
        points: Points of a curve with `ssim` and `rate`.
        rate: Name of the bytes.
        ssim: Mean SSIM to reach.

    Returns:
        Bytes, NaN where no two points lie around the SSIM.
    """
    sizes = []
    for low in points:
        for high in points:
            if low["ssim"] <= ssim <= high["ssim"]:
                rise = (high["ssim"] - low["ssim"]) or 1.0
                sizes.append(low[rate] + (high[rate] - low[rate]) * (ssim - low["ssim"]) / rise)
    return min(sizes, default=math.nan)


def frontier(points: Sequence[dict], rate: str) -> list[dict]:
    """Keep the points that no other point beats with a higher SSIM in as few bytes.

    A codec that rounds black to grey has points that others beat.
    """
    return [point for point in points if not any(_beats(other, point, rate) for other in points)]


def _beats(other, point, rate):
    return other["ssim"] > point["ssim"] and other[rate] <= point[rate]


def show_point(name, point, rate, note=""):
    """Print one point."""
    detail = f"gradient {point['gradient_ratio']:.3f}   fine spectrum {point['spectrum_ratio']:.3f}"
    quality = f"SSIM {point['ssim']:.4f}   {detail}"
    print(f"  {name:<20}{point[rate]:>8.0f} bytes   {quality}   {note}", flush=True)


def show_comparison(rows):
    """Print the bytes at equal SSIM."""
    print(f"  bytes at equal SSIM ({', '.join(rows[0])})")
    for row in rows:
        sizes = {name: math.nan if size is None else size for name, size in row.items()}
        ssim = sizes.pop("ssim")
        columns = "".join(f"{size:>12.0f}" for size in sizes.values())
        ratio = sizes["model"] / sizes["AVIF"]
        print(f"  {ssim:>12.3f}{columns}{ratio:>9.2f} of AVIF")


if __name__ == "__main__":
    command_line(main, parse())
