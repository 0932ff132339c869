"""Data folders: opened, refused in one line, inspected, and made up."""

import json
import os

import numpy as np
import pytest
from conftest import LEVELS, draw_slice, run_script, write_slices
from PIL import Image

from sources import synthetic
from sources.folder import find_slices, open_folder, open_slices
from sources.inspection import inspect_slices
from sources.layout import DEFAULT_DIRECTORY, NUM_LEVELS, SPLITS, split_folder
from utils import InputError


def first_file(directory, split="train"):
    return sorted(split_folder(directory, split).iterdir())[0]


# ---- opening -----------------------------------------------------------------------------------


def test_opens_and_reports(slices_folder):
    slices = open_slices(slices_folder)
    assert slices.name == "OASIS" and slices.num_levels == LEVELS
    assert [len(slices.splits[name]) for name in SPLITS] == [12, 4, 8]
    assert slices.splits["train"].cases.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert slices.splits["train"].levels.tolist() == [0, 1, 2, 3] * 3
    assert slices.splits["validate"].subjects.tolist() == ["case 004"] * 4
    assert next(slices.summary()).split() == "train 12 images, 3 cases, 4 slices a case".split()


def digests(folder):
    """What `check` says: the digest of each split and of all slices."""
    lines = [line.split() for line in inspect_slices(folder).facts]
    return {name: digest for kind, digest, name in (line for line in lines if line[0] == "digest")}


def test_fingerprint_follows_every_byte_and_check_prints_it_for_each_split(tmp_path):
    folder = write_slices(tmp_path / "data", levels=11)  # level 10 follows 9, and its name 1
    before, printed = open_slices(folder).fingerprint, digests(folder)
    assert list(printed) == [*SPLITS, "all"] and len(set(printed.values())) == 4
    assert printed["all"] == before
    path = first_file(folder)
    image = np.array(Image.open(path))
    image[0, 0] = 1
    Image.fromarray(image).save(path)
    after, changed = open_slices(folder).fingerprint, digests(folder)
    assert after == changed["all"] != before
    assert {name for name in printed if printed[name] != changed[name]} == {"train", "all"}
    path.rename(path.with_name("case_009_slice_0.nii.png"))
    assert digests(folder)["train"] != changed["train"]  # it follows names, too


def drop_split(data):
    split_folder(data, "test").rename(data / "elsewhere")


def empty_split(data):
    for path in split_folder(data, "validate").iterdir():
        path.unlink()


def leak_case(data):
    first_file(data).rename(split_folder(data, "test") / "case_001_slice_0.nii.png")


def name_differently(data):
    first_file(data).rename(first_file(data).with_name("brain.png"))


def name_in_other_digits(data):
    first_file(data).rename(first_file(data).with_name("case_٠٠١_slice_0.nii.png"))


def truncate(data):
    first_file(data).write_bytes(first_file(data).read_bytes()[:2000])


def empty_file(data):
    first_file(data).write_bytes(b"")


def write_text(data):
    first_file(data).write_text("not an image")


def write_colour(data):
    Image.open(first_file(data)).convert("RGB").save(first_file(data))


def write_16_bit(data):
    Image.fromarray(np.zeros((256, 256), "uint16")).save(first_file(data))


def write_other_size(data):
    Image.fromarray(np.zeros((128, 256), "uint8")).save(first_file(data))


def replace_by_pipe(data):
    path = first_file(data)
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(data):
    path = first_file(data)
    path.unlink()
    path.mkdir()


BAD = {
    drop_split: "keras_png_slices_test is missing",
    empty_split: "keras_png_slices_validate holds no",
    leak_case: "case 001 is in both train and test",
    name_differently: "brain.png has no case and slice number",
    name_in_other_digits: "_slice_0.nii.png has no case and slice number",
    truncate: "case_001_slice_0.nii.png is no readable PNG",
    empty_file: "is no readable PNG",
    write_text: "is no readable PNG",
    write_colour: "256 x 256 RGB, not 256 x 256 L",
    write_16_bit: "I;16, not",
    write_other_size: "256 x 128 L, not",
    replace_by_pipe: "case_001_slice_0.nii.png is no regular file",
    replace_by_folder: "case_001_slice_0.nii.png is no regular file",
}


@pytest.mark.parametrize("spoil", BAD)
def test_bad_folder_is_named_in_one_line(spoil, tmp_path):
    folder = write_slices(tmp_path / "data")
    spoil(folder)
    with pytest.raises(InputError) as error:
        open_slices(folder)
    message = str(error.value)
    assert BAD[spoil] in message and "\n" not in message and str(tmp_path) in message


def test_opens_a_single_folder(slices_folder, tmp_path):
    split = open_folder(split_folder(slices_folder, "test"))
    assert split.name == "keras_png_slices_test" and len(split) == 2 * LEVELS
    with pytest.raises(InputError, match="is no folder"):
        open_folder(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no case_NNN"):
        open_folder(tmp_path)


def test_missing_data_is_an_error_not_a_fall_back(tmp_path):
    with pytest.raises(InputError, match="no-such"):
        find_slices(tmp_path / "no-such", 3, 0)


# ---- inspecting --------------------------------------------------------------------------------


PROBLEMS = """
leak: case 001 is in train and test
leak: scans of subject OAS1_0004 are in validate and test
leak, duplicates: {train}/case_001_slice_0.nii.png, {test}/case_001_slice_0.nii.png
  duplicates: {test}/case_005_slice_0.nii.png, {test}/case_006_slice_1.nii.png
case_002_slice_1.nii.png is no readable PNG
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


def test_check_names_a_missing_split_and_a_pipe(tmp_path):
    folder = write_slices(tmp_path / "missing", {"train": (1,), "test": (2,)})
    assert (
        "keras_png_slices_validate is missing" in run_script("dataset.py", "check", folder).stdout
    )
    replace_by_pipe(folder)
    problems = inspect_slices(folder).problems
    assert any("case_001_slice_0.nii.png is no regular file" in line for line in problems)


# ---- the synthetic cohort ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return synthetic.write_cohort(tmp_path_factory.mktemp("cohort") / "a", 3, seed=4)


def test_falls_back_to_the_cohort_and_says_so(cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    directory = find_slices(None, 3, 4)
    slices = open_slices(directory)
    assert "No OASIS slices found" in capsys.readouterr().out
    assert slices.name == "synthetic cohort (3 subjects, seed 4)"
    assert slices.num_levels == NUM_LEVELS == 32
    assert_cohort_is_a_function_of_its_seed(cohort, directory)
    write_slices(tmp_path / DEFAULT_DIRECTORY)
    assert find_slices(None, 3, 4) == DEFAULT_DIRECTORY


def assert_cohort_is_a_function_of_its_seed(one, two):
    files = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(files) == 3 * NUM_LEVELS
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_cohort_is_a_function_of_seed_and_case(cohort):
    volume = synthetic.subject(4, 1)
    for level in (0, 17):
        path = split_folder(cohort, "train") / f"case_001_slice_{level}.nii.png"
        np.testing.assert_array_equal(np.array(Image.open(path)), volume[level])
    assert (volume != synthetic.subject(5, 1)).any()
    assert (volume != synthetic.subject(4, 2)).any()
    assert_head_like(volume)


def assert_head_like(volume):
    assert volume.shape == (NUM_LEVELS, 256, 256) and volume.dtype == np.uint8
    area = (volume > 0).mean((1, 2))
    assert (area > 0.2).all() and (area < 0.4).all()  # a brain fills about a third of the frame
    assert volume[:, :30].max() == 0 and volume[:, :, :15].max() == 0


def test_cohort_that_cannot_be_made(tmp_path):
    with pytest.raises(ValueError, match="Received: subjects=2"):
        synthetic.write_cohort("nowhere", 2, 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError):
        synthetic.write_cohort(tmp_path / "mine", 3, 0)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
