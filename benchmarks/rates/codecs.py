"""Image codecs as rivals of the models, each as strong as it can be.

Every codec has its slowest setting and stores no colour. Codecs ring, and leave grey where a slice
is black. So their decoder sets grey values below a threshold to 0. The threshold of each setting is
the one with the highest SSIM on slices of the validation split.
"""

import concurrent.futures
import functools
import importlib.metadata
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, features

from rates.quality import mean_ssim, quality
from utils import progress

try:
    import pillow_jxl
except ImportError:
    pillow_jxl = None

THRESHOLDS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48)  # grey values
JXL_PACKAGE = "pillow-jxl-plugin"


def _settings(qualities, *variants, **common):
    return [{**common, "quality": q, **variant} for variant in variants for q in qualities]


# Options of Pillow, one a point of the curve. Where one of two variants is better here and the
# other there, both stand, and the curve takes the better. AVIF writes in one thread, so that its
# bytes do not depend on the machine.
CODECS = {
    "AVIF": _settings(
        (0, 5, 10, 15, 20, 25, 30, 40, 50, 60),
        {},
        {"advanced": {"tune": "ssim"}},
        format="AVIF",
        speed=0,
        subsampling="4:0:0",
        max_threads=1,
    ),
    "JPEG XL": _settings(
        (1, 4, 7, 10, 15, 20, 25, 30, 40, 50, 60, 70), {}, format="JXL", effort=9, num_threads=0
    ),
    "WebP": _settings((0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60), {}, format="WEBP", method=6),
    "JPEG 2000": [
        {
            "format": "JPEG2000",
            "quality_mode": "rates",
            "quality_layers": [rate],
            "irreversible": True,
            "no_jp2": True,
        }
        for rate in (160, 120, 100, 80, 70, 60, 50, 40, 35, 30, 25, 20)
    ],
    "JPEG": _settings(
        (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40),
        {"progressive": False},
        {"progressive": True},
        format="JPEG",
        optimize=True,
    ),
}


def available() -> list[str]:
    """Names of the codecs that this Pillow can write. Print a line for each that is left out."""
    needs = {
        "AVIF": (features.check("avif"), "a Pillow with AVIF"),
        "JPEG XL": (pillow_jxl is not None, f"pip install {JXL_PACKAGE}"),
    }
    for name, (there, remedy) in needs.items():
        if not there:
            print(f"  {name} is left out: it needs {remedy}.")
    return [name for name in CODECS if needs.get(name, (True, ""))[0]]


def versions() -> dict[str, str]:
    """Versions of the libraries that write the codecs."""
    parts = {"AVIF": "avif", "WebP": "webp", "JPEG 2000": "jpg_2000", "JPEG": "jpg"}
    found = {name: features.version(part) for name, part in parts.items()}
    if pillow_jxl:
        found["JPEG XL"] = f"{JXL_PACKAGE} {importlib.metadata.version(JXL_PACKAGE)}"
    return {name: version for name, version in found.items() if version}


def codec_points(
    name: str, images: np.ndarray, tuning: np.ndarray, done: int = 0
) -> Iterator[dict[str, Any]]:
    """Measure a codec at each of its settings after the first `done`, see `point`."""
    for options in progress(CODECS[name][done:], name, unit="setting"):
        code = functools.partial(coded, options=options)
        yield {"options": options, **point(code, images, tuning)}


def point(code: Callable, images: np.ndarray, tuning: np.ndarray) -> dict[str, Any]:
    """Measure one codec at one quality.

    Args:
        code: Function of slices, uint8 `(N, S, S)`, that returns the bytes of each `(N,)`, and the
            slices as they come back, `(N, S, S)`.
        images: Uint8 `(N, S, S)`.
        tuning: Other images that choose the threshold, uint8 `(M, S, S)`.

    Returns:
        `threshold`; mean bytes a slice, `file_bytes` of the whole file and `payload_bytes` of the
        file less that of an all-black slice; and what `quality` gives.
    """
    threshold = best_threshold(tuning, code(tuning)[1])
    sizes, restored = code(images)
    (empty,), _ = code(np.zeros_like(images[:1]))
    return {
        "threshold": threshold,
        "file_bytes": float(np.mean(sizes)),
        "payload_bytes": float(np.mean(sizes) - empty),
        **quality(images, blackened(restored, threshold)),
    }


def coded(images: np.ndarray, options: dict[str, Any]) -> tuple[list[int], np.ndarray]:
    """Compress and decompress images by Pillow: the bytes of each file, and the images."""
    files = compressed(images, options)
    return [len(file) for file in files], decoded(files)


def compress(image: np.ndarray, options: dict[str, Any]) -> bytes:
    """Bytes of the file of an image, uint8 `(S, S)`."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


def compressed(images: np.ndarray, options: dict[str, Any]) -> list[bytes]:
    """Bytes of the file of each image, uint8 `(N, S, S)`."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(functools.partial(compress, options=options), images))


def decoded(files: Sequence[bytes]) -> np.ndarray:
    """Images of some files, uint8 `(N, S, S)`."""
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("L")) for file in files])


def blackened(images: np.ndarray, threshold: int) -> np.ndarray:
    """Images with 0 for all grey values below a threshold, uint8 `(N, S, S)`."""
    return np.where(images < threshold, np.uint8(0), images)


def best_threshold(images: np.ndarray, restored: np.ndarray) -> int:
    """The one of `THRESHOLDS` that gives restored images the highest mean SSIM."""
    ssim = [mean_ssim(images, blackened(restored, threshold)) for threshold in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(ssim))]
