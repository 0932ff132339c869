"""One brain volume -> the grey slices of its scan, and back.

OASIS-1 is Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498. Its T88_111 volumes are in Talairach
space. They have 176 x 208 x 176 voxels of 1 mm and come as Analyze 7.5 pairs.

Volumes of other studies come as NIfTI files in a standard space.
"""

import gzip
import math
import pathlib

import nibabel
import numpy as np

from sources.layout import NUM_LEVELS, SLICE_SIDE
from utils import replacing

# Analyze 7.5 stores no orientation. The program behind these volumes writes the first voxel right,
# back and bottom (4dfptoanalyze: "right occipital skull-base"). Programs of that family give this
# grid the centre (89, -85, -101) for voxels of (1, -1, -1) mm, counted from 1, and mirror x and z
# before they use them. So the atlas origin, the anterior commissure, is voxel (87, 123, 75) from
# the right, the back and the bottom, counted from 0.
GRID = (176, 208, 176)
ORIGIN = (88, 123, 75)  # that voxel, counted from the left
ANALYZE_AFFINE = np.array(  # voxel -> atlas millimetres
    [[-1.0, 0, 0, 87], [0, 1, 0, -123], [0, 0, 1, -75], [0, 0, 0, 1]]
)

# Slice 0 is voxel 71 from the bottom, 4 mm below the origin. A public audit compared 6,400
# brain-masked slices of 200 OASIS-1 subjects with every level of the volumes, and found levels 71
# to 102 (correlation above 0.9996). The match with the ICBM152 template in `synthetic.py` gives
# voxel 70.8.
FIRST_SLICE = 71

# Rows run from the left of the head to its right, columns from the back to the nose. In the mean of
# 148 subjects the left-right asymmetry correlates at +0.49 with that of the fsaverage brain (-0.49
# with its mirror image), and the midline is row 128.45: x = 0 is row 128, not 127.
FRAME_ORIGIN = (128, 147)  # row and column of the atlas origin

MAX_BYTES = 2**31  # of a volume; a file that declares more is damaged, or no brain


def load_volume(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume.

    Args:
        path: Header `.hdr` of an Analyze pair, or a file `.nii` or `.nii.gz`.

    Returns:
        Voxels `(X, Y, Z)`, and the affine `(4, 4)`, voxel -> millimetres.

    Raises:
        ValueError: The volume does not have three axes, or an Analyze volume another grid. For a
            damaged file nibabel may raise anything.
    """
    is_analyze, pixels = path.suffix == ".hdr", path.with_suffix(".img")
    if is_analyze and not pixels.is_file():
        raise ValueError(f"{pixels.name} is missing")
    # `nibabel.load` might take an Analyze header for one of SPM, which has a scale.
    image = nibabel.AnalyzeImage.from_filename(path) if is_analyze else nibabel.load(path)
    shape, further = image.shape[:3], image.shape[3:]
    is_flat = len(shape) < 3
    if is_flat or any(length != 1 for length in further) or (is_analyze and shape != GRID):
        needed = " x ".join(map(str, GRID)) if is_analyze else "three axes"
        raise ValueError(f"it has {' x '.join(map(str, image.shape))} voxels, not {needed}")
    if math.prod(shape) * image.get_data_dtype().itemsize > MAX_BYTES:  # before it is unpacked
        raise ValueError(f"it unpacks to more than {MAX_BYTES} bytes")
    voxels = np.asanyarray(image.dataobj).reshape(shape)
    return voxels, ANALYZE_AFFINE if is_analyze else image.affine


def frame_slices(
    volume: np.ndarray, affine: np.ndarray, first_slice: int | None = None
) -> np.ndarray:
    """Cut the axial slices of a scan out of a volume and place them in the frame.

    A volume on the grid of the discs (176 x 208 x 176 once upright) takes its place there whatever
    its origin is, because converters from Analyze do not keep the origin.

    Args:
        volume: `(X, Y, Z)` voxels in any order.
        affine: `(4, 4)`, voxel -> millimetres to the right, to the front and up.
        first_slice: Voxel level of slice 0, counted from 0 at the bottom. None takes the level of
            the published slices.

    Returns:
        `(32, 256, 256)` of the volume's type, the nose to the right.

    Raises:
        ValueError: Voxels are no upright cubes of 1 mm, or the volume lacks the slices.
    """
    orientation = nibabel.io_orientation(affine)
    affine = affine @ nibabel.orientations.inv_ornt_aff(orientation, volume.shape)
    volume = nibabel.apply_orientation(volume, orientation)  # (X, Y, Z): right, front, up
    if not np.allclose(affine[:3, :3], np.eye(3), atol=0.01):
        advice = "resample the volume to 1 mm in a standard space"
        raise ValueError(f"voxels are no upright 1 mm cubes: {advice}")

    origin = ORIGIN if volume.shape == GRID else -np.rint(affine[:3, 3]).astype(int)
    first = FIRST_SLICE - ORIGIN[2] + origin[2] if first_slice is None else first_slice
    last, height = first + NUM_LEVELS - 1, volume.shape[2]
    if first < 0 or last >= height:
        place = f"levels {first} to {last} are not in a volume of {height}"
        raise ValueError(f"{place}: is its origin the commissure?")

    offset = np.subtract(FRAME_ORIGIN, origin[:2])  # row and column of the volume's first voxel
    # What lies outside the frame is cut off.
    low, high = np.maximum(0, -offset), np.minimum(volume.shape[:2], SLICE_SIDE - offset)
    if (low >= high).any():
        raise ValueError("the volume lies beside the frame: is its origin the commissure?")
    box = volume[low[0] : high[0], low[1] : high[1], first : last + 1]
    frame = np.zeros((NUM_LEVELS, SLICE_SIDE, SLICE_SIDE), volume.dtype)
    (top, left), (bottom, right) = offset + low, offset + high
    frame[:, top:bottom, left:right] = np.moveaxis(box, 2, 0)  # (rows, columns, K) -> (K, ...)
    return frame


def write_volume(path: pathlib.Path, slices: np.ndarray, level: int = 0) -> None:
    """Write slices as a NIfTI volume in atlas space, the inverse of `frame_slices`.

    Args:
        path: File `.nii.gz` to write.
        slices: Slices from bottom to top, uint8 `(K, 256, 256)`.
        level: Level of the first one.
    """
    affine = np.eye(4)  # rows run to the right, columns to the front, levels up
    affine[:3, 3] = -FRAME_ORIGIN[0], -FRAME_ORIGIN[1], FIRST_SLICE - ORIGIN[2] + level
    image = nibabel.Nifti1Image(np.moveaxis(slices, 0, 2), affine)
    image.header.set_xyzt_units("mm")
    for set_form in (image.set_sform, image.set_qform):
        set_form(affine, code="talairach")
    packed = gzip.compress(image.to_bytes(), mtime=0)  # the same bytes for the same slices
    with replacing(path) as temporary:
        temporary.write_bytes(packed)


def scale_to_grey(slices: np.ndarray) -> np.ndarray:
    """Scale intensities `(K, 256, 256)` to 8-bit grey: the maximum of each slice becomes 255.

    The published slices are scaled so. With scalp, exactly one pixel of a slice is 255. In
    brain-masked ones, white matter jumps by up to a third from one millimetre to the next.
    """
    slices = np.clip(np.nan_to_num(slices.astype("float64"), posinf=0.0), 0, None)
    peaks = slices.max((1, 2), keepdims=True)  # (K, 1, 1)
    return np.rint(slices * (255.0 / np.where(peaks > 0, peaks, 1.0))).astype("uint8")
