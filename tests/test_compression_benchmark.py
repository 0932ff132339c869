"""The benchmark of files: what it counts, and that it finds bytes that differ."""

import compression
import numpy as np
import pytest
from rates.files import Alone

from coding import slices
from fitting.run_directory import RunDirectory
from sources.folder import open_folder
from utils import read_json


@pytest.fixture(scope="module")
def codec(trained_run):
    return slices.Codec(RunDirectory(trained_run))


@pytest.fixture
def split(slices_folder):
    return open_folder(slices_folder / "keras_png_slices_test")


def test_files_are_measured_by_case_and_alone(codec, split):
    cases = compression.measure(codec, split, None)
    assert (cases["files"], cases["slices"], cases["round_trips"]) == (2, 8, 8)
    assert 13 < cases["bytes_above_ideal"] <= cases["most_bytes_above_ideal"] < 16
    alone = compression.measure(codec, Alone(**vars(split)), None)
    assert (alone["files"], alone["round_trips"]) == (8, 8)
    assert 6 < alone["bytes_above_ideal"] <= alone["most_bytes_above_ideal"] <= 8
    for row in (cases, alone):
        above = (row["file_bytes_a_slice"] - row["ideal_bytes_a_slice"]) * row["slices"]
        assert above == pytest.approx(row["bytes_above_ideal"] * row["files"])
        assert row["encoding_seconds_a_slice"] > 0 and row["decoding_seconds_a_slice"] > 0
    assert alone["ideal_bytes_a_slice"] > cases["ideal_bytes_a_slice"] - 1


def test_codes_that_do_not_come_back_are_counted(codec, split, monkeypatch):
    read = codec.read_streams

    def spoilt(*given):
        codes = read(*given)
        codes[3, 0, 0] ^= 1
        return codes

    monkeypatch.setattr(codec, "read_streams", spoilt)
    assert compression.measure(codec, split, None)["round_trips"] == 7


@pytest.mark.slow
def test_all_is_measured_and_written(trained_run, slices_folder, tmp_path, capsys):
    flags = ["--run", trained_run, "--data", slices_folder, "--json", tmp_path / "a.json"]
    compression.main(compression.parse([*map(str, flags), "--rate-weight", "0"]))
    report = read_json(tmp_path / "a.json", ("made", "cases", "alone"))
    assert report["same_with_batch_1"] is True and report["same_with_one_thread"] is True
    assert report["sampler_seconds_a_slice"] > 0 and slices.BATCH == 16
    assert np.isfinite(report["cases"]["share_above_ideal"])
    assert "8 of 8 slices come back" in capsys.readouterr().out
