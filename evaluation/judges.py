"""Judges of slices: two classifiers that try to tell two sets apart, in whole slices and inside.

`pyramid` is the logistic regression of `evaluation.two_sample` on fixed features. `network` is a
small convolutional network that sees the pixels. Both are tested on groups that they have not seen.
Inside means the eroded brain: there the edge of the brain mask is no help. Beside them stand
distances of features, as others report them.
"""

import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from scipy import ndimage

from evaluation.metrics import inner_brain
from evaluation.two_sample import (
    Classify,
    features,
    logistic,
    null_range,
    squared_distances,
    two_sample,
)
from sources.images import to_grey, to_unit
from utils import progress

WIDTHS = (16, 32, 64, 64)  # channels of the network's convolutions, each of stride 2
EPOCHS, BATCH, LEARNING_RATE = 12, 32, 2e-3  # of the network
# Judge -> shares of slices that are damaged to see what it can find. The network takes minutes.
SHARES = {
    "pyramid": (0.05, 0.1, 0.2, 0.5),
    "pyramid_inside": (0.05, 0.1, 0.2, 0.5),
    "network": (0.2, 0.5),
}
FEATURE_NETWORKS = 3  # whose features are compared: a single one depends on its seed
FEATURE_EPOCHS = 4  # their passes over training slices
PART = 1024  # training slices that are float32 at once
NEIGHBOURS = 3  # of precision and recall
MOVED = 4  # pixels that a training image is moved by, at most


class Pictures(NamedTuple):
    """Slices, and whose they are.

    Attributes:
        images: uint8 `(N, S, S)`.
        groups: Group of each slice, `(N,)`: a subject, a drawn brain, or a drawn slice.
    """

    images: np.ndarray
    groups: np.ndarray

    def first(self, count: int) -> "Pictures":
        """So many of them, spread over all."""
        chosen = np.linspace(0, len(self.images) - 1, count).round().astype(int)
        return Pictures(self.images[chosen], self.groups[chosen])


def judge(one: Pictures, other: Pictures, name: str, seed: int = 0) -> dict[str, Any]:
    """Tell two sets of slices apart, by each judge, in whole slices and inside the brain.

    Both sides are reduced to equal numbers of slices.

    Args:
        one: A set. Equal groups on both sides name the same subject.
        other: The set to compare with.
        name: Name of the comparison, for the progress bar.
        seed: Seed of folds, networks and intervals.

    Returns:
        dict of `accuracy` and `accuracy_inside` of the stronger judge, each with its `_ci95`; and
        `judges`, the accuracies of all by name, and `null_range` of the pyramid, `_null95`.
    """
    count = min(len(one.images), len(other.images))
    one, other = one.first(count), other.first(count)
    groups = one.groups, other.groups
    measured, by_judge = {}, {}
    tasks = [(place, kind) for place in ("", "_inside") for kind in JUDGES]
    for place, kind in progress(tasks, f"judging {name}", unit="judge"):
        sets = [inside_brain(images) if place else images for images in (one.images, other.images)]
        see, classify = JUDGES[kind]
        shown = (*see(*sets), *groups, seed)
        measured[place, kind] = two_sample(*shown, classify)
        by_judge[f"{kind}{place}"] = measured[place, kind][0]
        if classify is logistic:  # a network would take hours
            by_judge[f"{kind}{place}_null95"] = null_range(*shown)
    report = {"slices": count}
    for place in ("", "_inside"):
        strongest = max(JUDGES, key=lambda kind: measured[place, kind][0])
        report[f"accuracy{place}"], report[f"accuracy{place}_ci95"] = measured[place, strongest]
    return {**report, "judges": by_judge}


def inside_brain(images: np.ndarray) -> np.ndarray:
    """Slices with 0 outside the eroded brain.

    Args:
        images: uint8 `(N, S, S)`.
    """
    return images * np.stack([inner_brain(image) for image in images])


def power(one: Pictures, other: Pictures, seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Say what judges can find: their accuracy when a share of a set of real slices is damaged.

    Args:
        one: Real slices, of which some are damaged.
        other: Real slices to compare with.
        seed: Seed of which slices are damaged.

    Returns:
        Accuracy by judge, damage and share. The share 0 is the accuracy without damage.
    """
    count = min(len(one.images), len(other.images))
    one, other = one.first(count), other.first(count)
    damaged = [spoil(one.images) for spoil in DAMAGES.values()]
    groups, sets = (one.groups, other.groups), [other.images, one.images, *damaged]
    return {name: _power(name, sets, groups, seed) for name in SHARES}


def _power(name, sets, groups, seed):
    """Accuracies of one judge by damage and share.

    Sets are the slices to compare with, those to damage, and these with each damage.
    """
    kind, _, place = name.partition("_")
    see, classify = JUDGES[kind]
    seen, whole, *spoilt = see(*(inside_brain(images) if place else images for images in sets))
    order = np.random.default_rng(seed).permutation(len(whole))

    def accuracy(rows):
        return two_sample(rows, seen, *groups, seed, classify)[0]

    undamaged = accuracy(whole)
    report = {damage: {"0": undamaged} for damage in DAMAGES}
    tasks = [(*pair, share) for pair in zip(DAMAGES, spoilt) for share in SHARES[name]]
    for damage, damaged, share in progress(tasks, f"measuring the power of {name}", unit="set"):
        rows, chosen = whole.copy(), order[: round(share * len(whole))]
        rows[chosen] = damaged[chosen]
        report[damage][str(share)] = accuracy(rows)
    return report


def _mirrored(images):
    return images[:, ::-1]  # left and right are rows, because the nose is to the right


def _of_two_slices(images):
    """The lower half of each slice from a slice far away, which in a split is of another level."""
    half = images.shape[1] // 2
    return np.concatenate([images[:, :half], np.roll(images, len(images) // 3, 0)[:, half:]], 1)


def _blurred(images):
    return to_grey(ndimage.gaussian_filter(to_unit(images), (0, 0.5, 0.5)))


DAMAGES = {"mirrored": _mirrored, "lower_half_of_another": _of_two_slices, "blurred": _blurred}


def _features(*sets):
    return [features(some) for some in sets]


def _content(*sets):
    """All sets cut to the rectangle outside of which every slice is 0."""
    content = np.any([some.any(0) for some in sets], axis=0)
    cuts = []
    for axis in (1, 0):
        places = np.flatnonzero(content.any(axis))
        cuts.append(slice(places[0], places[-1] + 1) if len(places) else slice(None))
    return tuple(some[:, cuts[0], cuts[1]] for some in sets)


# ---- the network -------------------------------------------------------------------------------


def classify_by_network(
    x: np.ndarray, y: np.ndarray, unseen: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Train a small convolutional network to tell two sets apart; see `two_sample`.

    Args:
        x: Images uint8 `(N, h, w)`.
        y: 0 or 1 for each, `(N,)`.
        unseen: Images to classify, uint8 `(M, h, w)`.
        seed: Seed of weights, order and movements.

    Returns:
        0 or 1 for each of the unseen, `(M,)`.
    """
    model, start = _network(x.shape[1:])
    for variable, value in zip((*model.variables, *model.optimizer.variables), start):
        variable.assign(value)
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        moved = np.stack([_moved(x[place], rng) for place in order])
        target = y[order].astype("float32")
        model.fit(_input(moved), target, batch_size=BATCH, shuffle=False, verbose=0)
    return (model.predict(_input(unseen), batch_size=BATCH, verbose=0)[:, 0] > 0).astype(int)


@functools.lru_cache(maxsize=1)
def _network(shape):
    """The network, compiled once for all folds, and the values that its variables begin with."""
    inputs, pooled = _trunk(shape)
    model = keras.Model(
        inputs, layers.Dense(1, kernel_initializer="zeros", dtype="float32")(pooled)
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
    model.optimizer.build(model.trainable_variables)
    return model, [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def _trunk(shape, seed=0):
    """Inputs and pooled features `(B, 2 WIDTHS[-1])` of a network for images of this shape."""
    x = inputs = keras.Input((*shape, 2), dtype="float32")
    for number, width in enumerate(WIDTHS):
        begin = keras.initializers.HeNormal(seed=seed * len(WIDTHS) + number)
        x = layers.Conv2D(
            width, 3 if number else 5, strides=2, padding="same", activation="relu",
            kernel_initializer=begin, dtype="float32",
        )(x)  # fmt: skip
    pooled = [
        pool(dtype="float32")(x)
        for pool in (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    ]
    return inputs, layers.Concatenate(dtype="float32")(pooled)


def _input(images):
    """Images and their fine grain, both of about unit size: `(N, h, w, 2)`."""
    images = to_unit(images)
    grain = images - ndimage.uniform_filter(images, (0, 3, 3))
    return np.stack([4 * images - 1, 20 * grain], axis=-1)


def _moved(image, rng):
    """An image, mirrored and moved at random: neither tells the sets apart."""
    image = image[::-1] if rng.random() < 0.5 else image
    return np.roll(image, rng.integers(-MOVED, MOVED + 1, 2), (0, 1))


# ---- distances of features ---------------------------------------------------------------------


def feature_distances(
    sets: dict[str, np.ndarray], real: np.ndarray, training: np.ndarray, levels: np.ndarray
) -> dict[str, dict[str, float | list[float]]]:
    """Compare sets of slices with real ones by features of networks that learned real slices.

    Each network learns to tell the level of a training slice, and whether it is mirrored. Its
    features are 128 numbers a slice, divided by their deviation among the training slices.

    Args:
        sets: Images uint8 `(N, S, S)` by name.
        real: The slices to compare with, uint8 `(M, S, S)`.
        training: Slices to learn from, uint8 `(T, S, S)`.
        levels: Level of each of them, `(T,)`.

    Returns:
        `frechet`, `kernel`, `precision` and `recall` for each set, which are means over
        `FEATURE_NETWORKS` networks. `_range` beside each is `[lowest, highest]` of them. Precision
        is the share of slices of the set in reach of a real one, and recall is the share of real
        ones in reach of it. A slice reaches as far as the third neighbour in its own set. All sets
        have equal numbers.

    References:
        Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule (Fréchet distance).
        Binkowski et al. 2018, Demystifying MMD GANs (kernel distance, unbiased).
        Kynkäänniemi et al. 2019, Improved Precision and Recall Metric.
    """
    names, images = ["real", "training", *sets], [real, training, *sets.values()]
    cut = dict(zip(names, _content(*images)))
    learned = cut.pop("training")
    count = min(map(len, cut.values()))
    shown = {
        name: Pictures(some, np.arange(len(some))).first(count).images for name, some in cut.items()
    }
    measured = []
    for seed in range(FEATURE_NETWORKS):
        network = _feature_network(learned, levels, seed)
        # In units of their deviation, because a few large features would govern all distances.
        deviation = np.maximum(_seen(network, learned).std(0), 1e-3)
        seen = {name: _seen(network, some) / deviation for name, some in shown.items()}
        known = seen.pop("real")
        measured.append({name: _distances(rows, known) for name, rows in seen.items()})
    return {name: _mean_and_range([by_set[name] for by_set in measured]) for name in sets}


def _seen(network, images):
    """Features `(N, 128)` of images. A part at a time, because as float32 all take a gigabyte."""
    parts = np.array_split(images, math.ceil(len(images) / PART))
    rows = [network.predict(_input(part), batch_size=BATCH, verbose=0) for part in parts]
    return np.concatenate(rows).astype("float64")


def _mean_and_range(reports):
    """Mean of each figure of some reports, and `[lowest, highest]` of them."""
    entries = {}
    for name in reports[0]:
        values = [report[name] for report in reports]
        entries |= {name: float(np.mean(values)), f"{name}_range": [min(values), max(values)]}
    return entries


def _feature_network(images, levels, seed):
    """Images -> features, trained to tell the level of an image and its side."""
    keras.utils.set_random_seed(seed)
    inputs, pooled = _trunk(images.shape[1:], seed)
    kinds, place = np.unique(levels, return_inverse=True)
    level = layers.Dense(len(kinds), dtype="float32", name="level")(pooled)
    side = layers.Dense(1, dtype="float32", name="side")(pooled)
    model = keras.Model(inputs, {"level": level, "side": side})
    losses = {
        "level": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "side": keras.losses.BinaryCrossentropy(from_logits=True),
    }
    model.compile(keras.optimizers.Adam(LEARNING_RATE), losses)
    rng = np.random.default_rng(seed)
    for _ in progress(range(FEATURE_EPOCHS), "learning features", unit="pass"):
        order, sides = rng.permutation(len(images)), rng.integers(0, 2, len(images))
        for part in np.array_split(order, math.ceil(len(order) / PART)):
            turned = np.stack([images[i][::-1] if sides[i] else images[i] for i in part])
            targets = {"level": place[part], "side": sides[part].astype("float32")}
            model.fit(_input(turned), targets, batch_size=BATCH, shuffle=False, verbose=0)
    return keras.Model(inputs, pooled)


def _distances(one, other):
    (mean, covariance), (other_mean, other_covariance) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (one, other)
    )
    # The trace of the root of their product.
    root = np.sqrt(np.maximum(np.linalg.eigvals(covariance @ other_covariance).real, 0)).sum()
    frechet = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance) - 2 * root
    squared = squared_distances(one, other)
    # Square of the distance from each row to its third neighbour of the same set.
    radii = [np.sort(squared_distances(x, x), axis=1)[:, NEIGHBOURS] for x in (one, other)]
    return {
        "frechet": float(frechet),
        "kernel": _kernel_distance(one, other),
        "precision": float((squared <= radii[1]).any(1).mean()),
        "recall": float((squared.T <= radii[0]).any(1).mean()),
    }


def _kernel_distance(one, other):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [
        (kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1))
        for x in (one, other)
    ]
    return float(sum(within) - 2 * kernel(one, other).mean())


# What each judge sees of two sets, and how it classifies that.
JUDGES: dict[str, tuple[Any, Classify]] = {
    "pyramid": (_features, logistic),
    "network": (_content, classify_by_network),
}
