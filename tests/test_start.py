"""What a training starts from: flags, settings, another prior, the weights of another run."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from shared import LEVELS, STAGES, TINY, one_line, run_script, write_slices

import modules
import train
from fitting import checkpoints, loop, stages
from fitting.devices import find_strategy
from fitting.run_directory import RunDirectory, claimed, read_config
from fitting.settings import OF_PRIOR, OF_VQVAE, Settings
from fitting.training_data import TrainingData
from sources.folder import open_slices
from utils import InputError, read_arrays

# ---- settings ----------------------------------------------------------------------------------


def slices_of(count, side=256):
    return SimpleNamespace(
        num_levels=32, splits={"train": SimpleNamespace(images=np.empty((count, side, 0)))}
    )


COHORT = {
    "image_size": 160, "width": 96, "rate_weight": 0.05, "prior_epochs": 4, "prior_width": 96,
    "texture_epochs": 2,
}  # fmt: skip
FINE = {"reduction": 4, "width": 64, "epochs": 8, "rate_weight": 0.5, "texture_epochs": 12}


@pytest.mark.parametrize("count, side, flags, expected", [
    (9664, 256, "", {}), (4736, 256, "", {}), (3000, 256, "", {}),  # OASIS
    (1600, 256, "", COHORT), (1000, 256, "", COHORT), (2999, 256, "", COHORT),
    (4736, 256, "--preset fine", {**FINE, "prior_epochs": 24, "first_prior_epochs": 1}),
    (4736, 256, "--preset small --width 8", {"width": 8, "image_size": 160, "epochs": 6}),
    (1600, 256, "--preset standard", {"epochs": 19, "patience": 9}),
    (100, 256, "", {"epochs": 100, "first_prior_epochs": 20, "prior_epochs": 40, "patience": 50}),
    (100, 256, "--epochs 3", {"epochs": 3, "prior_epochs": 40}),
    (1, 256, "", {"epochs": 200, "batch_size": 1}),
    (100_000, 256, "", {"epochs": 1, "prior_epochs": 1, "texture_epochs": 1, "patience": 5}),
    (1600, 128, "", {**COHORT, "image_size": 128}), (9664, 240, "", {"image_size": 240}),
    (9664, 32, "", {"image_size": 32, "reduction": 4}),
    (9664, 32, "--image-size 64 --reduction 8", {"image_size": 64, "reduction": 8}),
])  # fmt: skip
def test_slices_and_flags_choose_the_settings(count, side, flags, expected):
    """Whole settings are checked of the rows; of scaled ones, what is named."""
    found = train.resolve(train.parse(flags.split()), slices_of(count, side))
    assert {name: getattr(found, name) for name in expected} == expected
    if 1000 <= count <= 10_000 and not flags:
        assert found == dataclasses.replace(Settings(), **expected)


def test_help_shows_the_defaults_of_all_presets(capsys):
    with pytest.raises(SystemExit):
        train.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("(default: 160/256/256)", "(default: 0.05/0.35/0.5)", "small (", "than 3000"):
        assert words in text


def test_names_of_priors_are_those_of_the_table():
    """--help loads no TensorFlow, so the names stand in the settings too."""
    assert set(Settings.__dataclass_fields__["prior"].metadata["choices"]) == set(modules.PRIORS)


def test_old_flags_work_and_name_the_new_ones(capsys):
    args = train.parse(["--draft-epochs=3", "--turn", "--slices-alone", "--start-from", "x"])
    assert args.first_prior_epochs == 3 and args.choose_codes_again and args.neighbours == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "--draft-epochs is called --first-prior-epochs now.",
        "--turn is called --choose-codes-again now.",
        "--slices-alone is called --neighbours=0 now.",
    ]


def config_of(settings, fingerprint="f"):
    return {"settings": settings, "data": {"name": "a", "fingerprint": fingerprint}, "versions": {}}


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """Its settings have other names, and some are missing. The next save has those of today."""
    run = RunDirectory(tmp_path)
    old = {"turn": None, "draft_epochs": 3, "width": 64, "prior_dropout": 0.2}
    run.config.write_text(json.dumps(config_of(old)))
    settings = Settings(first_prior_epochs=3, width=64, prior_dropout=0.2)
    assert read_config(run)["settings"] == settings
    later = dataclasses.replace(settings, texture_epochs=1)  # nothing of this stage is there yet
    with claimed(run, config_of(later)):
        assert json.loads(run.config.read_text())["settings"] == dataclasses.asdict(later)
    run.history("texture").touch()
    with pytest.raises(InputError, match="texture_epochs was 1, is 6"):
        with claimed(run, config_of(settings)):
            pass


@pytest.mark.parametrize("change", [
    {"width": 33}, {"width": "64"}, {"width": True}, {"epochs": 10**9}, {"prior": "unknown"},
    {"rate_weight": float("nan")}, {"neighbours": 3}, {"frame": 3}, {"precision": []},
])  # fmt: skip
def test_a_setting_of_a_stranger_is_checked(change, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of(change)))
    with pytest.raises(InputError, match=f"its setting {[*change][0]} has another type or is out"):
        read_config(RunDirectory(tmp_path))


# ---- another prior -----------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="brain_vqvae")
class Undilated(modules.PixelCNN):
    """A prior that sees fewer of the other codes."""

    DILATIONS = (1,)


@pytest.mark.slow
def test_another_prior_is_trained_by_the_same_stage(
    trained_run, slices_folder, tmp_path, monkeypatch
):
    """It needs a class, and its name in the table."""
    monkeypatch.setitem(modules.PRIORS, "undilated", Undilated)
    run, source_run = RunDirectory(tmp_path), RunDirectory(trained_run)
    shutil.copyfile(source_run.model("vqvae"), run.model("vqvae"))
    settings = dataclasses.replace(
        read_config(source_run)["settings"],
        batch_size=12, rate_weight=0.0, prior_epochs=1, prior_width=2, prior_blocks=1,
    )  # fmt: skip
    object.__setattr__(settings, "prior", "undilated")
    data = TrainingData(open_slices(slices_folder), settings.image_size, settings.reduction)
    stage = stages.plan(run, data, settings)["prior"]  # one step
    loop.fit(stage, run, settings, find_strategy(None), save_minutes=4)
    assert type(checkpoints.load_model(run.model("prior"))) is Undilated


# ---- another run -------------------------------------------------------------------------------


def begin(data, run, source, *flags):
    settings = [*TINY, *STAGES, "--texture-epochs", 0]
    command = ["--data", data, "--run", run, *settings, "--start-from", source, *flags]
    return run_script("train.py", *command)


@pytest.mark.slow
def test_all_stages_start_with_the_weights_of_the_run(trained_run, slices_folder, tmp_path):
    """At a rate of 0 nothing is learned, so the weights are still those of the other run."""
    run, still = tmp_path / "run", ["--learning-rate", 1e-8, "--prior-learning-rate", 1e-8]
    done = begin(slices_folder, run, trained_run, *still)
    assert done.returncode == 0, done.stderr
    pairs = zip(*(checkpoints.load_models(RunDirectory(r))[:2] for r in (run, trained_run)))
    for ours, theirs in pairs:
        for a, b in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    again = begin(slices_folder, run, trained_run, *still)
    assert again.returncode == 0 and "vqvae: finished" in again.stdout


@pytest.mark.slow
def test_codes_are_chosen_again_by_the_prior_of_the_run(trained_run, slices_folder, tmp_path):
    run, source_run = RunDirectory(tmp_path / "run"), RunDirectory(trained_run)
    for _ in range(2):  # the second time everything is there
        done = begin(slices_folder, run, trained_run, "--choose-codes-again")
        assert done.returncode == 0, done.stderr
        assert "vqvae: finished" in done.stdout
    for ours, theirs in (("vqvae", "vqvae"), ("first_prior", "prior")):
        assert run.model(ours).read_bytes() == source_run.model(theirs).read_bytes()
    digests = [checkpoints.fingerprint(model) for model in checkpoints.load_models(source_run)[:2]]
    assert str(read_arrays(run.codes, "")["made_of"]).split()[:2] == digests
    assert not run.first_prior_codes.exists()


@pytest.mark.slow
def test_a_new_prior_learns_the_codes_of_the_vqvae_of_a_run(run_copy, slices_folder, tmp_path):
    """Even if the prior there is of another version, and has other sizes."""
    run, source_run = RunDirectory(tmp_path / "new"), RunDirectory(run_copy)
    source_run.model("prior").write_bytes(b"of another version")
    flags = ["--keep-vqvae", "--prior-width", 4, "--neighbours", 2, "--epochs", 9]
    for _ in range(2):  # the second time everything is there
        done = begin(slices_folder, run, run_copy, *flags)
        assert done.returncode == 0, done.stderr
        assert "vqvae: finished" in done.stdout
    assert run.model("vqvae").read_bytes() == source_run.model("vqvae").read_bytes()
    prior = checkpoints.load_models(run).prior
    assert prior.settings["neighbours"] == 2 and run.first_prior_codes.exists()


def test_settings_that_are_not_given_are_those_of_the_run(trained_run, slices_folder, tmp_path):
    """Also those that no data set decides, such as the size of the codebook."""
    config = json.loads((trained_run / "config.json").read_text())
    config["settings"] |= {"reduction": 4, "code_dim": 3, "neighbours": 0, "patience": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    args = train.parse(["--start-from", str(tmp_path), "--width", "64"])
    settings = dataclasses.asdict(train.resolve(args, open_slices(slices_folder)))
    for name in OF_VQVAE + OF_PRIOR:
        assert settings[name] == (64 if name == "width" else config["settings"][name])
    assert settings["patience"] != 9 and settings["start_from"] is None
    args = train.parse(["--start-from", str(tmp_path), "--keep-vqvae"])
    settings = train.resolve(args, open_slices(slices_folder))
    assert settings.code_dim == 3 and settings.neighbours == 1  # all but the VQ-VAE is new


@pytest.mark.parametrize("flags, words", [
    (["--codebook-size", 32], ["does not fit", "codebook_size is 32 here and 16 there"]),
    (["--prior-width", 16], ["prior_width is 16 here and 8 there"]),
    (["--neighbours", 0], ["neighbours is 0 here and 1 there"]),
    (["--choose-codes-again", "--rate-weight", 0], ["--rate-weight above 0"]),
    (["--start-from", "none"], ["none/config.json"]),
])  # fmt: skip
def test_what_does_not_fit_the_run_is_refused(flags, words, trained_run, slices_folder, tmp_path):
    one_line(begin(slices_folder, tmp_path / "run", trained_run, *flags), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [
    ["--choose-codes-again"], ["--keep-vqvae"],
    ["--keep-vqvae", "--choose-codes-again", "--start-from", "x"],
])  # fmt: skip
def test_what_is_kept_needs_a_run(flags):
    one_line(run_script("train.py", *flags), f"argument {flags[0]}: ")


def test_other_levels_are_refused(trained_run, tmp_path):
    data = write_slices(tmp_path / "data", levels=LEVELS + 1)
    one_line(begin(data, tmp_path / "run", trained_run), "5 here and 4 there")


def test_another_mask_or_intensity_is_refused(run_copy, tmp_path):
    data, config = (
        write_slices(tmp_path / "data"),
        json.loads((run_copy / "config.json").read_text()),
    )
    for path in data.rglob("*.png"):
        image = np.array(Image.open(path))
        image[20:40, 80:180] = 120  # a scalp
        Image.fromarray(image).save(path)
    config["data"]["intensity_range"] = [-1, 1]
    (run_copy / "config.json").write_text(json.dumps(config))
    reasons = (
        "intensity_range is [0.0, 1.0] here and [-1, 1] there",
        "masked is False here and True there",
    )
    one_line(begin(data, tmp_path / "run", run_copy), *reasons)
