"""The benchmark of subjects and seeds: what it trains on, and that nothing is trained twice."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import subjects
from shared import STAGES, TINY, run_script

from sources.folder import Split, open_slices

CURVE = (37, 74, 148)  # subjects


def arguments(data, out, *more):
    flags = ["--data", data, "--out", out, "--json", out / "all.json", *more]
    return subjects.parse([str(part) for part in flags])


def test_a_folder_of_some_subjects_has_their_slices_and_all_others_to_evaluate(
    slices_folder, tmp_path
):
    whole = open_slices(slices_folder).splits
    chosen = subjects.choose_subjects(whole["train"], 2)
    for _ in range(2):  # the second time it is there
        folder = subjects.link_slices(arguments(slices_folder, tmp_path), whole["train"], chosen)
    part = open_slices(folder).splits
    assert set(part["train"].subjects.tolist()) == set(chosen.tolist())
    assert len(part["train"]) == np.isin(whole["train"].subjects, chosen).sum()
    for name in ("validate", "test"):
        assert len(part[name]) == len(whole[name])


def test_all_sets_of_the_curve_are_measured_on_the_same_people_of_theirs():
    cases = np.repeat(np.arange(subjects.SUBJECTS), 2)
    levels = np.tile([0, 1], subjects.SUBJECTS)
    split = Split("train", ("",) * len(cases), cases, levels, np.char.mod("%03d", cases))
    for count in CURVE:
        known = subjects.measured_slices(split, count, 32)
        assert known.cases.tolist() == np.repeat(np.arange(0, 64, 4), 2).tolist()
        assert set(known.subjects) <= set(subjects.choose_subjects(split, count))
    few = subjects.measured_slices(split, 20, 32)
    assert set(few.subjects) <= set(subjects.choose_subjects(split, 20)) and len(few) == 32


@pytest.mark.slow
def test_a_training_is_measured_once(trained_run, slices_folder, tmp_path, monkeypatch, capfd):
    flags = shlex.join([*TINY, *STAGES, "--texture-epochs", "0", "--rate-weight", "0"])
    training = subjects.Training(2, flags, seed=1, start="run of all")
    monkeypatch.setattr(subjects, "TRAININGS", {"of two": training})
    (tmp_path / "run-of-all").symlink_to(trained_run)

    def run(command, check):  # in this process, where networks are as shallow as those of the run
        done = run_script(command[1].name, *command[2:])
        assert check and done.returncode == 0, done.stderr
        print(done.stdout)

    monkeypatch.setattr(subjects, "subprocess", SimpleNamespace(run=run))
    for _ in range(2):
        subjects.main(arguments(slices_folder, tmp_path))
    assert capfd.readouterr().out.count("Done. Next") == 1
    report = json.loads((tmp_path / "all.json").read_text())
    (figures,) = report["trainings"].values()
    assert figures["made"]["commit"] and str(tmp_path) not in figures["command"]
    for split in figures["splits"].values():
        assert 0 < split["ssim"] < 1 and split["bits_per_code"] > 0 and split["slices"] > 0
    config = json.loads((tmp_path / "of-two" / "config.json").read_text())
    assert config["settings"]["start_from"] and config["settings"]["seed"] == 1
