"""One volume -> the grey slices of its scan, and back.

Volumes come as NIfTI, FreeSurfer or Analyze files of any orientation and spacing. In memory their
axes run to the right, to the front and up, as closely as they can without interpolation.

OASIS-1 is Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498. Its T88_111 volumes are in Talairach
space. They have 176 x 208 x 176 voxels of 1 mm and come as Analyze 7.5 pairs.
"""

import argparse
import gzip
import logging
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.fileholders import FileHolder
from nibabel.openers import ImageOpener
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from nibabel.spatialimages import SpatialImage
from scipy.ndimage import gaussian_filter

from sources.facts import OASIS_AFFINE
from sources.layout import NUM_LEVELS, SLICE_SIDE
from utils import replacing, spread

# Analyze 7.5 stores no orientation. The program behind the volumes of OASIS-1 writes the first
# voxel right, back and bottom (4dfptoanalyze: "right occipital skull-base"). Programs of that
# family give this grid the centre (89, -85, -101) for voxels of (1, -1, -1) mm, counted from 1, and
# mirror x and z before they use them. So the atlas origin, the anterior commissure, is voxel
# (87, 123, 75) from the right, the back and the bottom, counted from 0.
GRID = (176, 208, 176)
GRID_AXCODES = "LAS"  # as `load_volume` takes it
ORIGIN = (88, 123, 75)  # that voxel, counted from the left
STANDARD_GRIDS = {  # of 1 mm -> voxel of the origin, from the left, the back and the bottom
    GRID: ORIGIN,
    (182, 218, 182): (90, 126, 72),  # MNI152 in FSL
    (181, 217, 181): (90, 126, 72),  # MNI152 in SPM
    (193, 229, 193): (96, 132, 78),  # MNI152 NLin 2009c in TemplateFlow
    (197, 233, 189): (98, 134, 72),  # MNI152 NLin 2009a
}

# Slice 0 is voxel 71 from the bottom, 4 mm below the origin. A public audit compared 6,400 slices
# with every level of the volumes, and found levels 71 to 102 (correlation above 0.9996).
FIRST_SLICE = 71

# Rows run from the left of the head to its right, columns from the back to the nose: in the mean of
# 148 subjects the left-right asymmetry correlates at +0.49 with that of the fsaverage brain. The
# midline is row 128.45: x = 0 is row 128, not 127.
FRAME_ORIGIN = (128, 147)  # row and column of the atlas origin

# Where rows, columns and levels of slices run to. Axial slices lie as those of OASIS, the nose to
# the right. Coronal and sagittal ones lie as radiologists hang them: the head up, the right of the
# body or the nose to the left.
PLANES = {"axial": "RAS", "coronal": "ILA", "sagittal": "IPR"}

VOLUME_ENDINGS = (".nii", ".nii.gz", ".mgz", ".hdr")  # in any case; `.img` goes with `.hdr`
MAX_BYTES = 2**31  # of a volume; a file that declares more is damaged, or no scan
SMALLEST_SIDE = 8  # pixels of a slice
MOST_LEVELS = 64  # of a scan where nobody says how many
TEMPLATE_SIZE = (200, 240, 240)  # mm; brains in standard spaces come in boxes of this size at most
MAX_DESCRIPTION = 79  # bytes in a NIfTI header
FEW_LABELS = 16  # different values
SCANNER, TALAIRACH = 1, 3  # codes of NIfTI for the space of a volume; 0 is not known
STATISTICS, LABELS = range(2, 25), (1002, 1005)  # codes of NIfTI for what values are

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # header fields that it mends


def axcodes(text: str) -> str:
    """Argument type: where three axes run to, such as "RAS"."""
    pairs = (set("LR"), set("AP"), set("SI"))
    if len(text) != 3 or any(len(pair & set(text.upper())) != 1 for pair in pairs):
        raise argparse.ArgumentTypeError(f"must be three letters such as RAS. Received: {text}")
    return text.upper()


class Volume(NamedTuple):
    """A volume in memory.

    Attributes:
        voxels: `(X, Y, Z)` to the right, to the front and up, finite, of any real type.
        affine: `(4, 4)`, voxel -> millimetres to the right, to the front and up.
        space: What the millimetres refer to, by the codes of NIfTI: 0 where it was not known and
            the centre of the volume is the origin, 3 and 4 for a standard brain.
        intent: What the header says the values are if they are no image, else "".
        notes: What a user should know, one line each.
    """

    voxels: np.ndarray
    affine: np.ndarray
    space: int = 2
    intent: str = ""
    notes: Sequence[str] = ()


class VolumeSlices(NamedTuple):
    """Slices of a volume.

    Attributes:
        images: From the first level on, float32 `(K, H, W)`, in the unit of the volume.
        affine: `(4, 4)`, (row, column, level) -> millimetres to the right, to the front and up.
        place: What was cut out of the volume, for `dataset.json`: `axes`, where rows, columns and
            levels run to; `shape`, voxels of the volume along them; `levels`, voxels of the levels.
            In the frame of OASIS `first`, the voxel of the first pixel of level 0, and `lost`, the
            share of what is not background in these levels that lies outside the frame.
        notes: What a user should know, one line each.
    """

    images: np.ndarray
    affine: np.ndarray
    place: dict[str, Any]
    notes: Sequence[str]


# ---- reading -----------------------------------------------------------------------------------


def load_volume(path: pathlib.Path, axcodes: str | None = None) -> Volume:
    """Read a volume.

    Args:
        path: File that ends as `VOLUME_ENDINGS`. An `.img` file lies beside its `.hdr`.
        axcodes: Where the three axes run to, such as "RAS", for a file whose header does not say.
            On a grid of standard brains such a volume lies as they do.

    Raises:
        ValueError: It is no volume of one grey value a voxel, it is too large, or its orientation
            is not known. For a damaged file nibabel may raise anything.
    """
    image, space = _open(path)
    shape, further = image.shape[:3], image.shape[3:]
    if len(shape) < 3 or sorted(shape)[1] < 2 or math.prod(further[1:]) != 1:
        listed = " x ".join(map(str, image.shape))
        raise ValueError(f"it has {listed} voxels: an image, a surface or vectors, no volume")
    dtype = image.get_data_dtype()
    if dtype.kind not in "biuf":
        raise ValueError("it holds colours or complex numbers, not one grey value a voxel")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:  # before it is unpacked
        raise ValueError(f"it unpacks to more than {MAX_BYTES} bytes")
    affine = image.affine if space else _affine_of(axcodes, shape, image.header.get_zooms())
    if not (np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4):
        raise ValueError("its affine is no map of voxels to millimetres")
    voxels, notes = _finite(image.dataobj[(..., *(0 for _ in further))])
    if math.prod(further) > 1:
        notes.append(f"of its {further[0]} volumes the first is taken")
    upright = nibabel.as_closest_canonical(SpatialImage(voxels, affine))
    voxels, affine = np.asanyarray(upright.dataobj), upright.affine
    if not space and voxels.shape in STANDARD_GRIDS and _is_upright(affine):
        affine[:3, 3], space = np.negative(STANDARD_GRIDS[voxels.shape]), TALAIRACH
    code = int(image.header.get("intent_code", 0))
    intent = image.header.get_intent()[0] if code in (*STATISTICS, *LABELS) else ""
    return Volume(voxels, affine, space, intent, notes)


def _is_upright(affine):
    return np.allclose(affine[:3, :3], np.eye(3), atol=0.01)


def _open(path):
    """The image of a file, nothing of it read but its header, and the code of its space.

    `nibabel.load` finds no files with mixed case in their endings, and takes an Analyze header for
    one of SPM, which has a scale.
    """
    name = path.name.lower()
    if not name.endswith(VOLUME_ENDINGS):
        raise ValueError(f"it is no volume, which ends in {', '.join(VOLUME_ENDINGS)}")
    with ImageOpener(path) as file:
        start = file.read(540)  # as long as the header of NIfTI-2
    files, kinds = {"image": FileHolder(path)}, (nibabel.Nifti1Image, nibabel.Nifti2Image)
    if name.endswith(".mgz"):
        knows = any(start[28:30])  # goodRASFlag
        return nibabel.MGHImage.from_file_map(files), SCANNER if knows else 0
    if name.endswith(".hdr"):
        kinds = (nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.AnalyzeImage)
        pixels = [path.with_suffix(suffix) for suffix in (".img", ".IMG", ".Img")]
        there = [path for path in pixels if path.is_file()]
        if not there:
            raise ValueError(f"{pixels[0].name} is missing")
        files = {"header": FileHolder(path), "image": FileHolder(there[0])}
    fitting = [kind for kind in kinds if kind.header_class.may_contain_header(start)]
    if not fitting:
        raise ValueError("its header is none of a volume")
    image = fitting[0].from_file_map(files)
    return image, int(image.header.get("sform_code", 0) or image.header.get("qform_code", 0))


def _affine_of(axcodes, shape, zooms):
    """Affine of a volume that says only how large its voxels are. Its centre is the origin."""
    if axcodes is None:
        raise ValueError(
            "its header gives no place and no sides (as qform_code and sform_code 0 do): say where "
            "its axes run to, such as --axcodes RAS"
        )
    affine = np.diag([0.0, 0, 0, 1])
    for axis, (along, direction) in enumerate(axcodes2ornt(axcodes)):
        affine[int(along), axis] = direction * zooms[axis]
    affine[:3, 3] = affine[:3, :3] @ (np.subtract(1, shape) / 2)
    return affine


def _finite(voxels):
    """Voxels that are numbers, not too wide ones, and notes on what is odd about them."""
    if voxels.dtype.kind != "f":
        return voxels, []
    with np.errstate(over="ignore"):
        voxels = voxels.astype("float32")
    known = np.isfinite(voxels)
    if known.all():
        return voxels, []
    if not known.any():
        raise ValueError("none of its voxels is a number")
    voxels[~known] = min(0, voxels[known].min())
    return voxels, [f"{1 - known.mean():.1%} of its voxels are no numbers, and become black"]


# ---- what a volume is --------------------------------------------------------------------------


def looks_like_labels(volume: Volume) -> str | None:
    """Say what a volume is if it is clearly no image: a mask, a label map, a probability map.

    By content it is a label map if its values are integers that fill regions, and small, many, or
    few that are large, and a probability map if much of what is not 0 is 1, 100 % or 255. Images
    have noise, and a maximum of few voxels.
    """
    if volume.intent:
        return f"values that its header calls {volume.intent}"
    voxels = volume.voxels[:, :, spread(volume.voxels.shape[2], 24)]
    values, counts = np.unique(voxels, return_counts=True)
    if len(values) < 2 or values[0] < 0:
        return None
    inside, count, highest = voxels != values[counts.argmax()], len(values), values[-1]
    is_share = any(abs(highest / whole - 1) < 0.001 for whole in (1, 100, 255))
    at_most = np.mean(voxels[inside] > 0.99 * highest)
    if np.mod(values, 1).any() and count > 2:
        is_share |= highest <= 1
        return "a probability map" if is_share and at_most > 0.25 else None
    pairs = inside[1:] & inside[:-1]
    in_regions = pairs.any() and np.mean((voxels[1:] == voxels[:-1])[pairs]) > 0.7
    if count == 2 and (in_regions or highest in (1, 255)):
        return "a mask"
    if is_share and count > FEW_LABELS and at_most > 0.25:
        return "a probability map"
    are_codes = highest <= 20 * count or count > 30 or (count <= FEW_LABELS and highest > 1000)
    return "a label map" if in_regions and are_codes else None


def native_spacing(volume: Volume, plane: str) -> tuple[float, float]:
    """Spacing in millimetres of a volume's slices: in the plane (the coarser), and of levels."""
    row, column, level = voxel_sizes(_in_plane(volume, plane)[1])
    return float(max(row, column)), float(level)


def _background_of(voxels):
    """The commonest value of a volume, and how far from it values are no background any more.

    That is 0, air, the mean of a normalised volume, or whatever it is.
    """
    sample = voxels[tuple(slice(None, None, max(1, length // 64)) for length in voxels.shape)]
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    if low == high:
        return low, 0.0
    counts, edges = np.histogram(sample, 256, (low, high))
    return float(edges[counts.argmax() : counts.argmax() + 2].mean()), (high - low) / 10


def _foreground(voxels):
    """Where a volume holds something, `(X, Y, Z)`."""
    background, tolerance = _background_of(voxels)
    return (voxels < background - tolerance) | (voxels > background + tolerance)


def filled_levels(volume: Volume, plane: str, percent: Sequence[float] | None = None) -> range:
    """Levels of a volume that `plane_slices` takes slices from: see there.

    Raises:
        ValueError: There are none.
    """
    voxels, _ = _in_plane(volume, plane)
    if percent is None:
        counts = _foreground(voxels).sum((0, 1))
        inside = np.flatnonzero(counts > counts.max() / 20)
    else:
        middles = (np.arange(voxels.shape[2]) + 0.5) * 100 / voxels.shape[2]
        inside = np.flatnonzero((middles >= percent[0]) & (middles <= percent[1]))
    if not len(inside):
        raise ValueError("it has no slices there" if percent else "all of its voxels are the same")
    return range(int(inside[0]), int(inside[-1]) + 1)


# ---- slices ------------------------------------------------------------------------------------


def plane_slices(
    volume: Volume, plane: str, spacing: float, percent: Sequence[float] | None, most: int
) -> VolumeSlices:
    """Cut a volume into slices, resampled in the plane. Each is at a level of the volume.

    Where a whole number of levels from slice to slice leaves out at most a tenth of them, at both
    ends, slices are that far apart. Otherwise each is the level nearest to its place.

    Args:
        volume: The volume.
        plane: "axial", "coronal" or "sagittal". See `PLANES`.
        spacing: Millimetres between rows and between columns. It stays what it is in the volume
            if that is the same within 1 %.
        percent: First and last percent of the volume's extent to take, or None for the levels that
            hold something.
        most: Number of slices, evenly spread over these levels. There may be fewer levels.

    Raises:
        ValueError: There are no such levels, or slices would be too large or too small.
    """
    voxels, affine = _in_plane(volume, plane)
    inside = filled_levels(volume, plane, percent)
    levels = min(most, len(inside))
    step = len(inside) / levels
    if math.floor(step) >= 0.9 * step:
        step = math.floor(step)
    middles = len(inside) / 2 + (np.arange(levels) - (levels - 1) / 2) * step
    chosen = inside[0] + np.floor(middles).astype(int)
    first = chosen.mean() - (levels - 1) / 2 * step
    cut = moved_affine(affine, (0, 0, first), (1, 1, step))
    sizes = spacing, spacing, voxel_sizes(cut)[2]
    stack, resampled = _resample(voxels[..., chosen], cut, sizes)
    if min(stack.shape[:2]) < SMALLEST_SIDE:
        rows, columns = stack.shape[:2]
        advice = "choose another --plane or a smaller --spacing"
        raise ValueError(f"its slices have {rows} x {columns} pixels: {advice}")
    place = {"axes": PLANES[plane], "shape": list(voxels.shape), "levels": chosen.tolist()}
    notes = _cut_off(_foreground(voxels), chosen) if percent else []
    if native_spacing(volume, plane)[0] > 2 * spacing:
        notes.append(f"pixels of over {2 * spacing:g} mm become {spacing:g} mm: made-up detail")
    return VolumeSlices(np.moveaxis(stack, 2, 0), resampled, place, notes)


def is_in_oasis_space(volume: Volume) -> bool:
    """Whether a volume is in the space of OASIS: upright, 1 mm, the commissure at its origin.

    A header that names a standard brain is believed. Others, since many programs write any code,
    must have the midline in the middle of a box as brains come in.
    """
    try:
        _oasis_place(volume, None)
    except ValueError:
        return False
    shape, left = volume.voxels.shape, volume.affine[0, 3]
    is_template = abs(left + shape[0] / 2) <= 2 and all(np.less_equal(shape, TEMPLATE_SIZE))
    return shape == GRID or volume.space >= TALAIRACH or is_template


def oasis_slices(volume: Volume, first_slice: int | None = None) -> VolumeSlices:
    """Cut the axial slices of a scan out of a volume and place them in the frame of OASIS.

    A volume on the grid of the discs (176 x 208 x 176) takes its place there whatever its origin
    is, because converters from Analyze do not keep the origin.

    Args:
        volume: Upright volume with voxels of 1 mm.
        first_slice: Voxel level of slice 0, counted from 0 at the bottom. None takes the level of
            the published slices.

    Returns:
        Images `(32, 256, 256)`, the nose to the right.

    Raises:
        ValueError: Voxels are no upright cubes of 1 mm, or the volume lacks the slices.
    """
    voxels, offset, first = volume.voxels, *_oasis_place(volume, first_slice)
    # What lies outside the frame is cut off.
    low, high = np.maximum(0, -offset), np.minimum(voxels.shape[:2], SLICE_SIDE - offset)
    levels = range(first, first + NUM_LEVELS)
    box = np.s_[low[0] : high[0], low[1] : high[1], first : first + NUM_LEVELS]
    background, tolerance = _background_of(voxels)
    padding = background if background < -tolerance else 0  # the air of a CT
    frame = np.full((NUM_LEVELS, SLICE_SIDE, SLICE_SIDE), padding, "float32")
    (top, left), (bottom, right) = offset + low, offset + high
    frame[:, top:bottom, left:right] = np.moveaxis(voxels[box], 2, 0)  # (rows, columns, K)

    held = _foreground(voxels)
    lost = 1 - float(held[box].sum() / max(1, held[..., levels].sum()))
    notes = _cut_off(held, levels)
    if lost > 0.02:
        notes.insert(0, f"{lost:.0%} of its slices lie outside the frame and are cut off")
    corner = [-int(offset[0]), -int(offset[1]), first]
    place = {"axes": "RAS", "shape": list(voxels.shape), "first": corner, "lost": round(lost, 4)}
    return VolumeSlices(frame, moved_affine(volume.affine, corner), place, notes)


def _oasis_place(volume, first_slice):
    """Row and column of a volume's first voxel in the frame, and the voxel level of slice 0."""
    shape = volume.voxels.shape
    if not _is_upright(volume.affine):
        raise ValueError("voxels are no upright 1 mm cubes, as those in the space of OASIS are")
    if not volume.space:
        listed, needed = (" x ".join(map(str, sides)) for sides in (shape, GRID))
        raise ValueError(f"it has {listed} voxels, not {needed}, and its header gives no place")
    origin = ORIGIN if shape == GRID else -np.rint(volume.affine[:3, 3]).astype(int)
    first = FIRST_SLICE - ORIGIN[2] + origin[2] if first_slice is None else first_slice
    if first < 0 or first + NUM_LEVELS > shape[2]:
        place = f"levels {first} to {first + NUM_LEVELS - 1} are not in a volume of {shape[2]}"
        raise ValueError(f"{place}: is its origin the commissure?")
    offset = np.subtract(FRAME_ORIGIN, origin[:2])
    if (offset >= SLICE_SIDE).any() or (offset + shape[:2] <= 0).any():
        raise ValueError("the volume lies beside the frame: is its origin the commissure?")
    return offset, int(first)


def _in_plane(volume, plane):
    """Voxels `(rows, columns, levels)` of a plane, and their affine."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(PLANES[plane]))
    affine = volume.affine @ inv_ornt_aff(turn, volume.voxels.shape)
    return nibabel.apply_orientation(volume.voxels, turn), affine


def _cut_off(held, levels):
    """Note that levels hold much less than as many others of what a volume holds would."""
    sums = np.cumsum([0, *held.sum((0, 1))])
    span = levels[-1] + 1 - levels[0]
    most = (sums[span:] - sums[:-span]).max()
    share = (sums[levels[-1] + 1] - sums[levels[0]]) / max(1, most)
    if share >= 0.85:  # of a brain 30 mm too high or too low it is 0.83 and 0.76
        return []
    place = f"levels {levels[0]} to {levels[-1]} hold {share:.0%}"
    return [f"{place} of what the fullest {span} levels hold: a good part is cut off"]


def interpolate_levels(volume: Volume, plane: str, spacing: float) -> Volume:
    """Make slices of another distance, of which those between thick ones are made up.

    Args:
        volume: The volume.
        plane: "axial", "coronal" or "sagittal".
        spacing: Millimetres from one slice to the next.

    Raises:
        ValueError: The volume would be too large.
    """
    sizes, across = voxel_sizes(volume.affine), int(axcodes2ornt(PLANES[plane])[2, 0])
    sizes[across] = spacing
    voxels, affine = _resample(volume.voxels, volume.affine, sizes)
    return volume._replace(voxels=voxels, affine=affine)


def _resample(stack, affine, sizes):
    """Voxels of other sizes in millimetres in the same box, and their affine.

    Linear interpolation makes up no values beyond those around. Before voxels become fewer, they
    are smoothed to the width of the new ones.
    """
    steps = np.asarray(sizes) / voxel_sizes(affine)
    steps[np.abs(steps - 1) < 0.01] = 1
    if (steps == 1).all():
        return stack.astype("float32"), affine
    shape = np.ceil(np.round(np.divide(stack.shape, steps), 2)).clip(1).astype(int).tolist()
    if math.prod(shape) * 4 > MAX_BYTES:
        raise ValueError(f"voxels of {' x '.join(f'{size:g}' for size in sizes)} mm are too many")
    # Full width at half maximum -> standard deviation, in voxels
    widths = np.sqrt(np.maximum(steps**2 - 1, 0)) / math.sqrt(8 * math.log(2))
    smooth = gaussian_filter(stack.astype("float32"), widths, mode="nearest")
    offset = (np.subtract(stack.shape, 1) - np.subtract(shape, 1) * steps) / 2  # centre on centre
    edged = np.pad(smooth, 1, mode="edge")  # or the outermost half voxels would be black
    target = moved_affine(affine, offset, steps)

    from nilearn.image import resample_img  # noqa: PLC0415  takes a second to load

    resampled = resample_img(
        nibabel.Nifti1Image(edged, moved_affine(affine, (-1, -1, -1))),
        target_affine=target,
        target_shape=tuple(shape),
        interpolation="linear",
        copy_header=False,
        force_resample=True,
    )
    return np.asarray(resampled.dataobj, "float32"), target


# ---- and back ----------------------------------------------------------------------------------


def moved_affine(
    affine: np.ndarray, offset: Sequence[float] = (0, 0, 0), step: Sequence[float] = (1, 1, 1)
) -> np.ndarray:
    """Affine of slices that were cut, padded, thinned or resampled.

    Args:
        affine: `(4, 4)`, (row, column, level) before -> millimetres.
        offset: Row, column and level before, of what is now the first. Negative is padding.
        step: Rows, columns and levels before, from one to the next now.
    """
    to_former = np.diag([*step, 1.0])
    to_former[:3, 3] = offset
    return np.asarray(affine, float) @ to_former


def write_volume(
    path: pathlib.Path,
    slices: np.ndarray,
    affine: Sequence[Sequence[float]] | None = OASIS_AFFINE,
    level: int = 0,
    description: str = "",
) -> None:
    """Write slices as a NIfTI volume, the inverse of `oasis_slices` and `plane_slices`.

    Args:
        path: File `.nii.gz` to write.
        slices: Slices from the first level on, uint8 `(K, S, S)`.
        affine: `(4, 4)`, (row, column, level) of a whole stack -> millimetres to the right, to the
            front and up, or None where it is not known.
        level: Level of the first of these slices.
        description: What the header says that they are. It has room for 79 letters.
    """
    moved = moved_affine(np.eye(4) if affine is None else affine, (0, 0, level))
    image = nibabel.Nifti1Image(np.moveaxis(slices, 0, 2), moved)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:MAX_DESCRIPTION]
    code = "unknown" if affine is None else "aligned"
    if affine is not None and np.array_equal(affine, OASIS_AFFINE):
        code = "talairach"
    for set_form in (image.set_sform, image.set_qform):
        set_form(moved, code=code)
    packed = gzip.compress(image.to_bytes(), mtime=0)  # the same bytes for the same slices
    with replacing(path) as temporary:
        temporary.write_bytes(packed)
