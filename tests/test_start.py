"""Training that begins with the weights of another run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LEVELS, STAGES, TINY, make_prior, one_line, run_script, write_slices

import dataset
import train
from fitting import checkpoints, start
from fitting.run_directory import RunDirectory
from modules import Models
from sources.folder import open_slices
from utils import InputError, read_arrays


def begin(data, run, other, *flags):
    settings = [*TINY, *STAGES, "--texture-epochs", 0]
    command = ["--data", data, "--run", run, *settings, "--start-from", other, *flags]
    return run_script("train.py", *command)


@pytest.mark.slow
def test_all_stages_begin_with_the_weights_of_the_run(trained_run, slices_folder, tmp_path):
    """At a rate of 0 nothing is learned, so the weights are still those of the other run."""
    run, still = tmp_path / "run", ["--learning-rate", 1e-8, "--prior-learning-rate", 1e-8]
    done = begin(slices_folder, run, trained_run, *still)
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(
        *(checkpoints.load_models(RunDirectory(r)) for r in (run, trained_run))
    ):
        for a, b in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    again = begin(slices_folder, run, trained_run, *still)
    assert again.returncode == 0 and "vqvae: finished" in again.stdout


@pytest.mark.slow
def test_a_turn_keeps_the_vqvae_and_lets_the_prior_choose(trained_run, slices_folder, tmp_path):
    run = tmp_path / "run"
    for _ in range(2):  # the second time everything is there
        done = begin(slices_folder, run, trained_run, "--turn")
        assert done.returncode == 0, done.stderr
        assert "vqvae: finished" in done.stdout
    for ours, theirs in (("vqvae", "vqvae"), ("draft", "prior")):
        copied, original = run / f"{ours}.keras", trained_run / f"{theirs}.keras"
        assert copied.read_bytes() == original.read_bytes()
    digests = [
        checkpoints.fingerprint(model)
        for model in checkpoints.load_models(RunDirectory(trained_run))
    ]
    made_of = read_arrays(run / "codes.npz", "")["made_of"]
    assert str(made_of).split()[:2] == digests
    assert not (run / "draft_codes.npz").exists()
    one_line(
        begin(slices_folder, tmp_path / "none", trained_run, "--turn", "--rate-weight", 0),
        "--rate-weight above 0",
    )
    one_line(run_script("train.py", "--turn"), "argument --turn", "--start-from")


def test_settings_that_are_not_given_are_those_of_the_run(trained_run, slices_folder, tmp_path):
    """Also those that no data set decides, such as the size of the codebook."""
    slices = open_slices(slices_folder)
    config = json.loads((trained_run / "config.json").read_text())
    config["settings"] |= {"reduction": 4, "code_dim": 3, "slices_alone": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = train.resolve(train.parse(["--start-from", str(tmp_path)]), slices)
    names = {*start.SHAPE, *start.PRIOR_SHAPE}
    assert {n: settings[n] for n in names} == {n: config["settings"][n] for n in names}
    settings = train.resolve(train.parse([]), slices)
    assert settings["reduction"] == 8 and settings["slices_alone"] is False


@pytest.mark.parametrize("flags, reason", [
    (["--codebook-size", 32], "codebook_size is 32 here and 16 there"),
    (["--prior-width", 16], "prior_width is 16 here and 8 there"),
    (["--slices-alone"], "slices_alone is True here and False there"),
])  # fmt: skip
def test_another_shape_is_refused(flags, reason, trained_run, slices_folder, tmp_path):
    done = begin(slices_folder, tmp_path / "run", trained_run, *flags)
    one_line(done, "--start-from", "does not fit", reason)
    assert not (tmp_path / "run").exists()


def test_other_levels_are_refused(trained_run, tmp_path):
    data = write_slices(tmp_path / "data", levels=LEVELS + 1)
    one_line(begin(data, tmp_path / "run", trained_run), "levels are 5 here and 4 there")


@pytest.mark.parametrize("change, reason", [
    ({"frame": (8, 8, 24, 24)}, "beyond its frame (8, 8, 24, 24)"),
    ({"masked": False}, "brain-masked on one side and have scalp on the other"),
    ({"intensity_range": [-1, 1]}, "intensities are (0.0, 1.0) here and [-1, 1] there"),
])  # fmt: skip
def test_another_frame_mask_or_intensity_is_refused(change, reason, tmp_path, monkeypatch):
    """As far as a run says so: its models and its `config.json`."""
    shape = dict(image_size=32, reduction=8, codebook_size=16, code_dim=4, width=8)
    whole = (0, 0, 32, 32)
    settings = {**shape, "masked": change.get("masked", True)}
    vqvae = SimpleNamespace(settings=settings, frame=change.get("frame", whole))
    prior = make_prior(grid=4, blocks=2)
    here = {**shape, **start._prior_shape(prior)}
    low_high = change.get("intensity_range", dataset.INTENSITY_RANGE)
    monkeypatch.setattr(checkpoints, "load_models", lambda run: Models(vqvae, prior))
    monkeypatch.setattr(start, "read_config", lambda run: {"data": {"intensity_range": low_high}})
    slices = SimpleNamespace(masked=True, num_levels=prior.settings["num_levels"])
    data = SimpleNamespace(slices=slices, frame=whole)
    with pytest.raises(InputError, match="does not fit") as refused:
        start.load(RunDirectory(tmp_path), data, here)
    assert reason in str(refused.value)


def test_a_run_that_is_none_is_refused(slices_folder, tmp_path):
    one_line(begin(slices_folder, tmp_path / "run", tmp_path), tmp_path / "config.json")
