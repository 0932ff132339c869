"""Torn, odd and colliding slices and volumes: found by the check, never by a traceback later."""

import json
import struct
import zlib

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw_slice, one_line, run_script, write_slices
from PIL import Image

from sources.folder import check_slice, open_slices
from sources.layout import split_folder
from utils import InputError


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(path, **options):
    Image.fromarray(draw_slice(1, 0)).save(path, format="PNG", **options)
    return path.read_bytes()


def insert(content, place, new):
    return content[:place] + new + content[place:]


def header(content):
    return content[8:33]


def with_pixels(content, change):
    """The same file with other bytes in its pixel stream, and right checksums."""
    packed = b"".join(body for kind, body in chunks(content) if kind == b"IDAT")
    return content[:33] + chunk(b"IDAT", change(packed)) + chunk(b"IEND", b"")


def chunks(content):
    place = 8
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        yield kind, content[place + 8 : place + 8 + length]
        place += 12 + length


def repacked(packed, kept=slice(None), more=b""):
    return zlib.compress(zlib.decompress(packed)[kept] + more)


APART = chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"")
TORN = {
    "its end is cut off": lambda c: c[:-8],
    "without an end": lambda c: c[:-12],
    "with a wrong checksum": lambda c: c[:30] + bytes([c[30] ^ 1]) + c[31:],
    "with an unknown critical part": lambda c: insert(c, 33, chunk(b"ABCD", b"x")),
    "with a second header": lambda c: insert(c, 33, header(c)),
    "with pixels apart": lambda c: insert(c, len(c) - 12, APART),
    "with too few pixels": lambda c: with_pixels(c, lambda p: repacked(p, slice(-9))),
    "with too many pixels": lambda c: with_pixels(c, lambda p: repacked(p, more=b"0" * 999)),
    "with a wrong sum of pixels": lambda c: with_pixels(c, lambda p: p[:-4] + b"abcd"),
    "without pixels": lambda c: c[:33] + chunk(b"IEND", b""),
}  # fmt: skip


@pytest.mark.parametrize("kind", TORN)
def test_a_torn_file_is_found(kind, tmp_path):
    path = tmp_path / "case_001_slice_0.nii.png"
    path.write_bytes(TORN[kind](png(path)))
    with pytest.raises(InputError, match="is no readable PNG") as error:
        check_slice(path)
    assert "\n" not in str(error.value)


def test_what_the_check_accepts_tensorflow_decodes(tmp_path):
    """Mutants of a slice: none that passes the check stops a training."""
    path, rng = tmp_path / "case_001_slice_0.nii.png", np.random.default_rng(0)
    whole, accepted = png(path, compress_level=9), 0
    for number in range(400):
        content = bytearray(whole)
        place = int(rng.integers(8, len(content)))
        if number % 4 == 0:
            del content[place:]
        elif number % 4 == 1:
            del content[place : place + int(rng.integers(1, 9))]
        elif number % 4 == 2:
            content[place] ^= 1 << int(rng.integers(8))
        else:  # damage with a right checksum, in the pixels or before them
            content = bytes(content)
            body = bytearray(b"".join(body for kind, body in chunks(content) if kind == b"IDAT"))
            body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
            content = content[:33] + chunk(b"IDAT", bytes(body)) + chunk(b"IEND", b"")
        path.write_bytes(content)
        try:
            check_slice(path)
        except InputError:
            continue
        accepted += 1
        assert tf.io.decode_png(bytes(content), channels=1).shape == (256, 256, 1)
    path.write_bytes(whole)
    assert check_slice(path)[0].startswith(path.parent.name) and accepted < 40


def interlaced(image):
    """An interlaced PNG of a grey image: seven passes, each a smaller image."""
    passes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4)]
    passes += [(0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    rows = [
        b"\0" + row.tobytes()
        for left, across, top, down in passes
        for row in image[top::down, left::across]
    ]
    body = struct.pack(">IIBBBBB", 256, 256, 8, 0, 0, 0, 1)
    packed = zlib.compress(b"".join(rows))
    parts = chunk(b"IHDR", body) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_an_interlaced_slice_is_a_slice(tmp_path):
    path = tmp_path / "case_001_slice_0.nii.png"
    path.write_bytes(interlaced(draw_slice(1, 0)))
    check_slice(path)
    decoded = tf.io.decode_png(path.read_bytes(), channels=1)[..., 0]
    np.testing.assert_array_equal(decoded, draw_slice(1, 0))


@pytest.mark.parametrize("bits", [2, 4])
def test_fewer_bits_are_not_8_bits(bits, tmp_path):
    path = tmp_path / "case_001_slice_0.nii.png"
    body = struct.pack(">IIBBBBB", 256, 256, bits, 0, 0, 0, 0)
    packed = zlib.compress(b"\1" * 256 * (1 + 256 * bits // 8))
    parts = chunk(b"IHDR", body) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.raises(InputError, match=f"256 x 256 L, {bits} bits, not 256 x 256 L"):
        check_slice(path)


def test_a_large_header_gets_one_line(tmp_path):
    data = write_slices(tmp_path / "data")
    path = split_folder(data, "train") / "case_002_slice_1.nii.png"
    body = struct.pack(">IIBBBBB", 12000, 12000, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    done = run_script("train.py", "--data", data, "--run", tmp_path / "run", process=True)
    one_line(done, "12000 x 12000 L, not 256 x 256 L")


def test_two_files_of_one_case_and_level(tmp_path):
    data = write_slices(tmp_path / "data")
    folder = split_folder(data, "train")
    (folder / "case_0002_slice_01.nii.png").write_bytes(
        (folder / "case_002_slice_1.nii.png").read_bytes()
    )
    with pytest.raises(InputError, match="are the same case and level: remove one"):
        open_slices(data)
    done = run_script("dataset.py", "check", data)
    assert done.returncode == 1 and "are the same case and level" in done.stdout


NOTES = {
    "deep": "[" * 10**5,
    "cases are a list": json.dumps({"cases": [1, 2]}),
    "settings are null": json.dumps({"cases": {}, "settings": None}),
    "a case is a number": json.dumps({"cases": {"001": 5}}),
}


@pytest.mark.parametrize("kind", NOTES)
def test_a_damaged_note_of_a_conversion(kind, tmp_path):
    data = write_slices(tmp_path / "data")
    (data / "conversion.json").write_text(NOTES[kind])
    with pytest.raises(InputError, match="remove the folder and make it again") as error:
        open_slices(data)
    assert "\n" not in str(error.value)


def test_names_from_files_are_short_and_printable(tmp_path):
    data = write_slices(tmp_path / "data")
    subject = "\x1b[31mred\ud800" + "x" * 10**6
    note = {"cases": {"001": {"subject": subject}}, "settings": {}}
    (data / "conversion.json").write_text(json.dumps(note))
    name = open_slices(data).splits["train"].subjects[0]
    assert name.startswith("?[31mred?x") and len(name) == 80


# ---- volumes -----------------------------------------------------------------------------------


def write_volume(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array([[1.0, 0, 0, -88], [0, 1, 0, -123], [0, 0, 1, -75], [0, 0, 0, 1]])
    nibabel.Nifti1Image(values.astype("float32"), affine).to_filename(path)


def test_empty_volumes_are_listed_as_unusable(tmp_path):
    volume = np.random.default_rng(0).random((176, 208, 176))
    half = volume.copy()
    half[:, :, 80:] = 0
    volumes = {"good": volume, "black": 0 * volume, "nan": np.nan * volume, "half": half}
    for name, values in volumes.items():
        write_volume(tmp_path / "in" / f"sub-{name}.nii.gz", values)
    done = run_script("dataset.py", "from-nifti", tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0 and "1 scans in" in done.stdout, done.stderr
    for name in ("black", "nan", "half"):
        assert f"sub-{name}.nii.gz in" in done.stdout
    assert done.stdout.count("of its slices are all black or no numbers") == 3
    assert len(list((tmp_path / "out").rglob("case_*.png"))) == 32


def touch_scan(folder, scan):
    stem = folder / f"{scan}_mpr_n4_anon_111_t88_gfc"
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("hdr", "img"):
        stem.with_suffix(f".{part}").write_bytes(b"0")


def test_cases_of_a_conversion_cannot_collide(tmp_path):
    for scan in ("OAS1_1001_MR1", "OAS1_0001_MR2"):
        touch_scan(tmp_path / "in" / scan, scan)
    done = run_script("dataset.py", "from-oasis1", tmp_path / "in", "--out", tmp_path / "out")
    one_line(done, "OAS1_0001_MR2 and OAS1_1001_MR1 would both become case 1001")
    assert not (tmp_path / "out").exists()


def test_a_session_0_is_no_scan(tmp_path):
    touch_scan(tmp_path / "in", "OAS1_0006_MR0")
    done = run_script("dataset.py", "from-oasis1", tmp_path / "in", "--out", tmp_path / "out")
    one_line(done, "holds no OASIS-1 volumes")
