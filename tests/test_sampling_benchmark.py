"""The benchmark of the sampler: both contenders draw the same codes, and the ratio is of times."""

import json

import numpy as np
import pytest
import sampling
import tensorflow as tf
from conftest import codes, make_prior

GRID, BATCH = 8, 2


def test_the_naive_loop_draws_what_the_cached_sampler_draws():
    prior, levels, seed = make_prior(GRID), tf.range(BATCH), tf.constant(5)
    below = tf.constant(codes((BATCH, 2, GRID, GRID)))
    step = sampling.naive_step(lambda maps: prior.logits(maps, levels, below), seed, GRID)
    naive = sampling.naive_loop(step, GRID, BATCH)
    np.testing.assert_array_equal(naive, prior.sample(levels, seed, below=below))
    assert len(np.unique(naive)) > 4


def test_the_ratio_is_that_of_the_two_times(monkeypatch, capsys):
    seconds = {"naive_seconds": 0.5, "cached_seconds": 4.0, "forward_seconds": 0.25}

    def in_turn(timers, reference, rounds, title):
        assert all(timer() > 0 for timer in timers.values())  # each contender runs
        return {name: {"seconds": seconds[name]} for name in timers}

    monkeypatch.setattr(sampling, "in_turn", in_turn)
    result = sampling.measure(GRID, BATCH, make_prior(GRID))
    assert result["naive_seconds"] == 0.5 * GRID**2  # a step for each place
    assert result["cached_seconds"] == 4.0 and result["forward_seconds"] == 0.25
    assert result["ratio"] == pytest.approx(0.5 * GRID**2 / 4.0)
    assert (result["grid"], result["batch"]) == (GRID, BATCH)
    sampling.show(result)
    assert capsys.readouterr().out.split() == ["8", "2", "32.0", "4.00", "0.250", "8", "16.00"]


def test_the_naive_loop_of_the_first_case_is_run_in_full(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sampling, "CASES", [(4, BATCH), (2, BATCH)])
    measure = sampling.measure
    small = lambda grid, batch, whole: measure(grid, batch, make_prior(grid), whole)  # noqa: E731
    monkeypatch.setattr(sampling, "measure", small)
    file = tmp_path / "a.json"
    sampling.main(sampling.parse(["--whole", "--json", str(file)]))
    report = json.loads(file.read_text())
    whole = report["naive_whole_seconds"]
    assert 0 < whole < 20 and report["naive_seconds"] > 0
    assert ["naive_whole_seconds" in case for case in report["cases"]] == [True, False]
    assert f"the naive loop in full: {whole:.1f} s" in capsys.readouterr().out


def test_stacks_are_drawn_in_both_ways(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sampling, "ROUNDS", 1)
    monkeypatch.setattr(sampling, "STACKS", [((4, 5), BATCH)])
    monkeypatch.setattr(sampling, "usual_prior", make_prior)
    file = tmp_path / "a.json"
    sampling.main(sampling.parse(["--stacks", "--json", str(file)]))
    (stacks,) = json.loads(file.read_text())["stacks"]
    seconds = stacks["slice_by_slice_seconds"], stacks["wavefront_seconds"]
    assert stacks["grid"] == [4, 5] and stacks["ratio"] == pytest.approx(seconds[0] / seconds[1])
    out = capsys.readouterr().out
    assert f"as a wavefront, {stacks['slice_by_slice_seconds']:.1f} s slice by slice" in out
