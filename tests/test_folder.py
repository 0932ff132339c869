"""Data folders: opened, inspected, and made up."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from shared import LEVELS, draw_slice, run_script, write_slices

from sources import synthetic
from sources.folder import find_slices, open_folder, open_slice, open_slices
from sources.layout import DEFAULT_DIRECTORY, NUM_LEVELS, SPLITS, split_folder
from utils import InputError

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


# ---- inspecting --------------------------------------------------------------------------------


PROBLEMS = """
leak: case 001 is in train and test of
leak: OAS1_0004 is in validate and test of
leak, duplicates: {train}/case_001_slice_0.nii.png, {test}/case_001_slice_0.nii.png
  duplicates: {test}/case_005_slice_0.nii.png, {test}/case_006_slice_1.nii.png
case_002_slice_1.nii.png cannot be read
notes.png has no case and slice number
case_003_slice_2.nii.png is 256 x 256 RGB
case_005_slice_3.nii.png is all black
case 001 of test lacks slices 1, 2, 3
case 002 of train lacks slices 1
case 003 of train lacks slices 2
case 005 of test lacks slices 3
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
    assert "12 problems:" in done.stdout
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
