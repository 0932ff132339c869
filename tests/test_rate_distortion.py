"""Rates of files and of codecs, and the bytes at which curves reach the same quality."""

import contextlib
import functools
import json
import os
import shutil
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rate_distortion
from conftest import draw_slice
from contenders import recorded, remote
from rates import codecs, comparison, learned
from rates.files import Alone, every_case, write_files
from skimage.metrics import peak_signal_noise_ratio

from coding import slices
from evaluation import curves
from evaluation.metrics import mean_ssim, quality
from fitting.run_directory import RunDirectory
from sources.folder import open_folder
from utils import InputError

FAST = {
    name: [{**each, "speed": 6} if "speed" in each else each for each in (options[1], options[-2])]
    for name, options in codecs.CODECS.items()
}


@pytest.fixture(scope="module")
def codec(trained_run):
    return slices.Codec(RunDirectory(trained_run))


@pytest.fixture(scope="module")
def images():
    return np.stack([draw_slice(1, 0), draw_slice(2, 3)])


@pytest.fixture(scope="module")
def stack(images):
    """Two slices of one case."""
    return codecs.Slices(images, np.array([1, 1]))


# ---- codecs ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # black images have no brain
@pytest.mark.parametrize("name", codecs.CODECS)
def test_better_quality_costs_more_and_black_costs_nothing(name, stack, monkeypatch):
    if name not in codecs.available():
        pytest.skip(f"{name} is optional")
    monkeypatch.setitem(codecs.CODECS, name, FAST[name])
    low, high = codecs.codec_points(name, stack, stack, FAST[name])
    for measure in comparison.LEVELS:
        assert low[measure] < high[measure]
    assert 0 < low["payload_bytes"] < high["payload_bytes"]
    assert low["payload_bytes"] < low["file_bytes"]
    assert next(codecs.codec_points(name, stack.black, stack, FAST[name]))["payload_bytes"] == 0


@pytest.mark.skipif("AVIF sequences" not in codecs.available(), reason="needs a Pillow with AVIF")
def test_a_stack_is_one_file_whose_slices_are_predicted_from_each_other():
    slices = codecs.Slices(np.stack(9 * [draw_slice(1, 0)]), np.array([*8 * [1], 2]))
    assert [len(stack) for stack in slices.stacks()] == [8, 1]
    options = {**codecs.CODECS["AVIF sequences"][1], "speed": 6}
    sizes, restored = codecs.coded(slices, options)
    assert sizes[0] == sizes[7] < 0.6 * sizes[8]  # after the first slice all is known
    assert restored.shape == slices.images.shape and restored.dtype == np.uint8
    assert np.abs(restored.astype(int) - slices.images).mean() < 5
    single, _ = codecs.coded(slices, {**options, "save_all": False})
    assert len(set(single)) == 1
    unlike = np.stack([draw_slice(1, 0), draw_slice(2, 3), draw_slice(3, 1)])
    restored = codecs.coded(codecs.Slices(unlike, np.zeros(3)), {**options, "quality": 60})[1]
    distances = np.abs(restored[:, None].astype(int) - unlike).mean((2, 3))
    assert distances.argmin(1).tolist() == [0, 1, 2]  # in their order


def test_codecs_have_their_slowest_settings():
    for name in ("AVIF", "AVIF sequences"):
        assert all(options["speed"] == 0 for options in codecs.CODECS[name])
    assert all(options["save_all"] for options in codecs.CODECS["AVIF sequences"])
    assert all(options["method"] == 6 for options in codecs.CODECS["WebP"])
    assert all(options["effort"] == 9 for options in codecs.CODECS["JPEG XL"])
    assert all(options["irreversible"] for options in codecs.CODECS["JPEG 2000"])
    assert all(options["optimize"] for options in codecs.CODECS["JPEG"])


def test_a_codec_that_is_not_installed_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(codecs, "pillow_jxl", None)
    assert "JPEG XL" not in codecs.available() and "WebP" in codecs.available()
    assert "JPEG XL is left out: it needs pip install pillow-jxl-plugin." in capsys.readouterr().out


def test_the_threshold_restores_black_and_helps_others_too(images, stack):
    """Grey 9 rings in the background: the lowest threshold that removes it is the best one."""
    ringing = np.where(images == 0, np.uint8(9), images)
    assert codecs.best_threshold(images, ringing) == 10
    assert codecs.best_threshold(images, images) == 0
    assert np.array_equal(codecs.blackened(ringing, 10), np.where(images < 10, 0, images))
    code = functools.partial(codecs.coded, options=codecs.CODECS["WebP"][1])
    others = codecs.Slices(draw_slice(3, 1)[None], np.array([3]))
    plain = code(stack)[1]
    point = codecs.point(code, stack, others)
    assert point["threshold"] > 0 and point["ssim"] > mean_ssim(images, plain) + 0.01


def test_quality_is_of_8_bit_images_and_of_the_brain(images):
    restored = np.clip(images.astype(int) + 10, 0, 255).astype("uint8")
    point = quality(images, restored)
    assert point["ssim"] == pytest.approx(mean_ssim(images, restored), abs=1e-6)
    expected = [
        peak_signal_noise_ratio(image[image > 0], other[image > 0], data_range=255)
        for image, other in zip(images, restored)
    ]
    assert point["brain_psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert point["brain_ssim"] > point["ssim"]


class Exact:
    """Stands for a learned codec. It is exact, and an image takes a byte a row."""

    def __init__(self, calls, module, python, images, folder):
        self.calls = calls
        calls.append(images.shape)

    def train(self, weight, minutes):
        self.calls.append((weight, minutes))
        return {"weight": weight}

    def code(self, images):
        return np.full(len(images), images.shape[1]), images

    def close(self):
        self.calls.append("closed")


def test_the_learned_codec_sees_a_window_and_the_rest_is_black(stack, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(learned, "Remote", functools.partial(Exact, calls))
    rival = learned.Learned("python", tmp_path, stack.images, (56, 40, 200, 216))
    points = list(rival.points(12, stack, stack))
    minutes = [6, 2, 2, 2]
    assert calls == [(2, 192, 192), *zip(learned.WEIGHTS, minutes), "closed"]
    assert [point["options"]["weight"] for point in points] == list(learned.WEIGHTS)
    assert points[0]["file_bytes"] == points[0]["payload_bytes"] == 192
    restored = rival.code(stack._replace(images=np.ones_like(stack.images)))[1]
    assert restored[:, 32:224, 32:224].all() and restored.sum() == 2 * 192 * 192
    assert learned.window(0, 100, 160) == slice(0, 128)
    with pytest.raises(InputError, match="slices of 192 pixels a side. Received: 160"):
        learned.window(10, 150, 160)


def test_a_learned_codec_that_is_not_there_is_said_at_once(images, tmp_path):
    with pytest.raises(InputError, match="requirements-codec.txt in an environment of its own"):
        learned.Learned("no-such-python", tmp_path, images, (56, 40, 200, 216))


def test_a_learned_codec_is_found_from_the_folder_of_the_user(monkeypatch):
    started = []

    def popen(command, **_):
        started.append(command[0])
        raise OSError

    monkeypatch.setattr(remote.subprocess, "Popen", popen)
    for python in (".venv/bin/python", "python"):
        with pytest.raises(OSError):
            remote.Remote("rates.hyperprior", python)
    assert started == [os.path.abspath(".venv/bin/python"), "python"]


@pytest.mark.slow
@pytest.mark.skipif("CODEC_PYTHON" not in os.environ, reason="CompressAI is optional")
def test_the_learned_codec_learns_and_keeps_its_weights(tmp_path):
    """CODEC_PYTHON names the Python of an environment with requirements-codec.txt."""
    training = np.stack([draw_slice(case, 0) for case in range(8)])
    pair = codecs.Slices(training[:2], np.array([0, 1]))
    made = os.environ["CODEC_PYTHON"], tmp_path, training, (64, 64, 128, 128)
    sizes, rival = [], learned.Learned(*made)
    for weight in (4.0, 0.25):
        about = rival.model.train(weight, 0.1)
        assert about["steps"] > 2 and np.isfinite(about["loss"])
        sizes.append(rival.code(pair)[0])
    rival.model.close()
    again = learned.Learned(*made)
    begin = time.perf_counter()
    for weight, known in zip((4.0, 0.25), sizes):
        again.model.train(weight, 0.1)
        np.testing.assert_array_equal(again.code(pair)[0], known)
    assert time.perf_counter() - begin < 6  # nothing was trained again
    again.model.close()


# ---- files of models ---------------------------------------------------------------------------


def test_files_have_the_bytes_that_compress_writes(codec, slices_folder, tmp_path):
    """Also where a case has a gap, and so two streams."""
    folder = shutil.copytree(slices_folder / "keras_png_slices_test", tmp_path / "some")
    (folder / "case_005_slice_1.nii.png").unlink()
    split = open_folder(folder)
    written = write_files(codec, split, 0.2)
    cases = [split.pick(np.flatnonzero(split.cases == case)) for case in (5, 6)]
    assert written.sizes.tolist() == [len(codec.encode(case, 0.2)) for case in cases]
    assert (np.abs(written.sizes - 14 - written.ideal) <= 8).all()
    alone = write_files(codec, Alone(**vars(split)), 0.2)
    assert alone.sizes[3] == len(codec.encode(split.pick([3]), 0.2))
    assert (alone.sizes - alone.ideal <= 8).all() and (alone.sizes > alone.ideal).all()
    assert len(every_case(split, 2)) == 3 and every_case(split, 1).paths == split.paths


def test_a_run_of_single_slices_is_measured(codec, slices_folder, monkeypatch):
    """Older runs have priors that read no slice below."""
    from conftest import make_prior

    from networks.layers import exact

    monkeypatch.setattr(codec, "prior", exact(make_prior(grid=4, reads_below=False, blocks=2)))
    split = open_folder(slices_folder / "keras_png_slices_test")
    images = rate_distortion.load_images(split, 32)
    point = rate_distortion.model_point(codec, split, images, 0.0)
    assert 0 < point["file_bytes"] - point["prior_bytes"] < 6
    assert point["index_bytes"] == 8


def test_runs_of_two_sizes_are_refused(codec, slices_folder):
    class Other:
        class vqvae:
            settings = {"image_size": 64}

    split = open_folder(slices_folder / "keras_png_slices_test")
    with pytest.raises(InputError, match=r"sizes \[32, 64\]: name --run"):
        rate_distortion.codec_slices([codec, Other], split, split)


# ---- the whole benchmark -----------------------------------------------------------------------


def test_all_is_measured_written_and_drawn(
    trained_run, slices_folder, tmp_path, monkeypatch, capsys
):
    fast = {"AVIF sequences": FAST["AVIF sequences"], "JPEG": FAST["JPEG"]}
    monkeypatch.setattr(codecs, "CODECS", fast)
    panels = []
    draw = curves.rate_distortion
    monkeypatch.setattr(
        curves, "rate_distortion", lambda *given: panels.append(given[1]) or draw(*given)
    )
    flags = ["--run", trained_run, "--data", slices_folder, "--rate-weights", 0, 0.5]
    flags += ["--every", 2, "--json", tmp_path / "a.json", "--figure", tmp_path / "a.png"]
    flags += ["--learned", tmp_path, "--learned-minutes", 6]
    monkeypatch.setattr(learned, "MULTIPLE", 8)
    monkeypatch.setattr(learned, "Remote", functools.partial(Exact, []))
    rate_distortion.main(rate_distortion.parse(list(map(str, flags))))
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["made"]["commit"] and report["data"]["images"] == 4
    ((name, points),) = report["models"].items()
    assert [point["rate_weight"] for point in points] == [0, 0.5]
    assert all(point["file_bytes"] > point["prior_bytes"] > 0 for point in points)
    files = [(trained_run / f"{stage}.keras").stat().st_size for stage in ("vqvae", "prior")]
    assert report["weight_bytes"] == {name: sum(files)}
    (single,) = report["single"].values()
    assert all(s["file_bytes"] > p["file_bytes"] for s, p in zip(single, points))
    assert set(report["codecs"]) == set(fast)
    assert all(report["made_of"][name]["version"] for name in fast)
    learnt = report["learned"]["hyperprior"]
    assert [point["options"]["weight"] for point in learnt] == list(learned.WEIGHTS)
    assert all("threshold" in point for point in report["codecs"]["JPEG"])
    assert list(report["at_equal"]) == ["ssim", "brain_ssim", "brain_psnr"] == list(panels[0])
    paid = {kind: set(rows[0][name]) for kind, rows in report["paid_after"].items()}
    assert paid == {"models": {"AVIF sequences"}, "single": {"JPEG", "hyperprior"}}
    assert (tmp_path / "a.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "equal PSNR inside the brain" in out and "paid for themselves" in out


def test_known_curves_are_kept_and_compared(trained_run, slices_folder, tmp_path, monkeypatch):
    """Further calls add curves. They measure no model again, unless the run has changed."""
    path = tmp_path / "a.json"
    flags = ["--run", trained_run, "--data", slices_folder, "--rate-weights", 0, "--every", 2]
    flags = [*map(str, flags), "--json", str(path)]
    rate_distortion.main(rate_distortion.parse([*flags, "--models-alone"]))
    assert not json.loads(path.read_text())["single"]
    monkeypatch.setattr(codecs, "CODECS", {})
    rate_distortion.main(rate_distortion.parse(flags))
    before = json.loads(path.read_text())
    monkeypatch.setattr(codecs, "CODECS", {"WebP": FAST["WebP"]})
    with monkeypatch.context() as patch:
        patch.setattr(rate_distortion, "model_point", None)
        rate_distortion.main(rate_distortion.parse(flags))
    after = json.loads(path.read_text())
    assert after["models"] == before["models"] and not before["codecs"]
    assert after["single"] == before["single"]
    assert set(after["codecs"]) == {"WebP"} == set(after["at_equal"]["ssim"][0]["payload_bytes"])
    (name,) = after["models"]
    after["made_of"][name]["models"] = "of another training"
    after["models"][name] = []
    path.write_text(json.dumps(after))
    rate_distortion.main(rate_distortion.parse(flags))
    assert json.loads(path.read_text())["models"] == before["models"]
    with pytest.raises(InputError, match="a.json holds curves of other slices: name another"):
        rate_distortion.main(rate_distortion.parse([*flags, "--split", "validate"]))


def test_a_curve_gets_the_points_that_it_lacks(tmp_path, monkeypatch):
    """It is compared once it is whole. Points of something else are measured again."""
    path, data = tmp_path / "a.json", {"name": "made up"}

    def begin(made_of, settings, last=None):
        asked = []

        def measured(missing):
            for number, setting in enumerate(missing):
                if number == last:
                    raise KeyboardInterrupt
                asked.append(setting)
                of_codec = {"threshold": 0, "payload_bytes": 9.0, "file_bytes": 99.0}
                point = dict.fromkeys(("ssim", "brain_ssim", "brain_psnr"), 0.9)
                point |= dict.fromkeys(("gradient_ratio", "spectrum_ratio"), 1.0)
                yield {"options": {"quality": setting["quality"]}, **of_codec, **point}

        report = rate_distortion.begin_report(path, data)
        settings = [{"quality": quality} for quality in settings]
        with contextlib.suppress(KeyboardInterrupt):
            rate_distortion.add_curve(report, path, "codecs", "c", made_of, settings, measured)
        return json.loads(path.read_text()), [setting["quality"] for setting in asked]

    monkeypatch.setitem(recorded.MADE, "commit", "at first")
    report, _ = begin({"version": 1}, (1, 2, 3), last=2)
    assert len(report["codecs"]["c"]) == 2 and report["unfinished"] == ["c"]
    assert rate_distortion.whole_curves(report)[2] == {}
    monkeypatch.setitem(recorded.MADE, "commit", "later")
    report, asked = begin({"version": 1}, (1, 2, 3))
    assert report["made"]["commit"] == "later" and asked == [3] and not report["unfinished"]
    assert [point["commit"] for point in report["codecs"]["c"]] == ["at first", "at first", "later"]
    assert set(rate_distortion.whole_curves(report)[2]) == {"c"}
    report, asked = begin({"version": 1}, (2, 4))
    assert asked == [4] and len(report["codecs"]["c"]) == 4
    report, asked = begin({"version": 2}, (1, 2), last=1)
    assert asked == [1] and len(report["codecs"]["c"]) == 1


def test_flags_of_a_learned_codec_need_its_folder(capsys):
    flags = ["--run", "x", "--data", "y", "--learned-minutes", "3"]
    with pytest.raises(SystemExit):
        rate_distortion.parse(flags)
    assert "give --learned DIR too" in capsys.readouterr().err


def test_curves_of_all_codecs_differ():
    figure, axis = plt.subplots()
    point = {"payload_bytes": 1, "file_bytes": 2, "ssim": 0.9}
    curves._show_codecs(axis, {name: [point] for name in (*codecs.CODECS, "hyperprior")}, "ssim")
    plt.close(figure)
    looks = {(line.get_color(), line.get_marker()) for line in axis.lines[::2]}
    assert len(looks) == len(codecs.CODECS) + 1


# ---- curves ------------------------------------------------------------------------------------


def bytes_at(points, level):
    return comparison.bytes_at(points, "bytes", "ssim", level)


def test_bytes_between_points_and_none_beyond():
    points = [{"ssim": 0.9, "bytes": 100}, {"ssim": 0.96, "bytes": 400}]
    assert bytes_at(points, 0.93) == pytest.approx(250)
    wasteful = {"ssim": 0.92, "bytes": 300}
    assert bytes_at([*points, wasteful], 0.92) == pytest.approx(200)  # a third of them at 400
    assert bytes_at([*points, {"ssim": 0.94, "bytes": 200}], 0.93) == pytest.approx(175)
    assert np.isnan(bytes_at(points, 0.97))
    assert bytes_at(points, 0.89) == 100  # the cheapest point reaches more


def test_points_that_another_beats_are_no_curve():
    points = [{"ssim": 0.8, "bytes": 100}, {"ssim": 0.7, "bytes": 150}, {"ssim": 0.9, "bytes": 200}]
    assert comparison.frontier(points, "bytes", "ssim") == [points[0], points[2]]


MODELS = {
    "small": [{"ssim": 0.9, "file_bytes": 100}, {"ssim": 0.94, "file_bytes": 300}],
    "large": [{"ssim": 0.92, "file_bytes": 260}, {"ssim": 0.96, "file_bytes": 900}],
}
OURS = {"models": MODELS, "single": {}}
CODEC = [
    {"ssim": 0.9, "payload_bytes": 500, "file_bytes": 800},
    {"ssim": 0.95, "payload_bytes": 700, "file_bytes": 1000},
]


def test_bytes_are_compared_at_equal_quality():
    rows = {
        row["ssim"]: row
        for row in comparison.compare({"models": MODELS, "single": {}}, {"c": CODEC}, "ssim")
    }
    assert rows[0.92]["models"] == pytest.approx(200)  # the small one is the better one here
    assert rows[0.92]["payload_bytes"]["c"] == pytest.approx(580)
    assert rows[0.92]["file_bytes"]["c"] == pytest.approx(880)
    assert np.isnan(rows[0.97]["models"]) and np.isnan(rows[0.96]["payload_bytes"]["c"])


def test_models_alone_are_shown_without_codecs(capsys):
    comparison.show(comparison.compare(OURS, {}, "ssim"), "ssim")
    weights = {"small": 1, "large": 2}
    comparison.show_paid(comparison.paid_after(MODELS, {}, weights), weights)
    assert "0.920            200            nan        nan" in capsys.readouterr().out


def test_models_are_compared_with_codecs_that_see_as_much(capsys):
    ours = {"models": MODELS, "single": {"small": MODELS["large"]}}
    sequences = [{**point, "payload_bytes": 400} for point in CODEC]
    rivals = {"AVIF sequences": sequences, "c": CODEC}
    comparison.show(comparison.compare(ours, rivals, "ssim"), "ssim")
    row = next(line for line in capsys.readouterr().out.splitlines() if "0.920" in line)
    assert row.split()[-2:] == [f"{200 / 400:.2f}", f"{260 / 580:.2f}"]


def test_weights_have_paid_after_so_many_slices():
    """At SSIM 0.92 the small model saves 580 - 200 bytes a slice, and has 3,801 bytes itself."""
    weights = {"small": 3801, "large": 10**6}
    rows = comparison.paid_after(MODELS, {"c": CODEC}, weights)
    rows = {row["ssim"]: row for row in rows}
    assert rows[0.92]["small"]["c"] == 11
    assert np.isnan(rows[0.95]["small"]["c"])  # which it does not reach
    assert np.isnan(rows[0.95]["large"]["c"])  # where the codec has fewer bytes
