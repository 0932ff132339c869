"""Image files of any kind: what is read, and what is refused."""

import gzip
import io
import os
import struct
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image

from sources import pictures
from sources.pictures import open_pictures
from utils import InputError

RAMP = np.arange(24 * 40).reshape(24, 40)  # taller than no row is wide: turned images show
GREY = (RAMP % 256).astype("uint8")
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY])


def encode(image, form, **options):
    """Bytes of an image file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def nifti(array, kind=nibabel.Nifti1Image, slope=None):
    image = kind(array, np.eye(4))
    image.header.set_slope_inter(slope or 1, 0 if slope is None else -5)
    return image.to_bytes()


def of_size(side):
    """A bitmap that declares another size than it has."""
    content = encode(GREY, "BMP")
    return content[:18] + struct.pack("<ii", side, side) + content[26:]


def luminance(rgb):
    return np.asarray(Image.fromarray(rgb).convert("L"))


TURNED = Image.Exif()
TURNED[0x0112] = 6
HALF = np.where(RAMP < 480, 255, 0).astype("uint8")
PALETTE = Image.fromarray(COLOUR).quantize(16, dither=Image.Dither.NONE)
CMYK = Image.fromarray(COLOUR).convert("CMYK")
DEEP = (RAMP * 60).astype("uint16")
FLOAT = (RAMP / 100 - 3).astype("float32")
# name -> bytes, mode, grey values, tolerance
READ = {
    "grey.png": (encode(GREY, "PNG"), "8-bit grey", GREY, 0),
    "UPPER.JPG": (encode(COLOUR[:, :, :1].repeat(3, 2), "JPEG", quality=98), "RGB", GREY, 12),
    "colour.bmp": (encode(COLOUR, "BMP"), "RGB", luminance(COLOUR), 0),
    "cmyk.tif": (encode(CMYK, "TIFF"), "CMYK", np.asarray(CMYK.convert("L")), 0),
    "palette.png": (encode(PALETTE, "PNG"), "palette", np.asarray(PALETTE.convert("L")), 0),
    "bits.png": (encode(Image.fromarray(HALF).convert("1"), "PNG"), "1-bit", HALF, 0),
    "alpha.png": (encode(np.dstack([COLOUR, HALF]), "PNG"), "RGBA", luminance(COLOUR) & HALF, 0),
    "deep.png": (encode(DEEP, "PNG"), "16-bit grey", DEEP, 0),
    "deep.TIFF": (encode(DEEP, "TIFF", compression="tiff_lzw"), "16-bit grey", DEEP, 0),
    "float.tif": (encode(FLOAT, "TIFF"), "float grey", FLOAT, 0),
    "signed.tif": (encode(RAMP.astype("int32") - 500, "TIFF"), "integer grey", RAMP - 500, 0),
    "turned.jpg": (encode(HALF, "JPEG", exif=TURNED), "8-bit grey", np.rot90(HALF, -1), 12),
    "turned.png": (encode(GREY, "PNG", exif=TURNED), "8-bit grey", np.rot90(GREY, -1), 0),
    "turned.tif": (encode(GREY, "TIFF", exif=TURNED), "8-bit grey", np.rot90(GREY, -1), 0),
    "a.nii": (nifti(DEEP.astype("int16")), "NIfTI", DEEP.astype("int16"), 0),
    "b.nii/b.nii": (nifti(FLOAT[:, :, None]), "NIfTI", FLOAT, 0),
    "B.NII.GZ": (gzip.compress(nifti(GREY, slope=0.5)), "NIfTI", GREY * 0.5 - 5, 0),
    "two.nii": (nifti(FLOAT[None], nibabel.Nifti2Image), "NIfTI", FLOAT, 0),
}  # fmt: skip


def pack(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, (content, *_) in READ.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    # Some programs of Windows write backslashes.
    contents = {name.replace("/", "\\"): content for name, (content, *_) in READ.items()}
    pack(folder.with_suffix(".zip"), contents)
    return folder


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_reads_every_kind_from_folders_and_archives(folder, suffix):
    source = open_pictures(folder.with_suffix(suffix))
    assert source.paths == sorted(READ)
    for name, (_, mode, values, tolerance) in READ.items():
        pixels = source.read(name)
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, values, atol=tolerance or 1e-4, err_msg=name)
        assert source.size(name) == (*values.shape, mode), name
        assert not source.is_dicom(name)


def test_what_is_no_number_takes_the_least_or_the_greatest_value(tmp_path):
    values = FLOAT.copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    (tmp_path / "a.tif").write_bytes(encode(values, "TIFF"))
    pixels = open_pictures(tmp_path).read("a.tif")
    assert pixels[0, :3].tolist() == [values[0, 3], FLOAT.max(), values[0, 3]]


DICOM = bytes(128) + b"DICM" + bytes(100)
PAGES = {"save_all": True, "append_images": [Image.fromarray(HALF)]}
# name -> bytes, words of the line
REFUSED = {
    "empty.png": (b"", "is empty"),
    "empty.nii.gz": (b"", "is empty"),
    "text.jpg": (b"<html>not found</html>" * 20, "no PNG, JPEG, TIFF, BMP or NIfTI"),
    "text.nii": (b"not found" * 99, "no NIfTI"),
    "a.gif": (encode(GREY, "GIF"), "no PNG, JPEG"),
    "IM_0001": (DICOM, "no PNG"),
    "cut.png": (encode(GREY, "PNG")[:-40], "cannot be read"),
    "cut.jpg": (encode(GREY, "JPEG")[:-20], "truncated"),
    "cut.tif": (encode(GREY, "TIFF")[:500], "cannot be read"),
    "cut.bmp": (encode(GREY, "BMP")[:-100], "truncated"),
    "cut.nii": (nifti(GREY)[:-10], "cannot be read"),
    "cut.nii.gz": (gzip.compress(nifti(GREY))[:-20], "cannot be read"),
    "checksum.png": (encode(GREY, "PNG")[:-17] + b"0" + encode(GREY, "PNG")[-16:], "broken PNG"),
    "huge.bmp": (of_size(9000), "declares 9000 x 9000"),
    "bomb.bmp": (of_size(2**30), "exceeds limit"),
    "animated.png": (encode(GREY, "PNG", **PAGES), "2 pages or frames"),
    "pages.tif": (encode(GREY, "TIFF", **PAGES), "2 pages or frames"),
    "volume.nii": (nifti(np.zeros((8, 9, 3), "uint8")), "8 x 9 x 3 voxels.*from-nifti"),
    "complex.nii": (nifti(np.zeros((8, 9), "complex64")), "complex64"),
    "nan.nii": (nifti(np.full((8, 9), np.nan, "float32")), "no numbers"),
    "huge.nii": (nifti(GREY).replace(b"\2\0\x18\0\x28\0", b"\2\0\xff\x7f\xff\x7f"), "declares"),
    "bomb.nii.gz": (gzip.compress(bytes(2**21)), "no NIfTI"),
}  # fmt: skip


def test_refuses_in_one_line_what_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 2**20)
    for name, (content, _) in REFUSED.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "large.tif").write_bytes(bytes(2**20 + 1))
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "nothing.png", tmp_path / "link.png")
    refused = {name: words for name, (_, words) in REFUSED.items()}
    refused |= {"pipe.png": "no regular file", "link.png": "not there", "large.tif": "bytes"}
    contents = {name: content for name, (content, _) in REFUSED.items()}
    pack(tmp_path / "all.zip", contents | {"large.tif": bytes(2**20 + 1)})
    source, archive = open_pictures(tmp_path), open_pictures(tmp_path / "all.zip")
    assert source.is_dicom("IM_0001") and archive.is_dicom("IM_0001")
    for name, words in refused.items():
        for place in (source, archive) if name in archive.paths else (source,):
            with pytest.raises(InputError, match=words) as caught:
                place.read(name)
            assert name in str(caught.value) and "\n" not in str(caught.value)
    for name in ("huge.bmp", "bomb.bmp", "animated.png", "volume.nii", "huge.nii", "text.jpg"):
        with pytest.raises(InputError, match=refused[name]):
            source.size(name)


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir(), inside.mkdir()
    (outside / "a.png").write_bytes(encode(GREY, "PNG"))
    (inside / "b.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (outside / "circle").symlink_to(inside)
    source = open_pictures(inside)
    assert source.paths == ["b.png", "folder/a.png"]
    np.testing.assert_array_equal(source.read("folder/a.png"), GREY)


def test_a_medmnist_file_goes_in_like_a_folder(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for split, count in {"train": 5, "val": 2, "test": 3}.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 3), "uint8")
        arrays[f"{split}_labels"] = np.arange(count, dtype="uint8")[:, None] % 2
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    source = open_pictures(tmp_path / "a.npz")
    assert len(source.paths) == 10 and not source.notes
    assert source.paths[-1] == "val/class_1/image (1).bmp"
    pixels = source.read("train/class_1/image (3).bmp")
    np.testing.assert_array_equal(pixels, luminance(arrays["train_images"][3]))
    assert source.size("test/class_0/image (2).bmp") == (28, 28, "RGB")
    several = {name: array.repeat(14, 1) for name, array in arrays.items() if "labels" in name}
    np.savez(tmp_path / "b.npz", **arrays | several)
    source = open_pictures(tmp_path / "b.npz")
    assert source.paths[0] == "test/image (0).bmp" and "14 labels" in source.notes[0]


def test_refuses_sources_that_cannot_be_opened(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "notes.txt").write_text("no source")
    np.savez(tmp_path / "other.npz", x=GREY)
    flat = np.zeros((2, 8), "uint8")
    three = {f"{s}_{k}": flat for s in ("train", "val", "test") for k in ("images", "labels")}
    np.savez(tmp_path / "flat.npz", **three)
    pack(tmp_path / "escape.zip", {"../a.png": b""})
    pack(tmp_path / "absolute.zip", {"/etc/a.png": b""})
    for name, words in {
        "nothing": "is not there",
        "notes.txt": "is none",
        "text.zip": "cannot be read",
        "other.npz": "no MedMNIST file, train_images.npy is missing",
        "flat.npz": r"train_images are uint8 \(2, 8\)",
        "escape.zip": "leads out of it",
        "absolute.zip": "leads out of it",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            open_pictures(tmp_path / name)
        assert name in str(caught.value)
