"""A synthetic cohort of axial brain slices, for work without the OASIS data.

Every subject is the ICBM152 template, bent by a smooth deformation of its own. The subject also has
its own cortical folds, fluid spaces, contrast, bias field and noise. The template is Fonov et al.
2011, NeuroImage 54(1), 313-327, in the copy inside the `nilearn` package.
"""

import concurrent.futures
import functools
import os
import pathlib
import tempfile
import types

import numpy as np
import scipy  # loads `scipy.ndimage` at its first use
from PIL import Image
from threadpoolctl import threadpool_limits

from sources import layout
from sources.facts import cohort_facts, read_facts, write_facts
from sources.layout import BOTTOM, LEFT, NUM_LEVELS, RIGHT, SLICE_SIDE, SPLITS, TOP
from utils import InputError, cores, progress

VERSION = 2  # goes up whenever the same seed gives other bytes

# These say where pixel (level, row, column) lies in the template, in MNI millimetres. They are the
# affine match of the template to the mean of OASIS-1 training slices (correlation 0.97). OASIS
# atlas space is Talairach-sized, so a millimetre in a slice is about 1.05 mm of the larger ICBM152
# head. The slices are tilted: their front lies lower in the template than their back.
MIDLINE_ROW, MIDDLE_COLUMN = 128.45, 127.5
MNI_Y, MNI_Z = -16.16, -3.52
MM_PER_LEVEL, MM_PER_ROW, MM_PER_COLUMN = 0.973, 1.055, 1.05
TILT = -0.07

BOX = (NUM_LEVELS, BOTTOM - TOP, RIGHT - LEFT)
MARGIN = 10  # levels beyond both ends of the slices that a deformation may reach into
COARSE = 2  # pixels a place of the grid on which smooth fields are computed

MOST_THREADS = 8  # each needs 200 MB

FOLD_WAVELENGTH = 18.0  # pixels; two sulci to a wavelength


# ---- the atlas ---------------------------------------------------------------------------------


@functools.cache
def _atlas():
    """The template on the slice grid, and the maps that a subject's anatomy is made from."""
    x, y, z = _millimetres()
    t1, grey, white = _template(x, y, z)
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    filled = _filled_brain(t1)
    hull = _blur(_signed_distance(filled), 2.0) - 0.5

    # The fissure between the hemispheres is outside the brain too, except for the callosum and all
    # that it roofs over, which is about an ellipse.
    callosum = ((y + 5) / 41) ** 2 + (z / 35) ** 2 < 1
    depth = _signed_distance(filled & ((np.abs(x) > 1.2) | callosum))

    # Sulci end where the deep white matter begins.
    core = _blur(-_signed_distance(_blur(white, 2.5) > 0.84), 1.0)
    mantle = _mantle(x, fluid, hull, depth)

    # An average of 152 heads is blurred. Part of the blur can be undone.
    sharpened = t1 + 1.5 * (t1 - _blur(t1, 1.8))
    return types.SimpleNamespace(
        hull=hull[MARGIN:-MARGIN],  # BOX
        t1=sharpened.astype("float32"),
        depth=depth.astype("float32"),
        smooth=np.stack([core, mantle]).astype("float32"),
        flow=_flow(fluid, hull).astype("float32"),
        unfold=_unfold(depth).astype("float32"),
    )


def _millimetres():
    """MNI coordinates x, y, z of each pixel in the box and its margins."""
    level, row, column = np.meshgrid(
        np.arange(-MARGIN, NUM_LEVELS + MARGIN),
        np.arange(TOP, BOTTOM),
        np.arange(LEFT, RIGHT),
        indexing="ij",
    )
    x = (row - MIDLINE_ROW) * MM_PER_ROW
    y = (column - MIDDLE_COLUMN) * MM_PER_COLUMN + MNI_Y
    z = level * MM_PER_LEVEL + MNI_Z + TILT * (column - MIDDLE_COLUMN)
    return x, y, z


def _template(x, y, z):
    """T1 intensity, grey matter and white matter of the template at these coordinates."""
    # It takes seconds to import, and only a cohort that is not on disk yet needs it.
    from nilearn import datasets  # noqa: PLC0415

    def on_grid(image):
        voxels = [axis - origin for axis, origin in zip((x, y, z), image.affine[:3, 3])]
        values = np.asarray(image.dataobj, "float32")
        return scipy.ndimage.map_coordinates(values, voxels, order=1)

    kinds = "template", "gm_template", "wm_template"
    return [on_grid(getattr(datasets, f"load_mni152_{kind}")(resolution=1)) for kind in kinds]


def _filled_brain(t1):
    """The brain with its sulci filled in: each level is closed with a disc.

    Its outline is smooth, because the template's is finer than the mask that strips OASIS brains.
    """
    radius, apart = 12, (1000, 1, 1)  # pixels; levels are closed one by one
    distance = functools.partial(scipy.ndimage.distance_transform_edt, sampling=apart)
    padded = np.pad(t1 > 0.02, ((0, 0), (30, 30), (30, 30)))
    filled = distance(distance(~padded) <= radius) > radius
    return filled[:, 30:-30, 30:-30]


def _mantle(x, fluid, hull, depth):
    """Where folds are drawn anew, from 0 to 1: in the outer mantle only.

    Insula, deep grey nuclei, medial cortex and cerebellum differ less between people. They stay as
    in the template.
    """
    sylvian = _blur(fluid * ((hull > 6.5) & (np.abs(x) > 25)), 4.0)
    medial = ((np.abs(x) < 21) & (hull > 8.5)).astype("float32")
    mantle = 1.0 - _smoothstep(depth, 17.0, 24.0)
    mantle *= 1.0 - _smoothstep(sylvian, 0.03, 0.12)
    mantle *= 1.0 - _blur(medial, 2.0)
    return mantle


def _flow(fluid, hull):
    """A flow into ventricles and cisterns, (3, ...). It dies away over 2 cm.

    It is weak at narrow clefts, or it would make them as wide as the rest.
    """
    inner = _signed_distance((fluid > 0.4) & (hull > 8.5))
    away = _blur(-inner, 1.5)
    radius = _blur(scipy.ndimage.maximum_filter(inner, 13), 3.0)
    flow = -np.stack(np.gradient(away)) * np.exp(-np.clip(away, 0, None) / 9.0)
    flow *= np.clip((radius + 0.5) / 4.5, 0.1, 1.0)
    return flow


def _unfold(depth):
    """Way from each pixel out to the surface of the brain, (3, ...)."""
    normal = -np.stack(np.gradient(_blur(depth, 4.0)))
    normal /= np.linalg.norm(normal, axis=0) + 0.05
    return _blur(0.7 * normal * np.clip(depth, 0.0, 18.0), (0, 2.5, 2.5, 2.5))


def _blur(image, sigma):
    return scipy.ndimage.gaussian_filter(image, sigma)


def _smoothstep(x, low, high):
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _signed_distance(inside):
    """Pixels to the border of a mask, positive inside it."""
    distance = scipy.ndimage.distance_transform_edt
    return (distance(inside) - distance(~inside)).astype("float32")


# ---- a subject ---------------------------------------------------------------------------------


def subject(seed: int, case: int) -> np.ndarray:
    """Make the slices of one person. They are the same in a cohort of any size.

    Args:
        seed: Seed of the cohort, not negative.
        case: Number of the person, not negative.

    Returns:
        uint8 `(32, 256, 256)`: levels from bottom to top, a millimetre apart, a pixel a millimetre,
        the nose to the right. Background is exactly 0, the brain 1 to 255, its white matter about
        210.

    Raises:
        ValueError: `seed` or `case` is negative.
    """
    rng = np.random.default_rng((seed, case))
    atlas = _atlas()
    age = rng.beta(0.9, 1.2)  # from 0, young, to 1, old and shrunken
    image = _tissue(rng, atlas, _deformation(rng, atlas, age), age)
    # Voxels average over their size, and scans are resampled to atlas space.
    image = _blur(image, (0.4, 0.6, 0.6))
    image *= np.exp(0.03 * _smooth_noise(rng, 50.0)[0])
    grain = _blur(rng.standard_normal(BOX, "float32"), 0.75)
    image += rng.uniform(0.014, 0.03) * grain / grain.std()
    # Most scans fill the grey levels. A tail of them is dimmer.
    image *= max(230.0 - rng.gamma(0.6, 18.0), 140.0)
    image = np.clip(image, 1.0, 255.0)
    slices = np.zeros((NUM_LEVELS, SLICE_SIDE, SLICE_SIDE), "uint8")
    slices[:, TOP:BOTTOM, LEFT:RIGHT] = np.rint(image * (atlas.hull > 0.0))
    return slices


def _deformation(rng, atlas, age):
    """Where in the atlas each place of the coarse grid comes from, (3, ...)."""
    affine = np.diag(rng.normal(1.0, 0.02, 3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle = rng.normal(0.0, 0.02)
        affine[i, j] += angle
        affine[j, i] -= angle
    centre = np.array([12.0, MIDLINE_ROW - TOP, 92.0])
    shift = centre - affine @ centre + rng.normal(0.0, [1.5, 0.5, 1.0])
    places = np.meshgrid(*(_places(length, COARSE) for length in BOX), indexing="ij")
    points = np.tensordot(affine, np.stack(places), axes=1)
    points += (shift + [MARGIN, 0, 0])[:, None, None, None]
    points += 2.0 * _smooth_noise(rng, 28.0, 3, COARSE)
    points += 0.9 * _smooth_noise(rng, 11.0, 3, COARSE)
    points = points.astype("float32")

    # Fluid spaces widen when the tissue around them is sampled nearer to their middle. Short steps
    # cannot overshoot it.
    widen = 6.2 * age + rng.normal(0.0, 1.0)
    widen = widen * (1.0 + 0.25 * _smooth_noise(rng, 40.0, step=COARSE)[0])
    for _ in range(3):
        points += np.stack([widen / 3 * _sample(axis, points) for axis in atlas.flow])
    return points


def _tissue(rng, atlas, points, age):
    """Noise-free intensity, about 1 in white matter, (*BOX)."""
    fine = _refined(points)  # (3, *BOX)
    t1, depth = _sample(atlas.t1, fine), _sample(atlas.depth, fine)
    core, mantle = _refined(np.stack([_sample(values, points) for values in atlas.smooth]))
    fluid, grey = rng.normal([0.17, 0.59], [0.015, 0.02])
    faded = 0.06 * age  # narrow sulci of the template are open in the old
    deep = np.interp(
        t1,
        [0.0, 0.3 + faded, 0.46 + faded, 0.66, 0.78, 0.88, 1.0],
        [0.1, fluid, 0.3, grey + 0.03, 0.82, 0.98, 1.04],
    )
    surface = _cortex(rng, atlas, points, depth, core, age)
    thickness = rng.normal(2.3, 0.12) - 0.3 * age
    folded = fluid + (grey - fluid) * _smoothstep(surface, -0.9, 0.9)
    folded += (1.0 - grey) * _smoothstep(surface - thickness, -1.0, 1.0)
    # Vessels and scraps of dura are bright specks in the outer fluid.
    specks = _smoothstep(_smooth_noise(rng, 2.0)[0], 2.2, 3.2)
    folded += 0.9 * specks * (surface < 0.3)
    return deep + mantle * (folded - deep)


def _cortex(rng, atlas, points, depth, core, age):
    """Pixels from the outer surface of the grey matter, positive inside it."""
    # The noise is read at the brain's surface. All points under one spot of the surface see the
    # same noise, so sulci run inwards as sheets.
    outer = points + np.stack([_sample(axis, points) for axis in atlas.unfold])
    outer += 0.8 * _smooth_noise(rng, 6.0, 3, COARSE)
    noise = _sample(_ring_noise(rng, FOLD_WAVELENGTH), (outer + 3 * MARGIN) / 2)
    noise = _blur(_refined(noise[None])[0], 0.8)

    # Sulci are the zeros of the noise. Its phase is the way to the nearest one.
    wave = 2 * np.pi / FOLD_WAVELENGTH
    slope = np.sqrt(sum(axis**2 for axis in np.gradient(noise)))
    slope = np.minimum(slope, 1.6 * wave)
    sulcus = np.arctan2(np.abs(noise), slope / wave) / wave
    fundus = 1.5 + 3.0 * _smooth_noise(rng, 9.0)[0]
    sulcus = np.hypot(sulcus, np.clip(fundus - core, 0.0, None))
    width = (0.6 + 0.4 * age) * np.exp(0.4 * _smooth_noise(rng, 18.0)[0])

    # One mask, that of atlas space, strips every brain. How much fluid it leaves around the cortex
    # differs between subjects.
    rim = -0.2 + 1.2 * age + (0.7 + 0.4 * age) * _smooth_noise(rng, 14.0)[0]
    surface = np.minimum(np.minimum(depth + 0.6, sulcus) - width, atlas.hull - rim)
    return _blur(surface, 0.5)


def _sample(volume, points):
    return scipy.ndimage.map_coordinates(volume, points, order=1, mode="nearest")


def _smooth_noise(rng, spacing, components=1, step=1):
    """Smooth noise of about unit variance at the places of a grid, (components, ...)."""
    weights = [_spline(length, spacing, step) for length in BOX]
    knots = [weight.shape[1] for weight in weights]
    noise = _along_axes(weights, rng.standard_normal([components, *knots], "float32"))
    # The squared weights of a point sum to 0.479 an axis, on average.
    return noise / np.float32(0.479**1.5)


def _refined(values):
    """Values at all pixels, (components, *BOX), from those on the coarse grid."""
    return _along_axes([_hats(length) for length in BOX], values)


def _along_axes(weights, values):
    """Interpolate (components, ...) along each axis by weights (places, knots)."""
    for weight in weights:  # each turn takes the axis 1 and appends the new one
        values = np.tensordot(values, weight, axes=(1, 1))
    return values


@functools.cache
def _spline(length, spacing, step):
    """(places, knots) cubic B-spline weights, `spacing` pixels a knot and `step` pixels a place."""
    at = _places(length, step)[:, None] / spacing
    t = np.abs(at + 1.0 - np.arange(int(length / spacing) + 4))
    near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype("float32")


@functools.cache
def _hats(length):
    """(length, places) weights of linear interpolation between places of the coarse grid."""
    apart = np.abs(np.arange(length)[:, None] - _places(length, COARSE))
    return np.clip(1 - apart / COARSE, 0, None).astype("float32")


def _places(length, step):
    """Pixels at which places are along an axis; the last one may be just beyond it."""
    return np.arange(0, length + step - 1, step)


def _ring_noise(rng, wavelength):
    """Noise of one wavelength on a 2-pixel grid over the box and 3 margins."""
    shape = [(length + 8 * MARGIN) // 2 for length in BOX]
    square = [np.fft.fftfreq(length, 2.0) ** 2 for length in shape[:2]]
    square = np.add.outer(np.add.outer(*square), np.fft.rfftfreq(shape[2], 2.0) ** 2)
    ring = np.exp(-0.5 * ((np.sqrt(square) * wavelength - 1.0) / 0.18) ** 2)
    spectrum = np.fft.rfftn(rng.standard_normal(shape, "float32"))
    noise = np.fft.irfftn(spectrum * ring, shape, axes=(0, 1, 2))
    return (noise / noise.std()).astype("float32")


# ---- the cohort --------------------------------------------------------------------------------


def write_cohort(
    subjects: int, seed: int, directory: str | os.PathLike | None = None
) -> pathlib.Path:
    """Write a cohort as a data folder, as `sources.layout` describes it.

    Cases count from 001. Each split holds whole people, in order, about 80, 10 and 10 in a hundred.
    A cohort appears whole or not at all. The same cohort is kept if it is already there.

    Args:
        subjects: Number of people, at least 3.
        seed: Seed of the cohort, not negative. The same seed gives the same bytes on any cores.
        directory: Folder to make, with its parents. None takes one beside the default folder.

    Returns:
        The directory.

    Raises:
        InputError: There are less than 3 subjects, the seed is negative, or `directory` holds
            something other than this cohort.
    """
    if subjects < 3 or seed < 0:
        needed = "3 subjects or more, one a split, and a seed of 0 or more"
        raise InputError(f"a cohort needs {needed}. Received: subjects={subjects}, seed={seed}")
    named = layout.DEFAULT_DIRECTORY.with_name(f"synthetic_{subjects}_subjects_seed_{seed}")
    directory = pathlib.Path(directory or named)
    settings = {"subjects": subjects, "seed": seed, "version": VERSION}
    if _settings_of(directory) == settings:
        return directory
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise InputError(
            f"{directory} holds something other than the synthetic cohort {settings}: "
            "remove it or work in another folder."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # It lies beside the target, so that the rename at the end is one step on one disk.
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".") as staging:
        partial = pathlib.Path(staging, "cohort")
        splits = _splits_of_cases(subjects)
        _write_subjects(partial, splits, seed)
        cases = {c: {"subject": f"case {c:03d}", "split": split} for c, split in splits.items()}
        write_facts(partial, cohort_facts(settings, cases))
        try:
            os.replace(partial, directory)
        except OSError:
            if _settings_of(directory) != settings:  # else another process has made it meanwhile
                raise
    return directory


def _splits_of_cases(subjects):
    held_out = max(1, round(subjects / 10))
    splits = np.repeat(SPLITS, (subjects - 2 * held_out, held_out, held_out)).tolist()
    return dict(enumerate(splits, 1))


def _write_subjects(directory, splits, seed):
    for split in SPLITS:
        layout.split_folder(directory, split).mkdir(parents=True)

    def write(case):
        folder = layout.split_folder(directory, splits[case])
        for level, pixels in enumerate(subject(seed, case)):
            Image.fromarray(pixels).save(folder / layout.slice_name(case, level), compress_level=1)

    _atlas()  # once, and not in each thread
    pool = concurrent.futures.ThreadPoolExecutor(min(cores(), MOST_THREADS))
    with pool, threadpool_limits(1):  # or threads of products would wait for each other
        written = pool.map(write, splits)
        for _ in progress(written, "synthetic cohort", len(splits), "subject"):
            pass


def _settings_of(directory):
    try:
        return read_facts(directory).cohort
    except InputError:
        return None
