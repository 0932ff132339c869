import numpy as np
import pytest
from conftest import LEVELS, write_slices
from PIL import Image

import dataset
import synthetic
from utils import InputError


def first_file(directory, split="train"):
    return sorted((directory / f"keras_png_slices_{split}").iterdir())[0]


def test_opens_and_reports(slices_folder):
    slices = dataset.open_slices(slices_folder)
    assert slices.name == "OASIS" and slices.levels == LEVELS
    assert [len(slices.splits[name]) for name in dataset.SPLITS] == [12, 4, 8]
    assert slices.splits["train"].cases.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert slices.splits["train"].levels.tolist() == [0, 1, 2, 3] * 3
    assert slices.splits["validate"].subjects.tolist() == ["case 004"] * 4
    assert next(slices.report()).split() == "train 12 images, 3 cases, 4 slices a case".split()


def test_fingerprint_follows_every_byte(tmp_path):
    folder = write_slices(tmp_path / "data")
    before = dataset.open_slices(folder).fingerprint
    path = first_file(folder)
    image = np.array(Image.open(path))
    image[0, 0] = 1
    Image.fromarray(image).save(path)
    assert dataset.open_slices(folder).fingerprint != before


def spoil(change):
    def test(tmp_path):
        folder = write_slices(tmp_path / "data")
        change(folder)
        with pytest.raises(InputError) as error:
            dataset.open_slices(folder)
        return str(error.value)

    return test


BAD = {
    "missing split": (lambda d: (d / "keras_png_slices_test").rename(d / "elsewhere"), "keras_png_slices_test is missing"),
    "empty split": (lambda d: [p.unlink() for p in (d / "keras_png_slices_validate").iterdir()], "keras_png_slices_validate holds no"),
    "leak": (lambda d: first_file(d).rename(d / "keras_png_slices_test" / "case_001_slice_0.nii.png"), "case 001 is in both train and test"),
    "name": (lambda d: first_file(d).rename(d / "keras_png_slices_train" / "brain.png"), "brain.png has no case and slice number"),
    "truncated": (lambda d: first_file(d).write_bytes(first_file(d).read_bytes()[:2000]), "case_001_slice_0.nii.png is no readable PNG"),
    "zero bytes": (lambda d: first_file(d).write_bytes(b""), "is no readable PNG"),
    "text": (lambda d: first_file(d).write_text("not an image"), "is no readable PNG"),
    "colour": (lambda d: Image.open(first_file(d)).convert("RGB").save(first_file(d)), "256 x 256 RGB, not 256 x 256 L"),
    "16 bit": (lambda d: Image.fromarray(np.zeros((256, 256), "uint16")).save(first_file(d)), "I;16, not"),
    "size": (lambda d: Image.fromarray(np.zeros((128, 256), "uint8")).save(first_file(d)), "256 x 128 L, not"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folder_is_named_in_one_line(kind, tmp_path):
    change, expected = BAD[kind]
    message = spoil(change)(tmp_path)
    assert expected in message and "\n" not in message and str(tmp_path) in message


def test_missing_data_is_an_error_not_a_fall_back(tmp_path):
    with pytest.raises(InputError, match="no-such"):
        dataset.find_slices(tmp_path / "no-such", 3, 0)


def test_falls_back_to_the_cohort_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slices = dataset.open_slices(dataset.find_slices(None, 3, 0))
    assert "No OASIS slices found" in capsys.readouterr().out
    assert slices.name == "synthetic cohort (3 subjects, seed 0)" and slices.levels == 32
    write_slices(tmp_path / dataset.DEFAULT_DIRECTORY)
    assert dataset.find_slices(None, 3, 0) == dataset.DEFAULT_DIRECTORY


def test_cohort_is_a_function_of_seed_and_case(tmp_path):
    one, two = (synthetic.write_cohort(tmp_path / name, 3, seed=4) for name in "ab")
    files = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(files) == 3 * synthetic.LEVELS
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    np.testing.assert_array_equal(np.array(Image.open(one / files[0])), synthetic.subject(4, int(files[0].name[5:8]))[int(files[0].name.split("_")[3][:-8])])
    assert (synthetic.subject(4, 1) != synthetic.subject(5, 1)).any() and (synthetic.subject(4, 1) != synthetic.subject(4, 2)).any()


def test_cohort_is_head_like():
    volume = synthetic.subject(0, 1)
    assert volume.shape == (synthetic.LEVELS, 256, 256) and volume.dtype == np.uint8
    area = (volume > 0).mean((1, 2))
    assert (area > 0.2).all() and (area < 0.4).all()  # a brain fills about a third of the frame
    assert volume[:, :30].max() == 0 and volume[:, :, :15].max() == 0
    with pytest.raises(ValueError, match="Received: subjects=2"):
        synthetic.write_cohort("nowhere", 2, 0)


def test_cohort_never_overwrites_something_else(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError):
        synthetic.write_cohort(tmp_path / "mine", 3, 0)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
