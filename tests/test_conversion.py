"""Conversions: volumes as the discs hold them, and pictures and volumes of any origin.

Landmarks in the volumes would move with a wrong axis, flip or level.
"""

import collections
import dataclasses
import os
import shutil
import zipfile
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image
from shared import contents, one_line, run_script
from shared import write_slices as write_data

import utils
from sources.conversion import ConversionSettings, convert, make_plan
from sources.facts import OASIS, read_facts
from sources.folder import open_folder, open_slices
from sources.layout import SPLITS
from sources.scans import open_scan
from sources.splitting import FRACTIONS, split_subjects
from utils import InputError

GRID = (176, 208, 176)
FIRST = 71
FOLDER = "{scan}/PROCESSED/MPRAGE/T88_111/{scan}_mpr_n4_anon_111_t88_{kind}"


# ---- volumes as on the discs -------------------------------------------------------------------


def landmark(level):
    """Voxel (i from the right, j from the back) of the landmark in a level of the volume."""
    return 30 + level - FIRST, 20 + 5 * (level - FIRST)


def stored_volume(grey=100):
    """A volume as on the discs, first voxel right, back, bottom.

    It is `grey` all over, with one bright voxel a level.
    """
    volume = np.full(GRID, grey, "int16")
    for level in range(FIRST - 4, FIRST + 36):
        volume[(*landmark(level), level)] = 1000 + level
    volume[170, 3] = -20  # interpolation of a sharp border undershoots
    return volume


def write_pair(stem, volume):
    """Write an Analyze 7.5 pair as the discs have it.

    It is big-endian, with a fourth axis of 1, and its header has no origin.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    header = nibabel.AnalyzeHeader(endianness=">")
    header.set_data_dtype(volume.dtype.newbyteorder(">"))
    nibabel.AnalyzeImage(volume[..., None], None, header).to_filename(f"{stem}.hdr")
    content = bytearray(part(stem, "hdr").read_bytes())
    content[253:263] = b" " * 10
    part(stem, "hdr").write_bytes(content)


def part(stem, suffix):
    return stem.with_name(f"{stem.name}.{suffix}")


def write_disc(disc, scans, kinds=("gfc",)):
    for scan in scans:
        for kind in kinds:
            grey = 270 + 20 * (int(scan[5:9]) % 53) + 10 * int(scan[-1]) + 200 * ("masked" in kind)
            write_pair(disc / FOLDER.format(scan=scan, kind=kind), stored_volume(grey))
    return disc


def run(*arguments, **options):
    return run_script("dataset.py", *arguments, **options)


def slices_of(out, case=1):
    """Slices of a case by their levels, from bottom to top."""
    paths = {int(path.name.split("_")[3].split(".")[0]): path for path in out.rglob(
        f"case_{case:03d}_*")}  # fmt: skip
    return {level: np.array(Image.open(paths[level])) for level in sorted(paths)}


def same(one, other):
    return list(one) == list(other) and all((one[k] == other[k]).all() for k in one)


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Two discs, unpacked: four subjects, one of them with a repeat scan on the other disc."""
    root = tmp_path_factory.mktemp("oasis1")
    write_disc(root / "disc1", ["OAS1_0001_MR1", "OAS1_0002_MR1"], ("gfc", "masked_gfc"))
    write_disc(root / "disc2", ["OAS1_0002_MR2", "OAS1_0007_MR1", "OAS1_0457_MR1"])
    return root


@pytest.fixture(scope="module")
def converted(discs, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "PROGRESS_DELAY", 0)
        done = run("from-oasis1", discs, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "5 scans in" in done.stdout and "no problems" in done.stdout
    assert "slicing" in done.stderr and "0/5" in done.stderr  # the bar goes when it is full
    return out


# ---- what a conversion writes ------------------------------------------------------------------


def test_every_level_and_landmark_is_in_its_place(converted):
    for k, image in slices_of(converted).items():
        i, j = landmark(FIRST + k)
        # Each slice is scaled by its own maximum, which is one voxel.
        assert np.argwhere(image == 255).tolist() == [[215 - i, 24 + j]]
        assert image[215 - 170, 24 + 3] == 0
        inside = image[40:216, 24:232].copy()
        inside[175 - i, j] = inside[175 - 170, 3] = grey = round(300 * 255 / (1000 + FIRST + k))
        assert (inside == grey).all()
        image[40:216, 24:232] = 0
        assert not image.any()


def test_training_reads_what_a_conversion_writes(converted):
    slices = open_slices(converted)
    assert slices.num_levels == 32
    cases = {name: set(split.cases.tolist()) for name, split in slices.splits.items()}
    assert set().union(*cases.values()) == {1, 2, 1002, 7, 457}
    assert sum({2, 1002} <= split for split in cases.values()) == 1  # a repeat scan, its subject
    done = run("check", converted)
    assert done.returncode == 0, done.stdout
    assert "subjects   4, with 5 cases of up to 32 slices" in done.stdout
    assert "with scalp" in done.stdout


def test_masked_volumes_and_another_first_slice(discs, tmp_path):
    out, first = tmp_path / "out", FIRST + 1
    done = run("from-oasis1", discs / "disc1", "--out", out, "--masked", "--first-slice", first)
    assert done.returncode == 0, done.stderr
    image = slices_of(out)[0]
    assert image[100, 100] == round(500 * 255 / (1000 + first))
    i, j = landmark(first)
    assert np.argwhere(image == 255).tolist() == [[215 - i, 24 + j]]
    # Two subjects cannot fill three splits.
    assert "validate is empty" in done.stdout or "test is empty" in done.stdout
    done = run("from-oasis1", discs, "--out", out, "--masked", "--dry-run")
    assert "3 scans lack a volume with masked_ in its name" in done.stdout


OFFICIAL = """ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay
OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A
OAS1_0002_MR1,M,R,55,4,1,29,,1147,0.810,1.531,N/A
OAS1_0002_MR2,M,R,55,4,1,29,,1147,0.810,1.531,17
OAS1_0003_MR1,F,R,73,4,3,27,0.5,1454,0.708,1.207,N/A
OAS1_0457_MR1,F,R,80,,,28,0.5,1400,0.7,1.2,N/A
"""


def test_the_table_of_the_discs_gives_attributes_of_scans(discs, converted, tmp_path):
    out, table = tmp_path / "out", tmp_path / "oasis_cross-sectional.csv"
    shutil.copytree(converted, out)
    table.write_text(OFFICIAL)
    arguments = ("from-oasis1", discs, "--out", out)
    done = run(*arguments, "--table", table)
    assert done.returncode == 0 and "cdr, known of 2 cases" in done.stdout, done.stderr
    slices = open_slices(out)
    assert slices.fingerprint == open_slices(converted).fingerprint
    assert slices.attributes["cdr"] == {1: 0, 457: 0.5} and slices.attributes["delay"] == {1002: 17}
    assert slices.attributes["sex"] == {1: "F", 2: "M", 1002: "M", 457: "F"}
    assert len(slices.attributes) == 11
    facts = read_facts(out)
    assert run(*arguments).returncode == 0 and read_facts(out) == facts  # a table stays
    table.write_text(OFFICIAL.replace("ID,", "Name,"))
    one_line(run(*arguments, "--table", table), "has no column id: its columns are name, sex, hand")
    table.write_text(OFFICIAL.splitlines()[0] + "\nOAS1_0009_MR1,F,R,1,1,1,1,1,1,1,1,1\n")
    one_line(run(*arguments, "--table", table), "no case of the set in column id")
    assert read_facts(out) == facts


# ---- what stops a conversion, and what does not ------------------------------------------------


def test_an_interrupted_conversion_continues(discs, converted, tmp_path):
    out = tmp_path / "out"
    arguments = ("from-oasis1", discs, "--out", out)
    shutil.copytree(converted, out)
    lost = [*out.glob("*/case_007_slice_1?.nii.png"), *out.glob("*/case_457_slice_31.nii.png")]
    for path in lost:
        path.unlink()
    leftover = lost[0].with_name(".case_007_slice_11.nii.partial-123.png")
    leftover.write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/case_00[12]*.png")}
    done = run(*arguments)
    assert done.returncode == 0 and "5 scans in" in done.stdout
    assert contents(out) == contents(converted)
    assert times and all(path.stat().st_mtime_ns == time for path, time in times.items())

    one_line(run(*arguments, "--seed", 1), "other settings")
    assert contents(out) == contents(converted)
    (tmp_path / "thesis.txt").write_text("mine")
    one_line(run("from-oasis1", discs, "--out", tmp_path), "is no unfinished conversion")


def test_what_cannot_be_read_is_listed_and_the_rest_is_written(tmp_path):
    scans = [f"OAS1_000{n}_MR1" for n in range(1, 6)]
    disc, out = write_disc(tmp_path / "disc", scans), tmp_path / "out"
    stems = [None, *(disc / FOLDER.format(scan=scan, kind="gfc") for scan in scans)]
    image = part(stems[1], "img")
    image.write_bytes(image.read_bytes()[:1000])
    part(stems[2], "hdr").write_bytes(b"\0" * 348)
    part(stems[3], "img").unlink()
    write_pair(stems[4], np.ones((32, 32, 40), "int16"))
    (tmp_path / "disc2.tar.gz").write_bytes(b"an archive beside the volumes")
    done = run("from-oasis1", tmp_path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "1 scans in" in done.stdout
    problems = done.stdout.split("problems:")[1]
    assert all(scan in problems for scan in scans[:4])
    assert "OAS1_0003_MR1_mpr_n4_anon_111_t88_gfc.img is missing" in problems
    assert "32 x 32 x 40 voxels, not 176 x 208 x 176" in problems
    assert {path.name[5:8] for path in out.glob("*/case*")} == {"005"}


def test_commands_need_no_tensorflow(discs, tmp_path):
    """They answer as a process that cannot import TensorFlow."""
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    arguments = ("from-oasis1", discs, "--first-slice", "150", "--out", tmp_path / "out")
    one_line(run(*arguments, env=environment), "no volume could be used")


def test_commands_say_what_is_wrong(discs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "disc1.tar.gz").write_bytes(b"")
    collide = tmp_path / "collide"
    collide.mkdir()
    for scan in ("OAS1_1001_MR1", "OAS1_0001_MR2", "OAS1_0006_MR0"):  # the last is no scan
        (collide / f"{scan}_mpr_n4_anon_111_t88_gfc.hdr").write_bytes(b"0")
    mistakes = {
        ("from-oasis1", tmp_path / "nothing"): "is no folder",
        ("from-oasis1", tmp_path / "empty"): "holds no OASIS-1 volumes",
        ("from-nifti", tmp_path / "empty"): "holds no volumes",
        ("from-oasis1", discs / "disc2", "--masked"): "change --masked",
        ("from-oasis1", tmp_path / "packed"): "disc1.tar.gz and the like first",
        ("from-oasis1", collide): "OAS1_0001_MR2 and OAS1_1001_MR1 would both become case 1001",
        ("from-oasis1", discs, "--from-nifti"): "--from-nifti",
        ("from-oasis1", discs, "--fractions", "half", "1", "1"): "invalid float value: 'half'",
        ("from-oasis1", discs, "--fractions", "1", "2"): "expected 3 arguments",
        ("from-oasis1", discs, "--fractions", "nan", "1", "1"): "are no shares",
        ("from-oasis1", discs, "--seed", "-1"): "negative",
        ("check", tmp_path / "nothing"): "is no folder",
        ("check", discs): "python dataset.py from-oasis1",
    }
    for arguments, message in mistakes.items():
        out = () if arguments[0] == "check" else ("--out", tmp_path / "out")
        done = run(*arguments, *out)
        one_line(done, message)
    assert not (tmp_path / "out").exists()


def test_nifti_from_the_shell(discs, converted, tmp_path):
    """A disc's volume that became a NIfTI file without its origin."""
    source = tmp_path / "in"
    for scan in ("OAS1_0001_MR1", "OAS1_0002_MR1"):
        stem = FOLDER.format(scan=scan, kind="gfc")
        pair = nibabel.load(discs / "disc1" / f"{stem}.hdr")
        path = source / f"{stem}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti2Image(np.asanyarray(pair.dataobj), pair.affine), path)
        shutil.copy(path, source / f"{stem}_fseg.nii.gz")  # tissue classes are no volume
    (source / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    (source / "large.nii").write_bytes(header.binaryblock + bytes(4))
    done = run("from-nifti", source, "--out", tmp_path / "named")
    assert done.returncode == 0, done.stderr
    assert "2 scans in" in done.stdout and "broken.nii.gz cannot be read" in done.stdout
    assert "large.nii cannot be read (it unpacks to more than" in done.stdout
    data, like = write_data(tmp_path / "data"), tmp_path / "like"  # OASIS as handed out
    done = run("from-nifti", path, "--out", like, "--like", data)
    assert done.returncode == 0, done.stderr
    for case in (1, 2):
        assert same(slices_of(tmp_path / "named", case), slices_of(converted, case))
    assert same(slices_of(like), slices_of(converted, 2))


# ---- volumes -----------------------------------------------------------------------------------


def test_nifti_volumes_are_turned_by_their_affine(tmp_path):
    """Volumes are stored in all sorts of orders, and some hold nothing.

    Each level has a landmark at x = 30 (right), y = -50, z = K - 4.
    """
    volume, origin = np.full((90, 110, 70), 50, "float32"), np.array([-45, -70, -20])
    for k in range(32):
        volume[(*np.array([30, -50]) - origin[:2], k - 4 - origin[2])] = 500 + k
    affine = np.eye(4)
    affine[:3, 3] = origin
    half = volume.copy()
    half[:, :, 30:] = 0
    (tmp_path / "in").mkdir()
    volumes = {
        "sub-01_ses-1_T1w.nii.gz": ("RAS", volume),
        "sub-01_ses-2_T1w.nii": ("LAS", volume),
        "sub-02_T1w.nii": ("LPI", volume),
        "sub-03_T1w.nii": ("PSR", volume),
        "sub-04_T1w.nii": ("IRP", volume),
        "sub-05_black.nii": ("RAS", 0 * volume),
        "sub-06_nan.nii": ("RAS", np.nan * volume),
        "sub-07_half.nii": ("RAS", half),
    }
    for name, (axes, values) in volumes.items():
        upright, turned = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", axes))
        turn = nibabel.orientations.ornt_transform(upright, turned)
        image = nibabel.Nifti1Image(values, affine).as_reoriented(turn)
        assert "".join(nibabel.aff2axcodes(image.affine)) == axes
        nibabel.save(image, tmp_path / "in" / name)
    out = tmp_path / "out"
    report = convert(make_plan(tmp_path / "in", ConversionSettings("nifti")), out)
    cases, (black, nan) = report.facts.cases, report.problems
    assert [cases[case]["subject"][-2:] for case in cases] == ["01", "01", "02", "03", "04", "07"]
    assert list(cases) == [1, 2, 3, 4, 5, 8] and cases[1]["split"] == cases[2]["split"]
    assert "all of its voxels are the same" in black and "no volume" not in black
    assert "none of its voxels is a number" in nan
    assert any("sub-07" in note for note in report.notes)  # black slices stay, but are noticed
    assert sum(report.slices.values()) == len(list(out.glob("*/case_*.png"))) == 6 * 32
    stacks = [slices_of(out, case) for case in range(1, 6)]
    assert all(same(stacks[0], stack) for stack in stacks)
    for picture in stacks[0].values():
        assert np.argwhere(picture == 255).tolist() == [[128 + 30, 147 - 50]]
        rows, columns = np.nonzero(picture)
        assert (rows.min(), rows.max()) == (128 - 45, 128 + 44)
        assert (columns.min(), columns.max()) == (147 - 70, 147 + 39)


# ---- pictures and volumes of any origin --------------------------------------------------------


def draw(name, width=32, height=30):
    """An oval with two dark parts, and a pattern of its own for each name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = (x / generator.uniform(0.6, 0.8)) ** 2 + (y / generator.uniform(0.7, 0.9)) ** 2 < 1
    grey = 150 + 40 * np.sin(6 * x + generator.uniform(0, 6)) * np.cos(5 * y)
    grey[(np.abs(x) - 0.2) ** 2 + (y / 3) ** 2 < 0.01] = 40
    return np.where(inside, grey + generator.normal(0, 3, x.shape), 0).clip(0, 255).astype("uint8")


def make(folder, names, **size):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if ".nii" in path.suffixes and path.suffix in (".nii", ".gz"):
            nibabel.save(nibabel.Nifti1Image(5.0 * draw(name, **size), np.eye(4)), path)
        elif path.suffix in (".jpg", ".jpeg", ".png", ".tif"):
            Image.fromarray(draw(name, **size)).save(path)
        else:
            path.write_bytes(b"text")
    return folder


IDS = [218391, 305502, 219047, 388206, 214770, 366613, 251108, 340025, 297734, 263391]


def adni(levels=range(78, 82)):
    for place, number in enumerate(IDS):
        split = "train" if place < 7 else "test"
        for k in levels:
            yield f"AD_NC/{split}/{('AD', 'NC')[place % 2]}/{number}_{k}.jpeg"


def oasis_copy():
    for kind, count in {"NonDemented": 6, "MildDemented": 4, "VeryMildDemented": 5}.items():
        for k in (26, 27):
            yield from (f"test/{kind}/{k}{f' ({n})' * (n > 1)}.jpg" for n in range(1, count + 1))
        yield from (f"train/{kind}/{kind[:4].lower()}Dem{n}.jpg" for n in range(2 * count))


def hipmri():
    for case in range(4, 13):
        split = ("train", "train", "validate", "test")[case % 4]
        for week in range(1 + case % 3):
            for k in range(3):
                name = f"{case:03d}_week_{week}_slice_{k}.nii"
                twice = f"case_{name}/" * (k == 1)  # inside a folder of its own name
                gz = "" if twice else ".gz"
                yield f"keras_slices_{split}/{twice}case_{name}{gz}"
                yield f"keras_slices_seg_{split}/seg_{name}.gz"


def tumours():
    for split, count in {"Training": 6, "Testing": 3}.items():
        for kind in ("glioma", "meningioma", "notumor", "pituitary"):
            names = (f"{split[:2]}-{kind[:2]}_{n:04d}.jpg" for n in range(10, 10 + count))
            yield from (f"{split}/{kind}/{name}" for name in names)


# Some of the sets of `test_names`, from files to slices.
# Names; subjects, scans, levels; subjects of the splits; classes; words that are printed
SETS = {
    "adni": (adni(), 10, 10, 4, (6, 1, 3), {"AD", "NC"}, "subject 297734, level 78"),
    "oasis copy": (
        oasis_copy(), 45, 60, 1, None, {"NonDemented", "MildDemented", "VeryMildDemented"},
        "figures of the test split are worth nothing"),
    "gliomas": ([f"glioma_tumor/gg ({n}).jpg" for n in range(1, 8)]
        + [f"no_tumor/image({n}).jpg" for n in range(1, 8)],
        14, 14, 1, (12, 1, 1), {"glioma_tumor", "no_tumor"}, "figures of the test split flatter"),
    "HipMRI": (hipmri(), 9, 18, 3, (5, 2, 2), None, "54 label maps and masks"),
    "tumours": (tumours(), 36, 36, 1, None, {"glioma", "meningioma", "notumor", "pituitary"},
        "validate cut from train"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_well_known_sets_are_understood(name, tmp_path):
    names, subjects, scans, levels, sizes, classes, words = SETS[name]
    names = list(names)
    source, out = make(tmp_path / "in", names), tmp_path / "out"
    before = contents(source)
    done = run("from-images", source, "--out", out)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout and "no problems" in done.stdout
    assert contents(source) == before
    facts = read_facts(out)
    cases = facts.cases.values()
    assert (len({case["subject"] for case in cases}), len(cases), facts.levels) == (
        subjects, scans, levels)  # fmt: skip
    assert {case.get("class") for case in cases} == (classes or {None})
    split_of = {case["subject"]: case["split"] for case in cases}
    assert all(split_of[case["subject"]] == case["split"] for case in cases)
    counts = collections.Counter(split_of.values())
    assert sizes in (None, tuple(counts[split] for split in SPLITS)) and len(counts) == 3
    slices = open_slices(out)
    assert set(slices.attributes.get("class", {}).values()) == (classes or set())
    images = [path for path in names if "seg" not in path and "mask" not in path]
    assert sum(map(len, slices.splits.values())) == len(images)
    assert (facts.side, facts.brain, facts.name) == (32, False, "out")
    with Image.open(out / "preview.png") as sheet:
        assert min(sheet.size) > 90


def convert_images(source, out, *flags):
    done = run("from-images", source, "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout, read_facts(out)


def test_levels_of_stacks_of_unequal_length(tmp_path):
    stacks = {"11": range(10, 20), "14": range(40, 48), "27": range(5, 11), "39": range(8)}
    names = [f"person_{name}/slice_{k}.png" for name in stacks for k in stacks[name]]
    text, facts = convert_images(make(tmp_path / "in", names), tmp_path / "out")
    how = "relative place in 8 levels, 1 shorter stacks leave some out, and 2 slices are left out"
    assert how in text and facts.levels == 8
    levels = [list(slices_of(tmp_path / "out", case)) for case in (1, 2, 3, 4)]
    assert levels[0] == levels[1] == levels[3] == list(range(8))
    assert len(levels[2]) == 6 and levels[2][0] == 0 and levels[2][-1] == 7
    (out,) = (tmp_path / "out").glob("*/case_003_slice_3.nii.png")
    assert "no problems" in run("check", tmp_path / "out").stdout
    out.unlink()
    assert "case 003 of" in run("check", tmp_path / "out").stdout
    _, facts = convert_images(tmp_path / "in", tmp_path / "three", "--levels", 3)
    assert facts.levels == 3 and list(slices_of(tmp_path / "three", 2)) == [0, 1, 2]
    _, facts = convert_images(tmp_path / "in", tmp_path / "one", "--levels", 1)
    assert facts.levels == 1 and len(facts.cases) == 32
    assert {case["subject"][-1] for case in facts.cases.values()} == set("1479")


def test_one_more_patient(tmp_path):
    """A stack like those of a set: its place among the levels, its side, and its scale."""
    out, more = tmp_path / "out", tmp_path / "more"
    make(tmp_path / "in", adni(), width=50, height=40)
    _, facts = convert_images(tmp_path / "in", out, "--image-size", 48, "--scale", "set")
    source = tmp_path / "in" / "AD_NC" / "test" / "NC"
    (tmp_path / "one").mkdir()
    for path in source.glob("340025*"):
        shutil.move(path, tmp_path / "one")
    (tmp_path / "one" / "340025_78.jpeg").unlink()
    text, other = convert_images(tmp_path / "one", more, "--like", out)
    case = next(case for case, of in facts.cases.items() if of["subject"] == "340025")
    assert list(other.cases) == [1] and other.cases[1]["split"] is None
    assert (other.levels, other.side, other.mirror) == (4, 48, facts.mirror)
    old, new = slices_of(out, case), slices_of(more)
    assert same(new, {k: old[k] for k in (1, 2, 3)})
    assert len(open_folder(more)) == 3
    done = run("check", more)
    assert done.returncode == 0 and "more     " in done.stdout and "no problems" in done.stdout
    before = contents(more)
    convert_images(tmp_path / "one", more, "--like", out)  # repeated, it changes nothing
    assert contents(more) == before
    single = tmp_path / "single"
    make(single, ["scan.png"])
    one_line(run("from-images", single, "--out", tmp_path / "s"), "holds one image", "--like")


def test_two_subjects_leave_the_test_split_empty(tmp_path):
    text, _ = convert_images(make(tmp_path / "in", ["img1.png", "img2.png"]), tmp_path / "out")
    assert "test is empty: evaluation, but not training, needs it." in text


def test_what_is_wrong_with_pictures(tmp_path):
    """Each source, what is spoilt, and the words of the line. Nothing is left behind."""
    out = tmp_path / "out"

    def spoilt(kind):
        source = make(tmp_path / kind, adni())
        return source, sorted((source / "AD_NC" / "train" / "AD").iterdir())[-1]

    source, victim = spoilt("truncated")
    victim.write_bytes(victim.read_bytes()[:500])
    one_line(run("from-images", source, "--out", out), victim.name, "--skip-bad")
    assert not out.exists()
    text, _ = convert_images(source, out, "--skip-bad")
    assert "1 problems" in text and len(list(out.glob("*/*.png"))) == 39
    one_line(run("from-images", source, "--out", out, "--seed", 1), "other settings")

    source, victim = spoilt("shared")
    shutil.move(victim, source / "AD_NC" / "test" / "AD" / victim.name)
    arguments = ("from-images", source, "--out", tmp_path / "shared_out")
    one_line(run(*arguments), "is in train and test", "--resplit")
    text, facts = convert_images(*arguments[1::2], "--resplit")
    assert len(facts.cases) == 10 and all(
        len(slices_of(tmp_path / "shared_out", case)) == 4 for case in facts.cases
    )
    source, victim = spoilt("copied")
    shutil.copy(victim, next((source / "AD_NC" / "test" / "NC").iterdir()))
    text, _ = convert_images(source, tmp_path / "copied_out")
    assert "LEAK: 1 images of test are in" in text and victim.name in text

    dicom, no = tmp_path / "dicom", tmp_path / "no"
    labelled, packed = tmp_path / "labelled", tmp_path / "packed"
    for folder in (dicom, tmp_path / "empty", labelled, labelled / "Ground", packed):
        folder.mkdir()
    for path in (dicom / "IM0001", labelled / "IM1.dcm"):
        path.write_bytes(bytes(128) + b"DICM")
    for i in range(3):
        Image.new("L", (16, 16), i).save(labelled / "Ground" / f"{i}.png")
    (packed / "pathmnist.npz").touch()
    rows = {
        (tmp_path / "nothing",): "is not there",
        (tmp_path / "empty",): "no image",
        (dicom,): "dcm2niix",
        (labelled,): "dcm2niix",
        (packed,): f"itself, as {packed / 'pathmnist.npz'}",
        (source, "--out", source / "out"): "name another --out",
        (source, "--subject", "("): "is no regular expression",
        (source, "--like", tmp_path / "nothing"): "is no folder",
        (source, "--like", source): "is no prepared data folder",
        (source, "--image-size", "50"): "multiple of 8",
    }
    for (place, *flags), words in rows.items():
        one_line(run("from-images", place, "--out", no, *flags), words)
    one_line(run("from-nifti", source, "--out", no, "--slices", 60, 40), "FIRST below LAST")
    assert run("from-images", source, "--out", no, "--dry-run").returncode == 0
    assert not no.exists()


def test_archives_and_medmnist(tmp_path):
    source = make(tmp_path / "in", adni([78]))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in source.rglob("*.jpeg"):
            archive.write(path, path.relative_to(tmp_path))
    _, facts = convert_images(tmp_path / "in.zip", tmp_path / "out")
    assert len(facts.cases) == 10
    arrays = {}
    for split, count in {"train": 9, "val": 3, "test": 3}.items():
        images = np.stack([draw(f"{split}{n}", 28, 28) for n in range(count)])
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(count)[:, None] % 3}
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    _, facts = convert_images(tmp_path / "bloodmnist.npz", tmp_path / "medmnist", "--name", "cells")
    assert (facts.name, facts.side, len(facts.cases)) == ("cells", 32, 15)
    assert len({case["class"] for case in facts.cases.values()}) == 3


def test_grey_values_of_a_subject_and_of_a_set(tmp_path):
    """16-bit stacks of four people, of whom one is half as bright, and one hot pixel."""
    for person, gain in enumerate((40, 20, 40, 40)):
        for k in range(3):
            path = tmp_path / "in" / f"patient_{person}" / f"slice_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw(f"{person} {k}").astype("uint16") * gain
            pixels[0, 0] = 60000 if (person, k) == (0, 0) else 0
            Image.fromarray(pixels).save(path)
    peaks = {}
    for scale in ("subject", "set", "slice"):
        convert_images(tmp_path / "in", tmp_path / scale, "--scale", scale)
        peaks[scale] = [
            max(np.percentile(image, 99) for image in slices_of(tmp_path / scale, case).values())
            for case in (1, 2, 3, 4)
        ]
    assert min(peaks["subject"]) > 200 and peaks["set"][1] < 140 < 200 < peaks["set"][2]


def test_volumes_of_any_origin(tmp_path):
    """Thick coronal volumes of 3 people: spacing, levels and the place of each in millimetres."""
    generator = np.random.default_rng(0)
    for person in range(3):
        voxels = np.zeros((60, 14 + person, 50), "float32")
        voxels[10:50, 1:-1, 8:42] = 400 + 100 * generator.random((40, 12 + person, 34))
        voxels[20, 6, 30] = -300
        affine = np.diag([-3.0, 6, 3, 1])
        affine[:3, 3] = 90, -40 - person, -70
        path = tmp_path / "in" / f"IXI{person:03d}-Guys-08{person}-T1.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
        labels = nibabel.Nifti1Image((voxels > 0).astype("uint8"), affine)
        nibabel.save(labels, tmp_path / "in" / f"IXI{person:03d}-Guys-08{person}-T1_seg.nii.gz")
    out = tmp_path / "out"
    flags = ("--plane", "coronal", "--spacing", "3")
    done = run("from-nifti", tmp_path / "in", "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    facts = read_facts(out)
    assert (facts.levels, facts.side, facts.brain) == (13, 64, False)
    for case, about in facts.cases.items():
        affine = np.array(about["affine"])
        image = slices_of(out, case)
        level = min(image, key=lambda k: image[k][image[k].any(1)][:, image[k].any(0)].min())
        row, column = np.argwhere(image[level] > 0).mean(0)
        right, front, up, _ = affine @ (row, column, 0, 1)
        assert abs(right - (90 - 3 * 29.5)) < 2 and abs(up - (-70 + 3 * 24.5)) < 2
    # One of them again, alone, becomes the same slices.
    done = run("from-nifti", path, "--out", tmp_path / "more", "--like", out)
    assert done.returncode == 0, done.stderr
    old = slices_of(out, 3)
    assert same(old, slices_of(tmp_path / "more"))
    scan = open_scan(str(path), facts)
    assert np.allclose(scan.facts.cases[0]["affine"], facts.cases[3]["affine"])
    assert same(old, dict(zip(scan.levels.tolist(), scan.images)))
    unknown = dataclasses.replace(facts, settings={}, affine=np.diag([3, -3, 3, 1]))
    for like, words in ((unknown, "--plane"), (OASIS, "space of OASIS: register it")):
        with pytest.raises(InputError, match=words):
            open_scan(str(path), like)


def test_what_is_odd_about_one_more_scan_is_said(tmp_path, capsys):
    voxels, affine = np.random.default_rng(0).normal(0, 9, (90, 110, 70)), np.eye(4)
    affine[:3, 3] = -45, -70, -20
    image = nibabel.Nifti1Image(voxels.astype("float32"), affine)
    image.set_sform(affine, code="mni")
    nibabel.save(image, tmp_path / "normalised.nii")
    assert len(open_scan(str(tmp_path / "normalised.nii"), OASIS)) == 32
    assert "is negative and becomes black" in capsys.readouterr().out


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_conversion_that_wrote_no_slice_leaves_nothing(tmp_path, monkeypatch, discs, error):
    def fail(*args):
        raise error

    plan = make_plan(discs / "disc1", ConversionSettings("oasis1"))
    monkeypatch.setattr(plan.inputs, "load", fail)
    with pytest.raises(error):
        convert(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_conversion_that_failed_blocks_nothing(tmp_path, discs):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "sub-01_T1w.nii").write_bytes(b"no volume")
    one_line(run("from-nifti", source, "--out", out), "no volume could be used")
    assert not out.exists()
    assert run("from-oasis1", discs / "disc1", "--out", out).returncode == 0


# ---- splits ------------------------------------------------------------------------------------


SPLIT_SIZES = [
    (354, FRACTIONS, [302, 35, 17]),
    (416, FRACTIONS, [355, 41, 20]),
    (10, (0.6, 0.2, 0.2), [6, 2, 2]),
    (5, (1, 0, 1), [3, 0, 2]),
    (3, FRACTIONS, [1, 1, 1]),
    (1, FRACTIONS, [1, 0, 0]),
]


def test_splits_are_by_subject_and_seeded():
    for count, fractions, sizes in SPLIT_SIZES:
        subjects = [f"OAS1_{n:04d}" for n in range(1, count + 1)]
        splits = split_subjects(subjects, fractions, seed=0)
        assert [list(splits.values()).count(name) for name in SPLITS] == sizes
        assert split_subjects(subjects[::-1] + subjects[:20], fractions, seed=0) == splits
        assert count < 100 or split_subjects(subjects, fractions, seed=1) != splits


def test_splits_keep_classes_in_proportion():
    classes = {f"s{n}": "ABC"[(n % 10 > 5) + (n % 10 > 8)] for n in range(200)}  # 6 : 3 : 1
    splits = split_subjects(classes, (7, 2, 1), 3, classes)
    assert [list(splits.values()).count(name) for name in SPLITS] == [140, 40, 20]
    for name, share in zip(SPLITS, (0.7, 0.2, 0.1)):
        for kind, count in {"A": 120, "B": 60, "C": 20}.items():
            inside = sum(splits[s] == name and classes[s] == kind for s in classes)
            assert abs(inside - share * count) <= 1
