"""Classifier-free guidance: what is known of a slice counts more than the prior learned.

Most of what a code depends on is not known when it is drawn, so the neighbours of a slice and the
attributes of a person change single logits little. Over a stack that adds up: without guidance,
ventricles change their size between levels that are far apart. Near levels lack likeness to their
neighbours and others lack what the attributes ask for, so each slice is guided in one of two ways.

Reference:
    Ho and Salimans 2022, Classifier-Free Diffusion Guidance.
"""

from typing import NamedTuple

import tensorflow as tf

from networks.order import NO_SLICE, Neighbours

NEAR = 2  # levels; a slice with a neighbour that is no farther away is near


class Guidance(NamedTuple):
    """Factors of the difference that knowledge makes to the logits; 1 is as the prior learned it.

    Attributes:
        near: For slices with a near neighbour, of the difference that neighbours and attributes
            make together.
        far: For all other slices, of the difference that attributes make.
    """

    near: float = 1.0
    far: float = 1.0


UNGUIDED = Guidance()


def with_and_without(
    levels: tf.Tensor, neighbours: Neighbours, guidance: Guidance
) -> tuple[tf.Tensor, Neighbours, tf.Tensor]:
    """Slices as they are, followed by the same slices without that whose difference counts.

    Both of a pair are drawn in the same step, and have the same neighbours where they have any.

    Args:
        levels: Levels of B slices, with attributes or without them; see `networks.raster`.
        neighbours: Their neighbours.
        guidance: See there.

    Returns:
        Levels and neighbours of 2 B slices, and the factor of each pair, float32 `(B,)`.
    """
    unknown = levels
    if len(levels.shape) == 2:
        unknown = tf.pad(levels[:, :1], [[0, 0], [0, levels.shape[1] - 1]])
    distances = tf.cast(neighbours.distances, tf.int32)
    is_near = tf.reduce_any((distances > 0) & (distances <= NEAR), axis=1)
    factors = tf.where(is_near, *map(tf.constant, map(float, guidance)))
    fewer = Neighbours(
        tf.where(is_near[:, None], NO_SLICE, neighbours.sources),
        tf.where(is_near[:, None], 0, distances),
        neighbours.depths,
    )
    pairs = zip(neighbours[:3], fewer[:3])
    twice = Neighbours(*(tf.concat(pair, axis=0) for pair in pairs), neighbours.known)
    return tf.concat([levels, unknown], axis=0), twice, factors
