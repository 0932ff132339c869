"""Image codecs as rivals of the models, each as strong as it can be.

Every codec has its slowest setting and stores no colour. "AVIF sequences" writes a case as one
sequence, so that a slice is predicted from others of its stack, as our models do it. The other
codecs write a file a slice. Codecs ring, and leave grey where a slice is black. So their decoder
sets grey values below a threshold to 0. The threshold of each setting is the one with the highest
SSIM on slices of the validation split.
"""

import concurrent.futures
import functools
import importlib.metadata
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence, features

from evaluation.metrics import mean_ssim, quality
from utils import progress

try:
    import pillow_jxl
except ImportError:
    pillow_jxl = None

THRESHOLDS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48)  # grey values
JXL_PACKAGE = "pillow-jxl-plugin"


def _settings(qualities, *variants, **common):
    return [{**common, "quality": q, **variant} for variant in variants for q in qualities]


# AVIF writes in one thread, so that its bytes do not depend on the machine.
_AVIF = {"format": "AVIF", "speed": 0, "subsampling": "4:0:0", "max_threads": 1}
# Options of Pillow, one a point of the curve, and quick codecs first. Where one of two variants is
# better here and the other there, both stand, and the curve takes the better. For AVIF, the tune
# `ssim` was the best of three on single validation slices, and `psnr` on stacks, also by SSIM. The
# default `iq` was worse. `save_all` writes a stack as a sequence. Qualities end above the highest
# level of `comparison`.
CODECS = {
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
    "AVIF sequences": _settings(
        (0, 2, 5, 7, 10, 12, 15, 20, 30),
        {"advanced": {"tune": "psnr"}},
        save_all=True,
        **_AVIF,
    ),
    "AVIF": _settings((0, 5, 10, 15, 20, 25, 30, 40), {"advanced": {"tune": "ssim"}}, **_AVIF),
}


class Slices(NamedTuple):
    """Slices to compress.

    Attributes:
        images: uint8 `(N, S, S)`.
        cases: Case of each, `(N,)`. Slices of a case follow each other, from bottom to top.
    """

    images: np.ndarray
    cases: np.ndarray

    @property
    def black(self) -> "Slices":
        """The first case, all of it black."""
        first = self.cases == self.cases[0]
        return Slices(np.zeros_like(self.images[first]), self.cases[first])

    def stacks(self) -> list[np.ndarray]:
        """Images of each case."""
        return np.split(self.images, np.flatnonzero(np.diff(self.cases)) + 1)


def available() -> list[str]:
    """Names of the codecs that this Pillow can write. Print a line for each that is left out."""
    avif = features.check("avif"), "a Pillow with AVIF"
    needs = {
        "AVIF sequences": avif,
        "AVIF": avif,
        "JPEG XL": (pillow_jxl is not None, f"pip install {JXL_PACKAGE}"),
    }
    for name, (there, remedy) in needs.items():
        if not there:
            print(f"  {name} is left out: it needs {remedy}.")
    return [name for name in CODECS if needs.get(name, (True, ""))[0]]


def versions() -> dict[str, str]:
    """Versions of the libraries that write the codecs."""
    parts = {
        "AVIF sequences": "avif",
        "AVIF": "avif",
        "WebP": "webp",
        "JPEG 2000": "jpg_2000",
        "JPEG": "jpg",
    }
    found = {name: features.version(part) for name, part in parts.items()}
    if pillow_jxl:
        found["JPEG XL"] = f"{JXL_PACKAGE} {importlib.metadata.version(JXL_PACKAGE)}"
    return {name: version for name, version in found.items() if version}


def codec_points(
    name: str, slices: Slices, tuning: Slices, settings: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Measure a codec at some of its settings, see `point`."""
    for options in progress(settings, name, unit="setting"):
        code = functools.partial(coded, options=options)
        empty, _ = code(slices.black)
        yield {"options": options, **point(code, slices, tuning, np.mean(empty))}


def point(code: Callable, slices: Slices, tuning: Slices, overhead: float = 0.0) -> dict[str, Any]:
    """Measure one codec at one quality.

    Args:
        code: Function of `Slices` that returns the bytes of each `(N,)`, and the images as they
            come back, uint8 `(N, S, S)`.
        slices: What is measured.
        tuning: Other slices, which choose the threshold.
        overhead: Bytes a slice of a file that tell nothing of the image.

    Returns:
        `threshold`; mean bytes a slice, `file_bytes` of the whole file and `payload_bytes` of the
        file less `overhead`; and what `quality` gives.
    """
    threshold = best_threshold(tuning.images, code(tuning)[1])
    sizes, restored = code(slices)
    return {
        "threshold": threshold,
        "file_bytes": float(np.mean(sizes)),
        "payload_bytes": float(np.mean(sizes) - overhead),
        **quality(slices.images, blackened(restored, threshold)),
    }


def coded(slices: Slices, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Compress and decompress slices by Pillow: see `point`. Slices of a file share its bytes."""
    stacks = slices.stacks() if options.get("save_all") else list(slices.images[:, None])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(functools.partial(compress, options=options), stacks))
    counts = [len(stack) for stack in stacks]
    sizes = np.array([len(file) for file in files]) / counts
    return np.repeat(sizes, counts), np.concatenate([decompress(file) for file in files])


def compress(stack: np.ndarray, options: dict[str, Any]) -> bytes:
    """Bytes of the file of images, uint8 `(L, S, S)`. L is 1 without `save_all`."""
    file = io.BytesIO()
    first, *others = [Image.fromarray(image) for image in stack]
    more = {"append_images": others} if others else {}
    first.save(file, **options, **more)
    return file.getvalue()


def decompress(file: bytes) -> np.ndarray:
    """Images of a file, uint8 `(L, S, S)`."""
    frames = ImageSequence.Iterator(Image.open(io.BytesIO(file)))
    return np.stack([np.asarray(frame.convert("L")) for frame in frames])


def blackened(images: np.ndarray, threshold: int) -> np.ndarray:
    """Images with 0 for all grey values below a threshold, uint8 `(N, S, S)`."""
    return np.where(images < threshold, np.uint8(0), images)


def best_threshold(images: np.ndarray, restored: np.ndarray) -> int:
    """The one of `THRESHOLDS` that gives restored images the highest mean SSIM."""
    ssim = [mean_ssim(images, blackened(restored, threshold)) for threshold in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(ssim))]
