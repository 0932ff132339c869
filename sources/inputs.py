"""What a conversion reads: pictures, volumes, or the volumes of the OASIS-1 discs.

Each kind of input lists its files (`understood`), looks at them (`look`), and reads one scan as a
stack of slices (`read`).
"""

import collections
import concurrent.futures
import contextlib
import math
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from sources import vocabulary, volumes
from sources.layout import NUM_LEVELS, SLICE_SIDE
from sources.names import Place, Rules, Understood, understand
from sources.pictures import PictureFolder, open_pictures
from sources.scaling import common_side
from utils import InputError, cores, progress, reading

COARSEST = 2.0  # mm of a pixel, unless another spacing is asked for
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
LAST_NUMBER = r"(\d+)[^/\d]*$"  # of a path
ENDING = re.compile(r"\.(nii|nii\.gz|mgz|hdr)$", re.IGNORECASE)
MASKED = "masked_"  # in the names of brain-masked volumes
# On the OASIS-1 discs a volume is an Analyze 7.5 pair; its header stands for it.
OASIS1 = re.compile(r"((OAS1_\d{4})_MR[1-9])_mpr_n\d+_anon_111_t88_(?:masked_)?gfc\.hdr", re.ASCII)
# How slices in the OASIS space are made.
OASIS_SLICES = {
    "space": "oasis", "plane": "axial", "spacing": 1.0, "levels": NUM_LEVELS, "side": SLICE_SIDE
}  # fmt: skip


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


class Scan(NamedTuple):
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

    Args:
        source: Where they are.
        settings: Settings of the conversion. What is None of size and place is found by `look`.
        report: Takes a line about a file that cannot be used. It may raise.

    Attributes:
        understood: What was read from their names.
        sizes: How many are of a size, once they were looked at.
        modes: How many are of a mode.
    """

    unit = "image"
    workers = 4 * cores()  # they wait for the disk most of the time
    understood: Understood

    def __init__(self, source, settings: dict[str, Any], report: Callable[[str], None]):
        self.source, self.settings, self.report = pathlib.Path(source), settings, report
        self.rules = Rules(*settings["rules"])
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
    """Image files of a folder, `.zip` of a folder, or MedMNIST file: each is one slice.

    With `with_levels` these are slices like those of a set that has levels. A single stack has but
    one number that varies, which would be taken for the subject.
    """

    def __init__(self, source, settings, report, with_levels=False):
        super().__init__(source, settings, report)
        self.folder = open_pictures(source)
        try:
            self.understood = understand(self.folder.paths, self.rules)
            if with_levels and all(place.level is None for place in self.understood.places):
                rules = self.rules._replace(level=LAST_NUMBER)
                self.understood = understand(self.folder.paths, rules)
        except InputError:
            _refuse_dicom(self.folder, self.folder.paths)
            _refuse_packed(self.folder)
            raise
        # The only pictures beside DICOM files may be label maps.
        if all(vocabulary.LABELS.search(place.path) for place in self.understood.places):
            _refuse_dicom(self.folder, self.understood.ignored.get("other files", ()))
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
        read = []
        for path, level in scan.files:
            try:
                read.append((self.folder.read(path), level, path))
            except InputError as error:
                self.report(str(error))
        return Stack(*zip(*read)) if read else Stack((), (), ())


class Volumes(Input):
    """Volumes of a folder, or one volume: each is one scan."""

    unit = "volume"
    workers = cores()  # each has a volume in memory
    needed = "volumes (*.nii, *.nii.gz, *.mgz, *.hdr and .img)"

    def __init__(self, source, settings, report):
        super().__init__(source, settings, report)
        if not self.source.exists():
            raise InputError(f"{source} is no folder: give the one that holds the volumes.")
        is_file, files = self.source.is_file(), {True: [], False: []}
        self.root = self.source.parent if is_file else self.source
        folder = None if is_file else PictureFolder(source)
        paths = [self.source.name] if is_file else folder.paths
        for path in paths:
            files[MASKED in path.rpartition("/")[2]].append(path)
        masked = settings["masked"]
        kind = f"{'with' if masked else 'without'} {MASKED} in its name"
        self.understood = self.understand(files[masked])
        if not self.understood:
            archives = [path for path in paths if path.lower().endswith(ARCHIVES)]
            if archives:
                first = self.source / archives[0]
                raise InputError(f"{source} holds archives: unpack {first} and the like first.")
            if folder:
                _refuse_dicom(folder, paths)
            none = f"{source} holds no {self.needed} {kind}"
            raise InputError(f"{none}: give the folder above them, or change --masked.")
        if others := self.understand(files[not masked]):
            there, here = (set(map(self.name_of, of.places)) for of in (others, self.understood))
            if there - here:
                lacking = f"{len(there - here)} scans lack a volume {kind}, such as"
                self.understood.notes.append(f"{lacking} {min(there - here)}")

    def understand(self, paths: Sequence[str]) -> Understood | None:
        """What the names of volumes tell, or None where there is no volume."""
        are_there = any(path.lower().endswith(volumes.VOLUME_ENDINGS) for path in paths)
        return understand(paths, self.rules, volumes=True) if are_there else None

    def name_of(self, place: Place) -> str:
        """Name of a scan: of its file, but for the ending."""
        return ENDING.sub("", place.path.replace(MASKED, ""))

    def load(self, path: pathlib.Path) -> volumes.Volume:
        """Read a volume, or raise anything."""
        return volumes.load_volume(path, self.settings["axcodes"])

    @contextlib.contextmanager
    def _loaded(self, path):
        """The volume of a file. What is wrong with it becomes one line."""
        with reading(self.root / path, "repair it or leave it out"):
            volume, distance = self.load(self.root / path), self.settings["slice_spacing"]
            if distance:
                plane = self.settings["plane"] or "axial"
                volume = volumes.interpolate_levels(volume, plane, distance)
            yield volume

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
        turned = nibabel.orientations.axcodes2ornt(volumes.PLANES[plane])[:2, 0].astype(int)
        extent = [shape[axis] * steps[axis] for axis in turned]  # of a slice, mm
        mode = f"voxels of {' x '.join(f'{step:.3g}' for step in steps)} mm"
        return shape, mode, in_oasis_space, count, pixel, extent

    def _settle(self, in_oasis_space, counts, pixels, extents):
        """Find how to slice all volumes alike."""
        settings = self.settings
        if settings["space"]:
            return
        of_others = "spacing", "slice_spacing", "slices", "levels", "side"
        asked = any(settings[name] for name in of_others)
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
                if not volumes.is_in_oasis_space(volume):
                    raise InputError(
                        f"{self.root / path} is not in the space of OASIS: register it to that "
                        "template, or make a set of such volumes with from-nifti --plane axial."
                    )
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


class Discs(Volumes):
    """Volumes of the OASIS-1 discs. What they are is known, so no look is needed."""

    needed = "OASIS-1 volumes (OAS1_*_anon_111_t88_*gfc.hdr and .img)"

    def understand(self, paths):
        """As for all volumes. Of two files of one scan, the first is taken."""
        matches = [(path, OASIS1.fullmatch(path.rpartition("/")[2])) for path in paths]
        places = {m[1]: Place(path, None, m[2], m[1], None, {}) for path, m in matches[::-1] if m}
        sorted_places = [places[name] for name in sorted(places)]
        return Understood(sorted_places, {}, []) if places else None

    def name_of(self, place):
        """Name of a scan, such as OAS1_0061_MR2."""
        return place.scan

    def load(self, path):
        """As for all volumes. All of the discs are on one grid."""
        volume = volumes.load_volume(path, volumes.GRID_AXCODES)
        if volume.voxels.shape != volumes.GRID:
            shape, needed = (" x ".join(map(str, s)) for s in (volume.voxels.shape, volumes.GRID))
            raise ValueError(f"it has {shape} voxels, not {needed}")
        return volume

    def look(self):
        """As for all inputs."""
        count = len(self.understood.places)
        self.sizes[volumes.GRID] = self.modes["voxels of 1 x 1 x 1 mm"] = count
        self.settings |= OASIS_SLICES
        return self.understood.places


def relative_places(count: int, among: int) -> list[int]:
    """Spread `count` things evenly over `among` places, from the first to the last."""
    if count == 1:
        return [(among - 1) // 2]
    return [round(i * (among - 1) / (count - 1)) for i in range(count)]


def _refuse_dicom(folder, paths):
    if any(map(folder.is_dicom, paths[:20])):
        command = f"dcm2niix -z y -o VOLUMES {shlex.quote(str(folder.source))}"
        advice = f"make volumes of them ({command}), then python dataset.py from-nifti VOLUMES"
        raise InputError(f"{folder.source} holds DICOM files: {advice}.")


def _refuse_packed(folder):
    packed = [path for path in folder.paths if path.lower().endswith((".npz", *ARCHIVES))]
    if packed and not any(map(vocabulary.ENDINGS[False].search, folder.paths)):
        first = folder.source / packed[0]
        raise InputError(
            f"{folder.source} holds no images but {len(packed)} packed files: give one .zip or "
            f"MedMNIST .npz itself, as {first}, or unpack them first."
        )
