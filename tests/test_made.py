"""The results of a benchmark say how they were made."""

import json
import re
import sys

from contenders import recorded

import utils
from utils import ROOT


def test_a_result_says_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/compression.py"), "--every", "2"])
    monkeypatch.setattr(recorded, "MADE", utils.provenance())
    recorded.write(tmp_path / "a.json", {"bytes": 3.5, "nothing": float("nan")})
    report = json.loads((tmp_path / "a.json").read_text())
    made = report.pop("made")
    assert report == {"bytes": 3.5, "nothing": None}
    assert made["command"] == "python benchmarks/compression.py --every 2"
    assert set(made) == {"command", "commit", "changed", "date", "versions", "processor"}
    assert re.search(r"\w, \d+ cores$", made["processor"])
    assert made["date"].endswith("+00:00") and {"tensorflow", "python"} <= set(made["versions"])


def test_commit_and_changes(monkeypatch):
    if not (ROOT / ".git").exists():
        assert utils.provenance()["commit"] is None
        return
    made = utils.provenance()
    assert len(made["commit"]) == 40 and isinstance(made["changed"], bool)
    monkeypatch.setenv("PATH", "")
    without_git = utils.provenance()
    assert without_git["commit"] is None and not without_git["changed"]


def test_commands_hold_no_folder_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "benchmarks")
    data, run = tmp_path / "slices", ROOT / "pretrained" / "oasis-256"
    arguments = [
        "compression.py",
        "--data",
        str(data),
        f"--run={run}",
        "--x=a b",
        "-1",
    ]
    assert utils.command(arguments) == (
        "python benchmarks/compression.py --data slices --run=pretrained/oasis-256 '--x=a b' -1"
    )
