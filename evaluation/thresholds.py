"""Values above which anomaly maps are unlike those of validation people, and clusters there."""

import contextlib
import math
import pathlib
import warnings
from typing import Any

import nibabel
import numpy as np

from fitting.run_directory import RunDirectory
from sources.volumes import moved_affine
from utils import read_json, reading, write_json

# Shares of the pixels of validation people, background aside, with a value below the threshold.
# Viewers show what is above each, and clusters are above the last.
QUANTILES = ("0.99", "0.999")
LEAST_VOXELS = 8  # of a cluster


def keep(run: RunDirectory, maps: np.ndarray, images: np.ndarray, about: dict[str, Any]) -> None:
    """Keep quantiles of maps in the run, if it may be written to.

    Args:
        run: The run.
        maps: Maps of people that the training has not seen, `(N, S, S)`.
        images: Their slices, `(N, S, S)`, 0 where they show nothing.
        about: What the file says of these people.
    """
    values = np.quantile(maps[images > 0], list(map(float, QUANTILES))).tolist()
    with contextlib.suppress(OSError):
        write_json(run.thresholds, {**about, "thresholds": dict(zip(QUANTILES, values))})


def kept(run: RunDirectory) -> dict[str, float] | None:
    """Threshold of each of `QUANTILES`, or None where the run keeps none.

    Raises:
        InputError: The file is damaged.
    """
    if not run.thresholds.is_file():
        return None
    with reading(run.thresholds, "remove it, and map the validation split of the run again"):
        found = read_json(run.thresholds)["thresholds"]
        values = {name: float(found[name]) for name in QUANTILES}
        if not all(math.isfinite(value) and value > 0 for value in values.values()):
            raise ValueError("a threshold is out of range")
        return values


def clusters(
    volume: pathlib.Path, maps: np.ndarray, levels: np.ndarray, threshold: float
) -> list[dict[str, Any]]:
    """Find clusters of the maps of a case, the highest peak first.

    Args:
        volume: NIfTI volume of the case, which says where it lies. Its grey values are too few.
        maps: Maps of the case, `(K, S, S)`.
        levels: Their levels in rising order, `(K,)`.
        threshold: Least value of the map in a cluster.

    Returns:
        `peak_mm`, its place to the right, to the front and up; `peak`, its value; and `volume_mm3`.
    """
    from nilearn.reporting import get_clusters_table  # noqa: PLC0415  it takes seconds to load

    if not (maps > threshold).any():
        return []
    written = nibabel.load(volume)
    step = written.shape[0] / maps.shape[1]  # voxels of the volume are smaller
    affine = moved_affine(written.affine, ((step - 1) / 2, (step - 1) / 2, 0), (step, step, 1))
    stack = np.zeros((*maps.shape[1:], written.shape[2]), "float32")
    stack[..., levels - levels[0]] = np.moveaxis(maps, 0, 2)
    with warnings.catch_warnings(action="ignore"):  # of clusters that are all too small
        table = get_clusters_table(nibabel.Nifti1Image(stack, affine), threshold, LEAST_VOXELS)
    rows = [row for row in table.itertuples(index=False, name=None) if str(row[0]).isdecimal()]
    return [
        {"peak_mm": [float(x), float(y), float(z)], "peak": float(peak), "volume_mm3": float(size)}
        for _, x, y, z, peak, size in rows
    ]
