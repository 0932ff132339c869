"""Code maps as bytes: the prior says how likely each code is, and a range coder writes it.

Encoder and decoder go through the places in raster order with `RasterPrior.generate`, as sampling
does. The rule at each place asks the range coder instead of random numbers. The decoder must see
the very frequencies that the encoder saw. So the prior computes in float64, its logits are rounded,
and the frequencies are whole numbers that follow from the rounded logits by a table.

Reference:
    Bamler 2022, Understanding Entropy Coding With Asymmetric Numeral Systems (`constriction`).
"""

import constriction
import numpy as np
import tensorflow as tf

from networks import graph_function
from networks.logits import near_and_likely
from networks.raster import RasterPrior

STEPS = 32  # in a nat, to which logits are rounded; this costs less than 0.0001 bits a code
TOTAL = 2**22  # frequency of the likeliest code
REACH = 20  # nats below the likeliest code; all codes farther below are equally rare
TABLE = np.rint(TOTAL * np.exp(-np.arange(REACH * STEPS) / STEPS))
WORD = 4  # bytes that the range coder writes at once


def rounded(logits: tf.Tensor) -> tf.Tensor:
    """Logits `(..., K)` -> whole steps, int32 `(..., K)`."""
    return tf.cast(tf.round(logits * STEPS), tf.int32)


def frequencies(steps: np.ndarray) -> np.ndarray:
    """Frequencies of codes from rounded logits, int32 `(..., K)` in steps -> whole numbers."""
    below = steps.max(-1, keepdims=True) - steps
    return TABLE[np.minimum(below, len(TABLE) - 1)] + 1  # no code is impossible


def distributions(steps: np.ndarray) -> list[constriction.stream.model.Categorical]:
    """Distributions of codes for the range coder, from rounded logits, int32 `(B, K)`."""
    return [constriction.stream.model.Categorical(row, lazy=True) for row in frequencies(steps)]


class Encoder:
    """Chooses the codes of slices as `RasterPrior.choose_codes` does, and writes them into streams.

    Args:
        prior: A prior in float64, see `networks.layers.exact`.
        count: Number of streams.
    """

    def __init__(self, prior: RasterPrior, count: int):
        self.prior = prior
        self.streams = [constriction.stream.queue.RangeEncoder() for _ in range(count)]
        self._generate = graph_function(self._choose_codes)

    def write(
        self,
        distances: tf.Tensor,
        levels: np.ndarray,
        rate_weight: float | None,
        below: np.ndarray,
        streams: np.ndarray,
    ) -> np.ndarray:
        """Append the codes of slices to different streams, and return them: int32 `(B, H, W)`.

        Args:
            distances: See `RasterPrior.choose_codes`, float64 `(B, H, W, K)`.
            levels: int32 `(B,)`.
            rate_weight: See `RasterPrior.choose_codes`.
            below: Codes of the slices below, see `RasterPrior.generate`.
            streams: Number of the stream of each slice, `(B,)`.
        """
        self.open = [self.streams[number] for number in streams]
        price = self.prior.price(rate_weight)
        return self._generate(distances, tf.constant(levels, tf.int32), price, below).numpy()

    def _choose_codes(self, distances, levels, price, below):
        def choose(logits, y, x):
            codes = near_and_likely(distances[:, y, x], logits, price)
            written = tf.numpy_function(self._append, [rounded(logits), codes], tf.int32)
            return tf.ensure_shape(written, levels.shape)

        return self.prior.generate(levels, choose, below)

    def _append(self, steps, codes):
        for stream, code, distribution in zip(self.open, codes, distributions(steps)):
            stream.encode(int(code), distribution)
        return codes

    def contents(self) -> list[bytes]:
        """Bytes of each stream."""
        return [_shortest(stream) for stream in self.streams]


def _shortest(stream):
    """The fewest bytes that say the same; a decoder that reads on behind the end reads zeros.

    The coder ends with any number of an interval, in whole words. Another number of the interval
    has more zeros at its end.
    """
    words = stream.get_compressed().astype(">u4").tobytes()
    number, (lower, width) = stream.pos()
    head, tail = words[: WORD * number], words[WORD * number :]
    size, first, last = 2 * WORD, int(lower), int(lower) + int(width)
    if int.from_bytes(tail.ljust(size, b"\0"), "big") < first:  # the coder carried into `head`
        first, last = 0, last - 2 ** (8 * size)
    last = min(last, 2 ** (8 * size))
    for count in range(size + 1):
        step = 2 ** (8 * (size - count))
        point = -(-first // step) * step  # the least multiple of `step` from `first` on
        if point < last:
            break
    return (head + point.to_bytes(size, "big")[:count]).rstrip(b"\0")


class Decoder:
    """Reads code maps from streams.

    Args:
        prior: The encoder's prior.
        contents: Bytes of each stream.
    """

    def __init__(self, prior: RasterPrior, contents: list[bytes]):
        self.prior = prior
        padded = [content + bytes(-len(content) % WORD) for content in contents]
        words = [np.frombuffer(content, ">u4").astype("uint32") for content in padded]
        self.streams = [constriction.stream.queue.RangeDecoder(part) for part in words]
        self._generate = graph_function(self._read_codes)

    def read(self, levels: np.ndarray, below: np.ndarray, streams: np.ndarray) -> np.ndarray:
        """Read the next code map of different streams: int32 `(B, H, W)`. See `Encoder.write`."""
        self.open = [self.streams[number] for number in streams]
        return self._generate(tf.constant(levels, tf.int32), below).numpy()

    def _read_codes(self, levels, below):
        def choose(logits, y, x):
            codes = tf.numpy_function(self._next, [rounded(logits)], tf.int32)
            return tf.ensure_shape(codes, levels.shape)

        return self.prior.generate(levels, choose, below)

    def _next(self, steps):
        pairs = zip(self.open, distributions(steps))
        return np.array([stream.decode(distribution) for stream, distribution in pairs], "int32")
