"""The commands of dataset.py on volumes as the discs hold them, with landmarks that a wrong axis, flip or level would move."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile

import nibabel
import numpy as np
import pytest
from conftest import draw_slice, run_script, write_slices
from PIL import Image

import dataset
import oasis1
from utils import InputError

GRID = (176, 208, 176)
FIRST = 71
FOLDER = "{scan}/PROCESSED/MPRAGE/T88_111/{scan}_mpr_n4_anon_111_t88_{kind}"
CLASSES = "{scan}/FSL_SEG/{scan}_mpr_n4_anon_111_t88_masked_gfc_fseg"


def landmark(level):
    """Voxel (i from the right, j from the back) of the landmark in the volume's level `level`."""
    return 30 + level - FIRST, 20 + 5 * (level - FIRST)


def stored_volume(grey=100):
    """A volume as on the discs, first voxel right, back, bottom: `grey` all over and one bright voxel a level."""
    volume = np.full(GRID, grey, "int16")
    for level in range(FIRST - 4, FIRST + 36):
        volume[(*landmark(level), level)] = 1000 + level
    volume[170, 3] = -20  # interpolation of a sharp border undershoots
    return volume


def stored_classes():
    """Tissue classes of three bands from right to left, and class 3 at the landmark."""
    classes = np.zeros(GRID, "uint8")
    classes[40:80], classes[80:120] = 1, 2
    for level in range(FIRST, FIRST + 32):
        classes[(*landmark(level), level)] = 3
    return classes


def write_pair(stem, volume):
    """An Analyze 7.5 pair as the discs have it: big-endian, with a fourth axis of 1 and a header that has no origin."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    header = nibabel.AnalyzeHeader(endianness=">")
    header.set_data_dtype(volume.dtype.newbyteorder(">"))
    nibabel.AnalyzeImage(volume[..., None], None, header).to_filename(f"{stem}.hdr")
    content = bytearray(stem.with_name(f"{stem.name}.hdr").read_bytes())
    content[253:263] = b" " * 10
    stem.with_name(f"{stem.name}.hdr").write_bytes(content)


def write_disc(disc, scans, kinds=("gfc",), segment=True):
    for scan in scans:
        for kind in kinds:
            grey = 70 + 20 * (int(scan[5:9]) % 53) + 10 * int(scan[-1]) + 200 * ("masked" in kind)
            write_pair(disc / FOLDER.format(scan=scan, kind=kind), stored_volume(grey))
        if segment:
            write_pair(disc / CLASSES.format(scan=scan), stored_classes())
    return disc


def run(*arguments, **options):
    return run_script("dataset.py", *arguments, **options)


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "L" and image.size == (256, 256)
        return np.array(image)


def written(out):
    """{path in the folder: hash of the bytes} of all that a conversion wrote."""
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*")) if path.is_file()}


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
    done = run("from-oasis1", discs, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "5 scans in" in done.stdout and "no problems" in done.stdout
    assert "slicing" in done.stderr and "5/5" in done.stderr
    return out


def test_every_level_and_landmark_is_in_its_place(converted):
    for k in range(32):
        path, = converted.glob(f"*/case_001_slice_{k}.nii.png")
        image = pixels(path)
        i, j = landmark(FIRST + k)
        assert np.argwhere(image == 255).tolist() == [[215 - i, 24 + j]]  # scaled by its own maximum, one voxel
        assert image[215 - 170, 24 + 3] == 0
        inside = image[40:216, 24:232].copy()
        inside[175 - i, j] = inside[175 - 170, 3] = grey = round(100 * 255 / (1000 + FIRST + k))
        assert (inside == grey).all()
        image[40:216, 24:232] = 0
        assert not image.any()


def test_segmentations_follow_their_images(converted):
    path, = converted.glob("keras_png_slices_seg_*/seg_457_slice_9.nii.png")
    assert (converted / path.parent.name.replace("seg_", "") / "case_457_slice_9.nii.png").exists()
    image = pixels(path)
    i, j = landmark(FIRST + 9)
    assert np.argwhere(image == 255).tolist() == [[215 - i, 24 + j]]
    image[215 - i, 24 + j] = 0
    expected = np.zeros((256, 256), "uint8")
    expected[215 - 79:215 - 39, 24:232], expected[215 - 119:215 - 79, 24:232] = 85, 170
    np.testing.assert_array_equal(image, expected)
    assert len(list(converted.glob("keras_png_slices_seg_*/seg_*.png"))) == len(list(converted.glob("*/case_*.png"))) == 5 * 32


def test_training_reads_what_a_conversion_writes(converted):
    slices = dataset.open_slices(converted)
    assert slices.levels == 32
    cases = {name: set(split.cases.tolist()) for name, split in slices.splits.items()}
    assert set().union(*cases.values()) == {1, 2, 1002, 7, 457}
    assert sum({2, 1002} <= split for split in cases.values()) == 1  # the repeat scan is with its subject
    done = run("check", converted)
    assert done.returncode == 0, done.stdout
    assert "subjects   4, with 5 cases of up to 32 slices" in done.stdout and "with scalp" in done.stdout


def test_archives_give_the_same_bytes_and_nothing_leaves_them(discs, converted, tmp_path):
    packed = tmp_path / "packed" / "below"
    packed.mkdir(parents=True)
    trap = FOLDER.format(scan="OAS1_0003_MR1", kind="gfc")
    with tarfile.open(packed / "disc1.tar.gz", "w:gz", compresslevel=1) as archive:
        for name in ("../../../evil.txt", str(tmp_path / "evil.txt"), f"../../{trap}.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        for name, kind in ((f"disc1/{trap}.hdr", tarfile.SYMTYPE), (f"disc1/{trap}.img", tarfile.LNKTYPE), ("pipe.img", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        archive.add(discs / "disc1", "disc1")
    with tarfile.open(packed / "disc2.tar", "w") as archive:
        archive.add(discs / "disc2", "disc2")
    before = set(tmp_path.rglob("*"))
    done = run("from-oasis1", tmp_path / "packed", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0 and "no problems" in done.stdout, done.stdout + done.stderr
    assert written(tmp_path / "out") == written(converted)
    assert {p for p in set(tmp_path.rglob("*")) - before if tmp_path / "out" not in (p, *p.parents)} == set()


def test_masked_volumes_are_those_with_masked_in_their_name(discs, tmp_path):
    done = run("from-oasis1", discs / "disc1", "--out", tmp_path / "out", "--masked")
    assert done.returncode == 0, done.stderr
    path, = (tmp_path / "out").glob("*/case_001_slice_0.nii.png")
    assert pixels(path)[100, 100] == round(300 * 255 / (1000 + FIRST))
    assert "validate is empty" in done.stdout or "test is empty" in done.stdout  # two subjects cannot fill three splits
    none = run("from-oasis1", discs / "disc2", "--out", tmp_path / "none", "--masked")
    assert none.returncode == 2 and none.stderr.count("\n") == 1 and "change --masked" in none.stderr


def test_an_interrupted_conversion_continues(discs, converted, tmp_path):
    out = tmp_path / "out"
    arguments = ("from-oasis1", discs, "--out", out)
    assert run(*arguments).returncode == 0
    lost = [*out.glob("*/case_007_slice_1?.nii.png"), *out.glob("*/seg_457_slice_31.nii.png")]
    for path in lost:
        path.unlink()
    leftover = lost[0].with_name(".case_007_slice_11.nii.123.png")
    leftover.write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/case_00[12]*.png")}
    done = run(*arguments)
    assert done.returncode == 0 and "3/5" in done.stderr
    assert written(out) == written(converted)
    assert times and all(path.stat().st_mtime_ns == time for path, time in times.items())

    other = run(*arguments, "--seed", 1)
    assert other.returncode == 2 and "other settings" in other.stderr and written(out) == written(converted)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert run("from-oasis1", discs, "--out", tmp_path / "full").returncode == 2


def test_what_cannot_be_read_is_listed_and_the_rest_is_written(tmp_path):
    disc = write_disc(tmp_path / "disc", [f"OAS1_000{n}_MR1" for n in range(1, 8)], segment=False)
    stems = {n: disc / FOLDER.format(scan=f"OAS1_000{n}_MR1", kind="gfc") for n in range(1, 8)}
    image = stems[1].with_name(stems[1].name + ".img")
    image.write_bytes(image.read_bytes()[:1000])
    stems[2].with_name(stems[2].name + ".hdr").write_bytes(b"\0" * 348)
    stems[3].with_name(stems[3].name + ".img").unlink()
    write_pair(stems[4], np.ones((32, 32, 40), "int16"))
    write_pair(disc / CLASSES.format(scan="OAS1_0005_MR1"), np.full(GRID, 9, "uint8"))
    with gzip.open(tmp_path / "disc2.tar.gz", "wb") as file:
        file.write(b"no archive" * 1000)
    done = run("from-oasis1", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "3 scans in" in done.stdout and "0 segmented\n" in done.stdout and "1 segmented\n" not in done.stdout
    problems = done.stdout.split("problems:")[1]
    for n in (1, 2, 3, 4, 5):
        assert f"OAS1_000{n}_MR1" in problems
    assert "disc2.tar.gz is damaged" in problems and "32 x 32 x 40 x 1 voxels, not 176 x 208 x 176" in problems
    assert "values other than 0, 1, 2 and 3" in problems
    assert {p.name[5:8] for p in (tmp_path / "out").glob("*/case*")} == {"005", "006", "007"}
    assert not list((tmp_path / "out").glob("*/seg*"))


def test_a_file_that_fails_costs_no_other(discs, tmp_path, monkeypatch):
    read = pathlib.Path.read_bytes

    def failing(path):
        if path.name.startswith("OAS1_0002_MR2") and path.name.endswith("gfc.img"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", failing)
    scans, problems = oasis1.convert(discs, tmp_path / "out")
    assert len(scans) == 4 and len(problems) == 1 and "OAS1_0002_MR2" in problems[0] and "Permission denied" in problems[0]


def test_a_cut_archive_gives_what_lies_before_the_cut(discs, tmp_path):
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for path in sorted((discs / "disc2").rglob("*.*")):
            archive.add(path, path.relative_to(discs))
    content = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "disc2.tar").write_bytes(content[: len(content) * 5 // 6])
    done = run("from-oasis1", tmp_path / "cut", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 scans in" in done.stdout and "disc2.tar is damaged" in done.stdout and "OAS1_0457_MR1" in done.stdout.split("problems:")[1]


def test_first_slice_moves_the_levels(discs, tmp_path):
    assert run("from-oasis1", discs / "disc2", "--out", tmp_path / "out", "--first-slice", FIRST + 1).returncode == 0
    path, = (tmp_path / "out").glob("*/case_007_slice_0.nii.png")
    i, j = landmark(FIRST + 1)
    assert np.argwhere(pixels(path) == 255).tolist() == [[215 - i, 24 + j]]


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPI", "PSR", "IRP"])
def test_nifti_volumes_are_turned_by_their_affine(tmp_path, axes):
    """A landmark at x = 30 (right), y = -50, z = K - 4 of each level, in volumes stored in all sorts of orders."""
    volume, origin = np.full((90, 110, 70), 50, "float32"), np.array([-45, -70, -20])
    for k in range(32):
        volume[(*np.array([30, -50]) - origin[:2], k - 4 - origin[2])] = 500 + k
    affine = np.eye(4)
    affine[:3, 3] = origin
    upright, turned = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", axes))
    image = nibabel.Nifti1Image(volume, affine).as_reoriented(nibabel.orientations.ornt_transform(upright, turned))
    assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    for name in ("sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii", "sub-02_T1w.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / "in" / name)
    out = tmp_path / "out"
    scans, problems = oasis1.convert(tmp_path / "in", out, nifti=True)
    assert not problems and [(scan.case, scan.subject) for scan in scans] == [(1, "sub-01"), (2, "sub-01"), (3, "sub-02")]
    assert scans[0].split == scans[1].split
    for k in range(32):
        path, = out.glob(f"*/case_001_slice_{k}.nii.png")
        picture = pixels(path)
        assert np.argwhere(picture == 255).tolist() == [[128 + 30, 147 - 50]]
        rows, columns = np.nonzero(picture)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (128 - 45, 128 + 44, 147 - 70, 147 + 39)


def test_nifti_from_the_shell(discs, converted, tmp_path):
    """A disc's volume that someone made a NIfTI of, its origin lost on the way; and one of 2 mm, which is not sliced."""
    for scan in ("OAS1_0001_MR1", "OAS1_0002_MR1"):
        for stem in (FOLDER.format(scan=scan, kind="gfc"), CLASSES.format(scan=scan)):
            pair = nibabel.load(discs / "disc1" / f"{stem}.hdr")
            path = tmp_path / "in" / f"{stem}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti2Image(np.asanyarray(pair.dataobj), pair.affine), path)
    nibabel.save(nibabel.Nifti1Image(np.ones((91, 109, 91), "uint8"), np.diag([-2, 2, 2, 1])), tmp_path / "in" / "mni_2mm.nii")
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    flagged = run("from-oasis1", "--from-nifti", tmp_path / "in", "--out", tmp_path / "flagged")
    named = run("from-nifti", tmp_path / "in", "--out", tmp_path / "named")
    assert flagged.returncode == named.returncode == 0, flagged.stderr
    assert "2 scans in" in named.stdout and "broken.nii.gz" in named.stdout and "mni_2mm.nii in " in named.stdout
    assert "no upright 1 mm cubes: resample" in named.stdout
    assert written(tmp_path / "flagged") == written(tmp_path / "named")
    for prefix in ("case", "seg"):
        for k in (0, 17, 31):
            one, = (tmp_path / "named").glob(f"*/{prefix}_001_slice_{k}.nii.png")
            other, = converted.glob(f"*/{prefix}_001_slice_{k}.nii.png")
            np.testing.assert_array_equal(pixels(one), pixels(other))


def scans_of(count):
    """Scans of so many subjects, every twentieth of them with a repeat."""
    numbers = [(n, session) for n in range(1, count + 1) for session in (1, 2) if session == 1 or n % 20 == 0]
    return [oasis1.Scan(f"OAS1_{n:04d}_MR{session}", f"OAS1_{n:04d}", None) for n, session in numbers]


def sizes_of(scans):
    return [len({scan.subject for scan in scans if scan.split == name}) for name in oasis1.SPLITS]


def test_splits_are_by_subject_seeded_and_of_the_right_size():
    scans = scans_of(354)
    oasis1.assign_splits(scans, oasis1.FRACTIONS, seed=0)
    assert sizes_of(scans) == [302, 35, 17]
    splits = {}
    for scan in scans:
        assert splits.setdefault(scan.subject, scan.split) == scan.split
    again, other = scans_of(354)[::-1], scans_of(354)
    oasis1.assign_splits(again, oasis1.FRACTIONS, seed=0)
    oasis1.assign_splits(other, oasis1.FRACTIONS, seed=1)
    assert {scan.name: scan.split for scan in again} == {scan.name: scan.split for scan in scans}
    assert [scan.split for scan in other] != [scan.split for scan in scans]
    for count, fractions, expected in ((416, oasis1.FRACTIONS, [355, 41, 20]), (10, (0.6, 0.2, 0.2), [6, 2, 2]), (5, (1, 0, 1), [3, 0, 2]),
                                       (3, oasis1.FRACTIONS, [1, 1, 1]), (1, oasis1.FRACTIONS, [1, 0, 0])):
        few = scans_of(count)
        oasis1.assign_splits(few, fractions, seed=3)
        assert sizes_of(few) == expected
    for fractions in ((1, 2), (1, -1, 1), (0, 0, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)):
        with pytest.raises(InputError, match="fractions"):
            oasis1.assign_splits(scans, fractions, seed=0)


def test_intensity():
    slices = np.zeros((2, 256, 256))
    slices[0, 0, :4] = -5, 2, 4, np.nan
    np.testing.assert_array_equal(oasis1.to_grey(slices)[0, 0, :5], [0, 128, 255, 0, 0])
    assert not oasis1.to_grey(slices)[1].any()


def test_volumes_that_are_too_large_or_lie_elsewhere():
    affine = np.eye(4)
    affine[:3, 3] = -200, -200, -10
    volume = np.arange(400 * 400, dtype="int32").reshape(400, 400, 1).repeat(60, 2)
    frame = oasis1.frame_slices(volume, affine)
    np.testing.assert_array_equal(frame[5], volume[200 - 128:456 - 128, 200 - 147:456 - 147, 7])  # cut to the frame
    for shift in (1000, 0, 0), (0, -1000, 0), (0, 0, 100), (0, 0, -100):
        moved = affine.copy()
        moved[:3, 3] += shift
        with pytest.raises(ValueError, match="commissure"):
            oasis1.frame_slices(volume, moved)


def test_check_lists_all_problems(tmp_path):
    folder = write_slices(tmp_path / "data")
    train, test = folder / "keras_png_slices_train", folder / "keras_png_slices_test"
    (test / "case_001_slice_0.nii.png").write_bytes((train / "case_001_slice_0.nii.png").read_bytes())
    (train / "case_002_slice_1.nii.png").write_bytes(b"no picture")
    (train / "notes.png").write_bytes(b"")
    Image.new("RGB", (256, 256)).save(train / "case_003_slice_2.nii.png")
    Image.new("L", (256, 256)).save(test / "case_005_slice_3.nii.png")
    Image.fromarray(draw_slice(5, 0)).save(test / "case_006_slice_1.nii.png", compress_level=1)
    (folder / "conversion.json").write_text(json.dumps({"cases": {"004": {"subject": "OAS1_0004"}, "006": {"subject": "OAS1_0004"}}}))
    done = run("check", folder)
    assert done.returncode == 1 and not done.stderr
    problems = done.stdout.split("problems:")[1]
    for line in ("leak: case 001 is in train and test", "leak: scans of subject OAS1_0004 are in validate and test",
                 "leak, duplicates: keras_png_slices_train/case_001_slice_0.nii.png, keras_png_slices_test/case_001_slice_0.nii.png",
                 "  duplicates: keras_png_slices_test/case_005_slice_0.nii.png, keras_png_slices_test/case_006_slice_1.nii.png",
                 "case_002_slice_1.nii.png is no readable PNG", "notes.png has no case and slice number",
                 "case_003_slice_2.nii.png is 256 x 256 RGB", "case_005_slice_3.nii.png is all black", "case 001 of test lacks slices 1, 2, 3",
                 "case 002 of train lacks slices 1", "case 003 of train lacks slices 2", "case 005 of test lacks slices 3"):
        assert line in problems, line
    assert "12 problems:" in done.stdout
    assert "  looks brain-masked" in done.stdout and "subjects   5, with 6 cases of up to 4 slices" in done.stdout
    missing = write_slices(tmp_path / "missing", {"train": (1,), "test": (2,)})
    assert "keras_png_slices_validate is missing" in run("check", missing).stdout


def test_commands_need_no_tensorflow_and_say_what_is_wrong(discs, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert run("check", write_slices(tmp_path / "data"), env=environment).returncode == 0
    for arguments, message in ((("from-oasis1", tmp_path / "nothing"), "is no folder"),
                               (("from-oasis1", tmp_path / "data"), "holds no OASIS-1 volumes"),
                               (("from-nifti", discs), "holds no NIfTI volumes"),
                               (("from-oasis1", discs, "--fractions", "half", "half"), "no numbers"),
                               (("from-oasis1", discs, "--fractions", "1", "2"), "three numbers"),
                               (("from-oasis1", discs, "--seed", "-1"), "negative"),
                               (("from-oasis1", discs, "--first-slice", "150"), "no volume could be used"),
                               (("check", tmp_path / "nothing"), "is no folder"),
                               (("check", discs), "no readable slice")):
        done = run(*arguments, *(("--out", tmp_path / "out") if arguments[0] != "check" else ()), env=environment)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
