"""The benchmark of the sampler: both contenders draw the same codes, and the ratio is of times."""

import numpy as np
import pytest
import sampling
import tensorflow as tf
from shared import codes, make_prior

from networks.order import beside

GRID, BATCH = 6, 2


@pytest.mark.slow
def test_the_naive_loop_draws_what_the_cached_sampler_draws():
    prior = make_prior(GRID, blocks=2, mirror="columns")  # of which lines are rows
    levels, seeds = tf.range(BATCH), tf.constant([5, 6])
    known = beside(codes((BATCH, 2, GRID, GRID)), [[1, 2], [3, 0]])
    step = sampling.naive_step(lambda maps: prior.logits(maps, levels, known), seeds, GRID)
    naive = np.zeros((BATCH, GRID, GRID), "int32")
    for y, x in np.ndindex(GRID, GRID):
        naive[:, y, x] = step(tf.constant(naive), tf.constant(y), tf.constant(x))
    np.testing.assert_array_equal(naive, prior.sample(levels, seeds, neighbours=known))
    assert len(np.unique(naive)) > 4


@pytest.mark.slow
def test_the_ratio_is_that_of_the_two_times(monkeypatch):
    seconds = {"naive_seconds": 0.5, "cached_seconds": 4.0, "forward_seconds": 0.25}

    def in_turn(timers, rounds, title):
        assert all(timer() > 0 for timer in timers.values())  # each contender runs
        return {name: {"seconds": seconds[name]} for name in timers}

    monkeypatch.setattr(sampling, "in_turn", in_turn)
    monkeypatch.setattr(sampling, "usual_prior", lambda grid: make_prior(grid, blocks=2))
    result = sampling.measure(GRID, BATCH)
    assert result["naive_seconds"] == 0.5 * GRID**2  # a step for each code
    assert result["cached_seconds"] == 4.0 and result["forward_seconds"] == 0.25
    assert result["ratio"] == pytest.approx(0.5 * GRID**2 / 4.0)
    assert (result["grid"], result["batch"]) == (GRID, BATCH)


@pytest.mark.slow
def test_stacks_are_drawn_in_both_ways(monkeypatch):
    monkeypatch.setattr(sampling, "ROUNDS", 1)
    monkeypatch.setattr(sampling, "usual_prior", lambda grid: make_prior(grid, blocks=2))
    stacks = sampling.measure_stacks((3, 4), BATCH)
    seconds = stacks["slice_by_slice_seconds"], stacks["wavefront_seconds"]
    assert stacks["grid"] == [3, 4] and stacks["ratio"] == pytest.approx(seconds[0] / seconds[1])
