"""The benchmark of files: what it counts, and that it finds codes that do not come back."""

import compression
import pytest

from coding.slices import Codec
from utils import read_json


@pytest.mark.slow
def test_files_are_measured_by_case_and_alone(
    trained_run, slices_folder, tmp_path, monkeypatch, capsys
):
    read = Codec.read_streams

    def spoilt(codec, split, numbers, streams):
        codes = read(codec, split, numbers, streams)
        codes[3, 0, 0] ^= len(streams) == len(split)  # one code of the single slices
        return codes

    monkeypatch.setattr(Codec, "read_streams", spoilt)
    flags = ["--run", trained_run, "--data", slices_folder, "--json", tmp_path / "a.json"]
    compression.main(compression.parse(list(map(str, flags))))
    report = read_json(tmp_path / "a.json", ("made",))
    assert "round trips 8" in capsys.readouterr().out
    cases, alone = report["cases"], report["alone"]
    assert (cases["files"], cases["slices"], cases["round_trips"]) == (2, 8, 8)
    assert (alone["files"], alone["round_trips"]) == (8, 7)
    # The head has 15 or 16 bytes; a stream is at most a byte longer or shorter than ideal.
    assert 14 < cases["bytes_above_ideal"] <= cases["most_bytes_above_ideal"] < 17
    assert 6 < alone["bytes_above_ideal"] <= alone["most_bytes_above_ideal"] <= 8
    for row in (cases, alone):
        above = (row["file_bytes_a_slice"] - row["ideal_bytes_a_slice"]) * row["slices"]
        assert above == pytest.approx(row["bytes_above_ideal"] * row["files"])
        assert row["encoding_seconds_a_slice"] > 0 and row["decoding_seconds_a_slice"] > 0
    assert alone["ideal_bytes_a_slice"] > cases["ideal_bytes_a_slice"] - 1
