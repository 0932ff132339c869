"""Rates of files and of codecs, and the bytes at which curves reach the same quality."""

import json
import shutil

import image_codecs as codecs
import numpy as np
import pytest
import rate_distortion
from compression import Alone, Files, every_case, write_files
from shared import draw_slice

from sources.folder import open_folder
from utils import InputError

QUICK = {"speed": 6, "effort": 3}
FAST = {
    name: [
        {**each, **{key: QUICK[key] for key in each if key in QUICK}}
        for each in (options[1], options[-2])
    ]
    for name, options in codecs.CODECS.items()
}


@pytest.fixture(scope="module")
def images():
    return np.stack([draw_slice(1, 0), draw_slice(2, 3)])[:, ::2, ::2]


# ---- codecs ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # black images have no brain
@pytest.mark.parametrize("name", codecs.CODECS)
def test_better_quality_costs_more_and_black_costs_nothing(name, images):
    if name not in codecs.available():
        pytest.skip(f"{name} is optional")
    stacks = [images]  # one case
    low, high = (codecs.codec_point(options, stacks, stacks) for options in FAST[name])
    for measure in rate_distortion.LEVELS:
        assert low[measure] < high[measure]
    assert 0 < low["payload_bytes"] < high["payload_bytes"]
    assert low["payload_bytes"] < low["file_bytes"]
    black = [np.zeros_like(images)]
    assert codecs.codec_point(FAST[name][0], black, stacks)["payload_bytes"] == 0


@pytest.mark.skipif("AVIF sequences" not in codecs.available(), reason="needs a Pillow with AVIF")
def test_a_stack_is_one_file_whose_slices_are_predicted_from_each_other(images):
    options = FAST["AVIF sequences"][0]
    alike, single = np.stack(8 * [images[0]]), images[:1]
    size, restored = codecs.coded([alike], options)
    assert size < 0.6 * codecs.coded([single], options)[0]  # after the first slice all is known
    assert restored.shape == alike.shape and restored.dtype == np.uint8
    unlike = np.stack([*images, draw_slice(3, 1)[::2, ::2]])
    restored = codecs.coded([unlike], {**options, "quality": 60})[1]
    distances = np.abs(restored[:, None].astype(int) - unlike).mean((2, 3))
    assert distances.argmin(1).tolist() == [0, 1, 2]  # in their order


def test_a_codec_that_is_not_installed_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(codecs, "pillow_jxl", None)
    assert "JPEG XL" not in codecs.available() and "WebP" in codecs.available()
    assert "JPEG XL is left out: it needs pip install pillow-jxl-plugin." in capsys.readouterr().out


def test_the_threshold_restores_black(images):
    """Grey 9 rings in the background: the lowest threshold that removes it is the best one."""
    ringing = np.where(images == 0, np.uint8(9), images)
    assert codecs.best_threshold(images, ringing) == 10
    assert codecs.best_threshold(images, images) == 0
    assert np.array_equal(codecs.blackened(ringing, 10), np.where(images < 10, 0, images))


# ---- files of models ---------------------------------------------------------------------------


@pytest.mark.slow
def test_files_have_the_bytes_that_compress_writes(codec, slices_folder, tmp_path):
    """Also where a case has a gap."""
    folder = shutil.copytree(slices_folder / "keras_png_slices_test", tmp_path / "some")
    (folder / "case_005_slice_1.nii.png").unlink()
    split = open_folder(folder)
    written = write_files(codec, split, 0.2)
    with_gap = split.pick(np.flatnonzero(split.cases == 5))
    assert len(written.sizes) == 2 and written.sizes[0] == len(codec.encode(with_gap, 0.2))
    assert (np.abs(written.sizes - 15 - written.ideal) <= 4).all()
    alone = write_files(codec, Alone(**vars(split)), 0.2)
    assert alone.sizes[3] == len(codec.encode(split.pick([3]), 0.2))
    assert (alone.sizes - alone.ideal <= 8).all() and (alone.sizes > alone.ideal).all()
    assert len(every_case(split, 2)) == 3 and every_case(split, 1).paths == split.paths


def test_runs_of_two_sizes_are_refused(codec):
    class Other:
        class vqvae:
            settings = {"image_size": 64}

    with pytest.raises(InputError, match=r"sizes \[32, 64\]: name --run"):
        rate_distortion.image_size([codec, Other])


# ---- the whole benchmark -----------------------------------------------------------------------


@pytest.mark.slow
def test_all_is_measured_once_written_and_drawn(
    trained_run, slices_folder, tmp_path, monkeypatch, capsys
):
    """Further calls add curves. They measure no model again, unless the run has changed."""
    path = tmp_path / "a.json"

    def write(codec, split, rate_weight):
        """Files of ten bytes, or of eleven where each slice has its own."""
        codes = np.zeros((len(split), *codec.vqvae.grid), "int32")
        sizes = np.full(len(split), 10 + isinstance(split, Alone))
        return Files(np.arange(len(split)), codes, [], sizes, sizes - 1.0, seconds=1.0)

    monkeypatch.setattr(rate_distortion, "write_files", write)
    flags = ["--run", trained_run, "--data", slices_folder, "--rate-weights", 0, 0.5]
    flags = [*map(str, flags), "--every", "2", "--json", str(path)]

    def call(*more):
        rate_distortion.main(rate_distortion.parse([*flags, *more]))
        return json.loads(path.read_text())

    monkeypatch.setattr(codecs, "CODECS", {"JPEG": FAST["JPEG"]})
    first = call()
    (points,) = first["models"].values()
    assert first["made"]["commit"] and first["data"]["images"] == 4
    assert [point["rate_weight"] for point in points] == [0, 0.5]
    assert all(point["file_bytes"] > point["prior_bytes"] > 0 for point in points)
    (single,) = first["single"].values()
    assert all(s["file_bytes"] > p["file_bytes"] for s, p in zip(single, points))
    monkeypatch.setattr(codecs, "CODECS", {"AVIF sequences": FAST["AVIF sequences"]})
    monkeypatch.setattr(rate_distortion, "model_point", lambda *_, **__: 1 / 0)
    report = call("--figure", str(tmp_path / "a.png"))
    assert report["models"] == first["models"] and report["single"] == first["single"]
    assert list(report["codecs"]) == ["JPEG", "AVIF sequences"]
    assert list(report["at_equal"]) == ["ssim", "brain_ssim", "brain_psnr"]
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "payload bytes" in capsys.readouterr().out
    with pytest.raises(InputError, match="a.json is of other conditions.*: name another"):
        call("--split", "validate")


def test_a_curve_gets_the_points_that_it_lacks():
    """Points of something else are measured again."""
    report, asked = {"made_of": {}, "codecs": {}}, []

    def measure(options):
        asked.append(options["quality"])
        return {"options": options}

    def add(made_of, *qualities):
        asked.clear()
        settings = [{"quality": quality} for quality in qualities]
        rate_distortion.add_curve(report, None, "codecs", "c", made_of, settings, measure)
        return len(report["codecs"]["c"]), list(asked)

    assert add({"version": 1}, 1, 2) == (2, [1, 2])
    assert add({"version": 1}, 1, 2, 3) == (3, [3])
    assert add({"version": 1}, 2, 4) == (4, [4])
    assert add({"version": 2}, 1) == (1, [1])


# ---- curves ------------------------------------------------------------------------------------


def bytes_at(points, level):
    return rate_distortion.bytes_at(points, "bytes", "ssim", level)


def test_bytes_between_points_and_none_beyond():
    points = [{"ssim": 0.9, "bytes": 100}, {"ssim": 0.96, "bytes": 400}]
    assert bytes_at(points, 0.93) == pytest.approx(250)
    wasteful = {"ssim": 0.92, "bytes": 300}
    assert bytes_at([*points, wasteful], 0.92) == pytest.approx(200)  # a third of them at 400
    assert bytes_at([*points, {"ssim": 0.94, "bytes": 200}], 0.93) == pytest.approx(175)
    assert np.isnan(bytes_at(points, 0.97))
    assert bytes_at(points, 0.89) == 100  # the cheapest point reaches more
    points = [{"ssim": 0.8, "bytes": 100}, {"ssim": 0.7, "bytes": 150}, {"ssim": 0.9, "bytes": 200}]
    assert rate_distortion.frontier(points, "bytes", "ssim") == [points[0], points[2]]


MODELS = {
    "small": [{"ssim": 0.9, "file_bytes": 100}, {"ssim": 0.94, "file_bytes": 300}],
    "large": [{"ssim": 0.92, "file_bytes": 260}, {"ssim": 0.96, "file_bytes": 900}],
}
CODEC = [
    {"ssim": 0.9, "payload_bytes": 500, "file_bytes": 800},
    {"ssim": 0.95, "payload_bytes": 700, "file_bytes": 1000},
]


def test_bytes_are_compared_at_equal_quality():
    compared = rate_distortion.compare({"models": MODELS, "single": {}}, {"c": CODEC}, "ssim")
    rows = {row["ssim"]: row for row in compared}
    assert rows[0.92]["models"] == pytest.approx(200)  # the small one is the better one here
    assert rows[0.92]["payload_bytes"]["c"] == pytest.approx(580)
    assert np.isnan(rows[0.97]["models"]) and np.isnan(rows[0.96]["payload_bytes"]["c"])
    assert np.isnan(rows[0.92]["single"])
