"""Generation of code maps in scan order: the loop behind sampling, choosing and healing codes.

A prior models the codes of a slice as p(codes | level, neighbours). It is the product of
p(code | earlier codes, level, neighbours) in the order of the scan. Whatever a caller wants of the
codes, the same loop goes through the places and a rule `choose(logits, places)` decides each code.
Another prior, for instance a transformer, is another subclass of `RasterPrior`, whose docstring
says what it must write.

Neighbours are known slices of the same stack below and above, any or none of them; see
`networks.order`. They may be drawn in the same loop: each slice runs some rows behind its
neighbours. So slices by themselves, gaps and whole brains are drawn alike, as one wavefront.

The scan goes along lines, and from line to line. Where slices are nearly their own mirror images, a
line holds both halves: it is a column of the code map where mirroring exchanges rows, and else a
row. So whatever came before a code is known around its mirror place too, in the same lines. A
mirror image is scanned backwards within each line, while the order of the lines stays. Who reads a
slice and its mirror image, as healing does, so learns what follows on a line, and not what later
lines hold. Where there are no mirror images ("none"), nobody may read one.

Codes are int32 `(B, H, W)` in [0, K), as they lie in the image. A level is the number of a slice
from bottom to top, in [0, L), and the mirror image of a slice has its level + L. So levels are
int32 `(B,)` in [0, 2L). A mirror image has mirror images for neighbours. Levels may come with the
attributes of who is shown, int32 `(B, 1 + A)`; see `networks.attributes.labelled`. Without them
nothing is known of anybody.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from networks import check_range, graph_function, replicas
from networks.attributes import Attributes
from networks.guidance import UNGUIDED, Guidance, with_and_without
from networks.logits import (
    AS_IT_IS,
    Drawing,
    bits,
    draw,
    near_and_likely,
    redraw,
    surprise,
    uniforms,
)
from networks.neighbours import NO_CODE, OUTSIDE, Wavefront
from networks.order import NO_SLICE, Neighbours

MIRRORS = ("none", "rows", "columns")  # what a mirror image may exchange
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
    numbers = np.asarray(number, "int64")
    return tf.constant((seed + SEED_STRIDE * numbers) % 2**31, tf.int32)


class RasterPrior(keras.Model):
    """p(codes | level, neighbours) in scan order.

    A prior is a subclass. Its constructor takes these arguments, hands them to this one, and builds
    all weights. It must write `forward` and `step`. If it needs more than the code to the left, it
    also writes `start` and `start_row`, and if it reads neighbours, `read_neighbours` and `REACH`.
    That is all. These methods see maps as they are scanned: `self.scan` is their number of rows,
    which are the lines of the scan, and of columns. `step` must give the logits that `forward`
    gives at that place for the same earlier codes. AutoGraph is off: a branch on a tensor is
    `tf.cond`, a loop `tf.while_loop`.

    Call: `{"codes": (B, H, W), "levels": (B,), "neighbours": (B, S, H, W), "distances": (B, S)}`,
    all int32 -> logits of all places, float32 `(B, H, W, K)`. Where there is no neighbour, codes
    are `NO_CODE` and the distance is 0. The loss is bits per code.

    All methods take `levels`, int32 `(B,)` in [0, 2L), which `plain_level` splits, or `(B, 1 + A)`
    with the number of the value of each attribute, 0 where it is unknown. They take `neighbours`, a
    `Neighbours` of these slices, or None where no slice has any. Neighbours among the slices
    themselves must come earlier; see `Neighbours.depths`.

    Args:
        grid: Rows H and columns W of the code map, 1 to 512. One number stands for both.
        codebook_size: Number of codes K, 2 to 65,536.
        num_levels: Number L of slice levels, 1 to 10,000.
        width: Channels C, 2 to 1024.
        blocks: Number of blocks, 1 to 64.
        dropout: Dropout rate within the blocks, 0 to 1.
        neighbours: Number of neighbours that it reads on each side, 0 to 4. With 0 it models each
            slice by itself.
        mirror: What a mirror image of a slice exchanges: "rows", "columns", or "none" where slices
            are not nearly their own mirror images.
        attributes: The A attributes that it may be told, as `Attributes.as_json` gives them.
        rate_weight: Rate weight by which its codes were chosen; see `choose_codes`.
        vqvae: Fingerprint of the VQ-VAE whose codes it models. Networks ignore it. Loading compares
            it.

    Attributes:
        settings: These arguments by name.
        attributes: The attributes.
        slots: Number S of neighbours of a slice.
        scan: Lines of the scan and places of a line.

    Raises:
        ValueError: A setting is out of range.
    """

    REACH = 0  # lines before and after a line on which `read_neighbours` depends

    def __init__(
        self,
        grid: int | Sequence[int],
        codebook_size: int,
        num_levels: int,
        width: int = 128,
        blocks: int = 8,
        dropout: float = 0.1,
        neighbours: int = 0,
        mirror: str = "none",
        attributes: Sequence[dict[str, Any]] = (),
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
        check_range("neighbours", neighbours, int, 0, 4)
        check_range("rate_weight", rate_weight, float, 0, 1e6)
        if mirror not in MIRRORS:
            raise ValueError(f"`mirror` must be one of {MIRRORS}. Received: mirror={mirror!r:.100}")
        self.settings = dict(
            grid=grid, codebook_size=codebook_size, num_levels=num_levels, width=width,
            blocks=blocks, dropout=dropout, neighbours=neighbours, mirror=mirror,
            attributes=list(attributes), rate_weight=rate_weight, vqvae=vqvae,
        )  # fmt: skip
        self.attributes = Attributes.from_json(attributes)
        self.slots = 2 * neighbours
        self._is_turned = mirror == "rows"
        self.scan = grid[::-1] if self._is_turned else grid

    def get_config(self):
        return {**super().get_config(), **self.settings}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean bits a code."""
        return replicas.share_of_loss(ops.mean(bits(y_pred, y)))

    # ---- what another prior writes ---------------------------------------------------------------

    def forward(
        self, codes: tf.Tensor, levels: tf.Tensor, read: Any, training: bool = False
    ) -> tf.Tensor:
        """Logits of all places at once, float32 `(B, *scan, K)`.

        Args:
            codes: int32 `(B, *scan)`.
            levels: int32 `(B,)`.
            read: What `read_neighbours` says of all rows.
            training: Whether dropout acts.
        """
        raise NotImplementedError

    def start(self, levels: tf.Tensor) -> Any:
        """State of maps at these levels before their first row: a structure of tensors `(B, ...)`.

        Shapes stay the same throughout, so a cache has its full size from the start.
        """
        return ()

    def start_row(self, state: Any, above: tf.Tensor, read: Any, y: tf.Tensor) -> tuple[Any, Any]:
        """State after the rows above, and what `step` needs within rows y, of any structure.

        Only maps of the batch that are under way come, A of them, each at a row of its own.

        Args:
            state: State of these maps, `(A, ...)`.
            above: Codes of the rows above, int32 `(A, W)`, or `NO_CODE` everywhere.
            read: What `read_neighbours` says of these rows, `(A, W, ...)`.
            y: int32 `(A,)`.
        """
        return state, ()

    def step(
        self, within: Any, left: tf.Tensor, y: tf.Tensor, x: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Logits `(A, K)` of one place in each map, and `within` after them.

        Args:
            within: What `start_row` or the last `step` returned.
            left: Code to the left, int32 `(A,)`, or `NO_CODE` at the start of a row.
            y: Row of each map, int32 `(A,)`.
            x: Column, a scalar.
        """
        raise NotImplementedError

    def read_neighbours(self, codes: tf.Tensor, distances: tf.Tensor) -> Any:
        """What the neighbours say of h rows: any structure of tensors `(B, h, W, ...)`.

        `codes` are those of the rows and of `REACH` rows to each side, int32 `(B, S, h + 2 REACH,
        W)`. Rows beyond the map are `OUTSIDE`. Where in the map the rows lie must not matter.
        """
        return ()

    # ---- all places at once ----------------------------------------------------------------------

    def call(self, inputs, training=False):
        around = [[0, 0], [0, 0], [self.REACH, self.REACH], [0, 0]]
        neighbours = tf.pad(self._scanned(inputs["neighbours"]), around, constant_values=OUTSIDE)
        read = self.read_neighbours(neighbours, inputs["distances"])
        codes = self._scanned(inputs["codes"])
        logits = self.forward(codes, inputs["levels"], read, training=training)
        return tf.transpose(logits, (0, 2, 1, 3)) if self._is_turned else logits

    def _scanned(self, maps):
        """Maps `(..., H, W)` as they are scanned, or scanned maps as they lie in the image."""
        return tf.linalg.matrix_transpose(maps) if self._is_turned else maps

    def logits(
        self, codes: tf.Tensor, levels: tf.Tensor, neighbours: Neighbours | None = None
    ) -> tf.Tensor:
        """Logits of all places at once, float32 `(B, H, W, K)`."""
        codes = tf.cast(codes, tf.int32)
        sources, distances, _, known = neighbours or self._alone(levels)
        maps = [tf.fill((1, *self.settings["grid"]), NO_CODE), codes]
        if known is not None:
            maps.insert(1, tf.cast(known, tf.int32))
        found = tf.gather(tf.concat(maps, axis=0), sources - NO_SLICE)  # (B, S, H, W)
        inputs = {"codes": codes, "levels": levels, "neighbours": found, "distances": distances}
        return self(inputs)

    def _alone(self, levels):
        """No neighbours."""
        none = tf.fill((levels.shape[0], self.slots), NO_SLICE)
        return Neighbours(none, tf.zeros_like(none), tf.zeros(levels.shape[0], tf.int32))

    @graph_function
    def bits(
        self, codes: tf.Tensor, levels: tf.Tensor, neighbours: Neighbours | None = None
    ) -> tf.Tensor:
        """-log2 of each code's probability, float32 `(B, H, W)`."""
        return bits(self.logits(codes, levels, neighbours), codes)

    @graph_function
    def surprise(
        self, codes: tf.Tensor, levels: tf.Tensor, neighbours: Neighbours | None = None
    ) -> tf.Tensor:
        """Surprise of each code after those before it, float32 `(B, H, W)`; see `surprise`."""
        return surprise(self.logits(codes, levels, neighbours), codes)

    # ---- place by place --------------------------------------------------------------------------

    def generate(
        self, levels: tf.Tensor, choose: Callable, neighbours: Neighbours | None = None
    ) -> tf.Tensor:
        """Code maps in scan order, int32 `(B, H, W)`. Each place is computed once.

        Args:
            levels: See above.
            choose: Rule `(logits (A, K), places (A, 3)) -> codes (A,)` that decides a code in each
                of A maps. A place is the number of the map, row y and column x: `tf.gather_nd`
                finds what lies there.
            neighbours: See above.
        """
        levels, neighbours = tf.cast(levels, tf.int32), neighbours or self._alone(levels)
        distances = tf.cast(neighbours.distances, tf.int32)
        if neighbours.known is not None:
            neighbours = neighbours._replace(known=self._scanned(neighbours.known))
        front = Wavefront(neighbours, self.scan, self.REACH)

        def line(step, kept, rows):
            numbers, y = front.under_way(step)
            state, above = tf.nest.map_structure(lambda part: tf.gather(part, numbers), kept)
            windows = front.windows(rows, numbers, y)
            read = self.read_neighbours(windows, tf.gather(distances, numbers))
            read = tf.nest.map_structure(lambda part: part[:, 0], read)
            state, within = self.start_row(state, above, read, y)
            codes = self._row(within, numbers, y, choose)

            def put_back(part, changed):
                return tf.tensor_scatter_nd_update(part, numbers[:, None], changed)

            kept = tf.nest.map_structure(put_back, kept, (state, codes))
            return step + 1, kept, front.write(rows, numbers, y, codes)

        above = tf.fill((levels.shape[0], self.scan[1]), NO_CODE)
        first = (0, (self.start(levels), above), front.first_rows())
        rows = tf.while_loop(lambda step, *_: step < front.steps, line, first)[-1]
        return self._scanned(front.maps(rows))

    def _row(self, within, numbers, y, choose):
        """Codes of rows y of some maps by a rule, `(A, W)`."""

        def place(x, within, left, row):
            logits, within = self.step(within, left, y, x)
            here = (tf.zeros_like(y) + x, y) if self._is_turned else (y, tf.zeros_like(y) + x)
            code = choose(logits, tf.stack([numbers, *here], axis=1))
            return x + 1, within, code, row.write(x, code)

        none = tf.zeros_like(y) + NO_CODE
        row = tf.TensorArray(tf.int32, self.scan[1], element_shape=y.shape)
        loop = tf.while_loop(lambda x, *_: x < self.scan[1], place, (0, within, none, row))
        return tf.transpose(loop[-1].stack())

    @graph_function
    def sample(
        self,
        levels: tf.Tensor,
        seeds: tf.Tensor,
        drawing: Drawing = AS_IT_IS,
        given: tf.Tensor | None = None,
        neighbours: Neighbours | None = None,
        guidance: Guidance = UNGUIDED,
    ) -> tf.Tensor:
        """Draw code maps, int32 `(B, H, W)`.

        Args:
            levels: See above.
            seeds: int32 `(B,)`. With its level and its neighbours, the seed of a map decides it,
                whatever else is in the batch.
            drawing: How to draw.
            given: Codes that are kept, int32 `(B, H, W)`, `NO_CODE` where one is drawn, or None.
                What is drawn knows the given codes before it only.
            neighbours: See above.
            guidance: How much neighbours and attributes count. Unless both factors are 1, all maps
                go through the prior twice.
        """
        noise, count = uniforms(seeds, self.settings["grid"]), levels.shape[0]
        is_guided = guidance != UNGUIDED
        if is_guided:
            neighbours = neighbours or self._alone(levels)
            levels, neighbours, factors = with_and_without(levels, neighbours, guidance)

        def choose(logits, places):
            if is_guided:
                (logits, fewer), places = tf.split(logits, 2), tf.split(places, 2)[0]
                logits = fewer + tf.gather(factors, places[:, 0])[:, None] * (logits - fewer)
            code = draw(logits, tf.gather_nd(noise, places), drawing)
            if given is not None:
                kept = tf.gather_nd(given, places)
                code = tf.where(kept == NO_CODE, code, kept)
            return tf.concat([code, code], axis=0) if is_guided else code

        return self.generate(levels, choose, neighbours)[:count]

    def choose_codes(
        self,
        distances: tf.Tensor,
        levels: tf.Tensor,
        rate_weight: float | None = None,
        neighbours: Neighbours | None = None,
    ) -> tf.Tensor:
        """Codes that are near and likely, int32 `(B, H, W)`: least distance + rate_weight x bits.

        The choice goes in scan order, so that the bits follow from the codes chosen before.

        Args:
            distances: Distance of each latent to each code, float32 `(B, H, W, K)`, from
                `VQVAE.distances`.
            levels: See above.
            rate_weight: Price lambda of one bit, in units of distance. 0 gives the nearest codes,
                and None the prior's own.
            neighbours: See above.

        Reference:
            Chou, Lookabaugh and Gray 1989, Entropy-Constrained Vector Quantization.
        """
        price = self.price(rate_weight)
        if not price.numpy():
            return tf.argmin(distances, axis=-1, output_type=tf.int32)
        return self._choose_codes(distances, levels, price, neighbours)

    def price(self, rate_weight: float | None = None) -> tf.Tensor:
        """Price of one nat, a float32 scalar, for the price of one bit; see `choose_codes`."""
        rate_weight = self.settings["rate_weight"] if rate_weight is None else rate_weight
        # As a tensor, because all rate weights then share one graph.
        return tf.constant(rate_weight / math.log(2), tf.float32)

    @graph_function
    def _choose_codes(self, distances, levels, price, neighbours):
        def choose(logits, places):
            return near_and_likely(tf.gather_nd(distances, places), logits, price)

        return self.generate(levels, choose, neighbours)

    @graph_function
    def heal(
        self,
        codes: tf.Tensor,
        levels: tf.Tensor,
        limit: tf.Tensor | float,
        seeds: tf.Tensor,
        neighbours: Neighbours | None = None,
    ) -> tf.Tensor:
        """Draw the surprising codes anew, each judged given the healed codes before it.

        Args:
            codes: int32 `(B, H, W)`.
            levels: See above.
            limit: `surprise` above which a code is drawn anew, one for all or `(B,)`.
            seeds: See `sample`.
            neighbours: See above.

        Returns:
            Codes, int32 `(B, H, W)`, equal to those given where these did not surprise.

        Reference:
            Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection and segmentation
            with transformers.
        """
        noise = uniforms(seeds, self.settings["grid"])
        limits = tf.broadcast_to(limit, tf.shape(levels)[:1])

        def choose(logits, places):
            given, uniform = tf.gather_nd(codes, places), tf.gather_nd(noise, places)
            is_surprising = surprise(logits, given) > tf.gather(limits, places[:, 0])
            return tf.where(is_surprising, draw(logits, uniform), given)

        return self.generate(levels, choose, neighbours)

    @graph_function
    def counterfactual(
        self,
        codes: tf.Tensor,
        levels: tf.Tensor,
        others: tf.Tensor,
        seeds: tf.Tensor,
        strength: float = 1.0,
        neighbours: Neighbours | None = None,
    ) -> tf.Tensor:
        """Codes that slices would have if others were shown and all else were left to be the same.

        What is left is the noise by which a draw under one's own attributes gave the codes; see
        `networks.logits.redraw`. It draws again under the other attributes, where neighbours and
        earlier codes are those of the counterfactual too. There the difference that the attributes
        make counts `strength` times: l + strength (l_other - l), where l are the logits under one's
        own attributes. The same attributes give the same codes.

        Args:
            codes: int32 `(B, H, W)`.
            levels: With own attributes, int32 `(B, 1 + A)`.
            others: With the other attributes, int32 `(B, 1 + A)`.
            seeds: See `sample`.
            strength: See above. As the prior learned it, it is 1.
            neighbours: See above. None of them is known: they are among the slices.
        """
        noise = uniforms(seeds, (*self.settings["grid"], self.settings["codebook_size"]))
        count, (sources, distances, depths, _) = codes.shape[0], neighbours or self._alone(levels)
        moved = tf.where(sources == NO_SLICE, NO_SLICE, sources + count)
        # Slices, then their counterfactuals under the other attributes and under their own.
        parts = [sources, moved, moved], [distances] * 3, [depths] * 3
        all_three = Neighbours(*(tf.concat(part, axis=0) for part in parts))

        def choose(logits, places):
            own, other, same = tf.split(logits, 3)
            place = tf.split(places, 3)[0]
            given, other = tf.gather_nd(codes, place), same + strength * (other - same)
            drawn = redraw(own, given, tf.gather_nd(noise, place), other)
            return tf.concat([given, drawn, drawn], axis=0)

        levels = tf.concat([levels, others, levels], axis=0)
        return self.generate(levels, choose, all_three)[count : 2 * count]
