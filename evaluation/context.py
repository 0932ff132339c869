"""What the steps of predict.py share: how samples are drawn, the run, and what was evaluated."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from modules import Models
from networks.guidance import UNGUIDED, Guidance
from networks.logits import AS_IT_IS, Drawing
from sources.facts import DataFacts
from sources.folder import Slices, Split
from utils import clean_name

# Number of the first slice of each kind of drawing. Samples begin with 0. Numbers tell the random
# numbers of drawings with one seed apart.
COMPLETION_STRIDE = 1000  # numbers between two drawings of the same half
FIRST_COMPARED = 10**6
FIRST_BRAIN = 2 * 10**6
FIRST_COMPARED_BRAIN = 4 * 10**6
FIRST_FILLED = 6 * 10**6


class SamplingOptions(NamedTuple):
    """How slices are drawn.

    Attributes:
        seed: Seed of all random numbers. The same seed gives the same slices.
        drawing: How codes are drawn.
        texture: Whether to draw the fine grain that codes lose, for which there must be a model.
        given: Number of the value of each attribute of who is shown, int32 `(A,)`, 0 where it is
            unknown; or None where all are.
        guidance: How much neighbours and attributes count in brains.
    """

    seed: int
    drawing: Drawing = AS_IT_IS
    texture: bool = False
    given: np.ndarray | None = None
    guidance: Guidance = UNGUIDED


class Words(NamedTuple):
    """What captions, tables and `metrics.json` call things of a set.

    Attributes:
        stack: All slices of a case, or of a drawing, from bottom to top.
        part: The pixels of a slice that are not background.
    """

    stack: str
    part: str

    @classmethod
    def of(cls, facts: DataFacts) -> "Words":
        """The words for a set."""
        return cls("brain", "brain") if facts.brain else cls("stack", "foreground")


def listed(values: Mapping[str, str]) -> str:
    """Values of attributes by name, as captions say them, such as `age 70 to 75, cdr 1`."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


@dataclasses.dataclass
class Context:
    """What all steps of predict.py share, and how captions name it.

    Attributes:
        models: The networks.
        facts: What is known of the data that they learned from, and so of what they draw.
        sampling: How codes and textures are drawn.
        split: The N slices that are evaluated or mapped, or None.
        slices: The data that they are of, or None.
        folder: Folder for all files.
        results: What `evaluation.reconstruction.evaluate` measured on the split.
        figures: What draws each figure when all else has its place, by file name.
    """

    models: Models
    facts: DataFacts
    sampling: SamplingOptions
    split: Split | None = None
    slices: Slices | None = None
    folder: pathlib.Path | None = None
    results: dict[str, np.ndarray] | None = None
    figures: dict[str, Callable] = dataclasses.field(default_factory=dict)

    def draw(self, function: Callable, name: str, *args, **options) -> None:
        """Draw a figure later, by a function of `plots`, which takes a path first."""
        self.figures[name] = lambda path: function(path, *args, **options)

    @property
    def stack(self) -> str:
        """What captions call a drawing of several slices."""
        return Words.of(self.facts).stack

    @property
    def prior(self) -> str:
        """The kind of prior."""
        return type(self.models.prior).__name__

    @property
    def drawn(self) -> str:
        """How samples were drawn: the seed, and every option that is not the usual one."""
        seed, drawing, *_ = self.sampling
        pairs = zip(drawing._fields, drawing, AS_IT_IS)
        options = [
            f", {name.replace('_', '-')} {is_}" for name, is_, usual in pairs if is_ != usual
        ]
        return f"drawn from the {self.prior}{self.of_whom} with seed {seed}{''.join(options)}"

    @property
    def given(self) -> dict[str, str]:
        """What is given of who is shown: values by the names of attributes."""
        return self.models.prior.attributes.labels(self.sampling.given)

    @property
    def of_whom(self) -> str:
        """What captions say of it, or nothing."""
        return f" given {listed(self.given)}" if self.given else ""

    @property
    def source(self) -> str:
        """Data, split and size of real slices."""
        size = self.models.vqvae.settings["image_size"]
        names = f"{self.split.facts.name}, {clean_name(self.split.name)} split"
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
        texture = ", with the texture drawn" if self.sampling.texture else ""
        decoded = f"decoded by the {self.model}{texture}"
        return f"{self.drawn}, {decoded}; trained on {self.facts.name}"
