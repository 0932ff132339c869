"""The slices of a training: decoded once, cut to their frame, with examples for each stage."""

from typing import Any, NamedTuple

import numpy as np

import dataset
from dataset import Example, ImageSource
from networks.frames import cut
from sources.folder import Slices
from sources.layout import FITTED_SPLITS


class Examples(NamedTuple):
    """Examples of one split: a function of an index and a mirror flag, and their number."""

    example: Example
    count: int


class TrainingData:
    """Slices of the splits that a training reads.

    Args:
        slices: The data folder.
        image_size: Pixels S of a side.
        reduction: Pixels of an image side that share one code.

    Attributes:
        slices: The data folder.
        sources: Images of each fitted split by the index of a slice.
        frame: Part of the slices that holds all of the training split.
    """

    def __init__(self, slices: Slices, image_size: int, reduction: int):
        self.slices, self.image_size = slices, image_size
        splits = slices.splits
        self.sources = {name: ImageSource(splits[name], image_size) for name in FITTED_SPLITS}
        self.frame = self.sources["train"].find_frame(reduction)

    def describe_frame(self) -> str:
        """Say what of the slices is computed."""
        top, left, bottom, right = self.frame
        share = (bottom - top) * (right - left) / self.image_size**2
        return (
            f"Frame: rows {top}-{bottom - 1} and columns {left}-{right - 1} of "
            f"{self.image_size} x {self.image_size}, {share:.0%} of the pixels."
        )

    def description(self) -> dict[str, Any]:
        """What `config.json` says about the data."""
        return {
            "name": self.slices.name,
            "cohort": self.slices.cohort,
            "fingerprint": self.slices.fingerprint,
            "masked": self.slices.masked,
            "intensity_range": dataset.INTENSITY_RANGE,
            "images": {name: len(split) for name, split in self.slices.splits.items()},
        }

    def frames(self, name: str) -> Examples:
        """Frames of the slices of a split, on which the VQ-VAE learns."""
        source = self.sources[name]
        return Examples(dataset.image_examples(source, self.frame), len(source))

    def codes(self, name: str, codes: np.ndarray) -> Examples:
        """Codes `(2, N, H, W)` of a split with its levels, on which a prior learns."""
        split, num_levels = self.slices.splits[name], self.slices.num_levels
        example = dataset.code_examples(codes, split.levels, num_levels, split.below)
        return Examples(example, len(split))

    def textures(self, name: str, restored: np.ndarray) -> Examples:
        """Slices of a split with their reconstructions, uint8 `(N, S, S)`, for the texture."""
        source = self.sources[name]
        example = dataset.texture_examples(source, cut(restored, self.frame), self.frame)
        return Examples(example, len(source))
