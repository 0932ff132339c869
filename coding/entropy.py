"""Code maps as bytes: the prior says how likely each code is, and a range coder writes it.

Encoder and decoder go through the places with `RasterPrior.generate`, as sampling does, a whole
stack at a time. The rule at each place asks the range coder instead of random numbers. The decoder
must see the very frequencies that the encoder saw. So the prior computes in float64, its logits are
rounded, and the frequencies are whole numbers that follow from the rounded logits by a table.

Reference:
    Bamler 2022, Understanding Entropy Coding With Asymmetric Numeral Systems (`constriction`).
"""

from collections.abc import Sequence

import constriction
import numpy as np
import tensorflow as tf

from networks import graph_function
from networks.logits import near_and_likely
from networks.order import Neighbours
from networks.raster import RasterPrior

RangeEncoder = constriction.stream.queue.RangeEncoder
RangeDecoder = constriction.stream.queue.RangeDecoder
STEPS = 32  # in a nat, to which logits are rounded; this costs less than 0.0001 bits a code
TOTAL = 2**22  # frequency of the likeliest code
REACH = 20  # nats below the likeliest code; all codes farther below are equally rare
TABLE = np.rint(TOTAL * np.exp(-np.arange(REACH * STEPS) / STEPS))
WORD = 4  # bytes that the range coder writes at once


def frequencies(steps: np.ndarray) -> np.ndarray:
    """Frequencies of codes from rounded logits, int32 `(..., K)` in steps -> whole numbers."""
    below = steps.max(-1, keepdims=True) - steps
    return TABLE[np.minimum(below, len(TABLE) - 1)] + 1  # no code is impossible


class Coder:
    """Writes the codes of slices, which it chooses as `RasterPrior.choose_codes` does; reads them.

    Args:
        prior: A prior in float64, see `networks.layers.exact`.
    """

    def __init__(self, prior: RasterPrior):
        self.prior, self.streams = prior, ()
        self._generate = graph_function(self._choose_codes)

    def codes(
        self,
        levels: np.ndarray,
        neighbours: Neighbours,
        streams: Sequence[RangeEncoder | RangeDecoder],
        distances: tf.Tensor | None = None,
        price: tf.Tensor | None = None,
    ) -> np.ndarray:
        """Codes of slices, int32 `(B, H, W)`: chosen and appended to streams, or read from them.

        Slices that share a stream take turns place by place, in the order of the loop.

        Args:
            levels: int32 `(B,)`.
            neighbours: See `RasterPrior.generate`.
            streams: The stream of each slice. Those of a stack share one.
            distances: See `RasterPrior.choose_codes`, float64 `(B, H, W, K)`. None reads.
            price: See `RasterPrior.price`.
        """
        self.streams = streams
        return self._generate(tf.constant(levels, tf.int32), neighbours, distances, price).numpy()

    def _choose_codes(self, levels, neighbours, distances, price):
        def choose(logits, places):
            known = [places[:, 0], tf.cast(tf.round(logits * STEPS), tf.int32)]
            if distances is not None:
                known.append(near_and_likely(tf.gather_nd(distances, places), logits, price))
            codes = tf.numpy_function(self._write_or_read, known, tf.int32)
            return tf.ensure_shape(codes, (None,))

        return self.prior.generate(levels, choose, neighbours)

    def _write_or_read(self, numbers, steps, codes=None):
        streams = [self.streams[number] for number in numbers]
        models = [
            constriction.stream.model.Categorical(row, lazy=True) for row in frequencies(steps)
        ]
        if codes is None:
            pairs = zip(streams, models)
            return np.array([stream.decode(model) for stream, model in pairs], "int32")
        for stream, model, code in zip(streams, models, codes):
            stream.encode(int(code), model)
        return codes


def opened(content: bytes) -> RangeDecoder:
    """The stream to read from, of bytes that `shortest` gave."""
    padded = content + bytes(-len(content) % WORD)
    return RangeDecoder(np.frombuffer(padded, ">u4").astype("uint32"))


def shortest(stream: RangeEncoder) -> bytes:
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
