"""Volumes as files, in memory, as slices and back: axes, millimetres, and what is no image."""

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from sources import volumes
from sources.facts import OASIS_AFFINE
from sources.volumes import Volume, load_volume, oasis_slices, plane_slices

SHAPE = 40, 44, 36


def smooth_voxels(shape=SHAPE, seed=0):
    """Voxels with no symmetry, which are 0 around an ellipsoid."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    waves = np.cos(3 * x + 1) * np.cos(2 * y - 0.5) + 0.5 * np.sin(2 * z + x + seed)
    return np.where(x**2 + y**2 + z**2 < 0.9, 300 + 100 * waves, 0).astype("int16")


def affine_of(zooms=(1, 1, 1), origin=(-11, -14, -9), degrees=0):
    turn, (a, b) = np.eye(4), (np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
    turn[1:3, 1:3] = (a, -b), (b, a)
    affine = turn @ np.diag([*zooms, 1.0])
    affine[:3, 3] = origin
    return affine


def save(path, voxels, affine=None, axes="RAS", codes=(2, 2), kind=nibabel.Nifti1Image):
    """Write a volume whose axes are stored in some order."""
    image = kind(voxels, affine_of() if affine is None else affine)
    image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes)))
    if kind is nibabel.Nifti1Image:
        image.set_qform(image.affine, codes[0])
        image.set_sform(image.affine, codes[1])
    path.parent.mkdir(exist_ok=True)
    nibabel.save(image, path)
    return path


ORIENTATIONS = [  # axes in the file, size of voxels, degrees, plane
    ("LPS", (1, 1, 2), 0, "axial"),
    ("PSR", (0.9, 1.1, 1.5), 12, "coronal"),
    ("IRP", (3, 0.8, 0.8), -25, "sagittal"),
]


@pytest.mark.parametrize("axes, zooms, degrees, plane", ORIENTATIONS)
def test_written_slices_lie_over_the_scan(tmp_path, axes, zooms, degrees, plane):
    """The scan is a slope in millimetres, which neither interpolation nor smoothing changes."""
    slope, affine = np.array([0.8, -0.6, 1.0]), affine_of(zooms, degrees=degrees)
    world = nibabel.affines.apply_affine(affine, np.moveaxis(np.indices(SHAPE), 0, 3))
    middle = world.mean((0, 1, 2))
    path = save(tmp_path / "scan.nii", (world - middle) @ slope + 128, affine, axes)
    volume = load_volume(path)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    inner, across = volumes.native_spacing(volume, plane)
    most = len(volumes.filled_levels(volume, plane, (0, 100)))
    # All levels, every second one, and those that are nearest to their places
    for spacing, percent, levels in (
        (inner, (0, 100), most), (2, (0, 100), most // 2), (1, None, 13)
    ):  # fmt: skip
        slices = plane_slices(volume, plane, spacing, percent, levels)
        assert slices.images.dtype == np.float32
        assert len(slices.images) == len(slices.place["levels"]) == levels
        # Slices are padded, and all but the first two are written.
        padded = np.pad(np.rint(slices.images).astype("uint8"), ((0, 0), (3, 1), (2, 5)))
        moved = volumes.moved_affine(slices.affine, (-3, -2, 0))
        volumes.write_volume(tmp_path / "back.nii.gz", padded[2:], moved, level=2)
        back = nibabel.load(tmp_path / "back.nii.gz")
        np.testing.assert_allclose(back.header.get_zooms()[:2], spacing, rtol=0.01)
        indices = np.moveaxis(np.indices(back.shape), 0, 3)
        places = nibabel.affines.apply_affine(back.affine, indices)
        error = np.abs((places - middle) @ slope + 128 - np.asarray(back.dataobj))[5:-3, 4:-7]
        assert error.max() < 1 + (across / 2 if percent is None else 0)
    thin = volumes.interpolate_levels(volume, plane, across / 2)
    assert volumes.native_spacing(thin, plane) == pytest.approx((inner, across / 2))
    indices = np.moveaxis(np.indices(thin.voxels.shape), 0, 3)
    places = nibabel.affines.apply_affine(thin.affine, indices)
    error = np.abs((places - middle) @ slope + 128 - thin.voxels)
    assert error[1:-1, 1:-1, 1:-1].max() < 0.1


# plane: where the first row, the first column and the first level lie
UPRIGHT = {"axial": "LPI", "coronal": "SRP", "sagittal": "SAL"}


@pytest.mark.parametrize("plane", UPRIGHT)
def test_planes_are_upright(plane):
    for axis, side in enumerate(UPRIGHT[plane]):
        voxels = np.zeros((9, 10, 11), "uint8")
        np.moveaxis(voxels, "LPIRAS".index(side) % 3, 0)[-(side in "RAS")] = 50
        volume = Volume(voxels, affine_of())
        images = plane_slices(volume, plane, 1.0, (0, 100), 99).images
        stack = np.moveaxis(images, 0, 2)  # (rows, columns, levels)
        assert np.moveaxis(stack, axis, 0)[0].all()
        assert np.count_nonzero(stack) == np.count_nonzero(voxels)


def test_levels_that_hold_something():
    voxels = np.zeros((20, 20, 100), "float32")
    voxels[4:16, 4:16, 10:90] = np.random.default_rng(0).normal(5, 1, (12, 12, 80))
    for level in (voxels, voxels - 1000, voxels - 5):  # MR, CT, and normalised
        volume = Volume(level, np.eye(4))
        assert volumes.filled_levels(volume, "axial") == range(10, 90)
    for levels, chosen in {  # whole steps where they leave out few levels
        99: list(range(10, 90)),
        76: list(range(12, 88)),
        39: list(range(12, 89, 2)),
        3: [24, 50, 76],
        1: [50],
    }.items():
        slices = plane_slices(volume, "axial", 1.0, None, levels)
        assert slices.place["levels"] == chosen and not slices.notes
        assert len(slices.images) == len(chosen)
        middle = slices.affine @ [0, 0, (len(chosen) - 1) / 2, 1]
        np.testing.assert_allclose(middle[2], np.mean(chosen))
    low = plane_slices(volume, "axial", 1.0, (0, 15), 15)
    assert "levels 0 to 14 hold 33%" in low.notes[0]
    assert "made-up detail" in plane_slices(volume, "axial", 0.4, None, 2).notes[0]
    for arguments, message in {
        ("axial", 1.0, (50, 50.1), 1): "no slices there",
        ("axial", 1e-4, None, 80): "are too many",
        ("axial", 5, None, 80): "4 x 4 pixels",
    }.items():
        with pytest.raises(ValueError, match=message):
            plane_slices(volume, *arguments)
    with pytest.raises(ValueError, match="the same"):
        plane_slices(Volume(np.ones((5, 5, 5)), np.eye(4)), "axial", 1.0, None, 1)


def test_volumes_that_are_too_large_or_lie_elsewhere():
    affine = affine_of(origin=(-200, -200, -10))
    voxels = np.arange(400 * 400, dtype="int32").reshape(400, 400, 1).repeat(50, 2)
    images, moved, place, notes = oasis_slices(Volume(voxels, affine))
    cut = voxels[200 - 128 : 456 - 128, 200 - 147 : 456 - 147, 7]  # to the frame
    np.testing.assert_array_equal(images[5], cut)
    np.testing.assert_array_equal(moved, OASIS_AFFINE)
    assert place["first"] == [72, 53, 6] and place["lost"] > 0.5 and "outside" in notes[0]
    for shift in (1000, 0, 0), (0, -1000, 0), (0, 0, 100), (0, 0, -100):
        with pytest.raises(ValueError, match="commissure"):
            oasis_slices(Volume(voxels, affine_of(origin=np.add(affine[:3, 3], shift))))
    with pytest.raises(ValueError, match="upright 1 mm"):
        oasis_slices(Volume(voxels, affine_of((1, 1, 2))))


OASIS_SPACE = [  # shape, origin, code of the space, size of voxels, whether
    ((182, 218, 182), (-90, -126, -72), 2, 1, True),
    ((182, 218, 182), (-90, -126, -72), 1, 1, True),  # programs that write a scanner's code
    ((176, 208, 176), (-7, 5, 3), 1, 1, True),  # a converter lost the origin
    ((256, 256, 176), (-128, -128, -70), 1, 1, False),  # a scanner
    ((256, 256, 176), (-128, -128, -70), 4, 1, True),
    ((182, 218, 182), (-60, -126, -72), 1, 1, False),
    ((91, 109, 91), (-90, -126, -72), 4, 2, False),
    ((240, 240, 155), (0, 0, 0), 1, 1, False),
]


@pytest.mark.parametrize("shape, origin, space, size, expected", OASIS_SPACE)
def test_what_is_in_the_space_of_oasis(shape, origin, space, size, expected):
    volume = Volume(np.zeros(shape, "uint8"), affine_of((size,) * 3, origin), space)
    assert volumes.is_in_oasis_space(volume) == expected


def test_endings_and_kinds_of_files(tmp_path):
    voxels = smooth_voxels()
    for name in ("A.NII.GZ", "b.Nii", "C.MGZ"):
        plain = tmp_path / "plain" / name.lower()
        if plain.suffix == ".mgz":
            save(plain, voxels.astype("float32"), axes="PSL", kind=nibabel.MGHImage)
        else:
            save(plain, voxels, axes="LPS")
        volume = load_volume(plain.rename(tmp_path / name))
        np.testing.assert_array_equal(volume.voxels, voxels)
        np.testing.assert_allclose(volume.affine, affine_of())
    for kind in (nibabel.Nifti1Pair, nibabel.AnalyzeImage):
        save(tmp_path / "pair.hdr", voxels, kind=kind)
        header = (tmp_path / "pair.hdr").rename(tmp_path / "pair.HDR")
        pixels = (tmp_path / "pair.img").rename(tmp_path / "pair.IMG")
        np.testing.assert_array_equal(load_volume(header, "RAS").voxels, voxels)
        pixels.unlink()
        with pytest.raises(ValueError, match="pair.img is missing"):
            load_volume(header)


def test_a_header_without_place_and_sides(tmp_path):
    path = save(tmp_path / "a.nii.gz", smooth_voxels(), affine_of((1, 1, 3)), codes=(0, 0))
    with pytest.raises(ValueError, match="neither|no place and no sides .*--axcodes"):
        load_volume(path)
    volume = load_volume(path, "PIR")  # the first axis runs back, the second down
    stored = smooth_voxels()
    np.testing.assert_array_equal(volume.voxels, stored.transpose(2, 0, 1)[:, ::-1, ::-1])
    np.testing.assert_allclose(volume.affine @ [17.5, 19.5, 21.5, 1], [0, 0, 0, 1])  # the centre
    np.testing.assert_allclose(np.diag(volume.affine)[:3], (3, 1, 1))
    assert volume.space == 0 and not volumes.is_in_oasis_space(volume)
    # A header that says it is believed, and the grid of a standard brain has its place.
    assert load_volume(save(tmp_path / "b.nii", stored), "LPS").affine[0, 0] == 1
    known = save(tmp_path / "c.nii", np.ones((182, 218, 182), "uint8"), codes=(0, 0))
    np.testing.assert_array_equal(load_volume(known, "LAS").affine[:3, 3], (-90, -126, -72))


def test_values_of_all_sorts(tmp_path):
    voxels = smooth_voxels().astype("float32") - 100
    scaled = nibabel.Nifti1Image(smooth_voxels(), affine_of())
    scaled.header.set_slope_inter(0.5, -1024)
    nibabel.save(scaled, tmp_path / "ct.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "ct.nii").voxels.min(), -1024)
    holes = voxels.copy()
    holes[0, 0, :3] = np.nan, np.inf, -np.inf
    volume = load_volume(save(tmp_path / "nan.nii", holes))
    assert (volume.voxels[0, 0, :3] == voxels.min()).all() and "are no numbers" in volume.notes[0]
    volume = load_volume(save(tmp_path / "four.nii", np.stack([voxels, -voxels], 3)))
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.notes == ["of its 2 volumes the first is taken"]
    volume = Volume(smooth_voxels() - 1000, affine_of(origin=(-20, -22, -4)))
    assert abs(oasis_slices(volume).images[0, 0, 0] + 1000) < 3  # around a CT is air


def large(path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header["sform_code"] = 1
    path.write_bytes(header.binaryblock + bytes(4))


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
REFUSED = {  # what is no volume: how it is written, and words of the line
    "flat.nii": (lambda path: save(path, np.ones((9, 9), "uint8")), "it has 9 x 9 voxels"),
    "surface.nii": (lambda path: save(path, np.ones((999, 1, 1), "uint8")), "999 x 1 x 1"),
    "vectors.nii": (lambda path: save(path, np.ones((4, 4, 4, 1, 3), "uint8")), "vectors"),
    "colour.nii": (lambda path: save(path, np.zeros((4, 4, 4), RGB)), "colours"),
    "nan.nii": (lambda path: save(path, np.full((4, 4, 4), np.nan, "f4")), "none of its voxels"),
    "pial.gii": (lambda path: path.write_bytes(b""), "it is no volume"),
    "zeros.nii": (lambda path: path.write_bytes(bytes(999)), "header is none of a volume"),
    "large.nii": (large, "unpacks to more than"),
}


def test_what_is_no_volume(tmp_path):
    for name, (write, message) in REFUSED.items():
        write(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_volume(tmp_path / name)


def test_labels_are_no_images():
    image = smooth_voxels().astype("float32")
    noisy = image + np.random.default_rng(0).normal(0, 9, image.shape) * (image > 0)
    labels = np.digitize(image, (100, 250, 300, 350))
    landmarks = np.full(image.shape, 100, "int16")
    landmarks[::4, ::4, 5] = 1000
    cases = [
        (labels, "a label map"),
        (np.choose(labels, [0, 2, 3, 41, 42]), "a label map"),
        (np.choose(labels, [0, 1002, 1035, 2002, 2035]), "a label map"),
        ((labels > 0) * 255, "a mask"),
        ((labels > 2) * 1022, "a mask"),
        ((labels > 0) * 1.0, "a mask"),
        (np.clip(image / 300, 0, 1), "a probability map"),
        (np.clip(image / 300 * 255, 0, 255).astype("uint8"), "a probability map"),
        (noisy, None),
        (np.clip(noisy, 0, None) / noisy.max(), None),  # normalised to at most 1
        (np.clip(noisy / 5, 0, 255).astype("uint8"), None),
        (np.choose(labels, [0, 60, 90, 120, 200]), None),  # a phantom
        (landmarks, None),
        (np.ones((9, 9, 9)), None),
    ]
    for voxels, expected in cases:
        assert volumes.looks_like_labels(Volume(voxels, np.eye(4))) == expected
    assert "z score" in volumes.looks_like_labels(Volume(noisy, np.eye(4), intent="z score"))
