"""Data folders: opened, inspected, and made up."""

import dataclasses
import json
import pathlib
import re
import shutil
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image
from shared import LEVELS, draw_slice, one_line, run_script, write_slices

import train
from sources import synthetic
from sources.facts import OASIS, DataFacts, facts_of_run, read_facts, write_facts
from sources.folder import find_slices, open_folder, open_slice, open_slices
from sources.layout import (
    DEFAULT_DIRECTORY,
    FITTED_SPLITS,
    NUM_LEVELS,
    SPLITS,
    slice_name,
    split_folder,
)
from utils import InputError

SIDE = 32


def write_knees(directory, levels=3, **facts):
    """Write a data folder of made-up knees of two classes, which fill their slices."""
    rng, cases = np.random.default_rng(0), {}
    for number, split in enumerate(("train", "train", "train", "validate", "test"), 1):
        cases[number] = {"subject": f"OAI{number}", "split": split, "class": "AB"[number % 2]}
        split_folder(directory, split).mkdir(parents=True, exist_ok=True)
        for level in range(levels):
            path = split_folder(directory, split) / slice_name(number, level)
            image = rng.integers(40, 200, (SIDE, SIDE)).astype("uint8")
            Image.fromarray(image).save(path)
    about = {"side": SIDE, "mirror": "none", "residue": False, "brain": False, "affine": None}
    write_facts(directory, DataFacts("knees", cases=cases, **about | facts))
    return directory


# ---- opening -----------------------------------------------------------------------------------


def test_opens_and_reports(slices_folder):
    slices = open_slices(slices_folder)
    assert slices.name == "OASIS" and slices.num_levels == LEVELS and slices.masked
    assert [len(slices.splits[name]) for name in SPLITS] == [12, 4, 8]
    train = slices.splits["train"]
    assert train.cases.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert train.levels.tolist() == [0, 1, 2, 3] * 3
    for image, case, level in zip(train.images, train.cases, train.levels, strict=True):
        np.testing.assert_array_equal(image, draw_slice(case, level))
    some = train.pick([5, 2])
    assert some.paths == (train.paths[5], train.paths[2])
    np.testing.assert_array_equal(some.images, train.images[[5, 2]])
    assert slices.splits["validate"].subjects.tolist() == ["case 004"] * 4
    assert next(slices.summary()).split() == "train 12 images, 3 cases, 4 slices a case".split()


def test_opens_a_single_folder_and_a_single_slice(slices_folder, tmp_path):
    split = open_folder(split_folder(slices_folder, "test"))
    assert split.name == "keras_png_slices_test" and len(split) == 2 * LEVELS
    path = tmp_path / "brain.png"
    Image.fromarray(draw_slice(5, 2)).save(path)
    one = open_slice(path, 2)
    assert one.levels.tolist() == [2] and one.masked
    np.testing.assert_array_equal(one.images[0], split.images[2])
    path.unlink()
    for refused, words in {
        lambda: open_slice(tmp_path / "brain.png", 2): "is not there",
        lambda: open_slice(tmp_path / "brain.png"): "has no level in its name",
        lambda: open_folder(tmp_path / "nothing"): "is no folder",
        lambda: open_folder(tmp_path): "holds no case_NNN",
        lambda: find_slices(tmp_path / "no-such", 3, 0): "no-such",
    }.items():
        with pytest.raises(InputError, match=words):
            refused()


def digests(folder):
    """What `check` says: the digest of each split and of all slices."""
    printed = run_script("dataset.py", "check", folder).stdout
    return {name: digest for digest, name in re.findall(r"digest +(\w+) (\w+)", printed)}


def test_fingerprint_follows_every_byte_and_check_prints_it_for_each_split(tmp_path):
    folder = write_slices(tmp_path / "data", levels=11)  # level 10 follows 9, and its name 1
    before, printed = open_slices(folder).fingerprint, digests(folder)
    assert list(printed) == [*SPLITS, "all"] and len(set(printed.values())) == 4
    assert printed["all"] == before
    path = split_folder(folder, "train") / "case_001_slice_0.nii.png"
    image = np.array(Image.open(path))
    image[0, 0] = 1
    Image.fromarray(image).save(path)
    after, changed = open_slices(folder).fingerprint, digests(folder)
    assert after == changed["all"] != before
    assert {name for name in printed if printed[name] != changed[name]} == {"train", "all"}
    path.rename(path.with_name("case_009_slice_0.nii.png"))
    assert digests(folder)["train"] != changed["train"]  # it follows names, too


# ---- facts -------------------------------------------------------------------------------------


def test_facts_come_back_from_the_folder_and_from_a_run(tmp_path):
    cases = {7: {"subject": "A\x1b", "split": "test", "class": "AD", "affine": np.eye(4).tolist()}}
    facts = DataFacts("knees", 40, 5, "columns", True, cases=cases, content=[0, 8, 40, 32])
    write_facts(tmp_path, facts)
    assert list(json.loads((tmp_path / "dataset.json").read_text())["cases"]) == ["7"]
    again = read_facts(tmp_path)
    assert again == facts and again.content == (0, 8, 40, 32) and again.affine == OASIS.affine
    assert again.subject(7) == "A?" and again.subject(8) == "case 008"
    of_run = json.loads(json.dumps({"name": "knees", "facts": facts.as_json(of_a_run=True)}))
    assert facts_of_run(of_run) == dataclasses.replace(facts, cases={})
    image = np.arange(4).reshape(2, 2)
    for mirror, expected in {"rows": image[::-1], "columns": image[:, ::-1], "none": image}.items():
        np.testing.assert_array_equal(DataFacts(mirror=mirror).mirrored(image), expected)


def test_folders_and_runs_of_former_versions(slices_folder, tmp_path):
    folder = shutil.copytree(slices_folder, tmp_path / "data")
    before = open_slices(folder)
    assert before.facts == dataclasses.replace(OASIS, levels=LEVELS, masked=True)
    notes = {"settings": {"nifti": True, "masked": True}, "cases": {"004": {"subject": "B"}}}
    (folder / "conversion.json").write_text(json.dumps(notes))
    converted = open_slices(folder)
    assert converted.name == "data, brain-masked"
    assert converted.splits["validate"].subjects.tolist() == ["B"] * LEVELS
    cohort = {"subjects": 3, "seed": 4, "version": 1}
    (folder / "cohort.json").write_text(json.dumps(cohort))
    made = open_slices(folder)
    assert made.name == "synthetic cohort (3 subjects, seed 4)" and made.facts.cohort == cohort
    assert before.fingerprint == converted.fingerprint == made.fingerprint
    (folder / "dataset.json").write_text(json.dumps({"mirror": "none"}))
    assert open_slices(folder).name == "data"
    assert open_slices(folder).fingerprint != before.fingerprint  # it is trained in another way
    assert facts_of_run({"name": "OASIS"}) == OASIS
    assert facts_of_run({"name": "x", "cohort": cohort, "masked": True}).cohort == cohort


@pytest.mark.parametrize(
    "facts, word",
    [
        ({"side": 100}, "side"),
        ({"side": "256"}, "side"),
        ({"levels": 0}, "levels"),
        ({"mirror": ["rows"]}, "mirror"),
        ({"masked": 1}, "masked"),
        ({"name": None}, "name"),
        ({"content": [0, 0, 300, 8]}, "content"),
        ({"affine": [[0] * 4] * 4}, "affine"),
        ({"cases": [1]}, "cases"),
        ({"cases": {"-1": {}}}, "case -1"),
        ({"cases": {"1": {"subject": 5}}}, "subject"),
        ({"cases": {"1": {"scan": [1]}}}, "scan"),
        ({"cases": {"1": {"split": "val"}}}, "split"),
        ({"cohort": {"subjects": True, "seed": 0}}, "cohort"),
        ([], "dataset.json cannot be read"),
    ],
)
def test_facts_that_cannot_be(facts, word, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=word) as error:
        read_facts(tmp_path)
    assert "make it again" in str(error.value) and "\n" not in str(error.value)


def test_slices_of_any_side_with_black_ones(tmp_path):
    folder = write_knees(tmp_path / "knees", levels=3)
    black = Image.new("L", (SIDE, SIDE))
    train = split_folder(folder, "train")
    for level in (0, 2):
        black.save(train / slice_name(1, level))
    slices = open_slices(folder)
    split = slices.splits["train"]
    assert slices.name == "knees" and slices.num_levels == 3 and not slices.masked
    assert split.images.shape == (9, SIDE, SIDE) and not split.images[[0, 2]].any()
    assert open_folder(train).facts == slices.facts and slices.facts.mirror == "none"
    done = run_script("dataset.py", "check", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "set        knees: 32 x 32 pixels, not mirrored",
        "attribute  class: A (2), B (3), known of 5 cases",
        "black      2 of 15 slices: train, case 001: 0, 2",
        "looks not masked",
        "no problems",
    ):
        assert line in done.stdout
    black.save(train / slice_name(2, 1))  # within a brain
    (train / slice_name(3, 1)).unlink()
    shutil.copy(train / slice_name(2, 0), train / slice_name(2, 3))
    write_facts(folder, dataclasses.replace(read_facts(folder), levels=3))
    done = run_script("dataset.py", "check", folder)
    assert done.returncode == 1 and "3 problems:" in done.stdout
    for line in (
        "case 002 of train has slices far darker than their neighbours: 1",
        "case 003 of train lacks slices 1",
        "case_002_slice_3.nii.png is beyond the 3 levels of the set",
    ):
        assert line in done.stdout
    (train / slice_name(2, 3)).unlink()
    for path in train.iterdir():
        black.save(path)
    with pytest.raises(InputError, match="is black throughout"):
        open_slices(folder)


def test_a_prior_of_one_level_knows_no_neighbours(tmp_path):
    slices = open_slices(write_knees(tmp_path, levels=1), needed=FITTED_SPLITS)
    args = train.parse(["--image-size", str(SIDE), "--batch-size", "1"])
    assert slices.num_levels == 1 and train.resolve(args, slices).neighbours == 0


# ---- finding -----------------------------------------------------------------------------------


def test_an_archive_is_read_like_its_folder(tmp_path):
    folder = write_knees(tmp_path / "knees" / "knees")
    first = split_folder(folder, "train") / slice_name(1, 0)
    first.rename(first.with_name(first.name.replace(".png", ".PNG")))  # it is read, too
    (first.parent / f"._{first.name}").write_bytes(b"of another system")
    archive = shutil.make_archive(tmp_path / "packed", "zip", tmp_path, "knees")
    (tmp_path / "other").mkdir()
    slices, packed = (open_slices(find_slices(path)) for path in (tmp_path / "knees", archive))
    assert len(slices.splits["train"]) == 9
    assert packed.facts == slices.facts and packed.fingerprint == slices.fingerprint
    path = packed.splits["test"].paths[0]
    assert path == f"{archive}/knees/knees/keras_png_slices_test/case_005_slice_0.nii.png"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("knees/knees/keras_png_slices_test/case_005_slice_2.nii.PNG", b"no image")
        file.writestr("../../knees/keras_png_slices_test/out.png", b"out")
    done = run_script("dataset.py", "check", archive)
    assert f"{archive}/knees/knees/keras_png_slices_test/case_005" in done.stdout
    assert "/tmp" not in done.stdout.replace(str(tmp_path), "") and done.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["knees", "other", "packed.zip"]
    pathlib.Path(archive).write_bytes(b"PK and no more")
    one_line(run_script("dataset.py", "check", archive), "packed.zip cannot be read")


def test_a_test_split_alone_is_evaluated_but_not_trained_on(slices_folder, tmp_path):
    shutil.copytree(split_folder(slices_folder, "test"), tmp_path / "keras_png_slices_test")
    assert list(open_slices(tmp_path, needed=["test"]).splits) == ["test"]
    done = run_script("train.py", "--data", tmp_path, "--run", tmp_path / "run")
    one_line(done, "keras_png_slices_train is missing", "train and validate")


UNPREPARED = {
    ("set/train/AD/1.jpg", "set/test/NC/2.JPG", "set/.DS_Store"):
        "looks like 2 images such as test/NC/2.JPG. "
        "Prepare it with: python dataset.py from-images set --out data/set",
    ("set/s1/a.png", "set/s2/b.tif", "set/notes.txt"): "2 images such as s1/a.png. Prepare",
    ("set/sub-1/anat/T1w.nii.gz",): "from-nifti set --out data/set",
    ("set/OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc.hdr",): "from-oasis1 set --out",
    ("set/1.dcm",): "dcm2niix -z y -o data/set_nifti set && python dataset.py from-nifti",
    ("set/IM1",): "looks like 1 DICOM files",
    ("set/flat.nii",): "such as flat.nii. Prepare it with: python dataset.py from-im",
    ("set/bloodmnist.npz",): "from-images set/bloodmnist.npz --out data/set",
    ("set/a.tar.gz",): "archives such as a.tar.gz: unpack it",
    ("set/case_001_slice_0.nii.png",): "without splits: name the folder above",
    ("set/notes.txt",): "no images or volumes",
    ("data/set/notes.txt", "set/1.bmp"): "--out data/set_slices",
}  # fmt: skip


@pytest.mark.parametrize("files", UNPREPARED, ids=lambda files: files[0])
def test_a_folder_that_is_not_prepared(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in files:
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if path.name == "IM1" else b"")
        if path.name == "flat.nii":
            nibabel.save(nibabel.Nifti1Image(np.zeros((8, 4), "uint8"), np.eye(4)), path)
    with pytest.raises(InputError) as error:
        find_slices("set")
    assert UNPREPARED[files] in str(error.value) and "\n" not in str(error.value)


# ---- inspecting --------------------------------------------------------------------------------


PROBLEMS = """
leak: case 001 is in train and test of
leak: OAS1_0004 is in validate and test of
leak, duplicates: {train}/case_001_slice_0.nii.png, {test}/case_001_slice_0.nii.png
  duplicates: {test}/case_005_slice_0.nii.png, {test}/case_006_slice_1.nii.png
case_002_slice_1.nii.png cannot be read
notes.png has no case and slice number
case_003_slice_2.nii.png is 256 x 256 RGB
case 001 of test lacks slices 1, 2, 3
case 002 of train lacks slices 1
case 003 of train lacks slices 2
"""


def test_check_lists_all_problems(tmp_path):
    folder = write_slices(tmp_path / "data")
    train, test = split_folder(folder, "train"), split_folder(folder, "test")
    copied = (train / "case_001_slice_0.nii.png").read_bytes()
    (test / "case_001_slice_0.nii.png").write_bytes(copied)
    (train / "case_002_slice_1.nii.png").write_bytes(b"no picture")
    (train / "notes.png").write_bytes(b"")
    Image.new("RGB", (256, 256)).save(train / "case_003_slice_2.nii.png")
    Image.new("L", (256, 256)).save(test / "case_005_slice_3.nii.png")
    same = Image.fromarray(draw_slice(5, 0))
    same.save(test / "case_006_slice_1.nii.png", compress_level=1)
    cases = {"004": {"subject": "OAS1_0004"}, "006": {"subject": "OAS1_0004"}}
    (folder / "conversion.json").write_text(json.dumps({"cases": cases}))

    done = run_script("dataset.py", "check", folder)
    assert done.returncode == 1 and not done.stderr
    listed = done.stdout.split("problems:")[1]
    for line in PROBLEMS.format(train=train.name, test=test.name).strip("\n").splitlines():
        assert line in listed, line
    assert "10 problems:" in done.stdout
    assert "black      1 of 23 slices: test, case 005: 3" in done.stdout
    assert "  looks brain-masked" in done.stdout
    assert "subjects   5, with 6 cases of up to 4 slices" in done.stdout


def test_check_names_splits_without_slices(tmp_path):
    folder = write_slices(tmp_path / "data", {"train": (1,), "test": (2,)}, levels=1)
    (split_folder(folder, "test") / "case_002_slice_0.nii.png").write_bytes(b"")
    done = run_script("dataset.py", "check", folder)
    assert "keras_png_slices_validate is missing" in done.stdout
    assert "keras_png_slices_test holds no readable slice" in done.stdout


# ---- the synthetic cohort ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three subjects. The third, of the test split, is the first one of another seed."""
    subject = synthetic.subject
    with pytest.MonkeyPatch.context() as patch:
        third = {3: (5, 1)}
        patch.setattr(synthetic, "subject", lambda *which: subject(*third.get(which[1], which)))
        return synthetic.write_cohort(3, 4, tmp_path_factory.mktemp("cohort") / "a")


def test_falls_back_to_the_cohort_and_says_so(cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cohort, DEFAULT_DIRECTORY.with_name("synthetic_3_subjects_seed_4"))
    directory = find_slices(None, 3, 4)
    slices = open_slices(directory)
    assert "No OASIS slices found" in capsys.readouterr().out
    assert slices.name == "synthetic cohort (3 subjects, seed 4)"
    assert slices.num_levels == NUM_LEVELS == 32
    assert [len(split) for split in slices.splits.values()] == [NUM_LEVELS] * 3
    write_slices(tmp_path / DEFAULT_DIRECTORY)
    assert find_slices(None, 3, 4) == DEFAULT_DIRECTORY


def test_cohort_is_a_function_of_seed_and_case(cohort):
    volume, splits = synthetic.subject(4, 1), open_slices(cohort).splits
    np.testing.assert_array_equal(splits["train"].images, volume)
    assert (volume != splits["test"].images).any()  # of another seed
    assert (volume != splits["validate"].images).any()
    assert volume.shape == (NUM_LEVELS, 256, 256) and volume.dtype == np.uint8
    area = (volume > 0).mean((1, 2))
    assert (area > 0.2).all() and (area < 0.4).all()  # a brain fills about a third of the frame
    assert volume[:, :30].max() == 0 and volume[:, :, :15].max() == 0


def test_cohort_that_cannot_be_made(tmp_path):
    with pytest.raises(InputError, match="Received: subjects=2"):
        synthetic.write_cohort(2, 0, "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="something other"):
        synthetic.write_cohort(3, 0, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
