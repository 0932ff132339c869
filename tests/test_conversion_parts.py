"""Parts of a conversion: the place and grey of one volume, and the splits of the subjects."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from sources.conversion import FRACTIONS, ConversionSettings, assign_splits, convert
from sources.layout import SPLITS
from sources.scans import Scan
from sources.volumes import frame_slices, scale_to_grey
from utils import InputError

# ---- volumes -----------------------------------------------------------------------------------


def test_intensity():
    slices = np.zeros((2, 256, 256))
    slices[0, 0, :4] = -5, 2, 4, np.nan
    np.testing.assert_array_equal(scale_to_grey(slices)[0, 0, :5], [0, 128, 255, 0, 0])
    assert not scale_to_grey(slices)[1].any()


def test_volumes_that_are_too_large_or_lie_elsewhere():
    affine = np.eye(4)
    affine[:3, 3] = -200, -200, -10
    volume = np.arange(400 * 400, dtype="int32").reshape(400, 400, 1).repeat(60, 2)
    frame = frame_slices(volume, affine)
    cut = volume[200 - 128 : 456 - 128, 200 - 147 : 456 - 147, 7]  # to the frame
    np.testing.assert_array_equal(frame[5], cut)
    for shift in (1000, 0, 0), (0, -1000, 0), (0, 0, 100), (0, 0, -100):
        moved = affine.copy()
        moved[:3, 3] += shift
        with pytest.raises(ValueError, match="commissure"):
            frame_slices(volume, moved)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPI", "PSR", "IRP"])
def test_nifti_volumes_are_turned_by_their_affine(tmp_path, axes):
    """Volumes are stored in all sorts of orders.

    Each level has a landmark at x = 30 (right), y = -50, z = K - 4.
    """
    volume, origin = np.full((90, 110, 70), 50, "float32"), np.array([-45, -70, -20])
    for k in range(32):
        volume[(*np.array([30, -50]) - origin[:2], k - 4 - origin[2])] = 500 + k
    affine = np.eye(4)
    affine[:3, 3] = origin
    upright, turned = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", axes))
    turn = nibabel.orientations.ornt_transform(upright, turned)
    image = nibabel.Nifti1Image(volume, affine).as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    (tmp_path / "in").mkdir()
    for name in ("sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii", "sub-02_T1w.nii.gz"):
        nibabel.save(image, tmp_path / "in" / name)
    out = tmp_path / "out"
    scans, problems = convert(tmp_path / "in", out, ConversionSettings(nifti=True))
    assert not problems
    numbered = [(scan.case, scan.subject) for scan in scans]
    assert numbered == [(1, "sub-01"), (2, "sub-01"), (3, "sub-02")]
    assert scans[0].split == scans[1].split
    for k in range(32):
        (path,) = out.glob(f"*/case_001_slice_{k}.nii.png")
        picture = np.array(Image.open(path))
        assert picture.shape == (256, 256) and picture.dtype == np.uint8
        assert np.argwhere(picture == 255).tolist() == [[128 + 30, 147 - 50]]
        rows, columns = np.nonzero(picture)
        assert (rows.min(), rows.max()) == (128 - 45, 128 + 44)
        assert (columns.min(), columns.max()) == (147 - 70, 147 + 39)


# ---- splits ------------------------------------------------------------------------------------


def scans_of(count):
    """Scans of so many subjects, every twentieth of them with a repeat."""
    return [
        Scan(f"OAS1_{n:04d}_MR{session}", f"OAS1_{n:04d}", None)
        for n in range(1, count + 1)
        for session in (1, 2)
        if session == 1 or n % 20 == 0
    ]


def sizes_of(scans):
    return [len({scan.subject for scan in scans if scan.split == name}) for name in SPLITS]


def test_splits_are_by_subject_and_seeded():
    scans = scans_of(354)
    assign_splits(scans, FRACTIONS, seed=0)
    assert sizes_of(scans) == [302, 35, 17]
    splits = {}
    for scan in scans:
        assert splits.setdefault(scan.subject, scan.split) == scan.split
    again, other = scans_of(354)[::-1], scans_of(354)
    assign_splits(again, FRACTIONS, seed=0)
    assign_splits(other, FRACTIONS, seed=1)
    assert {scan.name: scan.split for scan in again} == {scan.name: scan.split for scan in scans}
    assert [scan.split for scan in other] != [scan.split for scan in scans]


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (416, FRACTIONS, [355, 41, 20]),
        (10, (0.6, 0.2, 0.2), [6, 2, 2]),
        (5, (1, 0, 1), [3, 0, 2]),
        (3, FRACTIONS, [1, 1, 1]),
        (1, FRACTIONS, [1, 0, 0]),
    ],
)
def test_splits_have_the_right_sizes(count, fractions, sizes):
    scans = scans_of(count)
    assign_splits(scans, fractions, seed=3)
    assert sizes_of(scans) == sizes


@pytest.mark.parametrize(
    "fractions", [(1, 2), (1, -1, 1), (0, 0, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)]
)
def test_fractions_that_are_no_shares(fractions):
    with pytest.raises(InputError, match="fractions"):
        assign_splits(scans_of(3), fractions, seed=0)
