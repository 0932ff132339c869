"""Generation of code maps in raster order: the loop behind sampling, choosing and healing codes.

A prior models the codes of a slice as p(codes | level, slices below). It is the product of
p(code | earlier codes, level, slices below) in raster order, row by row and from left to right.
Whatever a caller wants of the codes, the same loop goes through the places and a rule
`choose(logits, y, x)` decides each code. Another prior, for instance a transformer, is another
subclass of `RasterPrior`, whose docstring says what it must write.

Whole brains are drawn as a wavefront: `sample_upward` draws rows of many slices at once, each some
rows behind the slice below it.

Codes are int32 `(B, H, W)` in [0, K). A level is the number of a slice from bottom to top, in
[0, L), and the mirror image of a slice has its level + L. So levels are int32 `(B,)` in [0, 2L).
The slices below are those of the same case at levels k - 1 and k - 2, the nearer one first. Their
codes are int32 `(B, SLICES_BELOW, H, W)`, and `NO_CODE` everywhere where there is no such slice. A
mirror image has mirror images below it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from networks import check_range, graph_function, replicas
from networks.logits import AS_IT_IS, Drawing, bits, draw, near_and_likely, surprise
from networks.neighbours import NO_CODE, SLICES_BELOW, Wavefront

SEED_STRIDE = 7919  # a prime, so that streams of neighbouring seeds do not meet soon


def mirrored_level(levels: Any, num_levels: int) -> Any:
    """Level that stands for the mirror image of a slice at level k in [0, L): k + L.

    Training sees both. Brains and scanners are not symmetric, so a prior that could not tell them
    apart would draw half of its slices mirrored.
    """
    return levels + num_levels


def plain_level(levels: Any, num_levels: int) -> tuple[Any, Any]:
    """Inverse of `mirrored_level`: `(level in [0, L), 1 for a mirror image and else 0)`."""
    return levels % num_levels, levels // num_levels


def numbered_seed(seed: int, number: int | np.ndarray) -> tf.Tensor:
    """Seed of the stream with this number: int32, a scalar, or of the shape of the numbers."""
    return tf.constant((seed + SEED_STRIDE * number) % 2**31, tf.int32)


class RasterPrior(keras.Model):
    """p(codes | level, slices below) in raster order.

    A prior is a subclass. Its constructor takes these arguments, hands them to this one, and builds
    all weights. It must write `call` and `step`. If it needs more than the code to the left, it
    also writes `start` and `start_row`, and if it reads the slices below, `read_below` and
    `REACH_BELOW`. That is all. `step` must give the logits that `call` gives at that place for the
    same earlier codes. AutoGraph is off: a branch on a tensor is `tf.cond`, a loop
    `tf.while_loop`.

    Call: `{"codes": (B, H, W), "levels": (B,), "below": (B, SLICES_BELOW, H, W)}`, all int32 ->
    logits of all places, float32 `(B, H, W, K)`. The loss is bits per code.

    All methods take `levels`, int32 `(B,)` in [0, 2L), which `plain_level` splits, and `below`, the
    codes of the slices below, int32 `(B, SLICES_BELOW, H, W)`, or None where no slice has any.

    Args:
        grid: Rows H and columns W of the code map, 1 to 512. One number stands for both.
        codebook_size: Number of codes K, 2 to 65,536.
        num_levels: Number L of slice levels, 1 to 10,000.
        width: Channels C, 2 to 1024.
        blocks: Number of blocks, 1 to 64.
        dropout: Dropout rate within the blocks, 0 to 1.
        reads_below: Whether it reads the slices below. If not, it models each slice by itself.
        rate_weight: Rate weight by which its codes were chosen; see `choose_codes`.
        vqvae: Fingerprint of the VQ-VAE whose codes it models. Networks ignore it. Loading compares
            it.

    Attributes:
        settings: These arguments by name.

    Raises:
        ValueError: A setting is out of range.
    """

    REACH_BELOW = 0  # rows above and below a row on which `read_below` depends

    def __init__(
        self,
        grid: int | Sequence[int],
        codebook_size: int,
        num_levels: int,
        width: int = 128,
        blocks: int = 8,
        dropout: float = 0.1,
        reads_below: bool = False,
        rate_weight: float = 0.0,
        vqvae: str = "",
        **kwargs,
    ):
        super().__init__(**kwargs)
        grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
        check_range("grid", grid, int, 1, 512, length=2)
        check_range("codebook_size", codebook_size, int, 2, 2**16)
        check_range("num_levels", num_levels, int, 1, 10**4)
        check_range("width", width, int, 2, 1024)
        check_range("blocks", blocks, int, 1, 64)
        check_range("dropout", dropout, float, 0, 1)
        check_range("rate_weight", rate_weight, float, 0, 1e6)
        self.settings = dict(
            grid=grid, codebook_size=codebook_size, num_levels=num_levels, width=width,
            blocks=blocks, dropout=dropout, reads_below=reads_below, rate_weight=rate_weight,
            vqvae=vqvae,
        )  # fmt: skip

    def get_config(self):
        return {**super().get_config(), **self.settings}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean bits a code."""
        return replicas.share_of_loss(ops.mean(bits(y_pred, y)))

    def step(
        self, state: Any, left: tf.Tensor, y: tf.Tensor, x: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Logits `(B, K)` of one place in each row, and the state after them.

        Args:
            state: What `start_row` or the last `step` returned.
            left: Code to the left, int32 `(B,)`, or `NO_CODE` at the start of a row.
            y: Row of each map, int32 `(B,)`.
            x: Column, a scalar.
        """
        raise NotImplementedError

    def start(self, batch: int | tf.Tensor) -> Any:
        """State of so many maps before their first row: any structure of tensors.

        Shapes stay the same throughout, so a cache has its full size from the start.
        """
        return ()

    def start_row(
        self, state: Any, above: tf.Tensor, levels: tf.Tensor, read: Any, y: tf.Tensor
    ) -> Any:
        """State at the start of rows y, int32 `(B,)`.

        Maps take turns in a state: where y is 0, nothing of an earlier one may stay. `above` has
        the codes of the rows above, int32 `(B, W)`, or `NO_CODE` everywhere, the last of which no
        `step` was given. `read` is what `read_below` says of these rows.
        """
        return state

    def read_below(self, below: tf.Tensor) -> Any:
        """What codes of the slices below say: any structure of tensors `(B, h, W, ...)`.

        `below` may be windows of h rows of these slices. Rows beyond the map are `OUTSIDE`. Where
        in the map a window lies must not matter.
        """
        return ()

    def generate(
        self, levels: tf.Tensor, choose: Callable, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Code maps in raster order, int32 `(B, H, W)`. Each place is computed once.

        `choose` is the rule `(logits (B, K), y, x) -> codes (B,)` that decides each code.
        """
        height, width = self.settings["grid"]
        levels = tf.cast(levels, tf.int32)
        read = self.read_below(self._codes_below(below, levels))

        def line(y, state, above, rows):
            row_read = tf.nest.map_structure(lambda part: part[:, y], read)
            ys = tf.zeros_like(levels) + y
            state = self.start_row(state, above, levels, row_read, ys)
            codes, state = self._row(state, ys, lambda logits, x: choose(logits, y, x))
            return y + 1, state, codes, rows.write(y, codes)

        above = tf.fill((tf.shape(levels)[0], width), NO_CODE)
        rows = tf.TensorArray(tf.int32, height, element_shape=(levels.shape[0], width))
        first = (0, self.start(tf.shape(levels)[0]), above, rows)
        rows = tf.while_loop(lambda y, *_: y < height, line, first)[-1]
        return tf.transpose(rows.stack(), (1, 0, 2))  # (B, H, W)

    def _row(self, state, y, choose):
        """Codes of rows y by a rule `choose(logits, x)`, `(B, W)`, and the state after them."""
        width = self.settings["grid"][1]

        def place(x, state, left, row):
            logits, state = self.step(state, left, y, x)
            code = choose(logits, x)
            return x + 1, state, code, row.write(x, code)

        none = tf.zeros_like(y) + NO_CODE
        row = tf.TensorArray(tf.int32, width, element_shape=y.shape)
        loop = tf.while_loop(lambda x, *_: x < width, place, (0, state, none, row))
        return tf.transpose(loop[-1].stack()), loop[1]

    def logits(
        self, codes: tf.Tensor, levels: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Logits of all places at once, float32 `(B, H, W, K)`."""
        below = self._codes_below(below, levels)
        return self({"codes": codes, "levels": levels, "below": below})

    @graph_function
    def bits(
        self, codes: tf.Tensor, levels: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """-log2 of each code's probability, float32 `(B, H, W)`."""
        return bits(self.logits(codes, levels, below), codes)

    @graph_function
    def surprise(
        self, codes: tf.Tensor, levels: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Surprise of each code after those before it, float32 `(B, H, W)`; see `surprise`."""
        return surprise(self.logits(codes, levels, below), codes)

    @graph_function
    def sample(
        self,
        levels: tf.Tensor,
        seed: tf.Tensor,
        drawing: Drawing = AS_IT_IS,
        given: tf.Tensor | None = None,
        rows: int = 0,
        below: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draw code maps, int32 `(B, H, W)`.

        Args:
            levels: See above, as for `below`.
            seed: int32 scalar tensor. The same seed gives the same codes.
            drawing: How to draw.
            given: Codes to begin from, int32 `(B, H, W)`, or None.
            rows: Number of rows that are kept of `given`. The rest is drawn.
            below: See above.
        """

        def choose(logits, y, x):
            code = draw(logits, seed, self._place(y, x), drawing)
            return code if given is None else tf.where(y < rows, given[:, y, x], code)

        return self.generate(levels, choose, below)

    @graph_function
    def sample_upward(
        self, below: tf.Tensor, level: tf.Tensor, seeds: tf.Tensor, drawing: Drawing = AS_IT_IS
    ) -> tf.Tensor:
        """Draw stacks of slices upward, each given those drawn below it: int32 `(B, S, H, W)`.

        Row y of a slice needs the slices below up to row y + `REACH_BELOW` only. So a slice begins
        as soon as these rows are drawn. When a slice is finished, a later one takes its place in
        the batch. Up to rounding, the codes are those that `sample` draws slice by slice.

        Args:
            below: Codes of the slices below the lowest, int32 `(B, SLICES_BELOW, H, W)`.
            level: Level of the lowest slice, int32 scalar.
            seeds: Seed of each slice, int32 `(S,)`, for S slices in each stack.
            drawing: How to draw.
        """
        below, level, seeds = (tf.cast(part, tf.int32) for part in (below, level, seeds))
        front = Wavefront(below.shape, seeds.shape[0], self.REACH_BELOW)

        def line(step, state, rows):
            number, y, place, is_drawn = front.slots_at(step)
            read = self.read_below(front.below(rows, place))
            read = tf.nest.map_structure(lambda part: part[:, self.REACH_BELOW], read)
            levels, ys = (tf.repeat(part, front.batch) for part in (level + number, y))
            state = self.start_row(state, front.above(rows, place), levels, read, ys)
            slot_seeds = tf.gather(seeds, number)

            def choose(logits, x):
                return draw(logits, slot_seeds, self._place(y, x), drawing)

            codes, state = self._row(state, ys, choose)
            return step + 1, state, front.write(rows, place, is_drawn, codes)

        first = (0, self.start(front.slots * front.batch), front.first_rows(below))
        rows = tf.while_loop(lambda step, *_: step < front.steps, line, first)[-1]
        return front.maps(rows)

    def choose_codes(
        self,
        distances: tf.Tensor,
        levels: tf.Tensor,
        rate_weight: float | None = None,
        below: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Codes that are near and likely, int32 `(B, H, W)`: least distance + rate_weight x bits.

        The choice goes in raster order, so that the bits follow from the codes chosen before.

        Args:
            distances: Distance of each latent to each code, float32 `(B, H, W, K)`, from
                `VQVAE.distances`.
            levels: See above, as for `below`.
            rate_weight: Price lambda of one bit, in units of distance. 0 gives the nearest codes,
                and None the prior's own.
            below: See above.

        Reference:
            Chou, Lookabaugh and Gray 1989, Entropy-Constrained Vector Quantization.
        """
        price = self.price(rate_weight)
        if not price.numpy():
            return tf.argmin(distances, axis=-1, output_type=tf.int32)
        return self._choose_codes(distances, levels, price, self._codes_below(below, levels))

    def price(self, rate_weight: float | None = None) -> tf.Tensor:
        """Price of one nat, a float32 scalar, for the price of one bit; see `choose_codes`."""
        rate_weight = self.settings["rate_weight"] if rate_weight is None else rate_weight
        # As a tensor, because all rate weights then share one graph.
        return tf.constant(rate_weight / math.log(2), tf.float32)

    @graph_function
    def _choose_codes(self, distances, levels, price, below):
        def choose(logits, y, x):
            return near_and_likely(distances[:, y, x], logits, price)

        return self.generate(levels, choose, below)

    @graph_function
    def heal(
        self,
        codes: tf.Tensor,
        levels: tf.Tensor,
        limit: tf.Tensor | float,
        seed: tf.Tensor,
        below: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draw the surprising codes anew, each judged given the healed codes before it.

        Args:
            codes: int32 `(B, H, W)`.
            levels: See above, as for `below`.
            limit: `surprise` above which a code is drawn anew, one for all or `(B,)`.
            seed: int32 scalar tensor.
            below: See above.

        Returns:
            Codes, int32 `(B, H, W)`, equal to those given where these did not surprise.

        Reference:
            Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection and segmentation
            with transformers.
        """

        def choose(logits, y, x):
            given = codes[:, y, x]
            is_surprising = surprise(logits, given) > limit
            return tf.where(is_surprising, draw(logits, seed, self._place(y, x)), given)

        return self.generate(levels, choose, below)

    def _codes_below(self, below, levels):
        """Codes of the slices below; without them `NO_CODE` everywhere."""
        if below is None:
            return tf.fill((tf.shape(levels)[0], SLICES_BELOW, *self.settings["grid"]), NO_CODE)
        return tf.cast(below, tf.int32)

    def _place(self, y, x):
        return y * self.settings["grid"][1] + x
