"""Results say how they were made, and replace older ones together."""

import os
import re
import signal
import sys
import threading
import time

import pytest

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


def test_a_request_to_end_waits_for_the_swap_of_results(tmp_path, monkeypatch):
    """Another thread, which TensorFlow has many of, may receive a signal."""
    threading.Thread(target=time.sleep, args=(0.5,)).start()

    def replace(source, target, move=utils.os.replace):
        os.kill(os.getpid(), signal.SIGINT)
        move(source, target)

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(utils.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), utils.replacing_results(tmp_path, ["*.txt"]) as folder:
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "new",
        "b.txt": "new",
    }
