"""From brain volumes to slices: the OASIS-1 discs, or NIfTI volumes in a standard space -> PNG files that `dataset.py` reads.

OASIS-1 is Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498. Its T88_111 volumes are in Talairach space, 176 x 208 x 176
voxels of 1 mm, as Analyze 7.5 pairs; FSL_SEG holds their tissue classes (0 background, 1 CSF, 2 grey, 3 white matter).
"""

import collections
import dataclasses
import gzip
import io
import pathlib
import re
import tarfile
import zlib

import nibabel
import numpy as np
from PIL import Image
from tqdm import tqdm

from utils import InputError, read_json, replacing, write_json

LEVELS = 32
SIZE = 256
SPLITS = ("train", "validate", "test")
FRACTIONS = (302.0, 35.0, 17.0)  # subjects of the splits of the set that this layout comes from
MANIFEST = "conversion.json"
REPEAT = 1000  # a repeat scan's case is that of its subject plus this, so that OAS1_0061_MR2 is case 1061

# Analyze 7.5 stores no orientation. Its own coordinate system is left-handed, the first voxel right, back and bottom, and so
# the program behind these volumes writes it (4dfptoanalyze: "right occipital skull-base"). That family of programs gives this
# grid the centre (89, -85, -101) for voxels of (1, -1, -1) mm, counted from 1, and mirrors x and z before it uses them: the
# atlas origin, the anterior commissure, is voxel (87, 123, 75) from the right, the back and the bottom, counted from 0.
GRID = (176, 208, 176)
ORIGIN = (88, 123, 75)  # that voxel, counted from the left
ANALYZE_AFFINE = np.array([[-1.0, 0, 0, 87], [0, 1, 0, -123], [0, 0, 1, -75], [0, 0, 0, 1]])  # voxel -> atlas millimetres

# Slice 0 is voxel 71 from the bottom, 4 mm below the origin. Two ways lead there. A public audit that compared 6,400 brain-
# masked slices, 32 of each of 200 OASIS-1 subjects, with every level of the volumes found levels 71 to 102 (correlation above
# 0.9996). And the mean of such slices matches the ICBM152 template with slice 0 at MNI z = -4.8 mm in the column of the
# commissure (the constants of synthetic.py), which is about z = -4.2 mm in Talairach space, voxel 70.8.
FIRST_SLICE = 71

# Rows run from the left of the head to its right, columns from the back to the nose. A volume on the grid of the discs
# covers rows 40-215 and columns 24-231 of the frame. Real slices have their rows this way: in the mean of 148 subjects the
# left-right asymmetry correlates at +0.49 with that of the fsaverage brain (-0.49 with its mirror image), and the midline is
# row 128.45, where x = 0 is row 128 this way and would be row 127 the other.
FRAME_ORIGIN = (128, 147)  # row and column of the atlas origin

GREY_PER_CLASS = 85  # tissue classes 0 to 3 become 0, 85, 170, 255
MOST_BYTES = 2**31  # of a volume; a file that asks for more is damaged, or no brain

_ANALYZE = re.compile(r"(?P<stem>OAS1_\d{4}_MR\d)_mpr_n\d+_anon_111_t88_(?:masked_)?gfc(?P<classes>_fseg)?\.(?P<part>hdr|img)")
_NIFTI = re.compile(r"(?P<stem>[^.].*?)(?P<classes>_[fd]?seg)?\.(?P<part>nii|nii\.gz)")
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+|OAS\d_?\d{4}|\d{3}_S_\d{4}")  # BIDS, OASIS, ADNI; else every volume is a subject
_UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error)


@dataclasses.dataclass
class Scan:
    """A volume to slice, in a folder or archive: `files` {"hdr", "img", "nii" or "nii.gz": name}, `classes` the like."""

    name: str
    subject: str
    container: pathlib.Path
    files: dict = dataclasses.field(default_factory=dict)
    classes: dict = dataclasses.field(default_factory=dict)
    case: int = 0
    split: str = ""

    def paths(self, out, classes=False):
        """Files of the 32 slices, or of their tissue classes."""
        folder, prefix = ("keras_png_slices_seg_", "seg") if classes else ("keras_png_slices_", "case")
        return [out / f"{folder}{self.split}" / f"{prefix}_{self.case:03d}_slice_{level}.nii.png" for level in range(LEVELS)]

    def is_segmented(self, out):
        return all(path.is_file() for path in self.paths(out, classes=True))

    def is_written(self, out):
        return all(path.is_file() for path in self.paths(out)) and (not self.classes or self.is_segmented(out))


def convert(directory, out, masked=False, fractions=FRACTIONS, seed=0, first_slice=None, nifti=False):
    """Write the slices of all volumes below a folder; what is there already is kept, what cannot be read is listed.

    Files are `keras_png_slices_{train,validate,test}/case_NNN_slice_K.nii.png`, 8-bit grey, 256 x 256, K from 0 (bottom) to
    31, and, where a volume has tissue classes, `keras_png_slices_seg_*/seg_NNN_slice_K.nii.png` of 0, 85, 170 and 255. The
    same input and settings give the same bytes. `conversion.json` says which scan, subject and split a case is.

    Args:
        directory: folder with OASIS-1 discs, unpacked or as `.tar`, `.tar.gz` or `.tgz`; or with NIfTI volumes.
        out: folder to write, which is new, empty, or from a conversion of the same input with the same settings.
        masked: take the brain-masked volumes (with `masked_` in the name), not those with scalp.
        fractions: three shares of the subjects, in any unit. All scans of a subject are in one split.
        seed: of the split, not negative.
        first_slice: voxel, from the bottom and from 0, of slice 0; by default the level of the published slices.
        nifti: look for NIfTI volumes of 1 mm in a standard space (origin at the anterior commissure), not for the discs.

    Returns:
        `(scans, problems)`: the `Scan`s written, and one line for each file that could not be used.

    Raises:
        InputError: nothing to convert, a setting makes no sense, or `out` holds something else.
    """
    directory, out = pathlib.Path(directory), pathlib.Path(out)
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder: give the one that holds the {'NIfTI volumes' if nifti else 'OASIS-1 discs'}.")
    scans, problems = find_scans(directory, masked, nifti)
    if not scans:
        wanted = "NIfTI volumes (*.nii, *.nii.gz)" if nifti else "OASIS-1 volumes (OAS1_*_anon_111_t88_*gfc.hdr and .img)"
        kind = "with masked_ in the name" if masked else "without masked_ in the name"
        raise InputError(f"{directory} holds no {wanted} {kind}: give the folder above them, or change --masked. {' '.join(problems)}")
    assign_splits(scans, fractions, seed)
    _claim(out, {"settings": {"masked": masked, "first_slice": first_slice, "seed": seed, "fractions": list(fractions), "nifti": nifti},
                 "cases": {f"{s.case:03d}": {"scan": s.name, "subject": s.subject, "split": s.split} for s in scans}})

    written = [scan for scan in scans if scan.is_written(out)]
    waiting = [scan for scan in scans if not scan.is_written(out)]
    with tqdm(total=len(scans), initial=len(written), desc="slicing", unit="scan") as bar:
        for container in sorted({scan.container for scan in waiting}):
            for scan, contents in _read_scans(container, [s for s in waiting if s.container == container], problems):
                if _write_scan(out, scan, contents, first_slice, problems):
                    written.append(scan)
                bar.update()
    if not written:
        raise InputError(f"{directory}: no volume could be used. {' '.join(problems)}")
    return written, problems


def find_scans(directory, masked, nifti):
    """`Scan`s below a folder and in its archives, by name and numbered, and a line for each place or volume that is damaged."""
    archives = sorted(p for p in directory.rglob("*") if p.is_file() and p.name.endswith((".tar", ".tar.gz", ".tgz")))
    scans, classes, problems = {}, {}, []
    for container in tqdm([directory, *archives], desc="looking for volumes", unit="place", disable=None):
        try:
            for name, _ in _files(container):
                path = pathlib.PurePosixPath(name)
                match = (_NIFTI if nifti else _ANALYZE).fullmatch(path.name)
                if not match:
                    continue
                key = str(path.with_name(match["stem"].replace("masked_", ""))) if nifti else match["stem"]
                if match["classes"]:
                    classes.setdefault((container, key), {}).setdefault(match["part"], name)
                elif ("masked_" in path.name) == masked:
                    subject = _SUBJECT.search(key)
                    scan = scans.setdefault(key, Scan(key, subject[0] if subject else key, container))
                    if scan.container == container:  # the first place that has a scan gives it
                        scan.files.setdefault(match["part"], name)
        except _UNREADABLE as error:
            problems.append(f"{container} is damaged from some point on ({error}): only what lies before it is used.")
    whole, names = [], collections.Counter(_last(key) for key in scans)
    elsewhere = {(container, _last(key)): files for (container, key), files in classes.items()}
    for number, (key, scan) in enumerate(sorted(scans.items()), 1):
        scan.classes = classes.get((scan.container, key), {})
        if not scan.classes and names[_last(key)] == 1:  # they may be in another folder, as on the discs
            scan.classes = elsewhere.get((scan.container, _last(key)), {})
        for files in (scan.files, scan.classes):
            if len(files) == 1 and not nifti:
                problems.append(f"{next(iter(files.values()))} in {scan.container} lacks its other half, .hdr or .img.")
                files.clear()
        scan.case = number if nifti else int(key[5:9]) + REPEAT * (int(key[-1]) - 1)
        if scan.files:
            whole.append(scan)
    return whole, problems


def _last(key):
    return pathlib.PurePosixPath(key).name


def assign_splits(scans, fractions, seed):
    """Put every subject, with all scans, into one split: sizes by largest remainder, and no split empty that need not be."""
    if len(fractions) != 3 or min(fractions) < 0 or not 0 < sum(fractions) < float("inf"):
        raise InputError(f"--fractions {' '.join(map(str, fractions))} are no shares: give three numbers, as in 302 35 17 or 0.8 0.1 0.1.")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative: give 0 or more.")
    subjects = sorted({scan.subject for scan in scans})
    exact = np.array(fractions) / sum(fractions) * len(subjects)
    sizes = np.floor(exact).astype(int)
    sizes[np.argsort(sizes - exact, kind="stable")[: len(subjects) - sizes.sum()]] += 1
    for split in range(3):
        if fractions[split] and not sizes[split] and sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[split] += 1
    order = np.random.default_rng(seed).permutation(len(subjects))
    split_of = dict(zip((subjects[i] for i in order), np.repeat(SPLITS, sizes).tolist()))
    for scan in scans:
        scan.split = split_of[scan.subject]


def frame_slices(volume, affine, first_slice=None):
    """The 32 axial slices of a volume in the frame, nose to the right, `(32, 256, 256)` of the volume's type.

    Args:
        volume: `(X, Y, Z)` voxels in any order.
        affine: `(4, 4)`, voxel -> millimetres to the right, to the front and up. A volume on the grid of the discs (176 x
            208 x 176 once upright) takes its place there whatever its origin, which converters from Analyze do not keep.
        first_slice: voxel level of slice 0, from the bottom and from 0, or None for the published level.

    Raises:
        ValueError: voxels are no upright cubes of 1 mm, or the volume lacks the slices.
    """
    orientation = nibabel.io_orientation(affine)
    affine = affine @ nibabel.orientations.inv_ornt_aff(orientation, volume.shape)
    volume = nibabel.apply_orientation(volume, orientation)  # (X, Y, Z): to the right, to the front, up
    if not np.allclose(affine[:3, :3], np.eye(3), atol=0.01):
        raise ValueError("voxels are no upright 1 mm cubes: resample the volume to 1 mm in a standard space")
    origin = ORIGIN if volume.shape == GRID else -np.rint(affine[:3, 3]).astype(int)
    first = first_slice if first_slice is not None else FIRST_SLICE - ORIGIN[2] + origin[2]
    if not 0 <= first <= volume.shape[2] - LEVELS:
        raise ValueError(f"levels {first} to {first + LEVELS - 1} are not in a volume of {volume.shape[2]}: is its origin the commissure?")
    offset = np.subtract(FRAME_ORIGIN, origin[:2])  # where the first voxel falls; what is outside the frame is cut off
    low, high = np.maximum(0, -offset), np.minimum(volume.shape[:2], SIZE - offset)
    if (low >= high).any():
        raise ValueError("the volume lies beside the frame: is its origin the commissure?")
    frame = np.zeros((LEVELS, SIZE, SIZE), volume.dtype)
    box = volume[low[0]:high[0], low[1]:high[1], first:first + LEVELS]
    (top, left), (bottom, right) = offset + low, offset + high
    frame[:, top:bottom, left:right] = np.moveaxis(box, 2, 0)
    return frame


def to_grey(slices):
    """8-bit grey values of `(K, 256, 256)` intensities: every slice by its own maximum, which becomes 255.

    That is how the published slices are scaled, with scalp (exactly one pixel of a slice is 255) and brain-masked (white
    matter jumps by up to a third from one millimetre to the next).
    """
    slices = np.clip(np.nan_to_num(slices.astype("float64"), posinf=0.0), 0, None)
    peaks = slices.max((1, 2), keepdims=True)
    return np.rint(slices * (255.0 / np.where(peaks > 0, peaks, 1.0))).astype("uint8")


def to_classes(slices):
    """Grey values 0, 85, 170, 255 of tissue classes 0, 1, 2, 3, `uint8`.

    Raises:
        ValueError: there is another value.
    """
    if not np.isin(slices, range(4)).all():
        raise ValueError("a segmentation has values other than 0, 1, 2 and 3")
    return (slices * GREY_PER_CLASS).astype("uint8")


def _files(container):
    """`(name, read)` of the regular files of a folder or an archive. Members of an archive are never written anywhere."""
    if container.is_dir():
        for path in sorted(container.rglob("*")):
            if path.is_file():
                yield path.relative_to(container).as_posix(), path.read_bytes
    else:
        with tarfile.open(container, "r|*") as archive:
            for member in archive:
                if member.isfile() and member.size <= MOST_BYTES:
                    yield member.name, lambda: archive.extractfile(member).read()


def _read_scans(container, scans, problems):
    """`(scan, {name: bytes})` of each scan as the last of its files comes by, in one pass."""
    owner = {name: scan for scan in scans for name in (*scan.files.values(), *scan.classes.values())}
    missing, contents = {scan.name: 0 for scan in scans}, {scan.name: {} for scan in scans}
    for scan in owner.values():
        missing[scan.name] += 1
    reason = "it is gone"
    try:
        for name, read in _files(container):
            scan = owner.pop(name, None)
            if scan and scan.name in contents:
                try:
                    contents[scan.name][name] = read()
                except OSError as error:
                    if not container.is_dir():  # the rest of a damaged archive is lost, that of a folder is not
                        raise
                    problems.append(f"{name} in {container} could not be read: {error}.")
                    del contents[scan.name]
                    continue
                missing[scan.name] -= 1
                if not missing[scan.name]:
                    yield scan, contents.pop(scan.name)
            if not owner:
                break
    except _UNREADABLE as error:
        reason = error
    problems.extend(f"{name} in {container} could not be read: {reason}." for name in contents)


def _load(files, contents):
    """Voxels `(X, Y, Z)` and the affine of a volume."""
    data = {part: contents[name] for part, name in files.items()}
    if "hdr" in data:
        holders = {kind: nibabel.FileHolder(fileobj=io.BytesIO(data[part])) for kind, part in (("header", "hdr"), ("image", "img"))}
        image, affine = nibabel.AnalyzeImage.from_file_map(holders), ANALYZE_AFFINE
    else:
        content = min(data.items())[1]
        if content[:2] == b"\x1f\x8b":
            content = gzip.open(io.BytesIO(content)).read(MOST_BYTES)
        size = {int.from_bytes(content[:4], order) for order in ("little", "big")}  # of the header: 348 bytes, or 540
        image = (nibabel.Nifti2Image if 540 in size else nibabel.Nifti1Image).from_bytes(content)
        affine = image.affine
    shape = image.shape[:3]
    if len(shape) < 3 or any(n != 1 for n in image.shape[3:]) or ("hdr" in data and shape != GRID):
        needed = " x ".join(map(str, GRID)) if "hdr" in data else "three axes"
        raise ValueError(f"it has {' x '.join(map(str, image.shape))} voxels, not {needed}")
    return np.asanyarray(image.dataobj).reshape(shape), affine


def _write_scan(out, scan, contents, first_slice, problems):
    """Write a scan's slices; False, and a line in `problems`, where they cannot be had."""
    made = {}
    for classes, files, to_pixels in ((False, scan.files, to_grey), (True, scan.classes, to_classes)):
        try:
            if files:
                made[classes] = to_pixels(frame_slices(*_load(files, contents), first_slice))
        except Exception as error:  # a damaged header can make nibabel raise anything
            problems.append(f"{min(files.values())} in {scan.container} could not be used: {error}.")
    for classes, pixels in made.items() if False in made else ():
        for path, image in zip(scan.paths(out, classes), pixels):
            with replacing(path) as temporary:
                Image.fromarray(image).save(temporary, format="PNG")
    return False in made


def _claim(out, manifest):
    """Make `out` the folder of this conversion, or check that it is, so that no subject changes its split half way."""
    path = out / MANIFEST
    if path.is_file():
        if read_json(path, advice="name another --out") != manifest:
            raise InputError(f"{out} holds a conversion of other volumes or with other settings: repeat those, or name another --out.")
    elif out.exists() and (not out.is_dir() or any(entry.name[0] != "." for entry in out.iterdir())):
        raise InputError(f"{out} exists and is no unfinished conversion: name another --out.")
    else:
        write_json(path, manifest)
    for leftover in out.glob("keras_png_slices_*/.*.png"):  # of a run that was killed
        leftover.unlink()
