"""The slices of a training, their codes, and the files that keep these.

Slices are decoded once, and cut to their frame for each stage.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import dataset
from dataset import Example, ImageSource
from fitting import checkpoints
from fitting.devices import restart_keras
from fitting.run_directory import RunDirectory
from networks.attributes import Attributes, learn
from networks.frames import cut
from networks.order import among, arrange, batches
from networks.raster import mirrored_level
from sources.anatomy import measured
from sources.attributes import attribute_name, table_fingerprint
from sources.folder import Slices, fingerprint
from sources.layout import FITTED_SPLITS
from sources.masking import frame_of
from utils import InputError, progress, read_arrays, replacing

MAX_BATCH = 64  # slices whose codes are chosen together
MAX_DISTANCE_BYTES = 2**29  # memory of one array of distances to all codes; a few exist at once


class Examples(NamedTuple):
    """Examples of one split: a function as of `dataset.Example`, and their number."""

    example: Example
    count: int


class TrainingData:
    """Slices of the splits that a training reads.

    Args:
        slices: The data folder.
        image_size: Pixels S of a side.
        reduction: Pixels of an image side that share one code.
        attributes: Names of the attributes that a prior may be told. None is all that there are.

    Raises:
        InputError: There is no such attribute.

    Attributes:
        slices: The data folder.
        sources: Images of each fitted split by the index of a slice.
        table: Known values of attributes, by name and case: those of the set, and measured ones.
        frame: Part of the slices that holds all of the training split.
    """

    def __init__(
        self,
        slices: Slices,
        image_size: int,
        reduction: int,
        attributes: Sequence[str] | None = None,
    ):
        self.slices, self.image_size = slices, image_size
        splits = slices.splits
        self.sources = {name: ImageSource(splits[name], image_size) for name in FITTED_SPLITS}
        self.table = self._table(attributes)
        occupied = self.sources["train"].images.any(axis=0)
        self.frame = frame_of(occupied, reduction, slices.facts)

    def _table(self, names):
        """The attributes of these names, those that are measured among them."""
        table, facts = {}, dataclasses.replace(self.slices.facts, levels=self.slices.num_levels)
        for source in self.sources.values():
            for name, values in measured(source.images, source.split.cases, facts).items():
                table.setdefault(name, {}).update(values)
        table |= self.slices.attributes
        names = names and [attribute_name(name) for name in names]
        for name in names or ():
            if name not in table:
                there = ", ".join(sorted(table)) or "none"
                raise InputError(f"--attributes {name} is not in the data: there are {there}.")
        return {name: table[name] for name in sorted(table if names is None else names)}

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
            "facts": self.slices.facts.as_json(of_a_run=True),
            "cohort": self.slices.facts.cohort,
            "fingerprint": self.slices.fingerprint,
            "table_fingerprint": table_fingerprint(
                {
                    name: column
                    for name, column in self.slices.attributes.items()
                    if name in self.table
                }
            ),
            "split_fingerprints": {n: fingerprint(s) for n, s in self.slices.splits.items()},
            "masked": self.slices.masked,
            "intensity_range": dataset.INTENSITY_RANGE,
            "images": {name: len(split) for name, split in self.slices.splits.items()},
        }

    def frames(self, name: str) -> Examples:
        """Frames of the slices of a split, on which the VQ-VAE learns."""
        source = self.sources[name]
        return Examples(dataset.image_examples(source, self.frame), len(source))

    def codes(
        self, name: str, codes: np.ndarray, neighbours: int, attributes: Attributes
    ) -> Examples:
        """Codes of a split, as of `read_codes`, on which a prior learns.

        The prior reads so many `neighbours` on each side, and may be told these attributes.
        """
        split, num_levels = self.slices.splits[name], self.slices.num_levels
        numbers = {
            case: attributes.numbers(self._values(case)) for case in set(split.cases.tolist())
        }
        numbers = np.stack([numbers[case] for case in split.cases.tolist()])
        example = dataset.code_examples(codes, split, num_levels, neighbours, numbers)
        return Examples(example, len(split))

    def learn_attributes(self) -> Attributes:
        """Number the values of the attributes as the people of the training split have them."""
        split = self.slices.splits["train"]
        people = {case: split.facts.subject(case) for case in sorted(set(split.cases.tolist()))}
        attributes, notes = learn(self.table, people)
        for note in notes:
            print(note, flush=True)
        return attributes

    def _values(self, case):
        return {name: column[case] for name, column in self.table.items() if case in column}

    def textures(self, name: str, restored: np.ndarray) -> Examples:
        """Slices of a split with their reconstructions, uint8 `(N, S, S)`, for the texture."""
        source = self.sources[name]
        example = dataset.texture_examples(source, cut(restored, self.frame), self.frame)
        return Examples(example, len(source))


# ---- codes -------------------------------------------------------------------------------------


def write_codes(
    run: RunDirectory, data: TrainingData, path: pathlib.Path, rate_weight: float
) -> None:
    """Write the codes of all slices, and of their mirror images where there are any.

    With a rate weight they are near and, to the first prior, likely. Without one they are the
    nearest. A file that was made of the same models and slices is kept.

    Args:
        run: Run directory with a finished VQ-VAE and, with a rate weight, a finished first prior.
        data: Slices of the training.
        path: File to write, the `first_prior_codes` or the `codes` of the run.
        rate_weight: Price of one bit, see `RasterPrior.choose_codes`.
    """
    restart_keras()
    vqvae = checkpoints.load_model(run.model("vqvae"))
    chooser, per_side = "nearest", 0
    if rate_weight:
        first_prior = checkpoints.load_model(run.model("first_prior"))
        chooser, per_side = checkpoints.fingerprint(first_prior), first_prior.settings["neighbours"]

    def choose(images, levels, neighbours):
        if not rate_weight:
            return vqvae.encode(images)
        return first_prior.choose_codes(vqvae.distances(images), levels, rate_weight, neighbours)

    made_of = f"{checkpoints.fingerprint(vqvae)} {chooser} {data.slices.fingerprint}"
    if not _is_made_of(path, made_of):
        codes = _codes_of_splits(vqvae, data, choose, per_side, path.stem)
        with replacing(path) as temporary:
            np.savez(temporary, made_of=made_of, **codes)


def _is_made_of(path, made_of):
    try:
        return read_arrays(path, "")["made_of"] == made_of
    except (InputError, KeyError):
        return False  # it is missing or damaged, and is made again


def _codes_of_splits(vqvae, data, choose, per_side, title):
    """Codes that `choose(images, levels, neighbours)` gives, as `read_codes` returns them.

    Codes of a case are chosen coarse to fine, so `neighbours` holds codes that were chosen before.
    """
    distance_bytes = 4 * math.prod(vqvae.grid) * vqvae.settings["codebook_size"]
    batch_size = max(1, min(MAX_BATCH, MAX_DISTANCE_BYTES // distance_bytes))
    codes, sides = {}, (False,) if data.slices.facts.mirror == "none" else (False, True)
    for name in FITTED_SPLITS:
        source, split = data.sources[name], data.slices.splits[name]
        order = arrange(split.cases, split.levels, per_side)
        codes[name] = np.empty((len(sides), len(source), *vqvae.grid), "uint16")
        for chosen, mirror in zip(codes[name], sides):
            levels = split.levels
            if mirror:
                levels = mirrored_level(levels, data.slices.num_levels)
            work = progress(
                batches(order, batch_size), f"{title}, {name}{' mirrored' if mirror else ''}"
            )
            for batch in work:
                images = dataset.images_of(source, batch, mirror)
                chosen[batch] = choose(images, levels[batch], among(order, chosen, batch))
    return codes


def read_codes(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Codes of the slices of each fitted split, and of their mirror images where there are any.

    Returns:
        uint16 `(2, N, H, W)` by split: `[0]` the slices, `[1]` their mirror images. Without mirror
        images `(1, N, H, W)`.
    """
    remedy = "remove it and repeat the train.py command"
    arrays = read_arrays(path, remedy)
    for name in FITTED_SPLITS:
        if name not in arrays or arrays[name].dtype != "uint16" or arrays[name].ndim != 4:
            raise InputError(f"{path} lacks the codes of {name}: {remedy}.")
    return {name: arrays[name] for name in FITTED_SPLITS}


def write_code_counts(run: RunDirectory, codebook_size: int) -> None:
    """Count the codes of a run where they are not mirrored, and write its `code_counts`."""
    codes = read_codes(run.codes)["train"][0]
    with replacing(run.code_counts) as temporary:
        np.savez_compressed(temporary, counts=code_counts(codes, codebook_size))


def code_counts(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """Count each code at each position: codes `(N, H, W)` -> int32 `(H, W, K)`."""
    _, height, width = codes.shape
    place = np.arange(height * width).reshape(height, width)
    size = height * width * codebook_size
    flat = np.bincount((place * codebook_size + codes).ravel(), minlength=size)
    return flat.reshape(height, width, codebook_size).astype("int32")
