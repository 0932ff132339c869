"""Grey values, squares, mirror images, and what is suspicious."""

import pathlib

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sources.scaling import (
    centre_square,
    common_side,
    contact_sheet,
    find_mirror,
    fit_square,
    grey_range,
    scale_to_grey,
    share_lost,
    suspicious,
    to_grey_values,
)


def head(side=64, slices=6, seed=0):
    """A masked head, float (K, S, S): 0 around it, and smooth values from 300 to 1,000 in it."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    texture = ndimage.gaussian_filter(rng.normal(size=(slices, side, side)), (0, 3, 3))
    texture = np.clip(texture / texture.std() / 5 + 0.5, 0, 1)
    return np.where((y / 0.8) ** 2 + (x / 0.6) ** 2 < 1, np.rint(300 + 700 * texture), 0.0)


HEAD = head()
BRAIN = HEAD > 0
HOT = np.where(np.arange(HEAD.size).reshape(HEAD.shape) == 40 * 64 + 30, 1e6, HEAD)
NORMALISED = np.where(BRAIN, (HEAD - HEAD[BRAIN].mean()) / HEAD[BRAIN].std(), 0)
NOISY = HEAD + np.abs(np.random.default_rng(1).normal(0, 20, HEAD.shape))
TOMOGRAPHY = np.where(BRAIN, HEAD / 20, -1024)  # Hounsfield units
PADDED = np.where(np.arange(64) < 8, -3024, TOMOGRAPHY)
# name -> values, whether black is 0, least grey of a brain's darkest percent
SCALED = {
    "ordinary": (HEAD, True, 60),
    "hot voxel": (HOT, True, 60),
    "noise": (NOISY, False, 60),
    "mean 0": (NORMALISED, False, 10),
    "mean 0 all over": ((HEAD - HEAD.mean()) / HEAD.std(), False, 60),
    "CT": (TOMOGRAPHY, False, 10),
    "CT, padded": (PADDED, False, 10),
    "dim 8 bits": (np.rint(HEAD / 25), True, 60),
}


@pytest.mark.parametrize("name", SCALED)
def test_the_range_keeps_the_contrast_of_what_is_no_background(name):
    values, black_is_0, darkest = SCALED[name]
    grey = grey_range(values)
    images = to_grey_values(values, grey)
    assert images.dtype == np.uint8 and (grey.low == 0 or not black_is_0)
    brain = images[BRAIN & (values > -3024)]
    assert np.percentile(brain, 1) > darkest and np.percentile(brain, 99) > 200
    assert np.mean(brain == 255) < 0.02
    assert images[~BRAIN].mean() < 15


def test_8_bit_images_stay_and_what_is_no_number_does_not_count():
    for values in (np.rint(HEAD / 4), 255 - np.rint(HEAD / 4), (HEAD > 500) * 255, BRAIN * 128):
        np.testing.assert_array_equal(to_grey_values(values, grey_range([values])), values)
    many = grey_range(image for _ in range(350) for image in HEAD)  # more than are kept
    assert many == grey_range(HEAD)
    broken = np.where(HEAD > 990, np.nan, HEAD)
    assert grey_range(broken).low == 0 and 950 < grey_range(broken).high < 1000
    assert to_grey_values([np.nan, np.inf, -np.inf], (1, 2)).tolist() == [0, 255, 0]
    for empty in ([], np.zeros((2, 8, 8)), [np.full((8, 8), np.nan)]):
        assert grey_range(empty) == (0, 255, None)
    assert to_grey_values(np.full((4, 4), 7.0), (7, 7)).max() == 0
    by_slice = scale_to_grey(np.array([[[-5, 2, 4, np.nan]], [[0, 0, 0, 0]]]))
    assert by_slice.tolist() == [[[0, 128, 255, 0]], [[0, 0, 0, 0]]]


SQUARES = [
    ((208, 176), 208, "pad", (0, 16, 208, 192)),
    ((28, 28), 32, "pad", (2, 2, 30, 30)),  # not enlarged
    ((28, 28), 64, "pad", (0, 0, 64, 64)),
    ((260, 228), 256, "pad", (0, 16, 256, 240)),
    ((208, 176), 88, "crop", (0, 0, 88, 88)),
    ((50, 30), 32, "crop", (0, 0, 32, 32)),
    ((208, 176), 64, "stretch", (0, 0, 64, 64)),
]  # shape, side, how, content


@pytest.mark.parametrize("shape, side, how, content", SQUARES)
def test_fits_a_square(shape, side, how, content):
    image = np.full(shape, 200, "uint8")
    square, box = fit_square(image, side, how)
    assert square.shape == (side, side) and square.dtype == np.uint8 and box == content
    inside = np.zeros((side, side), "uint8")
    inside[box[0] : box[2], box[1] : box[3]] = 200
    np.testing.assert_array_equal(square, inside)


def test_sizes_of_a_set_and_what_a_crop_loses():
    assert common_side([(208, 176), (208, 176), (300, 300)]) == 208
    assert common_side([(28, 28)] * 3) == 32 and common_side([(8, 900), (64, 64)]) == 256
    image = np.zeros((40, 20), "uint8")
    image[5:35] = 255
    assert share_lost(image, centre_square(image, 20)) == pytest.approx(1 / 3)
    assert share_lost(image, image) == 0 and share_lost(image * 0, image[:0]) == 0


@pytest.mark.parametrize("axis, expected", [(0, "none"), (1, "rows"), (2, "rows")])
def test_finds_the_mirror_of_a_head_in_each_plane(axis, expected):
    volume = pathlib.Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
    slices = np.moveaxis(nibabel.load(volume).get_fdata(), axis, 0)[8:-6:4]
    images = [fit_square(to_grey_values(image, grey_range(slices)), 64)[0] for image in slices]
    black = np.zeros((64, 64), "uint8")
    assert find_mirror([*images, *[black] * 20]) == expected
    turned = {"rows": "columns"}.get(expected, "none")
    assert find_mirror([np.rot90(image) for image in images]) == turned
    assert find_mirror([]) == find_mirror([black]) == "none"


def test_notices_dark_slices_and_bright_spots():
    images = to_grey_values(HEAD, (0, 1000))
    assert suspicious(images) == [] and suspicious(images[:1]) == []
    dark = images.copy()
    dark[2] //= 4
    dark[4] //= 5
    dark[4, 30, 30] = 255
    dark_note, spot_note = suspicious(dark)
    assert dark_note == "slices far darker than their neighbours: 2, 4"
    assert spot_note == "slices dark but for a bright spot: 4"


def test_contact_sheet(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (100, 120, 80), "uint8")
    contact_sheet(tmp_path / "a.png", noise, [f"Größe {i}\n" + "long " * 6 for i in range(100)])
    assert (tmp_path / "a.png").stat().st_size < 500_000
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (804, 772)
        assert np.asarray(sheet)[102:114].max() > 200  # a label
