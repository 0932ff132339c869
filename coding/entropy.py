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

from networks.raster import RasterPrior

STEPS = 32  # in a nat, to which logits are rounded; this costs less than 0.0001 bits a code
TOTAL = 2**22  # frequency of the likeliest code
REACH = 20  # nats below the likeliest code; all codes farther below are equally rare
TABLE = np.rint(TOTAL * np.exp(-np.arange(REACH * STEPS) / STEPS))
WORD = 4  # bytes that the range coder writes at once


def frequencies(steps: np.ndarray) -> np.ndarray:
    """Frequencies of codes from rounded logits, int32 `(..., K)` in steps -> whole numbers."""
    below = steps.max(-1, keepdims=True) - steps
    return TABLE[np.minimum(below, len(TABLE) - 1)] + 1  # no code is impossible


class _Walk:
    """Goes through the places of code maps and asks `_ask` for each code."""

    def __init__(self, prior: RasterPrior):
        self.prior = prior
        self._generate = tf.function(self._generate_codes)

    def _generate_codes(self, levels, below):
        def choose(logits, y, x):
            steps = tf.cast(tf.round(logits * STEPS), tf.int32)
            code = tf.numpy_function(self._answer, [steps, y, x], tf.int32)
            return tf.ensure_shape(code, levels.shape)

        return self.prior.generate(levels, choose, below)

    def _answer(self, steps, y, x):
        """Codes `(B,)` at a place, from rounded logits `(B, K)`."""
        rows = frequencies(steps)
        models = [constriction.stream.model.Categorical(row, lazy=True) for row in rows]
        return np.array(self._ask(models, y, x), "int32")


class Encoder(_Walk):
    """Writes code maps into streams.

    Args:
        prior: A prior in float64, see `networks.exact`.
        count: Number of streams.
    """

    def __init__(self, prior: RasterPrior, count: int):
        super().__init__(prior)
        self.streams = [constriction.stream.queue.RangeEncoder() for _ in range(count)]

    def write(
        self, codes: np.ndarray, levels: np.ndarray, below: np.ndarray, streams: np.ndarray
    ) -> None:
        """Append code maps to different streams.

        Args:
            codes: int32 `(B, H, W)`.
            levels: int32 `(B,)`.
            below: Codes of the slices below, see `RasterPrior.generate`.
            streams: Number of the stream of each map, `(B,)`.
        """
        self.codes, self.open = codes, [self.streams[number] for number in streams]
        self._generate(tf.constant(levels, tf.int32), tf.constant(below, tf.int32))

    def _ask(self, models, y, x):
        own = self.codes[:, y, x]
        for stream, code, model in zip(self.open, own, models):
            stream.encode(int(code), model)
        return own

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
    end = 2 ** (8 * 2 * WORD)
    first, last = (int(lower), min(int(lower) + int(width), end))
    if int.from_bytes(tail.ljust(2 * WORD, b"\0"), "big") < first:  # the coder carried into `head`
        first, last = 0, int(lower) + int(width) - end
    for count in range(2 * WORD + 1):
        step = 2 ** (8 * (2 * WORD - count))
        point = -(-first // step) * step
        if point < last:
            break
    return (head + point.to_bytes(2 * WORD, "big")[:count]).rstrip(b"\0")


class Decoder(_Walk):
    """Reads code maps from streams.

    Args:
        prior: The encoder's prior.
        contents: Bytes of each stream.
    """

    def __init__(self, prior: RasterPrior, contents: list[bytes]):
        super().__init__(prior)
        self.streams = []
        for content in contents:
            padded = content + bytes(-len(content) % WORD)
            words = np.frombuffer(padded, ">u4").astype("uint32")
            self.streams.append(constriction.stream.queue.RangeDecoder(words))

    def read(self, levels: np.ndarray, below: np.ndarray, streams: np.ndarray) -> np.ndarray:
        """Read the next code map of different streams: int32 `(B, H, W)`. See `Encoder.write`."""
        self.open = [self.streams[number] for number in streams]
        codes = self._generate(tf.constant(levels, tf.int32), tf.constant(below, tf.int32))
        return codes.numpy()

    def _ask(self, models, y, x):
        return [stream.decode(model) for stream, model in zip(self.open, models)]
