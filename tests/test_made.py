"""Results say how they were made: command, commit, versions, processor."""

import re
import sys

import utils
from utils import ROOT


def test_a_result_says_how_it_was_made(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/compression.py"), "--every", "2"])
    made = utils.provenance()
    assert set(made) == {"command", "commit", "changed", "date", "versions", "processor"}
    assert made["command"] == "python benchmarks/compression.py --every 2"
    assert re.search(r"\w, \d+ cores$", made["processor"])
    assert made["date"].endswith("+00:00") and {"tensorflow", "python"} <= set(made["versions"])
    if (ROOT / ".git").exists():
        assert len(made["commit"]) == 40 and isinstance(made["changed"], bool)
    monkeypatch.setenv("PATH", "")
    without_git = utils.provenance()
    assert without_git["commit"] is None and not without_git["changed"]


def test_commands_hold_no_folder_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "benchmarks")
    run = ROOT / "pretrained" / "oasis-256"
    data = str(tmp_path / "slices")
    assert utils.command(["compression.py", "--data", data, f"--run={run}", "--x=a b", "-1"]) == (
        "python benchmarks/compression.py --data slices --run=pretrained/oasis-256 '--x=a b' -1"
    )
