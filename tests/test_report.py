"""What predict.py writes: figures from the arrays at hand, results that replace older ones."""

import dataclasses
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from PIL import Image
from shared import CODES, contents, run_script
from trainings import ROOT

from evaluation import plots, reconstruction, report, samples, steps
from evaluation.context import Context, SamplingOptions
from fitting.run_directory import RunDirectory
from modules import Models
from networks.attributes import Attributes
from networks.logits import Drawing
from sources.facts import OASIS
from sources.folder import make_split
from utils import InputError, spread

EVALUATED = {"index.html", "metrics.json", "reconstructions.png", "codes.png", "training.png"}


@pytest.fixture(scope="module")
def untouched(trained_run, tmp_path_factory):
    """A run directory before its first evaluation, of data with an odd name."""
    run = shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "untouched")
    config = json.loads((run / "config.json").read_text())
    config["data"]["name"] = "$\\frac{$ \ud800\x1b[31m脳"
    (run / "config.json").write_text(json.dumps(config))
    return run


def run_predict(run, data, *flags):
    done = run_script("predict.py", "--run", run, "--data", data, "--no-texture", *flags)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def evaluated(untouched, slices_folder, tmp_path_factory):
    """The run after an evaluation, and with anomalies; and the captions of all figures."""
    run, captions = tmp_path_factory.mktemp("runs") / "evaluated", {}
    shutil.copytree(untouched, run)
    save = plots.save_figure

    def save_figure(figure, path, caption):
        captions[path.stem] = caption
        save(figure, path, caption)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", save_figure)
        flags = ("--write-reconstructions", "--complete", "--walk", "--temperature", 0.5)
        run_predict(run, slices_folder, "--samples", 5, *flags)
        run_predict(run, slices_folder, "--anomaly", "--slice", 2)
    return run, captions


@pytest.fixture
def run(evaluated, tmp_path):
    return shutil.copytree(evaluated[0], tmp_path / "run")


# ---- figures -----------------------------------------------------------------------------------


def test_figures_have_captions_which_are_no_mathematics(evaluated):
    run, captions = evaluated
    of_many_subjects = {"closest", "ventricles", "anatomy"}
    assert set(captions) == {*report.FIGURES, "anomaly"} - of_many_subjects
    for name in captions:
        with Image.open(run / "predict" / f"{name}.png") as figure:
            assert figure.size[0] > (800 if name in report.FIGURES else 300)
    assert sum("$\\frac{$ ??[31m脳" in caption for caption in captions.values()) == 6
    assert "with seed 0, temperature 0.5, decoded" in captions["samples"]
    assert "OASIS, test split, 32 x 32 pixels. VQ-VAE with 4 x 4 codes" in captions["codes"]


def test_captions_say_how_samples_were_drawn(tmp_path):
    options = SamplingOptions(3, Drawing(0.5, 3, 0.9))
    vqvae = SimpleNamespace(grid=(4, 4), settings={"codebook_size": 16})
    context = Context(Models(vqvae, FakePrior()), OASIS, options)
    assert context.drawn.endswith(" with seed 3, temperature 0.5, top-k 3, top-p 0.9")
    assert "texture" not in context.made
    textured = dataclasses.replace(context, sampling=SamplingOptions(0, texture=True))
    assert "seed 0, decoded" in textured.made
    assert "with the texture drawn; trained on OASIS" in textured.made


def test_mean_patches_are_centred_on_the_pixels_of_a_code():
    images = np.zeros((2, 16, 16), "uint8")
    images[:, 4:8, 8:12] = 255  # the pixels of code (1, 2)
    images[1] //= 5
    code_maps = np.zeros((2, 4, 4), int)
    code_maps[:, 1, 2] = 3
    patches = reconstruction.mean_patches(images, code_maps, 5, (0, 0, 16, 16))
    framed = reconstruction.mean_patches(images, code_maps[:, :3, 1:], 5, (0, 4, 12, 16))
    np.testing.assert_array_equal(framed[3], patches[3])
    assert patches.shape == (5, 8, 8)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 0.6
    np.testing.assert_allclose(patches[3], expected)
    assert not patches[4].any() and patches[0].max() < 0.1


def test_ranks_follow_the_first_principal_component():
    values = np.random.default_rng(0).permutation(9)
    ranks = reconstruction.code_ranks(np.outer(values, [3.0, 4.0]) + 7)
    assert ranks.tolist() in (values.tolist(), (8 - values).tolist())


def test_a_real_slice_of_the_nearest_level_and_of_another_subject():
    split = SimpleNamespace(levels=np.array([0, 1, 3, 0, 1, 3]))
    assert [samples.nearest_slice(split, 1, number) for number in range(3)] == [1, 4, 1]
    assert samples.nearest_slice(split, 9, 0) == 2


# ---- many samples ------------------------------------------------------------------------------


class FakePrior:
    """Draws codes that are all 0 and notes the seeds."""

    attributes = Attributes()

    def __init__(self):
        self.seeds = []

    def sample(self, levels, seeds, *settings):
        self.seeds.append(np.asarray(seeds).tolist())
        return np.zeros((len(levels), 4, 4), "int32")


def decode(codes):
    return ops.zeros((len(codes), 8, 8, 1))


VQVAE = SimpleNamespace(decode=decode, grid=(4, 4), settings={"codebook_size": 16, "image_size": 8})


@pytest.mark.parametrize("first, expected", [
    (0, [5 + number * 7919 for number in range(40)]),
    (1000, [5 + (1000 + number) * 7919 for number in range(40)]),
])  # fmt: skip
def test_each_sample_has_its_seed_and_is_drawn_when_it_is_asked_for(first, expected):
    prior, levels = FakePrior(), np.zeros(40, int)
    options = SamplingOptions(5)
    drawn = samples.draw_slice_codes(prior, levels, options, first)
    batches = samples.decode(Models(VQVAE, prior), drawn, options)
    assert not prior.seeds and len(next(batches)) == 16 and len(prior.seeds) == 1
    assert [len(batch) for batch in batches] == [16, 8]
    assert sum(prior.seeds, []) == expected
    last = SamplingOptions(seed=2**31 - 1)
    assert [int(n[0, 0]) for _, n in samples.draw_slice_codes(prior, levels, last, 10**6)] == [
        10**6, 10**6 + 16, 10**6 + 32,
    ]  # fmt: skip
    assert all(0 <= seed < 2**31 for seed in sum(prior.seeds, []))


def test_of_many_samples_a_few_are_shown(tmp_path, monkeypatch):
    levels = samples.spread_levels(200, None, np.arange(4))
    split = make_split("test", [(1, level, f"{level}") for level in range(4)])
    context = Context(
        Models(VQVAE, FakePrior()),
        OASIS,
        SamplingOptions(0),
        split,
        folder=tmp_path,
        results={"images": np.zeros((4, 8, 8), "uint8")},
    )
    calls = []
    monkeypatch.setattr(plots, "samples", lambda *given: calls.append(given))
    monkeypatch.setattr(plots, "rows_of_images", lambda *_, **given: calls.append(given))
    metrics = samples.sample(context, levels)
    for name, draw in context.figures.items():
        draw(tmp_path / name)
    assert len(list((tmp_path / "samples").iterdir())) == 200
    assert metrics["samples"]["count"] == 200
    (_, images, shown, caption), pairs = calls
    assert "64 of 200 are shown" in caption
    assert images.shape == (64, 8, 8) and len(pairs["titles"]) == 8
    numbers = spread(200, 64)
    assert numbers[0] == 0 and numbers[-1] == 199 and set(np.diff(numbers)) == {3, 4}
    np.testing.assert_array_equal(shown, levels[numbers])


# ---- the folder of results ---------------------------------------------------------------------


@pytest.mark.parametrize("flags, place, error", [
    (["--samples", "3", "--brains", "0"], (samples, "write_png"), None),
    (["--samples", "0"], (steps, "write_json"), None),
    (["--samples", "0"], (steps, "write_json"), InputError("the disk is full.")),
    (["--anomaly"], (report, "write_json"), None),
])  # fmt: skip
def test_what_ends_in_the_middle_leaves_old_results(
    flags, place, error, run, slices_folder, monkeypatch
):
    before = contents(run)

    def fail(*args, **settings):
        staging = [path for path in (run / "predict").iterdir() if path.name.startswith(".")]
        assert len(staging) == 1  # results are made aside
        if error:
            raise error
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(*place, fail)
    done = run_script("predict.py", "--run", run, "--data", slices_folder, *flags)
    assert done.returncode == (2 if error else 130)
    assert contents(run) == before
    assert not [path for path in (run / "predict").iterdir() if path.name.startswith(".")]


def test_what_ends_in_the_middle_of_the_first_time_leaves_nothing(
    untouched, slices_folder, monkeypatch
):
    before = contents(untouched)
    monkeypatch.setattr(steps, "write_json", lambda *args: 1 / 0)
    flags = ("--samples", 0, "--brains", 0)
    done = run_script("predict.py", "--run", untouched, "--data", slices_folder, *flags)
    assert done.returncode == 1
    assert contents(untouched) == before and not (untouched / "predict").exists()


def test_stale_results_go_and_what_is_not_ours_stays(run, slices_folder):
    """The arrays that earlier versions saved are stale too."""
    out = run / "predict"
    mine = {"notes.txt": b"mine", "samples/best of all.png": b"mine", "samples/more/a.txt": b"mine"}
    for name, content in {**mine, "results.npz": b"old", "anomaly.npz": b"old"}.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    before = {str(path): content for path, content in contents(out).items()}
    anomalies = {name: content for name, content in before.items() if "anomaly" in name}
    assert len(anomalies) == 3 + 2 * 3
    run_predict(run, slices_folder, "--samples", 0, "--brains", 0)
    after = {str(path): content for path, content in contents(out).items()}
    assert set(after) == {*EVALUATED, *mine, *anomalies}
    assert {name: after[name] for name in (*mine, *anomalies)} == {**mine, **anomalies}
    run_predict(run, slices_folder, "--anomaly", "--slice", 1)
    fresh = {name.replace("_2_", "_1_") for name in anomalies} - {"anomaly.npz"}
    assert set(map(str, contents(out))) == {*fresh, *EVALUATED, *mine}


# ---- counts and histories ----------------------------------------------------------------------


def test_without_a_learning_curve_its_figure_is_left_out(run, slices_folder):
    RunDirectory(run).history("vqvae").unlink()
    done = run_predict(run, slices_folder, "--samples", 0, "--brains", 0)
    assert "lacks vqvae_history.csv, so there is no figure of its training" in done.stdout
    out = run / "predict"
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *EVALUATED - {"training.png"}, "anomaly.json", "anomaly.png",
    }  # fmt: skip
    assert json.loads((out / "metrics.json").read_text())["codebook"]["size"] == CODES


# ---- the table ---------------------------------------------------------------------------------


def test_table(capsys):
    shipped = json.loads((ROOT / "pretrained/oasis-256/metrics.json").read_text())
    report.print_table(shipped)
    lines, (low, high) = capsys.readouterr().out.splitlines(), shipped["ssim"]["ci95"]
    interval = f"(95 % interval over 16 subjects {low:.4f} to {high:.4f})"
    assert lines[0] == f"  SSIM              {shipped['ssim']['mean']:.4f}  {interval}"
    assert f"  PSNR              {shipped['psnr']['mean']:.2f} dB" in lines
    size = shipped["rate"]["prior_bytes"]
    assert f"  ideal bytes       {size:.0f} a slice  (as plain indices 446)" in lines
    assert f"  samples           16 in {shipped['samples']['seconds']:.1f} s" in lines
    assert f"  {'diversity':<48}{shipped['generation']['diversity']:.4f}" in lines
    power = "mirrored 0.70, lower_half_of_another 0.67, blurred 0.71"
    assert any(line.endswith(power) for line in lines)
    bits = "unconditional {bits_per_code_alone:.3f}, by position {position_bits_per_code:.3f}"
    assert any(bits.format(**shipped["prior"]) in line for line in lines)
