"""What a conversion reads: pictures, or volumes, of which those on the OASIS-1 discs are a kind.

Each kind of input lists its files (`understood`), looks at them (`look`), and reads one scan as a
stack of slices (`read`).
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import math
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from sources import volumes
from sources.layout import NUM_LEVELS, SLICE_SIDE
from sources.names import Place, Understood, understand
from sources.pictures import PictureFolder, open_pictures
from sources.scaling import common_side
from utils import InputError, cores, progress, reading

COARSEST = 2.0  # mm of a pixel, unless another spacing is asked for
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
LAST_NUMBER = r"(\d+)[^/\d]*$"  # of a path
ENDING = re.compile(r"\.(nii|nii\.gz|mgz|hdr)$", re.IGNORECASE)
MASKED = "masked_"  # in the names of brain-masked volumes
AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}  # of a volume, by where one runs to
# On the OASIS-1 discs a volume is an Analyze 7.5 pair; its header stands for it.
OASIS1 = re.compile(r"((OAS1_\d{4})_MR[1-9])_mpr_n\d+_anon_111_t88_(?:masked_)?gfc\.hdr", re.ASCII)


class Stack(NamedTuple):
    """Slices of one scan.

    Attributes:
        images: `(H, W)` each, from bottom to top.
        levels: Level of each.
        paths: File of each.
        affine: `(4, 4)`, voxel (row, column, level) -> millimetres. None: not known.
        place: What else is needed to lay a map over the scan.
        notes: What was noticed, a line each.
    """

    images: Sequence[np.ndarray]
    levels: Sequence[int]
    paths: Sequence[str]
    affine: np.ndarray | None = None
    place: dict[str, Any] = {}
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Scan:
    """A case: what one scan of a subject shows.

    Attributes:
        name: Name of the scan.
        subject: Who was scanned.
        case: Number in the names of its slices.
        split: Split of its subject, or None.
        attributes: What else its names say, such as `class`.
        files: Path and level of each of its files. A volume has one, of level 0.
    """

    name: str
    subject: str
    case: int
    split: str | None
    attributes: dict[str, str]
    files: tuple[tuple[str, int], ...]


def in_threads(function: Callable, items: Sequence, title: str, inputs: "Input") -> Iterator:
    """Yield items, in order, with what a function gives of each, in the threads of an input.

    An item of which it raises an `InputError` is reported and left out.
    """

    def guarded(item):
        try:
            return function(item)
        except InputError as error:
            return error

    with (
        concurrent.futures.ThreadPoolExecutor(inputs.workers) as pool,
        contextlib.closing(pool.map(guarded, items)) as results,  # no more is begun after an error
    ):
        for item, result in zip(items, progress(results, title, len(items), inputs.unit)):
            if isinstance(result, InputError):
                inputs.report(str(result))
            else:
                yield item, result


class Input:
    """Files to convert.

    Attributes:
        understood: What was read from their names.
        sizes: How many are of a size, once they were looked at.
        modes: How many are of a mode.
        report: Takes a line about a file that cannot be used. It may raise.
    """

    unit = "image"
    workers = 4 * cores()  # they wait for the disk most of the time

    def __init__(self, understood: Understood, report: Callable[[str], None]):
        self.understood, self.report = understood, report
        self.sizes, self.modes = collections.Counter(), collections.Counter()

    def look(self) -> list[Place]:
        """Look at all files, and return those that can be used."""
        places, facts = [], []
        for place, found in in_threads(self._look, self.understood.places, "looking", self):
            size, mode, *more = found
            self.sizes[size] += 1
            self.modes[mode] += 1
            places.append(place)
            facts.append(more)
        if places:
            self._settle(*zip(*facts))
        return places


class Pictures(Input):
    """Image files: each is one slice.

    Args:
        source: Folder, `.zip` of a folder, or MedMNIST file.
        settings: Settings of the conversion. `side` is found by `look` if it is None.
        rules: How to read names.
        report: See `Input`.
        with_levels: Whether these are slices like those of a set that has levels. A single stack
            has but one number that varies, which would be taken for the subject.
    """

    def __init__(self, source, settings, rules, report, with_levels=False):
        self.settings, self.folder = settings, open_pictures(source)
        paths = self.folder.paths
        try:
            understood = understand(paths, rules)
            if with_levels and all(place.level is None for place in understood.places):
                understood = understand(paths, rules._replace(level=LAST_NUMBER))
        except InputError:
            _refuse_dicom(self.folder)
            raise
        super().__init__(understood, report)
        self.understood.notes.extend(self.folder.notes)

    def _look(self, place):
        height, width, mode = self.folder.size(place.path)
        return (height, width), mode

    def _settle(self):
        side = self.settings["side"] = self.settings["side"] or common_side(self.sizes.elements())
        small = sum(count for size, count in self.sizes.items() if 2 * max(size) < side)
        if small:
            self.understood.notes.append(f"{small} images are enlarged more than twice")

    def read(self, scan: Scan) -> Stack:
        """Read the slices of a scan that can be used. There may be none.

        Raises:
            InputError: `report` raised.
        """
        images, files = [], []
        for path, level in scan.files:
            try:
                images.append(self.folder.read(path))
                files.append((path, level))
            except InputError as error:
                self.report(str(error))
        return Stack(images, [level for _, level in files], [path for path, _ in files])


class Volumes(Input):
    """Volumes: each is one scan.

    Args:
        source: Folder.
        settings: Settings of the conversion. What is None of `space`, `plane`, `spacing`, `levels`
            and `side` is found by `look`.
        rules: How to read names.
        report: See `Input`.
    """

    unit = "volume"
    workers = cores()  # each has a volume in memory

    def __init__(self, source, settings, rules, report):
        self.settings, source = settings, pathlib.Path(source)
        if not source.exists():
            raise InputError(f"{source} is no folder: give the one that holds the volumes.")
        self.root, paths, masked = source, [], settings["masked"]
        if source.is_file():
            self.root, paths = source.parent, [source.name]
        folder = PictureFolder(source) if source.is_dir() else None
        paths = paths or folder.paths
        is_masked = [MASKED in path.rpartition("/")[2] for path in paths]
        wanted, others = (
            self._understand(
                [path for path, is_it in zip(paths, is_masked) if is_it == kind], rules
            )
            for kind in (masked, not masked)
        )
        if wanted is None:
            if folder:
                _refuse_dicom(folder)
            raise InputError(_nothing_found(source, paths, settings))
        super().__init__(wanted, report)
        if others:
            there, here = (
                {place.path.replace(MASKED, "") for place in understood.places}
                for understood in (others, wanted)
            )
            if there - here:
                kind = f"{'with' if masked else 'without'} {MASKED} in its name"
                lacking = f"{len(there - here)} scans lack a volume {kind}, such as"
                wanted.notes.append(f"{lacking} {min(there - here)}")

    def _understand(self, paths, rules):
        """What the names of volumes tell, or None where there is no volume."""
        if self.settings["kind"] == "oasis1":
            understood = _discs(paths)
            return understood if understood.places else None
        are_there = any(path.lower().endswith(volumes.VOLUME_ENDINGS) for path in paths)
        return understand(paths, rules, volumes=True) if are_there else None

    def name_of(self, place: Place) -> str:
        """Name of a scan: of its file, but for the ending."""
        if self.settings["kind"] == "oasis1":
            return place.scan
        return ENDING.sub("", place.path.replace(MASKED, ""))

    def look(self) -> list[Place]:
        """As for all inputs. Volumes of the discs are known, so no look is needed."""
        if self.settings["kind"] != "oasis1":
            return super().look()
        self.sizes[volumes.GRID] = self.modes["voxels of 1 x 1 x 1 mm"] = len(
            self.understood.places
        )
        self.settings |= OASIS_SLICES
        return self.understood.places

    @contextlib.contextmanager
    def _loaded(self, path):
        """The volume of a file. What is wrong with it becomes one line."""
        path = self.root / path
        with reading(path, "repair it or leave it out"):
            is_disc = self.settings["kind"] == "oasis1"
            axcodes = volumes.GRID_AXCODES if is_disc else self.settings["axcodes"]
            yield volumes.load_volume(path, axcodes)

    def _look(self, place):
        plane = self.settings["plane"] or "axial"
        with self._loaded(place.path) as volume:
            labels = volumes.looks_like_labels(volume)
            if labels:
                raise InputError(f"{self.root / place.path} is {labels}: leave it out.")
            in_oasis_space = volumes.is_in_oasis_space(volume)
            count = len(volumes.filled_levels(volume, plane, self.settings["slices"]))
            shape, steps = volume.voxels.shape, nibabel.affines.voxel_sizes(volume.affine)
            pixel, _ = volumes.native_spacing(volume, plane)
        axes = [AXES[letter] for letter in volumes.PLANES[plane][:2]]
        extent = [shape[axis] * steps[axis] for axis in axes]  # of a slice, mm
        mode = f"voxels of {' x '.join(f'{step:.3g}' for step in steps)} mm"
        return shape, mode, in_oasis_space, count, pixel, extent

    def _settle(self, in_oasis_space, counts, pixels, extents):
        """Find how to slice all volumes alike."""
        settings = self.settings
        if settings["space"]:
            return
        asked = any(settings[name] for name in ("spacing", "slices", "levels", "side"))
        if all(in_oasis_space) and settings["plane"] in (None, "axial") and not asked:
            settings |= OASIS_SLICES
            return
        settings |= {"space": "extent", "plane": settings["plane"] or "axial"}
        most = volumes.MOST_LEVELS
        settings["levels"] = settings["levels"] or min(most, int(np.median(counts)))
        spacing = settings["spacing"] or min(COARSEST, max(pixels))
        sizes = collections.Counter(
            tuple(math.ceil(round(side / spacing, 2)) for side in extent) for extent in extents
        )
        settings["side"] = settings["side"] or common_side(sizes.elements())
        if not settings["spacing"]:  # coarse enough that slices need not shrink to their square
            (size, _), *_ = sizes.most_common(1)
            spacing *= max(1.0, max(size) / settings["side"])
        settings["spacing"] = float(f"{spacing:.4g}")

    def read(self, scan: Scan) -> Stack:
        """Slice the volume of a scan.

        Raises:
            InputError: The volume cannot be used.
        """
        ((path, _),), settings = scan.files, self.settings
        most = settings["levels"]
        with self._loaded(path) as volume:
            if settings["space"] == "oasis":
                if settings["kind"] != "oasis1" and not volumes.is_in_oasis_space(volume):
                    raise ValueError("it is not in the space of OASIS")
                slices = volumes.oasis_slices(volume, settings["first_slice"])
            else:
                plane, percent = settings["plane"], settings["slices"]
                slices = volumes.plane_slices(volume, plane, settings["spacing"], percent, most)
        # A volume of fewer slices than levels is spread over all levels.
        count = len(slices.images)
        levels, notes = relative_places(count, most), [*volume.notes, *slices.notes]
        step = (count - 1) / (most - 1) if 1 < count < most else 1.0
        affine = volumes.moved_affine(slices.affine, (0, 0, -levels[0] * step), (1, 1, step))
        place = {"file": path, **slices.place}
        return Stack(slices.images, levels, [path] * count, affine, place, notes)


# How slices in the OASIS space are made.
OASIS_SLICES = {
    "space": "oasis", "plane": "axial", "spacing": 1.0, "levels": NUM_LEVELS, "side": SLICE_SIDE
}  # fmt: skip


def relative_places(count: int, among: int) -> list[int]:
    """Spread `count` things evenly over `among` places, from the first to the last."""
    if count == 1:
        return [(among - 1) // 2]
    return [round(i * (among - 1) / (count - 1)) for i in range(count)]


def _refuse_dicom(folder):
    if any(map(folder.is_dicom, folder.paths[:20])):
        command = f"dcm2niix -z y -o VOLUMES {shlex.quote(str(folder.source))}"
        advice = f"make volumes of them ({command}), then python dataset.py from-nifti VOLUMES"
        raise InputError(f"{folder.source} holds DICOM files: {advice}.")


def _discs(paths):
    matches = [(path, OASIS1.fullmatch(path.rpartition("/")[2])) for path in paths]
    # Of two files of one scan, the first is taken.
    places = {m[1]: Place(path, None, m[2], m[1], None, {}) for path, m in matches[::-1] if m}
    return Understood([places[name] for name in sorted(places)], {}, [])


def _nothing_found(source, paths, settings):
    archives = [path for path in paths if path.lower().endswith(ARCHIVES)]
    if archives:
        return f"{source} holds archives: unpack {source / archives[0]} and the like first."
    needed = "volumes (*.nii, *.nii.gz, *.mgz, *.hdr and .img)"
    if settings["kind"] == "oasis1":
        needed = "OASIS-1 volumes (OAS1_*_anon_111_t88_*gfc.hdr and .img)"
    kind = f"{'with' if settings['masked'] else 'without'} {MASKED} in the name"
    return f"{source} holds no {needed} {kind}: give the folder above them, or change --masked."
