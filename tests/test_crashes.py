"""What goes wrong in a training: a loss that is not finite, a run in use, a collapsing codebook."""

import filelock
import numpy as np
import pytest
from conftest import contents, one_line, train

from fitting.loop import comment


def test_loss_that_is_not_finite_stops_at_once(slices_folder, tmp_path):
    run = tmp_path / "run"
    state = run / "resume" / "vqvae.npz"
    done = train(slices_folder, run, "--learning-rate", "1e20", "--epochs", "3")
    one_line(done, "vqvae: the ", "is not finite at step", "--precision float32", state)
    assert not (run / "prior.keras").exists()
    with np.load(state) as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_two_trainings_cannot_share_a_run(slices_folder, run_copy):
    with filelock.FileLock(run_copy / ".lock"):
        before = contents(run_copy)
        one_line(train(slices_folder, run_copy), "is held by another training")
        assert contents(run_copy) == before


@pytest.mark.parametrize("used, collapses", [(100.0, True), (499.0, False)])
def test_collapse_is_warned_of(used, collapses, capsys):
    rows = [{"val_loss": 1.0, "seconds": 1.0, "codes_used": codes} for codes in (300.0, used)]
    comment("vqvae", rows, epochs=5, patience=5, codebook_size=512)
    printed = capsys.readouterr().out
    message = "collapsing, 300 codes were used in the epoch before and 100 of 512 now"
    assert (message in printed) == collapses and ("collapsing" in printed) == collapses
    assert "minutes left" in printed
