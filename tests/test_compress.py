"""Files of slices: they come back bit for bit, whatever else differs; others are refused."""

import os
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image
from shared import one_line, run_script

from coding import container, entropy, slices
from networks.order import arrange
from sources.folder import open_folder
from utils import InputError


@pytest.fixture(scope="module")
def folder(slices_folder, tmp_path_factory):
    """Two cases; one lacks a level."""
    folder = tmp_path_factory.mktemp("some") / "slices"
    shutil.copytree(slices_folder / "keras_png_slices_test", folder)
    (folder / "case_005_slice_1.nii.png").unlink()
    return folder


@pytest.fixture(scope="module")
def content(codec, folder):
    return codec.encode(open_folder(folder))


def encode(run, *arguments, **options):
    return run_script("compress.py", "encode", *arguments, "--run", run, **options)


def decode(run, *arguments, **options):
    return run_script("compress.py", "decode", *arguments, "--run", run, **options)


# ---- the entropy coder -------------------------------------------------------------------------


def test_frequencies_are_whole_and_follow_the_logits():
    logits = np.random.default_rng(0).normal(0, 3, (5, 40))
    logits[:, 0] = -1e4
    counts = entropy.frequencies(np.round(logits * entropy.STEPS).astype("int32"))
    assert (counts == np.round(counts)).all() and counts.min() >= 1
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(counts / counts.sum(-1, keepdims=True), expected, 0.04, 1e-5)


def test_a_file_is_as_long_as_the_prior_says(codec, folder, content):
    split = open_folder(folder)
    _, _, stacks, streams, _ = container.unpack(content, "file", 9)
    assert stacks == [(5, (0, 2, 3)), (6, (0, 1, 2, 3))]
    _, codes, _ = codec.decode(content, "file")
    order = arrange(split.cases, split.levels, codec.prior.settings["neighbours"])
    bits = codec.prior.bits(codes, split.levels, order).numpy().sum((1, 2))
    ideal = [bits[split.cases == case].sum() / 8 for case, _ in stacks]
    for stream, least in zip(streams, ideal, strict=True):
        assert least - 1 <= len(stream) <= least + 1.1
    assert len(content) - sum(map(len, streams)) == 10 + 5 * len(stacks) + 2


def test_a_single_slice_has_a_short_head(codec, folder, tmp_path):
    shutil.copy(folder / "case_005_slice_3.nii.png", tmp_path)
    split = open_folder(tmp_path)
    content = codec.encode(split)
    _, codes, _ = codec.decode(content, "file")
    bits = codec.prior.bits(codes, split.levels).numpy().sum()
    assert bits / 8 + 6 <= len(content) <= bits / 8 + 8
    with pytest.raises(InputError, match="does not give back"):
        codec.decode(content[:-2], "file")
    assert container.unpack(content, "file", 4)[2] == [(5, (3,))]


# ---- what must not matter ----------------------------------------------------------------------


def test_neither_batches_nor_other_stacks_matter(codec, folder, content, monkeypatch):
    """The bytes of a stack are the same whatever else is in the file."""
    split = open_folder(folder)
    monkeypatch.setattr(slices, "STACKED", 3)
    monkeypatch.setattr(slices, "AT_ONCE", 2)
    assert codec.encode(split) == content
    for number, case in enumerate((5, 6)):
        one = codec.encode(split.pick(np.flatnonzero(split.cases == case)))
        streams = container.unpack(one, "file", 9)[3]
        assert streams == [container.unpack(content, "file", 9)[3][number]]


@pytest.mark.slow
def test_threads_and_history_do_not_matter(trained_run, folder, content, tmp_path):
    """New processes, which have made no other models, and this one write and read the same."""
    names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
    environment = {**os.environ, **dict.fromkeys(names, "4")}  # the tests have one
    done = encode(trained_run, folder, tmp_path / "a.bvq", env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.bvq").read_bytes() == content
    (tmp_path / "b.bvq").write_bytes(content)
    done = decode(trained_run, tmp_path / "b.bvq", tmp_path / "there", env=environment)
    assert done.returncode == 0, done.stderr
    assert decode(trained_run, tmp_path / "b.bvq", tmp_path / "here").returncode == 0
    for path in (tmp_path / "there").iterdir():
        assert path.read_bytes() == (tmp_path / "here" / path.name).read_bytes()


# ---- the script --------------------------------------------------------------------------------


def test_slices_come_back_as_predict_restores_them(run_copy, slices_folder, tmp_path):
    test = slices_folder / "keras_png_slices_test"
    done = encode(run_copy, test, tmp_path / "test.bvq")
    assert done.returncode == 0, done.stderr
    assert "8 slices in" in done.stdout and "decoded again" in done.stdout
    assert decode(run_copy, tmp_path / "test.bvq", tmp_path / "out").returncode == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == sorted(path.name for path in test.iterdir())
    flags = "--write-reconstructions", "--samples", 0, "--brains", 0
    done = run_script("predict.py", "--run", run_copy, "--data", slices_folder, *flags)
    assert done.returncode == 0, done.stderr
    for name in names:
        theirs = run_copy / "predict" / "reconstructions" / name
        assert np.array_equal(Image.open(tmp_path / "out" / name), Image.open(theirs))
    again = encode(run_copy, theirs.parent, tmp_path / "again.bvq")  # what was written is read back
    assert "8 slices in" in again.stdout


def test_a_volume_is_cut_into_slices(trained_run, tmp_path):
    """The models of the test know four levels, and a volume holds 32."""
    volume = np.random.default_rng(0).integers(1, 255, (176, 208, 176)).astype("uint8")
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii.gz")
    done = encode(trained_run, tmp_path / "scan.nii.gz", tmp_path / "out.bvq")
    one_line(done, "slices up to number 31")
    (tmp_path / "bad.nii").write_bytes(b"no volume")
    one_line(encode(trained_run, tmp_path / "bad.nii", tmp_path / "out.bvq"), "cannot be read")
    one_line(encode(trained_run, tmp_path / "no.nii", tmp_path / "out.bvq"), "no.nii")


def test_bad_arguments(trained_run, folder, content, tmp_path):
    (tmp_path / "good.bvq").write_bytes(content)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    done = decode(trained_run, tmp_path / "good.bvq", tmp_path / "full")
    one_line(done, "full is not empty: name a new folder")
    one_line(decode(trained_run, tmp_path / "no.bvq", tmp_path / "out"), "no.bvq is not there")
    odd = tmp_path / "odd"
    shutil.copytree(folder, odd)
    (odd / "case_005_slice_0.nii.png").rename(odd / "case_5_slice_0.nii.png")
    done = encode(trained_run, odd, tmp_path / "odd.bvq")
    one_line(done, "would come back as case_005_slice_0.nii.png: rename it")
    assert not (tmp_path / "odd.bvq").exists() and not (tmp_path / "out").exists()


# ---- files of strangers ------------------------------------------------------------------------


def test_other_models_and_other_arithmetic_are_refused(codec, content):
    other = container.digest("other", "models")
    changed = content[:1] + other + content[5:]
    with pytest.raises(InputError, match="written with other models"):
        codec.decode(changed, "file")
    weights = codec.prior.get_weights()
    try:
        codec.prior.set_weights([weight * 1.01 for weight in weights])
        with pytest.raises(InputError, match="this machine computes otherwise"):
            codec.decode(content, "file")
    finally:
        codec.prior.set_weights(weights)


def test_what_is_cut_or_longer_is_refused(content):
    for length in range(len(content)):
        with pytest.raises(InputError, match="copy it again|is no .bvq"):
            container.unpack(content[:length], "file", 9)
    with pytest.raises(InputError, match="copy it again"):
        container.unpack(content + b"\0", "file", 9)
    with pytest.raises(InputError, match="no .bvq file that this program knows"):
        container.unpack(b"\xb3" + content[1:], "file", 9)  # another version
    with pytest.raises(InputError, match="written by version 1 in CHANGELOG.md: decode it with"):
        container.unpack(b"\xb1" + content[1:], "file", 9)


def test_altered_codes_are_refused(codec, content):
    for place in (7, len(content) - 20):
        altered = bytearray(content)
        altered[place] ^= 0x10
        with pytest.raises(InputError, match="does not give back"):
            codec.decode(bytes(altered), "file")


def pack(*stacks, streams=None):
    streams = streams or [b"abc"] * len(stacks)
    parts = [container.Stack(case, tuple(levels)) for case, levels in stacks]
    return container.pack(b"1234", b"5678", parts, streams, 9)


WHOLE = pack((1, range(2)))
HEAD = WHOLE[:9]
assert WHOLE[9:] == b"\1\1\0\2\0\3abc"  # a stack: case, first level, two slices, none missing
BAD_NUMBERS = {
    "no stack": pack(),
    "an empty stack": HEAD + b"\1\1\0\0\3abc",
    "an unknown level": pack((1, (9, 10))),
    "a stack beyond the levels": pack((1, (8, 9))),
    "a gap beyond the levels": HEAD + b"\1\1\0\2\7\1\0\3abc",
    "no slice after a gap": HEAD + b"\1\1\0\2\1\0\3abc",
    "one case twice": pack((1, (0, 1)), (1, (3,))),
    "stacks in disorder": pack((2, (0,)), (1, (0,))),
    "a giant case": pack((10**9, (0,))),
    "a giant case of a stack": pack((10**9, (0, 1))),
    "a giant number": HEAD + b"\xff" * 9 + b"\x01",
    "an endless number": HEAD + b"\xff" * 30,
    "too many stacks": HEAD + b"\xff\xff\x03" + b"\x01" * 40,
    "too many slices": pack(*((case, range(9)) for case in range(container.MAX_SLICES // 9 + 1))),
}


@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_numbers_that_make_no_sense_are_refused(kind):
    with pytest.raises(InputError, match="cannot be read .* copy it again"):
        container.unpack(BAD_NUMBERS[kind], "file", 9)


def test_packed_places_come_back():
    stacks = [(1, (0, 1, 2, 4, 8)), (2, (7,)), (300, (2, 5)), (10**9 - 1, (*range(9),))]
    streams = [b"", b"a" * 300, b"\0", b"xyz"]
    packed = pack(*stacks, streams=streams)
    models, check, back, contents, given = container.unpack(packed, "file", 9)
    assert not given
    assert (models, check, contents) == (b"1234", b"5678", streams) and back == stacks
    split = container.split_of(back)
    assert container.stacks_of(split) == back
    assert split.paths[-1] == "case_999999999_slice_8.nii.png"
