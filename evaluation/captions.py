"""Captions of the figures of predict.py: data, model, levels, and how samples were drawn.

The functions in `evaluation.plots` add the scale of what they draw.
"""

import dataclasses
import math
from typing import Any

from evaluation.saved import Parts
from utils import clean_name

BASELINES = ("uniform", "unigram", "position")  # models without context


@dataclasses.dataclass(frozen=True)
class Facts:
    """What captions say, read from `metrics.json` and from the saved parts.

    Attributes:
        data: Name of the data.
        split: Name of the split.
        trained_on: Name of the data that the models were trained on.
        image_size: Pixels S of a side.
        frame: Part of the slices that the codes describe.
        grid: Rows and columns of codes.
        codebook_size: Number of codes K.
        codes_used: Number of codes that the split uses.
        perplexity: Perplexity of the codes of the split.
        baselines: Bits per code of each of `BASELINES`.
        samples: Number of samples.
        sampling: Settings that samples were drawn with, by name of the flag.
        texture: Whether samples have texture.
        closest: `(number of slices, distance)` of `--evaluate-samples`, or None. One in a hundred
            real test slices is closer than the distance to a training slice.
    """

    data: str
    split: str
    trained_on: str
    image_size: int
    frame: tuple[int, ...]
    grid: tuple[int, int]
    codebook_size: int
    codes_used: int
    perplexity: float
    baselines: dict[str, float]
    samples: int
    sampling: dict[str, int | float]
    texture: bool
    closest: tuple[int, float] | None

    @property
    def source(self) -> str:
        """Data and size of real slices."""
        return f"{self.data}, {self.split} split, {self.image_size} x {self.image_size} pixels"

    @property
    def model(self) -> str:
        """The VQ-VAE."""
        return (
            f"VQ-VAE with {' x '.join(map(str, self.grid))} codes from a codebook of "
            f"{self.codebook_size}"
        )

    @property
    def drawn(self) -> str:
        """How samples were drawn: the seed, and every option that is not the usual one."""
        usual = {"temperature": 1, "top-k": 0, "top-p": 1}
        options = [f"{n} {v}" for n, v in self.sampling.items() if v != usual.get(n)]
        return f"drawn from the PixelCNN with {', '.join(options)}"

    @property
    def made(self) -> str:
        """Where samples come from."""
        texture = ", with the texture drawn" if self.texture else ""
        return f"{self.drawn}, decoded by the {self.model}{texture}; trained on {self.trained_on}"


def read_facts(metrics: dict[str, Any], parts: Parts) -> Facts:
    """Gather what captions say.

    Args:
        metrics: Content of `metrics.json`.
        parts: Parts of the saved results, `model` among them.

    Raises:
        KeyError: A fact is missing.
        TypeError: A fact is of another type.
        ValueError: A number is none, or not finite.
    """
    data, codebook, sampling = metrics["data"], metrics["codebook"], metrics["samples"]
    return Facts(
        data=clean_name(data.get("name", "no slices")),
        split=clean_name(data.get("split", "no")),
        trained_on=clean_name(parts["model"]["trained_on"]),
        image_size=int(data["image_size"]),
        frame=_frame(data),
        grid=tuple(map(int, parts["model"]["grid"])),
        codebook_size=int(codebook["size"]),
        codes_used=int(codebook.get("used", 0)),
        perplexity=_number(codebook.get("perplexity", 0)),
        baselines={
            name: _number(metrics["prior"][f"{name}_bits_per_code"])
            for name in BASELINES
            if "prior" in metrics
        },
        samples=int(sampling["count"]),
        sampling={
            "seed": int(sampling["seed"]),
            "temperature": _number(sampling["temperature"]),
            "top-k": int(sampling["top_k"]),
            "top-p": _number(sampling["top_p"]),
        },
        texture=bool(sampling.get("texture", False)),
        closest=_closest(metrics["generation"]) if "generation" in metrics else None,
    )


def _frame(data):
    """Frame of `data` of `metrics.json`; earlier ones have none and describe whole slices."""
    size = int(data["image_size"])
    top, left, bottom, right = map(int, data.get("frame", (0, 0, size, size)))
    if not (0 <= top < bottom <= size and 0 <= left < right <= size):
        raise ValueError("the frame is no part of the slices")
    return top, left, bottom, right


def _closest(generation):
    return int(generation["samples"]), _number(generation["nearest_real_p1"])


def _number(value):
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return float(value)


# ---- captions ----------------------------------------------------------------------------------


def reconstructions(facts: Facts) -> str:
    """Caption of originals and reconstructions."""
    return f"{facts.source}. {facts.model}."


def codes(facts: Facts) -> str:
    """Caption of how codes are used."""
    usage = f"{facts.codes_used} codes used, perplexity {facts.perplexity:.1f}"
    return f"{facts.source}. {facts.model}; {usage}."


def training(facts: Facts) -> str:
    """Caption of the learning curves."""
    return (
        f"Trained on {facts.trained_on}. {facts.model}, then a gated PixelCNN. Grey lines: models "
        f"without context, on the {facts.split} split of {facts.data}."
    )


def samples(facts: Facts, shown: int) -> str:
    """Caption of generated slices, of which `shown` are shown."""
    part = f" {shown} of {facts.samples:,} are shown, evenly spread." * (shown < facts.samples)
    return f"Generated slices, not real ones: {facts.made}.{part}"


def comparison(facts: Facts) -> str:
    """Caption of pairs of a real and a generated slice."""
    return (
        f"Real slices of {facts.source}, beside generated ones, {facts.made}. The two slices of a "
        "pair have the same level."
    )


def completions(facts: Facts, times: int) -> str:
    """Caption of slices whose lower half was drawn several times."""
    return (
        f"{facts.source}. {facts.model}: the codes of the upper half are given, those of the lower "
        f"half are {facts.drawn}, {times} times."
    )


def walk(facts: Facts) -> str:
    """Caption of a walk through the levels."""
    return (
        "Generated slices, not real ones: one brain from bottom to top. Each slice is given the "
        f"two slices below it and {facts.made}."
    )


def brains(facts: Facts, shown: int, level: int, with_real: bool) -> str:
    """Caption of cuts through brains; axial cuts are at `level`."""
    beside = f" Beside them {facts.source}." if with_real else ""
    drawn = f"{shown} generated brains, not real ones"
    if shown == 1:
        drawn = "A generated brain, not a real one"
    return (
        f"{drawn}: each slice is given the two slices below it and {facts.made}.{beside} Rows: "
        f"axial cut (level {level}), sagittal cut beside the midline, "
        "coronal cut; the nose is to the right, and one row of a cut is one slice of 1 mm. Each "
        "slice has a grey scale of its own, in real brains too, which makes the bands."
    )


def ventricles(facts: Facts) -> str:
    """Caption of the area of the ventricles by level."""
    return (
        f"Mean area of the ventricles by level, from bottom to top. Generated: brains "
        f"{facts.drawn}, decoded by the {facts.model}, without texture. Real: brains of "
        f"{facts.source}. Training: those that the models learned from."
    )


def anatomy(facts: Facts) -> str:
    """Caption of the anatomy of generated and real slices by level."""
    count, _ = facts.closest
    return (
        f"Anatomy by level. Samples: {count:,} generated slices, {facts.made}. Real: slices of "
        f"{facts.source}. Validation: real slices of other people. Areas are shares of the image. "
        "Upper row: means, with a 95 % bootstrap over people or drawn brains. Lower row: "
        "Wasserstein distances to the real slices of the same level; in the shaded range 95 % of "
        "the distances of samples would lie if the two sets did not differ; dotted: the upper end "
        "of this range for validation."
    )


def closest(facts: Facts, shown: int) -> str:
    """Caption of the samples that are closest to a training slice."""
    count, distance = facts.closest
    return (
        f"The {shown} of {count:,} generated slices that are closest to a training slice of "
        f"{facts.data}, with the root mean square distance at 64 x 64 pixels. One in a hundred "
        f"real test slices is closer than {distance:.3f} to a training slice."
    )


def anomaly(data: str, trained_on: str, shown: int, count: int) -> str:
    """Caption of the slices with the highest scores."""
    return (
        f"{data}: {shown} of {count:,} slices, the highest scores first. Model trained on "
        f"{trained_on}. "
        "Unusual does not mean ill, and this is no medical device."
    )
