"""Judges of slices: two classifiers that try to tell two sets apart, in whole slices and inside.

`pyramid` is the logistic regression of `measures.two_sample` on fixed features. `network` is a
small convolutional network that sees the pixels. Both are tested on groups that they have not seen.
Inside means the eroded brain: there the edge of the brain mask is no help.
"""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from scipy import ndimage

from measures.images import inner_brain, to_grey, to_unit
from measures.two_sample import Classify, features, logistic, two_sample
from utils import progress

WIDTHS = (16, 32, 64, 64)  # channels of the network's convolutions, each of stride 2
EPOCHS, BATCH, LEARNING_RATE = 12, 32, 2e-3  # of the network
SHARES = (0.05, 0.1, 0.2, 0.5)  # of slices that are damaged to see what a judge can find
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
        dict of `accuracy` and `accuracy_inside` of the stronger judge, each with its `_ci95`, and
        `judges`, the accuracies of all by name.
    """
    count = min(len(one.images), len(other.images))
    one, other = one.first(count), other.first(count)
    groups = one.groups, other.groups
    found = {}
    tasks = [(place, judge) for place in ("", "_inside") for judge in JUDGES]
    for place, judge in progress(tasks, f"judging {name}", unit="judge"):
        sets = [inside_brain(images) if place else images for images in (one.images, other.images)]
        see, classify = JUDGES[judge]
        found[place, judge] = two_sample(*see(*sets), *groups, seed, classify)
    report = {"slices": count}
    for place in ("", "_inside"):
        strongest = max(JUDGES, key=lambda judge: found[place, judge][0])
        report[f"accuracy{place}"], report[f"accuracy{place}_ci95"] = found[place, strongest]
    by_judge = {f"{judge}{place}": accuracy for (place, judge), (accuracy, _) in found.items()}
    return {**report, "judges": by_judge}


def inside_brain(images: np.ndarray) -> np.ndarray:
    """Slices with 0 outside the eroded brain.

    Args:
        images: uint8 `(N, S, S)`.
    """
    return images * np.stack([inner_brain(image) for image in images])


def power(one: Pictures, other: Pictures, seed: int = 0) -> dict[str, dict[str, float]]:
    """Say what the pyramid can find: its accuracy when a share of a set of real slices is damaged.

    Args:
        one: Real slices, of which some are damaged.
        other: Real slices to compare with.
        seed: Seed of which slices are damaged.

    Returns:
        Accuracy in whole slices by damage and share. The share 0 is the accuracy without damage.
    """
    count = min(len(one.images), len(other.images))
    one, other = one.first(count), other.first(count)
    seen, whole = features(other.images), features(one.images)
    order = np.random.default_rng(seed).permutation(count)

    def accuracy(rows):
        return two_sample(rows, seen, one.groups, other.groups, seed)[0]

    report = {}
    for damage, spoil in progress(DAMAGES.items(), "measuring the power", len(DAMAGES), "damage"):
        spoilt = features(spoil(one.images))
        report[damage] = {"0": accuracy(whole)}
        for share in SHARES:
            rows, chosen = whole.copy(), order[: round(share * count)]
            rows[chosen] = spoilt[chosen]
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


def _features(one, other):
    return features(one), features(other)


def _content(one, other):
    """Both sets cut to the rectangle outside of which every slice of both is 0."""
    content = one.any(0) | other.any(0)
    cuts = []
    for axis in (1, 0):
        places = np.flatnonzero(content.any(axis))
        cuts.append(slice(places[0], places[-1] + 1) if len(places) else slice(None))
    return one[:, cuts[0], cuts[1]], other[:, cuts[0], cuts[1]]


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
    x = inputs = keras.Input((*shape, 2), dtype="float32")
    for number, width in enumerate(WIDTHS):
        begin = keras.initializers.HeNormal(seed=number)
        x = layers.Conv2D(
            width, 3 if number else 5, strides=2, padding="same", activation="relu",
            kernel_initializer=begin, dtype="float32",
        )(x)  # fmt: skip
    x = layers.Concatenate(dtype="float32")(
        [
            layers.GlobalAveragePooling2D(dtype="float32")(x),
            layers.GlobalMaxPooling2D(dtype="float32")(x),
        ]
    )
    model = keras.Model(inputs, layers.Dense(1, kernel_initializer="zeros", dtype="float32")(x))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
    model.optimizer.build(model.trainable_variables)
    return model, [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def _input(images):
    """Images and their fine grain, both of about unit size: `(N, h, w, 2)`."""
    images = to_unit(images)
    grain = images - ndimage.uniform_filter(images, (0, 3, 3))
    return np.stack([4 * images - 1, 20 * grain], axis=-1)


def _moved(image, rng):
    """An image, mirrored and moved at random: neither tells the sets apart."""
    image = image[::-1] if rng.random() < 0.5 else image
    return np.roll(image, rng.integers(-MOVED, MOVED + 1, 2), (0, 1))


# What each judge sees of two sets, and how it classifies that.
JUDGES: dict[str, tuple[Any, Classify]] = {
    "pyramid": (_features, logistic),
    "network": (_content, classify_by_network),
}
