"""The layout of a data folder. Each fact of it is written here, and nowhere else.

    keras_png_slices_train/case_001_slice_0.nii.png     a slice: 8-bit grey PNG, square

`_validate` and `_test` hold the other splits. The first number is the case, which is one scan.
The second number is the level of the slice, from bottom to top. `sources.facts` says what else is
known of the slices.
"""

import os
import pathlib
import re

SPLITS = ("train", "validate", "test")
FITTED_SPLITS = SPLITS[:2]  # a training reads these; the test split is for `predict.py` alone

SLICE_SIDE = 256  # pixels, of OASIS as handed out
TOP, BOTTOM, LEFT, RIGHT = 52, 206, 36, 222  # these rows and columns hold every brain
NUM_LEVELS = 32  # slices of a scan: in the published set, in conversions, in synthetic cohorts
MAX_SUBJECTS = 10**4  # in a synthetic cohort

DEFAULT_DIRECTORY = pathlib.Path("data/keras_png_slices_data")
# What former versions wrote in place of `dataset.json`.
COHORT_FILE = "cohort.json"  # settings of a synthetic cohort
CONVERSION_FILE = "conversion.json"  # settings of a conversion, and the subject of each case

# Case and level. Endings may be in capitals.
SLICE_NAME = re.compile(r"case_([0-9]{1,9})_slice_([0-9]{1,4})(?i:\.nii\.png)", re.ASCII)
SLICE_FORM = "case_NNN_slice_K.nii.png"  # what messages call such a name
SPLIT_FORMS = "keras_png_slices_train, _validate and _test"


def slice_name(case: int, level: int) -> str:
    """File name of a slice."""
    return f"case_{case:03d}_slice_{level}.nii.png"


def split_folder(directory: str | os.PathLike, split: str) -> pathlib.Path:
    """Folder of a split's slices."""
    return pathlib.Path(directory) / f"keras_png_slices_{split}"
