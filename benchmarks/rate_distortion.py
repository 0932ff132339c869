"""SSIM against bytes a slice: the models at several rate weights beside the codecs that Pillow carries, on the same slices.

python benchmarks/rate_distortion.py --data DIR --run DIR [--run DIR ...] [--split test] [--json FILE] [--figure FILE]

A model's rate is the negative log2-likelihood of a slice's codes under its prior, which an entropy coder needs to within a few
bits; its index bits stand beside it. Neither side pays for what is sent once: a codec's payload is its file less its file of an
all-black slice, and the models' weights are not counted.
"""

import io
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import checkpoints
import dataset
from utils import InputError, Parser, command_line, import_tensorflow, write_json

RATE_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.25, 3.5, 6.0, 10.0)
CODECS = {  # what Pillow is told, one a point of the curve, each at its slowest useful setting and without colour
    "AVIF": [{"format": "AVIF", "quality": q, "speed": 4, "subsampling": "4:0:0"} for q in (2, 8, 15, 20, 30, 40, 55)],
    "WebP": [{"format": "WEBP", "quality": q, "method": 6} for q in (2, 10, 20, 35, 55)],
    "JPEG 2000": [{"format": "JPEG2000", "quality_mode": "rates", "quality_layers": [r], "irreversible": True} for r in (80, 60, 45, 35, 25)],
    "JPEG": [{"format": "JPEG", "quality": q, "optimize": True} for q in (8, 10, 15, 20, 35)],
}
LEVELS = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97)  # SSIM at which rates are compared


def codec_point(images, options):
    """One codec at one quality: mean SSIM, and mean bytes of the file and of its payload; images are uint8 `(N, S, S)`."""
    import numpy as np
    from PIL import Image

    import metrics

    def compressed(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, **options)
        return file

    container = compressed(np.zeros_like(images[0])).tell()
    files = [compressed(image) for image in images]
    restored = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
    size = float(np.mean([file.tell() for file in files]))
    return {"ssim": mean_ssim(images, restored), "file_bytes": size, "payload_bytes": size - container, **metrics.detail(images, restored)}


def mean_ssim(images, restored, batch=32):
    import numpy as np

    import metrics

    pairs = [tuple(part[i : i + batch, ..., None].astype("float32") / 255.0 for part in (images, restored)) for i in range(0, len(images), batch)]
    return float(np.concatenate([metrics.ssim(*pair) for pair in pairs]).mean())


def model_points(run, split):
    """A run at each rate weight: `(name, points, images)`."""
    import numpy as np

    import evaluation
    import metrics

    vqvae, prior = checkpoints.load_models(run)
    evaluation.check_levels(run, prior, split)
    if vqvae.settings["image_size"] != dataset.SOURCE_SIZE:
        raise InputError(f"--run must be of image size {dataset.SOURCE_SIZE}, that of the slices the codecs are given. "
                         f"Received: {run} of {vqvae.settings['image_size']}")
    points = []
    for rate_weight in RATE_WEIGHTS:
        results = evaluation.evaluate(vqvae, prior, split, rate_weight)
        codes = results["codes"]
        points.append({"rate_weight": rate_weight, "ssim": float(results["ssim"].mean()), "brain_ssim": float(np.nanmean(results["brain_ssim"])),
                       "prior_bytes": float(results["bits"].sum((1, 2)).mean() / 8), "index_bytes": codes[0].size * np.log2(vqvae.settings["codebook_size"]) / 8,
                       "codes_used": len(np.unique(codes)), **metrics.detail(results["images"], results["restored"])})
        show(run.name, points[-1], "prior_bytes", f"rate weight {rate_weight}")
    return f"{run.name}: {codes.shape[1]} x {codes.shape[2]} codes of {vqvae.settings['codebook_size']}", points, results["images"]


def show(name, point, rate, how=""):
    print(f"  {name:<20}{point[rate]:>8.0f} bytes   SSIM {point['ssim']:.4f}   gradient {point['gradient_ratio']:.3f}   "
          f"fine spectrum {point['spectrum_ratio']:.3f}   {how}", flush=True)


def bytes_at(points, rate, ssim):
    """Least bytes at which a mean SSIM is reached when slices are shared between two points; NaN beyond the points."""
    pairs = [(low, high) for low in points for high in points if low["ssim"] <= ssim <= high["ssim"]]
    return min((low[rate] + (high[rate] - low[rate]) * (ssim - low["ssim"]) / ((high["ssim"] - low["ssim"]) or 1.0) for low, high in pairs), default=math.nan)


def frontier(points, rate):
    """The points of a curve that none beats with a higher SSIM in as few bytes; a codec that rounds black to grey has others."""
    return [point for point in points if not any(other["ssim"] > point["ssim"] and other[rate] <= point[rate] for other in points)]


def main(args):
    directory = dataset.find_slices(args.data)
    slices = dataset.open_slices(directory)
    import_tensorflow()
    import plots

    split = slices.splits[args.split]
    report = {"data": {"name": slices.name, "split": args.split, "images": len(split), "fingerprint": slices.fingerprint}, "models": {}, "codecs": {}}
    for run in args.run:
        name, points, images = model_points(run, split)
        report["models"][name] = points
    for name, settings in CODECS.items():
        report["codecs"][name] = [codec_point(images, options) for options in settings]
        for point in report["codecs"][name]:
            show(name, point, "payload_bytes")
    every = [point for points in report["models"].values() for point in points]
    rows = [{"ssim": ssim, "model": bytes_at(every, "prior_bytes", ssim), **{name: bytes_at(points, "payload_bytes", ssim) for name, points in report["codecs"].items()}}
            for ssim in LEVELS]
    print(f"  bytes at equal SSIM ({', '.join(rows[0])})")
    for row in rows:
        print("  " + "".join(f"{value:>12.3f}" if name == "ssim" else f"{value:>12.0f}" for name, value in row.items()) + f"{row['model'] / row['AVIF']:>9.2f} of AVIF")
    report["at_equal_ssim"] = [{name: None if math.isnan(value) else value for name, value in row.items()} for row in rows]
    if args.json:
        write_json(args.json, report)
    if args.figure:
        plots.rate_distortion(args.figure, report["models"], {name: frontier(points, "payload_bytes") for name, points in report["codecs"].items()},
                              f"{slices.name}, {args.split} split, {len(split)} slices of 256 x 256.")


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--run", metavar="DIR", type=pathlib.Path, action="append", required=True, help="run directory of train.py; may be given again")
    parser.add_argument("--data", metavar="DIR", required=True, help="folder with the three splits")
    parser.add_argument("--split", choices=dataset.SPLITS, default="test", help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all points here")
    parser.add_argument("--figure", metavar="FILE", type=pathlib.Path, help="draw the curves here, a PNG")
    command_line(main, parser.parse_args())
