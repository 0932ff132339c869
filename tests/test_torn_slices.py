"""Torn, odd and colliding slices and notes: refused in one line, never a traceback later."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import draw_slice, write_slices
from PIL import Image

from sources.folder import open_slices
from sources.images import read_slice
from sources.layout import split_folder
from utils import InputError


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(packed, width=256, height=256, bits=8, interlaced=0, more=b""):
    """A grey PNG with these packed pixels, and with right checksums."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced)
    parts = chunk(b"IHDR", header) + more + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


IMAGE = draw_slice(2, 1)
IMAGE[-1] = 9  # so that a row that is missing is seen
ROWS = b"".join(b"\0" + row.tobytes() for row in IMAGE)  # each begins with its filter
WHOLE = png(zlib.compress(ROWS))


def interlaced():
    """Seven passes, each a smaller image."""
    passes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4)]
    passes += [(0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    return b"".join(
        b"\0" + row.tobytes()
        for left, across, top, down in passes
        for row in IMAGE[top::down, left::across]
    )


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


GREY = Image.fromarray(IMAGE)
PIXELS_APART = WHOLE[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"") + WHOLE[-12:]

# Name: content of a file, and words of the line that refuses it.
REFUSED = {
    "its end is cut off": (WHOLE[:-8], "cannot be read"),
    "without an end": (WHOLE[:-12], "cannot be read"),
    "a wrong checksum of the header": (WHOLE[:30] + b"?" + WHOLE[31:], "cannot be read"),
    "a wrong checksum of the pixels": (WHOLE[:-13] + b"?" + WHOLE[-12:], "cannot be read"),
    "too few pixels": (png(zlib.compress(ROWS[:-9])), "cannot be read"),
    "a row too few": (png(zlib.compress(ROWS[:-257])), "it lacks pixels"),
    "one row": (png(zlib.compress(ROWS[:257])), "it lacks pixels"),
    "a row too few, interlaced": (
        png(zlib.compress(interlaced()[:-257]), interlaced=1), "it lacks pixels"),
    "a wrong sum of pixels": (png(zlib.compress(ROWS)[:-4] + b"abcd"), "cannot be read"),
    "no pixels": (WHOLE[:33] + chunk(b"IEND", b""), "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "text": (b"Dear Sir or Madam", "cannot be read"),
    "a JPEG": (b"\xff\xd8\xff\xe0 JFIF", "cannot be read"),
    "a large header": (png(zlib.compress(b""), 12000, 12000), "is 12000 x 12000 L, not 256 x"),
    "4 bits": (png(zlib.compress(bytes(256 * 129)), bits=4), "256 x 256 L, 4 bits, not 256 x"),
    "16 bits": (saved(Image.fromarray(IMAGE.astype("uint16"))), "is 256 x 256 I;16, not"),
    "colour": (saved(GREY.convert("RGB")), "is 256 x 256 RGB, not 256 x 256 L"),
    "transparent": (saved(GREY, transparency=7), "256 x 256 L, transparent, not"),
    "animated": (saved(GREY, save_all=True, append_images=[GREY.rotate(90)]), "animated, not"),
    "another size": (saved(GREY.resize((256, 128))), "is 256 x 128 L, not"),
    "all black": (png(zlib.compress(bytes(len(ROWS)))), "is all black"),
    "too long": (WHOLE + bytes(2**24), "it has"),
}  # fmt: skip
# None of these loses a pixel.
ACCEPTED = {
    "as it should be": WHOLE,
    "interlaced": png(zlib.compress(interlaced()), interlaced=1),
    "an unknown part": WHOLE[:33] + chunk(b"ABCD", b"x") + WHOLE[33:],
    "a second header": WHOLE[:33] + WHOLE[8:],
    "pixels apart": PIXELS_APART,
    "more pixels than it should have": png(zlib.compress(ROWS + b"0" * 999)),
    "garbage behind its end": WHOLE + b"garbage",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_torn_file_is_refused(kind, tmp_path):
    content, words = REFUSED[kind]
    path = tmp_path / "case_002_slice_1.nii.png"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_slice(path)
    message = str(error.value)
    assert words in message and str(path) in message and "\n" not in message


def test_whole_pixels_are_read_as_they_are(tmp_path):
    path = tmp_path / "case_002_slice_1.nii.png"
    for kind, content in ACCEPTED.items():
        path.write_bytes(content)
        np.testing.assert_array_equal(read_slice(path)[0], IMAGE, err_msg=kind)


def test_damage_with_wrong_checksums_never_changes_a_pixel(tmp_path):
    path, rng, accepted = tmp_path / "case_002_slice_1.nii.png", np.random.default_rng(0), 0
    for number in range(300):
        content, place = bytearray(WHOLE), int(rng.integers(8, len(WHOLE)))
        if number % 3 == 0:
            del content[place:]
        elif number % 3 == 1:
            del content[place : place + int(rng.integers(1, 9))]
        else:
            content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            pixels, _ = read_slice(path)
        except InputError:
            continue
        accepted += 1
        np.testing.assert_array_equal(pixels, IMAGE)
    assert accepted < 30


# ---- folders -----------------------------------------------------------------------------------


def victim(data):
    return split_folder(data, "train") / "case_002_slice_1.nii.png"


def replace_by_pipe(data):
    victim(data).unlink()
    os.mkfifo(victim(data))


def write_notes(text):
    return lambda data: (data / "conversion.json").write_text(text)


def write_colliding(data):
    (victim(data).parent / "case_0002_slice_01.nii.png").write_bytes(WHOLE)


REMEDY = "remove the folder and make it again"
FOLDERS = {
    "a pipe": (replace_by_pipe, "case_002_slice_1.nii.png is no regular file"),
    "other digits": (
        lambda d: victim(d).rename(victim(d).with_name("case_٠٠١_slice_0.nii.png")),
        "has no case and slice number",
    ),
    "two files of one place": (write_colliding, "are the same case and level: remove one"),
    "deep notes": (write_notes("[" * 10**5), REMEDY),
    "cases are a list": (write_notes(json.dumps({"cases": [1, 2]})), REMEDY),
    "settings are null": (write_notes(json.dumps({"cases": {}, "settings": None})), REMEDY),
    "a case is a number": (write_notes(json.dumps({"cases": {"001": 5}})), REMEDY),
    "a cohort without numbers": (
        lambda d: (d / "cohort.json").write_text(json.dumps({"subjects": "all", "seed": 0})),
        REMEDY,
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_spoilt_folder_is_refused(kind, tmp_path):
    spoil, words = FOLDERS[kind]
    data = write_slices(tmp_path / "data")
    spoil(data)
    with pytest.raises(InputError) as error:
        open_slices(data)
    message = str(error.value)
    assert words in message and str(tmp_path) in message and "\n" not in message


def test_names_from_files_are_short_and_printable(tmp_path):
    data = write_slices(tmp_path / "data")
    subject = "\x1b[31mred\ud800" + "x" * 10**6
    write_notes(json.dumps({"cases": {"001": {"subject": subject}}, "settings": {}}))(data)
    name = open_slices(data).splits["train"].subjects[0]
    assert name.startswith("?[31mred?x") and len(name) == 80
