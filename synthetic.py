"""A synthetic cohort of axial brain slices, for work without the OASIS data.

Every subject is the ICBM152 template (Fonov et al. 2011, NeuroImage 54(1),
313-327; the copy that ships inside the `nilearn` package) bent by a smooth
random deformation, with a folded cortex, a ventricle size, a tissue contrast,
a bias field and noise of its own.
"""

import functools
import itertools
import json
import os
import pathlib
import shutil
import types
import uuid

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

LEVELS = 32
SIZE = 256

VERSION = 1  # goes up whenever the same seed gives other bytes

# Where pixel (level, row, column) lies in the template, in MNI millimetres:
# the best affine match, by correlation, of the template to the mean of OASIS-1
# training slices (correlation 0.97).  OASIS atlas space is Talairach-sized, so a
# millimetre there is about 1.05 mm of the larger ICBM152 head, and it is
# tilted: the front of a slice lies lower in the template than its back.
MIDLINE_ROW = 128.45
MIDDLE_COLUMN = 127.5
MNI_Y = -16.16
MNI_Z = -3.52
MM_PER_LEVEL, MM_PER_ROW, MM_PER_COLUMN = 0.973, 1.055, 1.05
TILT = -0.07

# The box of pixels that holds every brain, and the levels beyond both ends
# that a deformation may reach into.
TOP, BOTTOM, LEFT, RIGHT = 52, 206, 36, 222
MARGIN = 10
BOX = (LEVELS, BOTTOM - TOP, RIGHT - LEFT)

SPLITS = ("train", "validate", "test")


def _smoothstep(x, low, high):
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _signed_distance(inside):
    """Millimetres to the border of a mask, positive inside it."""
    distance = ndimage.distance_transform_edt
    return (distance(inside) - distance(~inside)).astype("float32")


@functools.cache
def _atlas():
    """The template on the slice grid, with the distances the anatomy needs."""
    # nilearn is slow to import and only a cohort that is not on disk needs it.
    from nilearn import datasets

    level, row, column = np.meshgrid(
        np.arange(-MARGIN, LEVELS + MARGIN),
        np.arange(TOP, BOTTOM),
        np.arange(LEFT, RIGHT),
        indexing="ij",
    )
    x = (row - MIDLINE_ROW) * MM_PER_ROW
    y = (column - MIDDLE_COLUMN) * MM_PER_COLUMN + MNI_Y
    z = level * MM_PER_LEVEL + MNI_Z + TILT * (column - MIDDLE_COLUMN)

    def load(name):
        image = getattr(datasets, f"load_mni152_{name}")(resolution=1)
        to_voxel = np.linalg.inv(image.affine)
        points = np.stack([x, y, z]).reshape(3, -1)
        voxels = to_voxel[:3, :3] @ points + to_voxel[:3, 3:]
        values = np.asarray(image.dataobj, "float32")
        values = ndimage.map_coordinates(values, voxels, order=1)
        return values.reshape(level.shape)

    t1, grey, white = load("template"), load("gm_template"), load("wm_template")

    # The brain with its sulci filled in, smoothed because the template's
    # outline is finer than the mask that OASIS brains were stripped with.
    disc = np.hypot(*np.mgrid[-12:13, -12:13]) <= 12
    padded = np.pad(t1 > 0.02, ((0, 0), (30, 30), (30, 30)))
    filled = np.stack([ndimage.binary_closing(s, disc) for s in padded])
    filled = filled[:, 30:-30, 30:-30]
    hull = ndimage.gaussian_filter(_signed_distance(filled), 2.0)

    # Each hemisphere has a surface of its own: the fissure between them is
    # outside, but for the callosum and all it roofs over, about an ellipse.
    callosum = ((y + 5) / 41) ** 2 + (z / 35) ** 2 < 1
    fissure = (np.abs(x) < 1.2) & ~callosum
    depth = _signed_distance(filled & ~fissure)
    outward = ndimage.gaussian_filter(depth, 4.0)
    normal = -np.stack(np.gradient(outward))
    normal /= np.linalg.norm(normal, axis=0) + 0.05
    unfold = 0.7 * normal * np.clip(depth, 0.0, 18.0)
    unfold = ndimage.gaussian_filter(unfold, (0, 2.5, 2.5, 2.5))

    # Sulci end where the deep white matter begins.
    core = -_signed_distance(ndimage.gaussian_filter(white, 2.5) > 0.8)
    core = ndimage.gaussian_filter(core, 1.0)

    # Folds are drawn anew in the outer mantle only: insula, deep grey nuclei,
    # medial cortex and cerebellum differ less and stay the template's.
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0) * (hull > 7)
    sylvian = ndimage.gaussian_filter(fluid * (np.abs(x) > 25), 4.0)
    medial = (np.abs(x) < 21) & (hull > 9)
    mantle = 1.0 - _smoothstep(depth, 17.0, 24.0)
    mantle *= 1.0 - ndimage.gaussian_filter(medial.astype("float32"), 2.0)
    mantle *= 1.0 - _smoothstep(sylvian, 0.03, 0.12)

    # A push that widens ventricles and cisterns and dies away over 2 cm.  It is
    # weaker on narrow spaces, which it would otherwise turn inside out.
    spaces = (fluid > 0.4) & (hull > 9)
    inner = _signed_distance(spaces)
    away = ndimage.gaussian_filter(-inner, 1.5)
    radius = ndimage.gaussian_filter(ndimage.maximum_filter(inner, 15), 3.0)
    push = np.stack(np.gradient(away)) * np.exp(-np.clip(away, 0, None) / 9.0)
    push *= np.clip((radius + 0.5) / 4.5, 0.1, 1.0)
    push[1] *= np.clip(np.abs(x) / 7.0, 0.0, 1.0)

    # An average of 152 heads is blurred; part of the blur can be undone.
    t1 += 1.5 * (t1 - ndimage.gaussian_filter(t1, 1.8))
    return types.SimpleNamespace(
        hull=hull[MARGIN:-MARGIN] - 0.5,
        maps=np.stack([t1, depth, core, mantle]).astype("float32"),
        push=push.astype("float32"),
        unfold=unfold.astype("float32"),
    )


@functools.cache
def _spline(length, spacing):
    """(length, knots) cubic B-spline weights, `spacing` pixels a knot."""
    at = np.arange(length)[:, None] / spacing
    t = np.abs(at + 1.0 - np.arange(int(length / spacing) + 4))
    near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype("float32")


def _smooth_field(rng, spacing, components=1):
    """Smooth noise of unit variance, (components, *BOX)."""
    weights = [_spline(n, spacing) for n in BOX]
    knots = (components, *(w.shape[1] for w in weights))
    field = rng.standard_normal(knots, "float32")
    for w in weights:  # each turn contracts axis 1 and appends its fine axis
        field = np.tensordot(field, w, axes=(1, 1))
    # The weights' squares sum to 0.479 an axis, on average over a knot.
    return field / 0.479**1.5


def _folding_field(rng, wavelength, step=2.0):
    """Noise of one wavelength on a grid of `step` pixels, box and margins."""
    shape = [int((n + 8 * MARGIN) / step) for n in BOX]
    frequency = np.sqrt(
        np.fft.fftfreq(shape[0], step)[:, None, None] ** 2
        + np.fft.fftfreq(shape[1], step)[:, None] ** 2
        + np.fft.rfftfreq(shape[2], step) ** 2
    )
    ring = np.exp(-0.5 * ((frequency * wavelength - 1.0) / 0.18) ** 2)
    spectrum = np.fft.rfftn(rng.standard_normal(shape, "float32"))
    field = np.fft.irfftn(spectrum * ring, shape)
    return (field / field.std()).astype("float32")


def _sample(volume, points):
    return ndimage.map_coordinates(volume, points, order=1, mode="nearest")


def _deformation(rng, atlas, age):
    """Where in the atlas each pixel of a subject comes from, (3, *BOX)."""
    grid = np.indices(BOX, "float32")
    centre = np.array([12.0, MIDLINE_ROW - TOP, 92.0], "float32")
    turn = np.eye(3) + np.diag(rng.normal(0.0, 0.02, 3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle = rng.normal(0.0, 0.03)
        turn[i, j] += angle
        turn[j, i] -= angle
    centred = (grid - centre[:, None, None, None]).reshape(3, -1)
    points = (turn.astype("float32") @ centred).reshape(grid.shape)
    points += centre[:, None, None, None]
    points += rng.normal(0.0, [1.5, 0.5, 1.0])[:, None, None, None]
    points += 2.0 * _smooth_field(rng, 28.0, 3)
    points += 1.0 * _smooth_field(rng, 11.0, 3)
    points = points.astype("float32")
    points[0] += MARGIN

    # Ventricles: sampling nearer to their middle makes them wider.
    size = 5.8 * age + rng.normal(0.0, 1.0)
    widen = size * (1.0 + 0.25 * _smooth_field(rng, 40.0)[0])
    for axis in range(3):
        points[axis] -= widen * _sample(atlas.push[axis], points)
    return points


def _cortex(rng, atlas, points, depth, core, age):
    """Distance in millimetres from the grey matter's outer surface, (*BOX)."""
    # Followed out to the surface, all points under one spot of it see the same
    # noise, so that sulci run inwards from the surface as sheets.
    wavelength = 19.0
    out = np.stack([p + _sample(u, points) for p, u in zip(points, atlas.unfold)])
    out += 1.2 * _smooth_field(rng, 6.0, 3)
    noise = _folding_field(rng, wavelength)
    noise = _sample(noise, (out + 3.0 * MARGIN) / 2.0)
    noise = ndimage.gaussian_filter(noise, 0.8)

    # Sulci are the zeros of the noise; its phase is the way to the next one.
    slope = np.sqrt(sum(g**2 for g in np.gradient(noise)))
    wave = 2 * np.pi / wavelength
    slope = np.minimum(slope, 1.6 * wave)
    sheet = np.arctan2(np.abs(noise), slope / wave) / wave
    fundus = 2.0 + 3.0 * _smooth_field(rng, 9.0)[0]
    sheet = np.hypot(sheet, np.clip(fundus - core, 0.0, None))

    # Brains are stripped with one mask for all, that of atlas space: how much
    # fluid it leaves around the cortex is the subject's.
    rim = -0.1 + 1.5 * age + (0.9 + 0.6 * age) * _smooth_field(rng, 14.0)[0]
    rim = atlas.hull - rim
    width = (0.6 + 0.55 * age) * np.exp(0.4 * _smooth_field(rng, 18.0)[0])
    distance = np.minimum(np.minimum(rim, depth + 0.6 - width), sheet - width)
    return ndimage.gaussian_filter(distance, 0.5)


def _tissue(rng, atlas, points, age):
    """Noise-free intensity, white matter 1, of each pixel, (*BOX)."""
    t1, depth, core, mantle = (_sample(m, points) for m in atlas.maps)
    grey = rng.normal(0.59, 0.02)
    fluid = rng.normal(0.17, 0.015)
    deep = np.interp(
        t1,
        [0.0, 0.3 + 0.06 * age, 0.46 + 0.06 * age, 0.66, 0.78, 0.88, 1.0],
        [0.1, fluid, 0.3, grey + 0.03, 0.82, 0.98, 1.04],
    )
    distance = _cortex(rng, atlas, points, depth, core, age)
    thickness = rng.normal(2.5, 0.12) - 0.3 * age
    folded = fluid + (grey - fluid) * _smoothstep(distance, -0.9, 0.9)
    folded += (1.0 - grey) * _smoothstep(distance - thickness, -1.0, 1.0)
    # Vessels and scraps of dura are bright specks in the outer fluid.
    specks = _smoothstep(_smooth_field(rng, 2.0)[0], 2.2, 3.2)
    folded += 0.9 * specks * (distance < 0.3)
    return deep + mantle * (folded - deep)


def subject(seed: int, case: int) -> np.ndarray:
    """The slices of one made-up person, the same whatever cohort they are in.

    Args:
        seed: Non-negative integer, the cohort's seed.
        case: Non-negative integer, the person's number.

    Returns:
        `(32, 256, 256)` `uint8` array, slices a millimetre apart from bottom
        to top, a pixel a millimetre, the nose to the right.  Background is
        exactly 0; inside the brain values are 1 to 255, white matter about 210.

    Raises:
        ValueError: If `seed` or `case` is negative.
    """
    rng = np.random.default_rng((seed, case))
    atlas = _atlas()
    # 0 is a young brain and 1 a much shrunken old one.
    age = rng.beta(0.9, 1.2)
    points = _deformation(rng, atlas, age)
    image = _tissue(rng, atlas, points, age)
    # A voxel averages over its size, and the scans were resampled to the grid.
    image = ndimage.gaussian_filter(image, (0.4, 0.68, 0.68))
    image *= np.exp(0.04 * _smooth_field(rng, 50.0)[0])
    grain = ndimage.gaussian_filter(rng.standard_normal(BOX, "float32"), 0.75)
    image += 0.03 * grain / grain.std()
    image *= rng.normal(222.0, 14.0)
    image = np.clip(image, 1.0, 255.0) * (atlas.hull > 0.0)
    slices = np.zeros((LEVELS, SIZE, SIZE), "uint8")
    slices[:, TOP:BOTTOM, LEFT:RIGHT] = np.rint(image)
    return slices


def _split_sizes(subjects):
    held_out = max(1, round(subjects / 10))
    return subjects - 2 * held_out, held_out, held_out


def _settings_of(directory):
    try:
        return json.loads((directory / "cohort.json").read_text())
    except (OSError, ValueError):
        return None


def write_cohort(directory, subjects: int, seed: int) -> pathlib.Path:
    """Write a cohort as PNG files, in the folders and names of the OASIS slices.

    Files are `keras_png_slices_{train,validate,test}/case_NNN_slice_K.nii.png`,
    8-bit grey, 256 x 256.  Cases count from 1 and a split holds whole people,
    in order: about 80, 10 and 10 in a hundred.  A cohort appears complete or not
    at all, and one that is there already, of the same settings, is left as it is.

    Args:
        directory: Folder to make; its parents are made too.
        subjects: Number of people, at least 3.
        seed: Non-negative integer; the same seed gives the same bytes.

    Returns:
        `directory` as a `pathlib.Path`.

    Raises:
        ValueError: If `subjects` is below 3, or `seed` is negative.
        FileExistsError: If `directory` holds anything but this cohort.
    """
    if subjects < len(SPLITS):
        raise ValueError(
            f"`subjects` must be at least 3 (one a split). Received: subjects={subjects}"
        )
    if seed < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
    directory = pathlib.Path(directory)
    settings = {"subjects": subjects, "seed": seed, "version": VERSION}
    if directory.exists():
        if _settings_of(directory) == settings:
            return directory
        if not directory.is_dir() or any(directory.iterdir()):
            raise FileExistsError(
                f"{directory} holds something other than the synthetic cohort {settings}"
            )

    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename at the end is one step on one disk.
    partial = directory.with_name(f".{directory.name}-{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        cases = iter(tqdm(range(1, subjects + 1), "synthetic cohort", unit="subject"))
        for split, size in zip(SPLITS, _split_sizes(subjects)):
            folder = partial / f"keras_png_slices_{split}"
            folder.mkdir()
            for case in itertools.islice(cases, size):
                for level, pixels in enumerate(subject(seed, case)):
                    name = f"case_{case:03d}_slice_{level}.nii.png"
                    Image.fromarray(pixels).save(folder / name, compress_level=1)
        (partial / "cohort.json").write_text(json.dumps(settings) + "\n")
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return directory
