"""Find, check and feed OASIS brain slices: files -> `tf.data`.

Layout: `keras_png_slices_{train,validate,test}/case_NNN_slice_K.nii.png`, 8-bit grey PNG, 256 x 256;
NNN is the subject, K the level of the slice, bottom to top.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import re

import numpy as np
import tensorflow as tf
from PIL import Image

import synthetic
from utils import InputError

SPLITS = ("train", "validate", "test")
SOURCE_SIZE = 256  # pixels of a side, as OASIS slices come
INTENSITY_RANGE = (0.0, 1.0)  # what a grey value of 0 and of 255 become
DEFAULT_DIRECTORY = pathlib.Path("data/keras_png_slices_data")
CACHE_BYTES = 2**31  # decoded slices are kept in memory up to this size, read again every epoch beyond it

_NAME = re.compile(r"case_(\d+)_slice_(\d+)\.nii\.png")


@dataclasses.dataclass(frozen=True)
class Split:
    """Slices of one split, by case and level: `paths` (N,), `cases` and `levels` int32 (N,)."""

    name: str
    paths: tuple
    cases: np.ndarray
    levels: np.ndarray

    def __len__(self):
        return len(self.paths)


@dataclasses.dataclass(frozen=True)
class Slices:
    """A checked data folder: what figures call it, its splits and a SHA-256 of its names and bytes."""

    name: str
    splits: dict
    fingerprint: str

    @property
    def levels(self):
        """Number of slice levels, one more than the highest seen."""
        return 1 + max(int(split.levels.max()) for split in self.splits.values())

    def report(self):
        """One line a split: images, cases and slices a case."""
        for split in self.splits.values():
            per_case = collections.Counter(split.cases.tolist()).values()
            spread = str(min(per_case)) if min(per_case) == max(per_case) else f"{min(per_case)}-{max(per_case)}"
            yield f"  {split.name:<9}{len(split):>6} images, {len(per_case):>4} cases, {spread} slices a case"


def find_slices(data=None, subjects=None, seed=0):
    """Directory of the slices to use: `data`, else the default folder, else the synthetic cohort, which is made.

    Args:
        data: folder that holds the three splits (or that holds `keras_png_slices_data`), or None.
        subjects: size of the synthetic cohort, at least 3.
        seed: of the synthetic cohort.

    Raises:
        InputError: `data` is given and does not exist, or the cohort cannot be made.
    """
    if data is not None:
        directory = pathlib.Path(data)
        if not directory.is_dir():
            raise InputError(f"--data {data} is no folder: give the one that holds keras_png_slices_train, _validate and _test.")
        inner = directory / DEFAULT_DIRECTORY.name
        return inner if inner.is_dir() else directory
    if DEFAULT_DIRECTORY.is_dir():
        return DEFAULT_DIRECTORY
    print(f"No OASIS slices found (no --data, no {DEFAULT_DIRECTORY}): using the synthetic cohort of {subjects} subjects.", flush=True)
    try:
        return synthetic.write_cohort(DEFAULT_DIRECTORY.with_name(f"synthetic_{subjects}_subjects_seed_{seed}"), subjects, seed)
    except (ValueError, FileExistsError) as error:
        raise InputError(error) from None


def open_slices(directory):
    """Check every file of a data folder and list its slices.

    Raises:
        InputError: a split is missing or empty, a name does not parse, a file is no readable 8-bit grey
            256 x 256 PNG, or a case is in two splits.
    """
    directory = pathlib.Path(directory)
    splits = {name: _open_split(directory, name) for name in SPLITS}
    seen = {}
    for split in splits.values():
        for case in set(split.cases.tolist()):
            if seen.setdefault(case, split.name) != split.name:
                raise InputError(f"{directory}: case {case:03d} is in both {seen[case]} and {split.name}, so scores would "
                                 "leak: keep every case in one split.")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(_check_file, [path for split in splits.values() for path in split.paths])
        fingerprint = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    cohort = directory / "cohort.json"
    name = "OASIS"
    if cohort.is_file():
        settings = json.loads(cohort.read_text())
        name = f"synthetic cohort ({settings['subjects']} subjects, seed {settings['seed']})"
    return Slices(name, splits, fingerprint)


def _open_split(directory, name):
    folder = directory / f"keras_png_slices_{name}"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: --data must hold keras_png_slices_train, _validate and _test.")
    slices = []
    for path in folder.glob("*.png"):
        match = _NAME.fullmatch(path.name)
        if not match:
            raise InputError(f"{path} has no case and slice number: name it case_NNN_slice_K.nii.png.")
        slices.append((int(match[1]), int(match[2]), str(path)))
    if not slices:
        raise InputError(f"{folder} holds no case_NNN_slice_K.nii.png: every split needs slices.")
    cases, levels, paths = zip(*sorted(slices))
    return Split(name, paths, np.array(cases, "int32"), np.array(levels, "int32"))


def _check_file(path):
    """Digest of a slice's place and bytes, once it is known to be readable."""
    try:
        with open(path, "rb") as file, Image.open(file, formats=["PNG"]) as image:
            found = f"{image.size[0]} x {image.size[1]} {image.mode}"
            image.verify()
            file.seek(0)
            digest = hashlib.sha256(file.read()).hexdigest()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable PNG ({error}): restore or remove it.") from None
    if found != f"{SOURCE_SIZE} x {SOURCE_SIZE} L":
        raise InputError(f"{path} is {found}, not {SOURCE_SIZE} x {SOURCE_SIZE} L (8-bit grey): convert or remove it.")
    return "/".join((*pathlib.Path(path).parts[-2:], digest))


def image_source(split, image_size):
    """Function from a slice's index to its image, uint8 `(S, S, 1)`: decoded, and resized with antialiasing.

    Decodes once and keeps the result while it fits into `CACHE_BYTES`, else decodes at every call.
    """
    paths = tf.constant(split.paths)

    def decode(index):
        image = tf.io.decode_png(tf.io.read_file(paths[index]), channels=1)
        image.set_shape((SOURCE_SIZE, SOURCE_SIZE, 1))
        if image_size != SOURCE_SIZE:
            resized = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
        return image

    if len(split) * image_size**2 > CACHE_BYTES:
        return decode
    whole = tf.data.Dataset.range(len(split)).map(decode, tf.data.AUTOTUNE).batch(len(split))
    images = next(iter(whole))  # (N, S, S, 1)
    return lambda index: images[index]


def normalise(image):
    """Grey values 0-255 -> float32 in `INTENSITY_RANGE`."""
    return tf.cast(image, tf.float32) / 255.0


def images_of(source):
    """The first stage's examples: what goes in must come out. `mirror` exchanges left and right (nose to the right)."""

    def example(index, mirror):
        image = source(index)
        image = normalise(tf.cond(mirror, lambda: tf.reverse(image, [0]), lambda: image))
        return image, image

    return example


def codes_of(codes, levels):
    """The second stage's examples: codes `(2, N, H, W)`, of the slices and of their mirror images, and levels `(N,)`."""
    codes, levels = tf.constant(codes), tf.constant(levels)

    def example(index, mirror):
        code = tf.cast(codes[tf.cast(mirror, index.dtype), index], tf.int32)
        return {"codes": code, "levels": levels[index]}, code

    return example


def training_batches(example, count, batch_size, seed, first_epoch=0):
    """Endless batches for `fit(steps_per_epoch=count // batch_size)`.

    Order and mirroring are a function of the seed and the epoch alone, so that a resumed run sees what an
    uninterrupted one would have seen. Every epoch is a new permutation, without its incomplete last batch.

    Args:
        example: function of an index and a mirror flag, from `images_of` or `codes_of`.
        count: number of examples, at least `batch_size`.
    """
    kept = count // batch_size * batch_size

    def epoch(number):
        key = tf.stack([tf.constant(seed, tf.int64), number])
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key)[:kept]
        mirrors = tf.random.stateless_uniform([kept], seed=key) < 0.5
        return tf.data.Dataset.from_tensor_slices((order, mirrors))

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch)
    return epochs.map(example, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(example, count, batch_size, mirror=False):
    """All examples once, in order, the last batch as long as it is."""
    indices = tf.data.Dataset.range(count)
    return indices.map(lambda index: example(index, tf.constant(mirror)), tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)
