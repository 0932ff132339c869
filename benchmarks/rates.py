"""Bytes of models and codecs at equal quality.

Points are dicts with `ssim`, `brain_ssim`, `brain_psnr` and bytes a slice: `file_bytes` of whole
files, and for codecs `payload_bytes` too. A curve is a list of points.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Where bytes are compared.
LEVELS = {
    "ssim": (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97),
    "brain_ssim": (0.75, 0.80, 0.825, 0.85, 0.875, 0.90, 0.92),
    "brain_psnr": (22.0, 23.0, 24.0, 25.0, 26.0, 28.0, 30.0),
}
Curves = Mapping[str, Sequence[Mapping[str, Any]]]


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
