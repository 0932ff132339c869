"""What is known of a set of slices: `dataset.json`, which every conversion writes.

Whoever reads slices asks these facts and never the name of the set. A folder without such a file
is OASIS as handed out.
"""

import dataclasses
from typing import Any

import numpy as np

from sources.layout import SLICE_SIDE

FACTS_FILE = "dataset.json"
MIRRORS = {"rows": -2, "columns": -1, "none": None}  # axis of images `(..., S, S)`

# Voxel (row, column, level) of OASIS slices -> atlas millimetres: right, front, up. `volumes` says
# how it was found.
OASIS_AFFINE = (
    (1.0, 0.0, 0.0, -128.0),
    (0.0, 1.0, 0.0, -147.0),
    (0.0, 0.0, 1.0, -4.0),
    (0.0, 0.0, 0.0, 1.0),
)


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Facts of a set of slices. The defaults are those of OASIS as handed out.

    Attributes:
        name: What figures and reports call the set.
        side: Pixels of a side of the slices in the folder, a multiple of 8.
        levels: Number of slice levels. None: as many as the slices show.
        mirror: What a mirror image exchanges: "rows", "columns", or "none" where a mirror image
            is no example of the set.
        masked: Whether only the organ is bright and all else black. None: found in the slices.
        residue: Whether residue of a lossy format around masked brains is removed when slices are
            read.
        brain: Whether these are axial brain slices with the nose to the right, so that measures
            of brains mean something.
        content: Part of the slices that is not padding in any case: first row, first column, and
            the row and column after the last. None is all.
        affine: `(4, 4)`, voxel (row, column, level) of a stack of slices -> millimetres to the
            right, to the front and up. None: not known.
        cases: By case number: `subject` (as the source calls it), `split`, and attributes. A case
            that was a volume also has its `affine`.
        settings: Settings of the conversion, so that it can be resumed and repeated.
        cohort: `subjects` and `seed` of a synthetic cohort, else None.
    """

    name: str = "OASIS"
    side: int = SLICE_SIDE
    levels: int | None = None
    mirror: str = "rows"
    masked: bool | None = None
    residue: bool = True
    brain: bool = True
    content: tuple[int, int, int, int] | None = None
    affine: tuple[tuple[float, ...], ...] | None = OASIS_AFFINE
    cases: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    cohort: dict[str, int] | None = None

    def mirrored(self, images: np.ndarray) -> np.ndarray:
        """Mirror images of images `(..., S, S)`, or themselves where there are none."""
        axis = MIRRORS[self.mirror]
        return images if axis is None else np.flip(images, axis)

    def subject(self, case: int) -> str:
        """Who was scanned. A case that is not listed is a subject of its own."""
        return self.cases.get(case, {}).get("subject", f"case {case:03d}")
