"""Find, check and make folders of OASIS brain slices.

Layout: `keras_png_slices_{train,validate,test}/case_NNN_slice_K.nii.png`, 8-bit grey PNG, 256 x 256;
NNN is the subject, K the level of the slice, bottom to top.

    python dataset.py from-oasis1 DIR [--masked]     slices of the official OASIS-1 discs
    python dataset.py from-nifti DIR                 slices of NIfTI volumes in a standard space
    python dataset.py check DIR                      what a data folder holds, and what is wrong with it
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import pathlib
import re
import sys

import numpy as np
from PIL import Image
from tqdm import tqdm

import synthetic
from utils import InputError, Parser, command_line, read_json

SPLITS = ("train", "validate", "test")
SOURCE_SIZE = synthetic.SIZE  # pixels of a side, as OASIS slices come
DEFAULT_DIRECTORY = pathlib.Path("data/keras_png_slices_data")
MAKE_AGAIN = "remove the folder and make it again"  # what to do about a note in a data folder that is damaged

BRAIN = (slice(synthetic.TOP, synthetic.BOTTOM), slice(synthetic.LEFT, synthetic.RIGHT))  # hold all of every brain-masked slice
DARK = 8  # grey values up to this may be noise of the air around a head

_NAME = re.compile(r"case_(\d{1,9})_slice_(\d{1,4})\.nii\.png")


@dataclasses.dataclass(frozen=True)
class Split:
    """Slices of one split, by case and level: `paths` (N,), `cases` and `levels` int32 (N,), and the `subjects` (N,) of the cases.

    A case is a scan; a subject may have several, and it is subjects that are independent of each other.
    """

    name: str
    paths: tuple
    cases: np.ndarray
    levels: np.ndarray
    subjects: np.ndarray

    def __len__(self):
        return len(self.paths)


@dataclasses.dataclass(frozen=True)
class Slices:
    """A checked data folder: what figures call it, its splits, a SHA-256 of its names and bytes, and of a synthetic cohort its
    `subjects` and `seed`."""

    name: str
    splits: dict
    fingerprint: str
    cohort: dict | None = None

    @property
    def levels(self):
        """Number of slice levels, one more than the highest seen."""
        return 1 + max(int(split.levels.max()) for split in self.splits.values())

    def report(self):
        """One line a split: images, cases and slices a case."""
        for split in self.splits.values():
            per_case = collections.Counter(split.cases.tolist()).values()
            spread = str(min(per_case)) if min(per_case) == max(per_case) else f"{min(per_case)}-{max(per_case)}"
            yield f"  {split.name:<9}{len(split):>6} images, {len(per_case):>4} cases, {spread} slices a case"


def find_slices(data=None, subjects=None, seed=0):
    """Directory of the slices to use: `data`, else the default folder, else, where its size is given, the synthetic cohort.

    Args:
        data: folder that holds the three splits (or that holds `keras_png_slices_data`), or None.
        subjects: size of the synthetic cohort, at least 3.
        seed: of the synthetic cohort.

    Raises:
        InputError: `data` is given and does not exist, there is nothing to use, or the cohort cannot be made.
    """
    if data is not None:
        directory = pathlib.Path(data)
        if not directory.is_dir():
            raise InputError(f"--data {data} is no folder: give the one that holds keras_png_slices_train, _validate and _test.")
        inner = directory / DEFAULT_DIRECTORY.name
        return inner if inner.is_dir() else directory
    if DEFAULT_DIRECTORY.is_dir():
        return DEFAULT_DIRECTORY
    if subjects is None:
        raise InputError(f"no slices found (no --data, no {DEFAULT_DIRECTORY}): name the folder that holds the three splits with --data DIR.")
    print(f"No OASIS slices found (no --data, no {DEFAULT_DIRECTORY}): using the synthetic cohort of {subjects} subjects.", flush=True)
    return synthetic_slices(subjects, seed)


def synthetic_slices(subjects, seed):
    """Directory of the synthetic cohort, made if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        return synthetic.write_cohort(DEFAULT_DIRECTORY.with_name(f"synthetic_{subjects}_subjects_seed_{seed}"), subjects, seed)
    except (ValueError, FileExistsError) as error:
        raise InputError(error) from None


def open_slices(directory):
    """Check every file of a data folder and list its slices.

    Raises:
        InputError: a split is missing or empty, a name does not parse, a file is no readable 8-bit grey
            256 x 256 PNG, or a case is in two splits.
    """
    directory = pathlib.Path(directory)
    manifest = _manifest(directory)
    splits = {name: _list_split(name, directory / f"keras_png_slices_{name}", manifest["cases"]) for name in SPLITS}
    seen = {}
    for split in splits.values():
        for subject in set(split.subjects.tolist()):
            if seen.setdefault(subject, split.name) != split.name:
                raise InputError(f"{directory}: {subject} is in both {seen[subject]} and {split.name}, so scores would "
                                 "leak: keep every subject in one split.")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(_check_file, [path for split in splits.values() for path in split.paths])
        fingerprint = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    cohort = directory / "cohort.json"
    if cohort.is_file():
        settings = read_json(cohort, ("subjects", "seed"), MAKE_AGAIN)
        return Slices(f"synthetic cohort ({settings['subjects']} subjects, seed {settings['seed']})", splits, fingerprint, settings)
    converted = manifest.get("settings", {})
    kind = directory.resolve().name if converted.get("nifti") else "OASIS"
    return Slices(f"{kind}, brain-masked" if converted.get("masked") else kind, splits, fingerprint)


def open_folder(directory):
    """Check every file of a single folder of slices and list them, a `Split` of the folder's name.

    Raises:
        InputError: the folder is missing or empty, or a name or a file is not as in `open_slices`.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder: give one that holds case_NNN_slice_K.nii.png.")
    split = _list_split(directory.resolve().name, directory, {})
    for path in split.paths:
        _check_file(path)
    return split


def _manifest(directory):
    """What `oasis1.py` noted of a folder that it made: `settings`, and the scan and subject of each of `cases`, of which others have none."""
    path = directory / "conversion.json"
    return read_json(path, ("cases",), MAKE_AGAIN) if path.is_file() else {"cases": {}}


def _subject(case, scans):
    return scans.get(f"{case:03d}", {}).get("subject", f"case {case:03d}")


def _list_split(name, folder, scans):
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: --data must hold keras_png_slices_train, _validate and _test.")
    slices = []
    for path in folder.glob("*.png"):
        match = _NAME.fullmatch(path.name)
        if not match:
            raise InputError(f"{path} has no case and slice number: name it case_NNN_slice_K.nii.png.")
        slices.append((int(match[1]), int(match[2]), str(path)))
    if not slices:
        raise InputError(f"{folder} holds no case_NNN_slice_K.nii.png: slices are needed there.")
    cases, levels, paths = zip(*sorted(slices))
    return Split(name, paths, np.array(cases, "int32"), np.array(levels, "int32"), np.array([_subject(case, scans) for case in cases]))


def _check_file(path):
    """Digest of a slice's place and bytes, once it is known to be a whole 8-bit grey image with something on it.

    Nothing is converted: a folder with colour, 16-bit, palette or transparent files was not written for this project, and what
    a conversion would lose is the user's to judge.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as image:
                found = f"{image.size[0]} x {image.size[1]} {image.mode}"
                found += ", animated" * (getattr(image, "n_frames", 1) > 1) + ", transparent" * ("transparency" in image.info)
                if found != f"{SOURCE_SIZE} x {SOURCE_SIZE} L":  # before a pixel is unpacked
                    raise InputError(f"{path} is {found}, not {SOURCE_SIZE} x {SOURCE_SIZE} L (8-bit grey): convert or remove it.")
                _, brightest = image.getextrema()
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable PNG ({error}): restore or remove it.") from None
    if not brightest:
        raise InputError(f"{path} is all black: restore or remove it.")
    return "/".join((*pathlib.Path(path).parts[-2:], digest))


def inspect_slices(directory):
    """What a data folder holds and all that is wrong with it; unlike `open_slices` this does not stop at the first problem.

    Returns:
        `(facts, problems)`: lines on counts, subjects, intensity and scalp; and one line for each missing folder or
        slice, each name that does not parse, each unusable or duplicate image (by hash of its pixels), and each
        case or subject in several splits.

    Raises:
        InputError: there is no readable slice at all.
    """
    directory = pathlib.Path(directory)
    splits, segmented, problems, scans = {}, {}, [], _manifest(directory)["cases"]
    images = collections.defaultdict(list)  # hash of the pixels: files
    peaks, means, beyond = [], [], []  # of each image; `beyond` counts pixels outside the brain
    for name in SPLITS:
        folder, found = directory / f"keras_png_slices_{name}", []
        for path in tqdm(sorted(folder.glob("*.png")), desc=name, unit="image", leave=False, disable=None):
            match = _NAME.fullmatch(path.name)
            if not match:
                problems.append(f"{path} has no case and slice number: name it case_NNN_slice_K.nii.png.")
                continue
            try:
                _check_file(path)
            except InputError as error:
                problems.append(str(error))
                continue
            with Image.open(path, formats=["PNG"]) as image:
                pixels = np.array(image)
            found.append((int(match[1]), int(match[2]), str(path)))
            images[hashlib.sha256(pixels).digest()].append(path)
            peaks.append(int(pixels.max()))
            means.append(pixels.sum() / max(1, np.count_nonzero(pixels)))
            pixels[BRAIN] = 0
            beyond.append(np.count_nonzero(pixels > DARK))
        if found:
            cases, levels, paths = zip(*sorted(found))
            splits[name] = Split(name, paths, np.array(cases), np.array(levels), np.array([_subject(case, scans) for case in cases]))
        else:
            problems.append(f"{folder} {'holds no readable slice' if folder.is_dir() else 'is missing'}: every split needs slices.")
        masks = {path.name[4:] for path in (directory / f"keras_png_slices_seg_{name}").glob("seg_*.png")}
        segmented[name] = len(masks)
        lone = masks - {pathlib.Path(path).name[5:] for _, _, path in found}
        problems += [f"keras_png_slices_seg_{name}/seg_{mask} has no image." for mask in sorted(lone)]
    if not splits:
        raise InputError(f"{directory} holds no readable slice. {' '.join(problems)}")

    slices = Slices(directory.name, splits, "")
    places = collections.defaultdict(list)  # case: splits
    for split in splits.values():
        for case in sorted(set(split.cases.tolist())):
            places[case].append(split.name)
            lacking = sorted(set(range(slices.levels)) - set(split.levels[split.cases == case].tolist()))
            if lacking:
                problems.append(f"case {case:03d} of {split.name} lacks slices {', '.join(map(str, lacking))}.")
    subjects = collections.defaultdict(set)
    for case, names in places.items():
        subjects[_subject(case, scans)].update(names)
        if len(names) > 1:
            problems.append(f"leak: case {case:03d} is in {' and '.join(names)}.")
    problems += [f"leak: scans of subject {subject} are in {' and '.join(sorted(names, key=SPLITS.index))}."
                 for subject, names in subjects.items() if len(names) > 1 and subject[:5] != "case "]
    for paths in images.values():
        if len(paths) > 1:
            leak = "leak, " if len({path.parent for path in paths}) > 1 else ""
            problems.append(f"{leak}duplicates: {', '.join('/'.join(path.parts[-2:]) for path in paths)} are one image.")

    with_scalp = sum(count > 50 for count in beyond)
    share = with_scalp / len(beyond)
    kind = "brain-masked" if share < 0.05 else "with scalp" if share > 0.5 else "mixed, brain-masked and with scalp"
    facts = [*slices.report(),
             f"  subjects   {len(subjects)}, with {len(places)} cases of up to {slices.levels} slices",
             f"  segmented  {', '.join(f'{count} {name}' for name, count in segmented.items())}",
             f"  intensity  brightest pixel of a slice {min(peaks)}-{max(peaks)}, 255 in {peaks.count(255)} of {len(peaks)} slices; "
             f"mean without background {min(means):.0f}-{max(means):.0f}",
             f"  looks {kind} ({with_scalp} of {len(beyond)} slices have more than noise outside the rows and columns of the brain)"]
    return facts, problems


def _listed(problems):
    return [f"{len(problems)} problems:" if problems else "no problems", *(f"  {' '.join(problem.split())}" for problem in problems)]


def main(args):
    if args.command == "check":
        if not pathlib.Path(args.directory).is_dir():
            raise InputError(f"{args.directory} is no folder: give the one that holds keras_png_slices_train, _validate and _test.")
        directory = find_slices(args.directory)
        facts, problems = inspect_slices(directory)
        print(directory, *facts, *_listed(problems), sep="\n")
        sys.exit(bool(problems))

    import oasis1  # nibabel is needed here only

    nifti = args.command == "from-nifti" or args.from_nifti
    shares = re.split(r"[\s:,]+", " ".join(args.fractions)) if args.fractions else oasis1.FRACTIONS
    try:
        shares = [float(share) for share in shares]
    except ValueError:
        raise InputError(f"--fractions {' '.join(args.fractions)} are no numbers: give three, as in 302 35 17.") from None
    scans, problems = oasis1.convert(args.directory, args.out, args.masked, shares, args.seed, args.first_slice, nifti)
    for name in SPLITS:
        chosen = [scan for scan in scans if scan.split == name]
        print(f"  {name:<9}{len(chosen):>5} scans of {len({scan.subject for scan in chosen}):>4} subjects, "
              f"{sum(scan.is_segmented(args.out) for scan in chosen):>4} segmented")
        if not chosen:
            problems.append(f"{name} is empty: training needs all three splits.")
    print(f"{len(scans)} scans in {args.out}", *_listed(problems), sep="\n")


def parse():
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("directory", metavar="DIR", help="folder with the discs (unpacked, .tar, .tar.gz or .tgz) or volumes")
    options.add_argument("--out", type=pathlib.Path, default=DEFAULT_DIRECTORY, help="data folder to write (default: %(default)s)")
    options.add_argument("--masked", action="store_true", help="the brain-masked volumes (masked_ in their name), not those with scalp")
    options.add_argument("--fractions", nargs="+", metavar="F", help="shares of the subjects in train, validate and test (default: 302 35 17)")
    options.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    options.add_argument("--first-slice", type=int, metavar="VOXEL", help="level of slice 0 in the volumes, from the bottom and from 0")
    discs = commands.add_parser("from-oasis1", parents=[options], help="slices of the OASIS-1 discs")
    discs.add_argument("--from-nifti", action="store_true", help="DIR holds NIfTI volumes instead: the same as the command from-nifti")
    commands.add_parser("from-nifti", parents=[options], help="slices of NIfTI volumes of 1 mm in a standard space")
    commands.add_parser("check", help="what a data folder holds; status 1 if something is wrong").add_argument("directory", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    command_line(main, parse())
