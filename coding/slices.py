"""Slices to the bytes of a file, and back."""

import operator
import pathlib

import numpy as np
import tensorflow as tf

from coding import container
from coding.entropy import Coder, RangeEncoder, opened, shortest
from dataset import ImageSource, images_of, load_images
from evaluation.stacks import resized, write_slices, write_stack
from evaluation.suitability import check_levels, warn_of_strange_slices
from fitting.checkpoints import fingerprint, load_models
from fitting.run_directory import RunDirectory, read_config
from modules import Models
from networks.attributes import labelled
from networks.layers import in_precision
from networks.order import arrange
from sources.facts import facts_of_run
from sources.folder import Split
from sources.images import to_grey
from utils import InputError, progress, spread

AT_ONCE = 16  # slices that go through the VQ-VAE together
STACKED = 64  # slices in whole stacks that go through the prior together; bytes do not depend on it


class Codec:
    """Writes slices as codes of the models of a run, and restores them.

    Args:
        run: A finished run.

    Attributes:
        facts: What is known of the data of the run.

    Raises:
        InputError: Its models cannot be loaded.
    """

    def __init__(self, run: RunDirectory):
        self.facts = facts_of_run(read_config(run)["data"])
        self.run, (vqvae, prior, _) = run, load_models(run)
        self.digest = container.digest(fingerprint(vqvae), fingerprint(prior))
        self.vqvae, self.prior = (in_precision(model, "float64") for model in (vqvae, prior))
        self.coder = Coder(self.prior)

    def encode(
        self,
        split: Split,
        rate_weight: float | None = None,
        given: np.ndarray | None = None,
    ) -> bytes:
        """Bytes of a file with the slices of a split. They were decoded again.

        Args:
            split: The slices.
            rate_weight: See `RasterPrior.choose_codes`.
            given: What is known of all who are shown; see `evaluation.context.SamplingOptions`.

        Raises:
            InputError: The prior does not know a level, or the bytes do not give the codes back.
        """
        codes, streams = self.write_streams(split, split.cases, rate_weight, given)
        check, num_levels = container.checksum(split, codes), self.prior.settings["num_levels"]
        stacks = container.stacks_of(split)
        content = container.pack(
            self.digest, check, stacks, streams, num_levels, () if given is None else given
        )
        self.decode(content, "what was written")
        return content

    def warn(self, split: Split) -> None:
        """Warn where slices are unlike those that the models know.

        Raises:
            InputError: The prior does not know a level.
        """
        check_levels(self.run, self.prior, split)
        few = split.pick(spread(len(split), AT_ONCE))
        images = load_images(few, self.vqvae.settings["image_size"])
        warn_of_strange_slices(self.run, Models(self.vqvae, self.prior), few, images)

    def write_streams(
        self,
        split: Split,
        stacks: np.ndarray,
        rate_weight: float | None = None,
        given: np.ndarray | None = None,
    ) -> tuple[np.ndarray, list[bytes]]:
        """Codes of slices, int32 `(N, H, W)`, and the bytes of the streams that hold them.

        `stacks` has the number of the stack of each slice, `(N,)`. Slices of a stack share a
        stream, and are given each other. Streams are in the order of these numbers.

        Raises:
            InputError: The prior does not know a level.
        """
        check_levels(self.run, self.prior, split)
        source = ImageSource(split, self.vqvae.settings["image_size"])
        price, streams = self.prior.price(rate_weight), [RangeEncoder() for _ in set(stacks)]

        def chosen_by(batch):
            parts = np.split(batch, range(AT_ONCE, len(batch), AT_ONCE))
            distances = [self.vqvae.distances(images_of(source, part)) for part in parts]
            return tf.concat(distances, axis=0), price

        codes = self._codes(split, stacks, streams, chosen_by, given, "encoding")
        return codes, [shortest(stream) for stream in streams]

    def read_streams(
        self,
        split: Split,
        stacks: np.ndarray,
        streams: list[bytes],
        given: np.ndarray | None = None,
    ) -> np.ndarray:
        """Codes of slices, int32 `(N, H, W)`, from what `write_streams` wrote."""
        opened_streams = [opened(content) for content in streams]
        return self._codes(split, stacks, opened_streams, lambda batch: (), given, "decoding")

    def _codes(self, split, stacks, streams, chosen_by, given, title):
        """Codes by whole stacks, with what `Coder.codes` needs to choose those of a batch."""
        _, numbers, counts = np.unique(stacks, return_inverse=True, return_counts=True)
        codes = np.empty((len(split), *self.vqvae.grid), "int32")
        together = (np.cumsum(counts) - counts) // STACKED  # stacks of one number share a batch
        for number in progress(np.unique(together), title):
            batch = np.flatnonzero(together[numbers] == number)
            levels = split.levels[batch]
            order = arrange(numbers[batch], levels, self.prior.settings["neighbours"])
            batch_streams = [streams[number] for number in numbers[batch]]
            told = labelled(levels, given)
            codes[batch] = self.coder.codes(told, order, batch_streams, *chosen_by(batch))
        return codes

    def decode(self, content: bytes, name: str) -> tuple[Split, np.ndarray, dict[str, str]]:
        """Slices of a file, named as in a data folder, their codes, and what is given of them.

        Codes are int32 `(N, H, W)`, and what is given are values by the names of attributes.

        Args:
            content: Bytes of the file.
            name: Its name, for messages.

        Raises:
            InputError: It is damaged, or of other models, or these compute differently here.
        """
        num_levels = self.prior.settings["num_levels"]
        digest, check, stacks, streams, given = container.unpack(content, name, num_levels)
        if not self.digest.startswith(digest):
            raise InputError(f"{name} was written with other models: name the --run that wrote it.")
        split, attributes = container.split_of(stacks), self.prior.attributes
        counts = [len(attribute.labels) for attribute in attributes.each]
        if given and (len(given) != len(counts) or any(map(operator.gt, given, counts))):
            raise InputError(f"{name} gives attributes that nobody has: copy it again.")
        given = np.array(given, "int32")
        codes = self.read_streams(split, split.cases, streams, given)
        if not container.checksum(split, codes).startswith(check):
            raise InputError(
                f"{name} does not give back its codes: it is damaged, or this machine computes "
                "otherwise than the one that wrote it. Copy it again, or decode it there."
            )
        return split, codes, attributes.labels(given)

    def write(self, folder: pathlib.Path, split: Split, codes: np.ndarray) -> None:
        """Write the PNG of every slice to a new folder."""
        facts = resized(self.facts, self.vqvae.settings["image_size"])
        write_slices(folder, self._restored(codes), zip(split.cases, split.levels), facts)

    def write_volume(self, path: pathlib.Path, split: Split, codes: np.ndarray) -> None:
        """Write slices of one case as a NIfTI volume that lies over the scans of the set."""
        write_stack(path, self._restored(codes), split.levels, self.facts)

    def _restored(self, codes):
        for first in progress(range(0, len(codes), AT_ONCE), "restoring"):
            yield from to_grey(self.vqvae.decode(codes[first : first + AT_ONCE]))[..., 0]
