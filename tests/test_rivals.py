"""The comparison with what a user would pick: contenders learn, and figures are what they say."""

import dataclasses
import json
import math

import common
import keras
import numpy as np
import pytest
import rivals
from common import has_packages
from contenders import contender, keras_rivals
from contenders.ours import Ours
from contenders.remote import Remote
from shared import CODES, IMAGE_SIZE, TINY

from fitting.run_directory import RunDirectory
from sources.folder import open_slices
from utils import InputError

GRID, CHANGED = (16, 18), (7, 9)


@pytest.fixture(scope="module")
def images(slices_folder):
    return rivals.load(open_slices(slices_folder), IMAGE_SIZE)


@pytest.fixture(autouse=True)
def precision():
    yield
    keras.config.set_dtype_policy("float32")


def learns(rival, stage, steps):
    take = rival.start(stage)
    losses = [take(step / steps) for step in range(steps)]
    return np.isfinite(losses).all() and losses[-1] < 0.98 * losses[0]


# ---- time ----------------------------------------------------------------------------------------


def test_minutes_to_a_level_lie_between_two_looks():
    curve = [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9), (5.0, 0.8), (6.0, 0.95)]
    assert rivals.minutes_to(curve, 0.8) == pytest.approx(3.0)
    assert rivals.minutes_to(curve, 0.7) == pytest.approx(2.0)
    assert rivals.minutes_to(curve, 0.92) == pytest.approx(5.8)
    assert rivals.minutes_to(curve, 0.4) == 1.0
    assert math.isnan(rivals.minutes_to(curve, 0.96)) and math.isnan(rivals.minutes_to([], 0.1))


class Counting(contender.Contender):
    """Takes ten seconds to start a stage, and one a step."""

    codebook_size, now = 8, 0.0

    def start(self, stage):
        self.now += 10
        self.models[stage], self.shares = stage, []

        def take(share):
            self.now += 1
            self.shares.append(share)
            return float(len(self.shares))

        return take

    def count_parameters(self, model):
        return len(model)

    def codes(self, name):
        return np.zeros((len(self.images[name]), 2, 3), "int32")

    def restore(self, name):
        self.now += 1000  # looks do not count
        return self.images[name]

    def prior_bits(self):
        return {"prior_bits": np.full(len(self.images["test"]), 7.0)}

    def draw(self, count):
        return self.images["test"][[0] * count]


@pytest.fixture
def counting(monkeypatch, images):
    rival = Counting(images, minutes=1)
    monkeypatch.setattr(contender.time, "perf_counter", lambda: rival.now)
    return rival


def test_a_stage_takes_its_minutes(counting):
    minutes, loss = counting.train("prior", 0.5)
    assert minutes == pytest.approx(0.5) and loss == pytest.approx(np.mean(range(1, 21)))
    counting.restore("watched")
    minutes, loss = counting.train("prior", 1.0)
    assert minutes == pytest.approx(1.0) and loss == pytest.approx(np.mean(range(21, 51)))
    assert counting.shares[0] == 0 and counting.shares[-1] == pytest.approx(59 / 60)
    assert counting.train("prior", 0.9)[0] == 1.0 and math.isnan(counting.train("prior", 0.9)[1])
    assert counting.describe()["stages"] == {
        "prior": {"parameters": 5, "steps": 50, "seconds": 60.0}
    }


# ---- contenders ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_rivals_in_keras_learn_to_restore_and_to_foresee(images, monkeypatch):
    monkeypatch.setattr(rivals.Report, "code_dim", 32)  # the published 256 take seconds a step
    for made, side in ((rivals.Report, 6), (rivals.Tutorial, 8)):
        rival = made(images, minutes=1)
        assert learns(rival, "vqvae", 12)
        codes, restored = rival.codes("test"), rival.restore("test")
        assert codes.shape == (8, side, side)
        assert 0 <= codes.min() <= codes.max() < made.codebook_size
        assert restored.shape == images["test"].shape and restored.dtype == np.uint8
    assert learns(rival, "prior", 12)  # that of the report has one layer less
    bits = rival.prior_bits()["prior_bits"]
    assert bits.shape == (8,) and 0 < bits.max() < 1.5 * side**2 * math.log2(made.codebook_size)
    drawn = rival.draw(2)
    assert drawn.shape == (2, IMAGE_SIZE, IMAGE_SIZE) and not np.array_equal(*drawn)


def test_the_pixelcnn_sees_earlier_codes_alone_and_few_rows_are_enough(monkeypatch):
    """One code is changed: no logits change before it or at it, nor beyond the reach."""
    monkeypatch.setattr(keras_rivals, "PRIOR_WIDTH", 16)
    prior = keras_rivals.pixelcnn(CODES, last_layers=1)
    codes = np.random.default_rng(0).integers(0, CODES, (1, *GRID))
    other, (y, x) = codes.copy(), CHANGED
    other[0, y, x] += 1 if codes[0, y, x] < CODES - 1 else -1
    logits = np.asarray(prior(codes))[0]
    rows, columns = np.nonzero(np.abs(np.asarray(prior(other))[0] - logits).max(-1) > 1e-6)
    assert len(rows) and (rows * GRID[1] + columns > y * GRID[1] + x).all()
    assert rows.max() == y + keras_rivals.REACH
    seen = prior(codes[:, y - keras_rivals.REACH : y + 1])[0, -1]
    np.testing.assert_allclose(seen, logits[y], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ours_learns_by_the_minute(images, slices_folder, tmp_path):
    """The first step may take long, and the warm-up stays whole: it is counted in steps."""
    run = RunDirectory(tmp_path)
    rival = Ours(images, 1, open_slices(slices_folder), TINY, run)
    rival.settings = dataclasses.replace(rival.settings, warmup_steps=5)  # of 15
    assert learns(rival, "vqvae", 15)
    take, optimizer = rival.start("prior"), rival.models["prior"].optimizer
    peak = rival.settings.prior_learning_rate
    for steps, (share, falling) in enumerate([(0.0, 1.0), (0.5, 0.5), (0.5, 0.5), (1.2, 0.0)]):
        take(share)
        np.testing.assert_allclose(optimizer.learning_rate, peak * falling * steps / 5, atol=1e-9)
    for _ in range(10):
        take(0.5)
    assert run.model("vqvae").is_file() and rival.codes("test").shape == (8, 4, 4)
    bits = rival.prior_bits()
    assert list(bits) == ["prior_bits", "prior_bits_alone"]
    assert all(0 < kind.min() and kind.shape == (8,) for kind in bits.values())
    assert not np.array_equal(*bits.values())
    assert rival.draw(3).shape == (3, IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.slow
@pytest.mark.skipif(not has_packages("torch", "monai"), reason="MONAI is optional")
def test_the_rival_of_monai_learns(images):
    rival = Remote("contenders.monai_rival", images=images, minutes=1)
    for stage in contender.STAGES:
        minutes, early = rival.train(stage, 0.001)  # one step, with the start of the stage
        if stage == "prior":
            begin = rival.prior_bits()["prior_bits"]
        assert rival.train(stage, minutes + 0.05)[1] < early
    assert rival.codes("test").shape == (8, 4, 4) and rival.draw(2).shape == (2, 32, 32)
    bits = rival.prior_bits()["prior_bits"]
    # The codes of such slices may all be one, so that a prior may become certain.
    assert bits.shape == (8,) and 0 <= bits.mean() < begin.mean() < 16 * 9
    rival.close()


# ---- the whole comparison ------------------------------------------------------------------------


def call(folder, out, *more):
    flags = ["--data", folder, "--out", out, "--image-size", IMAGE_SIZE, *more]
    rivals.main(rivals.parse(list(map(str, flags))))


def test_contenders_finish_once_and_are_joined(
    monkeypatch, counting, slices_folder, tmp_path, capsys
):
    made, file, figure = [], tmp_path / "a.json", tmp_path / "a.png"
    monkeypatch.setattr(rivals, "make", lambda name, *_: made.append(name) or counting)
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    flags = ["--minutes", 2, "--json", file, "--only"]
    call(slices_folder, tmp_path, *flags, "tutorial")
    call(slices_folder, tmp_path, *flags, "report", "tutorial", "monai", "--figure", figure)
    assert made == ["tutorial", "report"] and figure.stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "tutorial: finished before." in out and "monai is left out: pip install -r " in out
    joined = json.loads(file.read_text())
    assert joined["made"]["commit"] and list(joined["contenders"]) == ["tutorial", "report"]
    report = joined["contenders"]["tutorial"]
    assert report["index_bits"] == 2 * 3 * math.log2(8) and report["prior_bits"] == 7
    assert report["ssim"] == pytest.approx(1) and report["grid"] == [2, 3]
    assert report["curve"] == [[until, pytest.approx(1)] for until in (11 / 60, 0.25, 0.5, 1)]
    assert report["minutes_to"] == dict.fromkeys(["0.80", "0.85", "0.90", "0.92"], 11 / 60)
    assert [stage["seconds"] for stage in report["stages"].values()] == [60, 60]
    with pytest.raises(InputError, match=r"a.json is of other .*'minutes': 2.0.*another --json"):
        call(slices_folder, tmp_path, "--minutes", 3, "--json", file)
