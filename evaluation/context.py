"""What every step of predict.py is given, and what it returns."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from modules import Models
from networks.logits import Drawing
from networks.raster import numbered_seed
from sources.folder import Slices, Split
from utils import clean_name

Figure = Callable[[pathlib.Path], None]  # draws itself into a PNG


@dataclasses.dataclass(frozen=True)
class Section:
    """What one step of predict.py found out.

    Attributes:
        metrics: Its entries of `metrics.json`.
        figures: Its figures by name, drawn when all else is written.
    """

    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How codes are drawn; `networks.logits.draw` says what each option does.

    Attributes:
        seed: Seed of all random numbers. The same seed gives the same slices.
        temperature: Divisor of the logits.
        top_k: Number of likeliest codes to draw among, 0 for all.
        top_p: Probability that the codes to draw among reach together.
        texture: Whether to draw the fine grain that codes lose, where the model can.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    texture: bool = True

    @property
    def drawing(self) -> Drawing:
        """What priors take of it."""
        return Drawing(self.temperature, self.top_k, self.top_p)

    def decode(
        self, models: Models, codes: np.ndarray, numbers: np.ndarray, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Decode drawn codes, and draw the texture where it is wanted and the run has one.

        Args:
            models: The networks.
            codes: int32 `(B, H, W)`.
            numbers: Number of each slice, which tells its random numbers apart, `(B,)`.
            below: Drawn slices below, `(B, S, S, 1)`, or None.

        Returns:
            Slices in [0, 1], float32 `(B, S, S, 1)`.
        """
        restored = models.vqvae.decode(codes)
        if not (self.texture and models.texture):
            return restored
        return models.texture.draw(restored, numbered_seed(self.seed, numbers), below)

    @property
    def drawn(self) -> str:
        """How samples were drawn: the seed, and every option that is not the usual one."""
        options = [f"seed {self.seed}"]
        options += [f"temperature {self.temperature}"] if self.temperature != 1 else []
        options += [f"top-k {self.top_k}"] if self.top_k else []
        options += [f"top-p {self.top_p}"] if self.top_p != 1 else []
        return f"drawn from the PixelCNN with {', '.join(options)}"


@dataclasses.dataclass(frozen=True)
class Context:
    """What all steps of predict.py share, and how captions name it.

    Attributes:
        models: The networks.
        trained_on: Name of the data that they learned from.
        sampling: How codes and textures are drawn.
        folder: Folder for all files.
        slices: The data. None where there are no slices, and so are the two below.
        split: The split of the data that is evaluated, N slices.
        results: What `evaluation.reconstruction.evaluate` measured on the split.
    """

    models: Models
    trained_on: str
    sampling: SamplingOptions
    folder: pathlib.Path
    slices: Slices | None = None
    split: Split | None = None
    results: dict[str, np.ndarray] | None = None

    @property
    def source(self) -> str:
        """Data, split and size of real slices."""
        size = self.models.vqvae.settings["image_size"]
        names = f"{clean_name(self.slices.name)}, {clean_name(self.split.name)} split"
        return f"{names}, {size} x {size} pixels"

    @property
    def model(self) -> str:
        """The VQ-VAE."""
        vqvae = self.models.vqvae
        grid, size = " x ".join(map(str, vqvae.grid)), vqvae.settings["codebook_size"]
        return f"VQ-VAE with {grid} codes from a codebook of {size}"

    @property
    def made(self) -> str:
        """Where samples come from."""
        has_texture = self.sampling.texture and self.models.texture
        texture = ", with the texture drawn" if has_texture else ""
        decoded = f"decoded by the {self.model}{texture}"
        return f"{self.sampling.drawn}, {decoded}; trained on {self.trained_on}"
