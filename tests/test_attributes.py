"""Attributes: how values are numbered and drawn, and what a prior knows of them."""

import numpy as np
import pytest
import tensorflow as tf
from shared import codes, make_prior

import dataset
from networks.attributes import Attributes, labelled, learn
from networks.guidance import Guidance
from networks.logits import Drawing
from networks.order import arrange
from sources.folder import make_split

PEOPLE = {case: str(case) for case in range(60)}
TABLE = {
    "cdr": {case: (0.0, 0.5, 1.0)[case % 3] if case else 2.0 for case in PEOPLE},
    "sex": {case: "MF"[case % 2] for case in PEOPLE if case > 9} | {11: "x"},
    "size": {case: case / 100 for case in range(70)},
    "constant": dict.fromkeys(PEOPLE, 1.0),
}
KNOWN, NOTES = learn(TABLE, PEOPLE)


def test_values_are_words_groups_of_numbers_and_bins():
    assert KNOWN.names == ["cdr", "sex", "size"]  # the constant says nothing
    cdr, sex, size = KNOWN.each
    assert (cdr.labels, cdr.groups[2]) == (("0", "0.5", "1"), (1.0, 2.0))
    assert sex.labels == ("F", "M") and sex.number("x") == 0
    assert [cdr.number(value) for value in (0.0, 2.0, 0.3, None)] == [1, 3, 0, 0]
    assert [size.number(value) for value in (-1.0, 0.0, 0.59, 9.0)] == [1, 1, 8, 8]
    counts = np.bincount([size.number(TABLE["size"][case]) for case in PEOPLE])[1:]
    assert len(counts) == 8 and np.ptp(counts) <= 1
    assert len(NOTES) == 3 and "cdr 2 " in NOTES[0] and "sex x " in NOTES[1]


def test_counts_leave_unknown_out():
    totals = [tables[i].sum() for i, tables in enumerate(KNOWN.counts)]
    assert totals == [60, 49, 60]
    np.testing.assert_array_equal(KNOWN.counts[0][1], KNOWN.counts[1][0].T)
    again = Attributes.from_json(KNOWN.as_json())
    assert again.each == KNOWN.each
    with pytest.raises(ValueError, match="shape"):
        Attributes.from_json(KNOWN.as_json()[:2])


def test_what_is_unknown_is_drawn_as_the_people_are_given_the_rest():
    people = {case: str(case) for case in range(90)}
    table = {"a": {case: case % 3 for case in people}, "c": {case: case % 5 for case in people}}
    table["b"] = {case: "xyz"[case % 3] for case in people}  # follows from a
    known, _ = learn(table, people)
    drawn = np.array([known.complete([0, 0, 0], seed) for seed in range(400)])
    assert (drawn[:, 0] == drawn[:, 2]).mean() > 0.9
    assert np.bincount(drawn[:, 0])[1:].min() > 90
    given = np.array([known.complete([0, 4, 2], seed) for seed in range(100)])
    assert (given[:, 1:] == (4, 2)).all() and (given[:, 0] == 2).mean() > 0.9
    assert (given == [known.complete([0, 4, 2], seed) for seed in range(100)]).all()


def test_a_prior_that_is_told_nothing_is_told_unknown():
    prior, data = make_prior(attributes=KNOWN.as_json()), codes((2, 8, 8))
    levels = np.array([0, 2])
    alone, unknown, *told = (
        prior.bits(data, chosen).numpy()
        for chosen in (levels, *(labelled(levels, n) for n in ([0, 0, 0], [3, 0, 0], [3, 2, 0])))
    )
    np.testing.assert_array_equal(alone, unknown)
    assert np.abs(told[0] - alone).max() > 1e-3 and np.abs(told[1] - told[0]).max() > 1e-3


def test_sampling_knows_attributes_as_training_does():
    """At a low temperature each code is the likeliest one after those before it."""
    prior, levels = make_prior(attributes=KNOWN.as_json()), labelled(np.array([0, 2]), [2, 1, 5])
    drawn = prior.sample(levels, tf.constant([1, 2]), Drawing(temperature=0.01)).numpy()
    told, untold = (prior.logits(drawn, some).numpy() for some in (levels, levels[:, 0]))
    assert (told.argmax(-1) == drawn).mean() > 0.98
    assert (untold.argmax(-1) != drawn).sum() > 3


def test_training_hides_attributes_and_evaluation_all():
    count = 400
    split = make_split("train", [(case, 0, "") for case in range(count)])
    numbers = np.tile([[1, 2, 3]], (count, 1)).astype("int32")
    example = tf.function(dataset.code_examples(codes((1, count, 2, 2)), split, 1, 0, numbers))
    chances = np.random.default_rng(0).random(count).astype("float32")
    told = np.array([example(k, False, chances[k])[0]["levels"] for k in range(count)])[:, 1:]
    known = told > 0
    assert 0.4 < (~known.any(1)).mean() < 0.6
    assert set(np.unique(told)) == {0, 1, 2, 3}
    assert 0.7 < known[known.any(1)].mean() < 0.9
    assert not example(3, False, None)[0]["levels"].numpy()[1:].any()


def test_guidance_amplifies_what_neighbours_and_attributes_change():
    """A stack is drawn as without guidance where both are 1, and as if nothing were known at 0."""
    prior, order = make_prior(attributes=KNOWN.as_json()), arrange([0, 0, 0], [0, 1, 2], 1)
    levels, seeds = np.arange(3), tf.constant([1, 2, 3])

    def drawn(known, *more):
        return prior.sample(tf.constant(levels), seeds, Drawing(), None, known, *more).numpy()

    plain = drawn(None)
    levels = labelled(levels, [3, 2, 8])
    np.testing.assert_array_equal(drawn(order, Guidance(0.0, 0.0)), plain)
    np.testing.assert_array_equal(drawn(order, Guidance(1.0, 1.0)), drawn(order))
    half = drawn(order, Guidance(1.0, 0.0))
    np.testing.assert_array_equal(half[1], plain[1])  # the middle has no neighbour when it is drawn
    assert (half[[0, 2]] != plain[[0, 2]]).any()
    changed = [(drawn(order, Guidance(g, g)) != plain).mean() for g in (0.2, 1.0)]
    assert 0 < changed[0] < changed[1]
