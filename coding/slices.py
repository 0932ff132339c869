"""Slices to the bytes of a file, and back."""

import pathlib

import numpy as np

from coding import container
from coding.entropy import Coder, RangeEncoder, opened, shortest
from dataset import ImageSource, codes_below, load_images, upward_images
from evaluation.stacks import resized, write_slices, write_stack
from evaluation.suitability import check_levels, warn_of_strange_slices
from fitting.checkpoints import fingerprint, load_models
from fitting.run_directory import RunDirectory, read_config
from modules import Models
from networks.layers import exact
from sources.facts import facts_of_run
from sources.folder import Split
from sources.images import to_grey
from utils import InputError, progress, spread

BATCH = 16  # slices that go through the networks together; bytes do not depend on it


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
        self.vqvae, self.prior = exact(vqvae), exact(prior)
        self.coder = Coder(self.prior)

    def encode(self, split: Split, rate_weight: float | None = None) -> bytes:
        """Bytes of a file with the slices of a split. They were decoded again.

        For `rate_weight` see `RasterPrior.choose_codes`.

        Raises:
            InputError: The prior does not know a level, or the bytes do not give the codes back.
        """
        stacks, numbers = container.stacks_of(split)
        codes, streams = self.write_streams(split, numbers, rate_weight)
        check, num_levels = container.checksum(split, codes), self.prior.settings["num_levels"]
        content = container.pack(self.digest, check, stacks, streams, num_levels)
        self.decode(content, "what was written")
        return content

    def warn(self, split: Split) -> None:
        """Warn where slices are unlike those that the models know.

        Raises:
            InputError: The prior does not know a level.
        """
        check_levels(self.run, self.prior, split)
        few = split.pick(spread(len(split), BATCH))
        images = load_images(few, self.vqvae.settings["image_size"])
        warn_of_strange_slices(self.run, Models(self.vqvae, self.prior), few, images)

    def write_streams(
        self, split: Split, numbers: np.ndarray, rate_weight: float | None = None
    ) -> tuple[np.ndarray, list[bytes]]:
        """Codes of slices, int32 `(N, H, W)`, and the bytes of the streams that hold them.

        `numbers` has the number of the stream of each slice, `(N,)`.

        Raises:
            InputError: The prior does not know a level.
        """
        check_levels(self.run, self.prior, split)
        streams = [RangeEncoder() for _ in range(numbers.max() + 1)]
        source = ImageSource(split, self.vqvae.settings["image_size"])
        work = (
            (batch, self.vqvae.distances(images), self.prior.price(rate_weight))
            for batch, images in upward_images(source, BATCH, "encoding")
        )
        codes = self._codes(split, numbers, streams, work)
        return codes, [shortest(stream) for stream in streams]

    def read_streams(self, split: Split, numbers: np.ndarray, streams: list[bytes]) -> np.ndarray:
        """Codes of slices, int32 `(N, H, W)`, from what `write_streams` wrote."""
        work = ((batch,) for batch in progress(split.upward(BATCH), "decoding"))
        return self._codes(split, numbers, [opened(content) for content in streams], work)

    def _codes(self, split, numbers, streams, work):
        """Codes by batches of slices, each with what `Coder.codes` needs to choose them."""
        codes = np.empty((len(split), *self.vqvae.grid), "int32")
        for batch, *chosen_by in work:
            below = codes_below(codes, split.below, batch)
            batch_streams = [streams[number] for number in numbers[batch]]
            codes[batch] = self.coder.codes(split.levels[batch], below, batch_streams, *chosen_by)
        return codes

    def decode(self, content: bytes, name: str) -> tuple[Split, np.ndarray]:
        """Slices of a file, named as in a data folder, and their codes, int32 `(N, H, W)`.

        Args:
            content: Bytes of the file.
            name: Its name, for messages.

        Raises:
            InputError: It is damaged, or of other models, or these compute differently here.
        """
        num_levels = self.prior.settings["num_levels"]
        digest, check, stacks, streams = container.unpack(content, name, num_levels)
        if not self.digest.startswith(digest):
            raise InputError(f"{name} was written with other models: name the --run that wrote it.")
        split = container.split_of(stacks)
        _, numbers = container.stacks_of(split)
        codes = self.read_streams(split, numbers, streams)
        if not container.checksum(split, codes).startswith(check):
            raise InputError(
                f"{name} does not give back its codes: it is damaged, or this machine computes "
                "otherwise than the one that wrote it. Copy it again, or decode it there."
            )
        return split, codes

    def write(self, folder: pathlib.Path, split: Split, codes: np.ndarray) -> None:
        """Write the PNG of every slice to a new folder."""
        facts = resized(self.facts, self.vqvae.settings["image_size"])
        write_slices(folder, self._restored(codes), zip(split.cases, split.levels), facts)

    def write_volume(self, path: pathlib.Path, split: Split, codes: np.ndarray) -> None:
        """Write slices of one case as a NIfTI volume that lies over the scans of the set."""
        write_stack(path, self._restored(codes), split.levels, self.facts)

    def _restored(self, codes):
        for first in progress(range(0, len(codes), BATCH), "restoring"):
            yield from to_grey(self.vqvae.decode(codes[first : first + BATCH]))[..., 0]
