"""Conversions of volumes as the discs hold them.

Landmarks in the volumes would move with a wrong axis, flip or level.
"""

import os
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image
from shared import contents, one_line, run_script, write_slices

import utils
from sources.conversion import FRACTIONS, ConversionSettings, convert, split_subjects
from sources.folder import open_slices
from sources.layout import SPLITS

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
            grey = 70 + 20 * (int(scan[5:9]) % 53) + 10 * int(scan[-1]) + 200 * ("masked" in kind)
            write_pair(disc / FOLDER.format(scan=scan, kind=kind), stored_volume(grey))
    return disc


def run(*arguments, **options):
    return run_script("dataset.py", *arguments, **options)


def the_one(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "L" and image.size == (256, 256)
        return np.array(image)


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
    for k in range(32):
        image = pixels(the_one(converted, f"*/case_001_slice_{k}.nii.png"))
        i, j = landmark(FIRST + k)
        # Each slice is scaled by its own maximum, which is one voxel.
        assert np.argwhere(image == 255).tolist() == [[215 - i, 24 + j]]
        assert image[215 - 170, 24 + 3] == 0
        inside = image[40:216, 24:232].copy()
        inside[175 - i, j] = inside[175 - 170, 3] = grey = round(100 * 255 / (1000 + FIRST + k))
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
    image = pixels(the_one(out, "*/case_001_slice_0.nii.png"))
    assert image[100, 100] == round(300 * 255 / (1000 + first))
    i, j = landmark(first)
    assert np.argwhere(image == 255).tolist() == [[215 - i, 24 + j]]
    # Two subjects cannot fill three splits.
    assert "validate is empty" in done.stdout or "test is empty" in done.stdout


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
    """Each command answers as a process that cannot import TensorFlow."""
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    data = write_slices(tmp_path / "data")
    assert run("check", data, env=environment).returncode == 0
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
        ("from-nifti", discs): "holds no NIfTI volumes",
        ("from-oasis1", discs / "disc2", "--masked"): "change --masked",
        ("from-oasis1", tmp_path / "packed"): "disc1.tar.gz and the like first",
        ("from-oasis1", collide): "OAS1_0001_MR2 and OAS1_1001_MR1 would both become case 1001",
        ("from-oasis1", discs, "--from-nifti"): "--from-nifti",
        ("from-oasis1", discs, "--fractions", "half", "1", "1"): "invalid float value: 'half'",
        ("from-oasis1", discs, "--fractions", "1", "2"): "expected 3 arguments",
        ("from-oasis1", discs, "--fractions", "nan", "1", "1"): "are no shares",
        ("from-oasis1", discs, "--seed", "-1"): "negative",
        ("check", tmp_path / "nothing"): "is no folder",
        ("check", discs): "no readable slice",
    }
    for arguments, message in mistakes.items():
        out = () if arguments[0] == "check" else ("--out", tmp_path / "out")
        done = run(*arguments, *out)
        one_line(done, message)
    assert not (tmp_path / "out").exists()


def test_nifti_from_the_shell(discs, converted, tmp_path):
    """A disc's volume that became a NIfTI file without its origin, and one of 2 mm."""
    source = tmp_path / "in"
    for scan in ("OAS1_0001_MR1", "OAS1_0002_MR1"):
        stem = FOLDER.format(scan=scan, kind="gfc")
        pair = nibabel.load(discs / "disc1" / f"{stem}.hdr")
        path = source / f"{stem}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti2Image(np.asanyarray(pair.dataobj), pair.affine), path)
        shutil.copy(path, source / f"{stem}_fseg.nii.gz")  # tissue classes are no volume
    coarse = nibabel.Nifti1Image(np.ones((91, 109, 91), "uint8"), np.diag([-2, 2, 2, 1]))
    nibabel.save(coarse, source / "mni_2mm.nii")
    (source / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    (source / "large.nii").write_bytes(header.binaryblock + bytes(4))
    done = run("from-nifti", source, "--out", tmp_path / "named")
    assert done.returncode == 0, done.stderr
    assert "2 scans in" in done.stdout and "broken.nii.gz cannot be read" in done.stdout
    assert "mni_2mm.nii cannot be read (voxels are no upright 1 mm cubes" in done.stdout
    assert "large.nii cannot be read (it unpacks to more than" in done.stdout
    for k in (0, 17, 31):
        pattern = f"*/case_001_slice_{k}.nii.png"
        one, other = the_one(tmp_path / "named", pattern), the_one(converted, pattern)
        np.testing.assert_array_equal(pixels(one), pixels(other))


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
    scans, problems = convert(tmp_path / "in", out, ConversionSettings(nifti=True))
    assert [scan.case for scan in scans] == [1, 2, 3, 4, 5]
    assert [scan.subject[-2:] for scan in scans] == ["01", "01", "02", "03", "04"]
    assert scans[0].split == scans[1].split
    assert len(problems) == 3 and len(list(out.glob("*/case_*.png"))) == 5 * 32
    for problem, name in zip(problems, ("black", "nan", "half")):
        odd = "none of its voxels is a number" if name == "nan" else "of its slices are all black"
        assert name in problem and odd in problem
    for k in range(32):
        paths = [the_one(out, f"*/case_00{case}_slice_{k}.nii.png") for case in range(1, 6)]
        assert len({path.read_bytes() for path in paths}) == 1
        picture = pixels(paths[0])
        assert np.argwhere(picture == 255).tolist() == [[128 + 30, 147 - 50]]
        rows, columns = np.nonzero(picture)
        assert (rows.min(), rows.max()) == (128 - 45, 128 + 44)
        assert (columns.min(), columns.max()) == (147 - 70, 147 + 39)


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
