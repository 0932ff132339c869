"""Training that begins with the weights of another run."""

import numpy as np
import pytest
from conftest import LEVELS, STAGES, TINY, one_line, run_script, write_slices

from fitting import checkpoints
from fitting.run_directory import RunDirectory


def begin(data, run, other, *flags):
    command = ["--data", data, "--run", run, *TINY, *STAGES, "--start-from", other, *flags]
    return run_script("train.py", *command)


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


def test_a_run_that_is_none_is_refused(slices_folder, tmp_path):
    one_line(begin(slices_folder, tmp_path / "run", tmp_path), tmp_path / "config.json")
