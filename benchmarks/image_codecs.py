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
from collections.abc import Sequence
from typing import Any

import numpy as np
from contenders.contender import in_batches
from PIL import Image, ImageSequence, features

from evaluation.metrics import quality
from networks.losses import ssim
from sources.images import to_unit

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
_JPEG_2000 = {"format": "JPEG2000", "irreversible": True, "no_jp2": True}
# Options of Pillow, one a point of the curve, and quick codecs first. Where one of two variants is
# better here and the other there, both stand, and the curve takes the better. For AVIF, the tune
# `ssim` was the best of three on single validation slices, and `psnr` on stacks, also by SSIM. The
# default `iq` was worse. `save_all` writes a stack as a sequence. Qualities end above the highest
# of `rate_distortion.LEVELS`.
CODECS = {
    "JPEG XL": _settings(
        (1, 4, 7, 10, 15, 20, 25, 30, 40, 50, 60, 70), {}, format="JXL", effort=9, num_threads=0
    ),
    "WebP": _settings((0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60), {}, format="WEBP", method=6),
    "JPEG 2000": [
        {**_JPEG_2000, "quality_mode": "rates", "quality_layers": [rate]}
        for rate in (160, 120, 100, 80, 70, 60, 50, 40, 35, 30, 25, 20)
    ],
    "JPEG": _settings(
        (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40),
        *({"progressive": progressive} for progressive in (False, True)),
        format="JPEG",
        optimize=True,
    ),
    "AVIF sequences": _settings(
        (0, 2, 5, 7, 10, 12, 15, 20, 30), {"advanced": {"tune": "psnr"}}, save_all=True, **_AVIF
    ),
    "AVIF": _settings((0, 5, 10, 15, 20, 25, 30, 40), {"advanced": {"tune": "ssim"}}, **_AVIF),
}


def available() -> dict[str, str]:
    """Version of each codec that can be written here. Print a line for each that cannot."""
    libraries = {"AVIF": "avif", "WebP": "webp", "JPEG 2000": "jpg_2000", "JPEG": "jpg"}
    found = {name: features.version(library) for name, library in libraries.items()}
    found["AVIF sequences"] = found["AVIF"]
    found["JPEG XL"] = pillow_jxl and f"{JXL_PACKAGE} {importlib.metadata.version(JXL_PACKAGE)}"
    for name in CODECS:
        if not found[name]:
            needed = f"pip install {JXL_PACKAGE}" if name == "JPEG XL" else "another Pillow"
            print(f"  {name} is left out: it needs {needed}.")
    return {name: found[name] for name in CODECS if found[name]}


def codec_point(
    options: dict[str, Any], stacks: Sequence[np.ndarray], tuning: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Measure a codec at one quality.

    Args:
        options: What Pillow's `save` takes.
        stacks: Slices of each case, from bottom to top, uint8 `(L, S, S)`.
        tuning: The same of other cases, which choose the threshold.

    Returns:
        `options`; `threshold`; mean bytes a slice, `file_bytes` of the whole file and
        `payload_bytes` of the file less that of black slices; and what `quality` gives.
    """
    threshold = best_threshold(np.concatenate(tuning), coded(tuning, options)[1])
    empty, _ = coded([np.zeros_like(stacks[0])], options)
    size, restored = coded(stacks, options)
    return {
        "options": options,
        "threshold": threshold,
        "file_bytes": size,
        "payload_bytes": size - empty,
        **quality(np.concatenate(stacks), blackened(restored, threshold)),
    }


def coded(stacks: Sequence[np.ndarray], options: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Compress and decompress stacks by Pillow: mean bytes a slice, and uint8 `(N, S, S)`."""
    if not options.get("save_all"):
        stacks = [image[None] for stack in stacks for image in stack]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(functools.partial(compress, options=options), stacks))
    restored = np.concatenate([decompress(file) for file in files])
    return sum(map(len, files)) / len(restored), restored


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
    order, originals = np.arange(len(images)), to_unit(images)[..., None]

    def mean_ssim(threshold):
        others = to_unit(blackened(restored, threshold))[..., None]
        return in_batches(lambda batch: ssim(originals[batch], others[batch]), order).mean()

    return max(THRESHOLDS, key=mean_ssim)
