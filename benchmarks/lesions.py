"""Plant lesions with known masks in stacks of slices of brains.

These lesions are caricatures. They look like disease only roughly, and no clinician drew them. They
are good for one purpose: an anomaly map can be compared with a mask that is known exactly.

Slices are float `(S, S)` in [0, 1]: brain-masked T1, background exactly 0, the nose to the right.
Lengths are written for S = 256, where a pixel is about a millimetre, and they scale with S.
Intensities are relative to the tissue of the slice.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, special

from sources.folder import Split
from sources.layout import SPLITS
from utils import InputError, progress

# Each strength is the share of the way from the tissue's intensity to the lesion's.
STRENGTHS = {"obvious": 0.85, "moderate": 0.5, "subtle": 0.22}
VISIBLE = 0.03  # share of white matter's intensity; a smaller change is about the noise of a slice
LEAST_SLICES, MOST_SLICES = 3, 15  # that a lesion runs through

EDGE = 0.45  # pixels; a logistic edge takes 4.4 times this from 10 % to 90 %
# Shares of white matter's intensity. Fluid is darker than the first in the smoothed slice, and
# white matter is brighter than the second.
FLUID, WHITE = 0.42, 0.85


class Brain:
    """What is known about a slice before a lesion is planted.

    Args:
        image: The slice, `(S, S)` in [0, 1].
        size: Size of the lesion's cross-section here as a share of that in its middle, in (0, 1].
        given: Places that the middle cross-section drew, or nothing for that one itself.

    Attributes:
        places: Places that this cross-section has drawn or taken.
        head: The brain with its holes filled, bool `(S, S)`.
        depth: Distance of each pixel to the outline of the head, in pixels `(S, S)`.
        middle: Row between the two hemispheres.
        unit: Number of pixels in a 256th of S.
        smooth: The slice without its noise, `(S, S)`.
        white: Intensity of white matter.
        fluid: Intensity of fluid.
        noise: Standard deviation of the noise.
        white_matter: White matter away from the outline, bool `(S, S)`; may be empty.
        ventricles: Ventricles and deep cisterns, bool `(S, S)`; may be empty.

    Raises:
        ValueError: The slice shows nothing as large as a brain.
    """

    def __init__(self, image: np.ndarray, size: float = 1.0, given: Sequence = ()):
        self.size, self.given, self.places = size, list(given), []
        self.unit = image.shape[0] / 256
        self.head = _head(image)
        self.depth = ndimage.distance_transform_edt(self.head)
        if self.depth.max() < 25 * self.unit:
            width = 2 * self.depth.max()
            raise ValueError(
                "`image` must hold a brain. "
                f"Received: an image whose largest bright region is {width:.0f} pixels wide"
            )
        self.middle = np.flatnonzero(self.head.any(1)).mean()
        self.smooth = ndimage.gaussian_filter(image, self.unit)
        inner = self.smooth[self.depth > 6 * self.unit]
        self.white = np.percentile(inner, 85)
        self.ventricles = _ventricles(self.smooth < FLUID * self.white, self.head, self.depth)
        if self.ventricles.any():
            self.fluid = np.percentile(self.smooth[self.ventricles], 25)
        else:
            self.fluid = min(np.percentile(inner, 2), 0.2 * self.white)
        bright = self.smooth > WHITE * self.white
        self.noise = 1.48 * np.median(np.abs(image - self.smooth)[bright])
        self.white_matter = ndimage.binary_opening(bright & (self.depth > 8 * self.unit))

    def place(self, draw):
        """Take the next given place, or draw one."""
        self.places.append(self.given.pop(0) if self.given else draw())
        return self.places[-1]


def _head(image):
    """Find the largest bright region, with its holes filled: bool `(S, S)`."""
    # JPEG leaves specks around the brain. Opening and closing separate them from it.
    bright = ndimage.binary_opening(image > 0.05 * image.max())
    solid = ndimage.binary_closing(bright, iterations=2)
    # Fluid inside can be 0 like the background, which itself must stay outside.
    filled = ndimage.binary_fill_holes(solid) & ndimage.binary_fill_holes(image > 0)
    labels, _ = ndimage.label(filled)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    return labels == 1 + sizes.argmax()


def _ventricles(dark, head, depth):
    """Find the large dark regions deep in the head: bool `(S, S)`, empty where there are none."""
    unit = head.shape[0] / 256
    rows = np.flatnonzero(head.any(1))
    height, middle = len(rows), rows.mean()
    # Opening removes thin fissures. A depth limit removes sulci, and sulci between the hemispheres
    # are deeper than those at the sides.
    labels, count = ndimage.label(ndimage.binary_opening(dark & (depth > 0.15 * height)))
    ventricles = np.zeros_like(head)
    for label in range(1, count + 1):
        region = labels == label
        beside = abs(np.nonzero(region)[0].mean() - middle) > 0.08 * height
        least_depth = (0.27 if beside else 0.35) * height
        if region.sum() > 25 * unit**2 and depth[region].max() > least_depth:
            ventricles |= region
    return ventricles


def _texture(shape, sigma, rng):
    """Draw smooth noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / noise.std()


def _draw(weights, brain, rng):
    """Draw a place `(row, column)` by weight, or take the deepest where all weights are 0."""
    chance = rng.uniform()  # drawn always, so that all sections use the same random numbers

    def draw():
        total = np.cumsum(weights, dtype="float64")
        if total[-1] > 0:
            place = np.searchsorted(total, chance * total[-1], side="right")
        else:
            place = brain.depth.argmax()
        return np.unravel_index(place, weights.shape)

    return brain.place(draw)


def _ellipse(shape, rng, centre, radius, ratio, wobble, angle=None):
    """About the number of pixels to the outline of a wobbly ellipse, `shape`; negative outside.

    `ratio` is long axis over short axis, `wobble` the standard deviation of the outline as a share
    of the mean radius. The angle of the long axis, in radians, is drawn where it is None.
    """
    angle = rng.uniform(0, np.pi) if angle is None else angle
    y, x = (grid - c for grid, c in zip(np.indices(shape), centre))
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    distance = np.hypot(along / ratio**0.5, across * ratio**0.5)
    return radius - distance + wobble * radius * _texture(shape, radius / 2, rng)


def _soft(inside):
    """Turn pixels inside an outline into opacity with a soft edge; it ends exactly at 0."""
    alpha = special.expit(inside / EDGE)
    return np.where(alpha > 0.02, alpha, 0.0)


def _blend(image, alpha, target, brain, rng):
    """Blend an image towards an intensity, and add the noise that blending takes away."""
    lost = np.sqrt(1 - (1 - alpha) ** 2)
    noise = lost * brain.noise * _texture(image.shape, 0.5, rng)
    return image + alpha * (target - image) + noise


def _centre(brain, radius, rng, ranks):
    """Draw the centre of a lesion in tissue.

    `ranks` are the lowest and highest rank, in [0, 1], of the intensity around the centre, among
    all places where the lesion fits.
    """
    tissue = (brain.smooth > FLUID * brain.white).astype("float64")
    possible = brain.depth > radius + 4 * brain.unit
    possible &= ndimage.gaussian_filter(tissue, radius / 2) > 0.85
    around = ndimage.gaussian_filter(brain.smooth, radius / 2)
    if possible.any():
        low, high = np.quantile(around[possible], ranks)
        possible &= (around >= low) & (around <= high)
    return _draw(possible, brain, rng)


def _lump(image, brain, share, rng, bright):
    """One round lesion, brighter or darker than the tissue around it."""
    radius = brain.unit * 3 * (14 / 3) ** rng.uniform()
    ratio = rng.uniform(1, 1.7)
    # White matter is nearly as bright as an image can be. A bright lesion therefore shows in grey
    # matter only, and a dark one shows best in white matter.
    ranks = (0, 0.4) if bright else (0.4, 1)
    centre = _centre(brain, radius * ratio**0.5, rng, ranks)
    radius *= brain.size
    alpha = _soft(_ellipse(image.shape, rng, centre, radius, ratio, 0.06))
    target = 1.0 if bright else brain.fluid
    return _blend(image, share * alpha, target, brain, rng), alpha


def _irregular(image, brain, share, rng):
    """A dark core with a brighter rim and a ragged outline; white matter around it swells."""
    radius, ratio = brain.unit * rng.uniform(9, 17), rng.uniform(1, 1.6)
    centre = _centre(brain, radius * ratio**0.5, rng, (0.3, 1))
    radius *= brain.size
    inside = _ellipse(image.shape, rng, centre, radius, ratio, 0.18)
    inside = inside + 0.08 * radius * _texture(image.shape, radius / 8, rng)
    rim = radius * (0.35 + 0.1 * _texture(image.shape, radius / 3, rng))

    core = brain.fluid + 0.1 * (brain.white - brain.fluid)
    edge = min(1.0, 1.12 * brain.white)
    target = edge + (core - edge) * special.expit((inside - rim) / brain.unit)
    target = target + 0.12 * brain.white * _texture(image.shape, 2 * brain.unit, rng)

    swelling = inside > -0.4 * radius
    outside_distance = ndimage.distance_transform_edt(~swelling)
    beyond = outside_distance - ndimage.distance_transform_edt(swelling)
    white_matter = ndimage.gaussian_filter(brain.white_matter.astype("float64"), brain.unit)
    swollen = _soft(-beyond / 2.5) * white_matter

    image = _blend(image, 0.4 * share * swollen, brain.fluid, brain, rng)
    alpha = _soft(inside)
    return _blend(image, share * alpha, target, brain, rng), np.maximum(alpha, swollen)


def _white_matter_spots(image, brain, share, rng):
    """Several dark spots in white matter, more often near the ventricles."""
    room = ndimage.distance_transform_edt(brain.white_matter)
    if brain.ventricles.any():
        away = ndimage.distance_transform_edt(~brain.ventricles)
    else:
        away = brain.depth.max() - brain.depth
    near = np.exp(-away / (12 * brain.unit))
    alpha = np.zeros(image.shape)
    for _ in range(rng.integers(3, 11)):
        radius, ratio = brain.unit * rng.uniform(1.5, 4), rng.uniform(1, 1.6)
        fits = room > min(radius, 0.8 * room.max())
        centre = _draw(fits * near, brain, rng)
        radius *= brain.size
        spot = _ellipse(image.shape, rng, centre, radius, ratio, 0.1)
        alpha = np.maximum(alpha, _soft(spot))
    target = brain.fluid + 0.2 * (brain.white - brain.fluid)
    return _blend(image, share * alpha, target, brain, rng), alpha


def _resection(image, brain, share, rng):
    """A bite out of the brain, filled with fluid; a weaker one is smaller and less dark."""
    radius = brain.unit * (8 + 24 * share) * rng.uniform(0.9, 1.1)
    ratio = rng.uniform(1.2, 1.7)
    # Surgery keeps to one hemisphere.
    beside = np.abs(np.arange(len(image)) - brain.middle)[:, None] > 32 * brain.unit
    centre = _draw((brain.depth > 0) & (brain.depth <= 2) & beside, brain, rng)
    slopes = np.gradient(ndimage.gaussian_filter(brain.depth, 4 * brain.unit))
    inward = [slope[centre] for slope in slopes]
    angle = brain.place(lambda: np.arctan2(*inward) + np.pi / 2)
    radius *= brain.size
    alpha = _soft(_ellipse(image.shape, rng, centre, radius, ratio, 0.05, angle))
    target = rng.uniform(0.02, 0.1) * brain.white
    return _blend(image, (0.65 + 0.35 * share) * alpha, target, brain, rng), alpha


def _wide_ventricles(image, brain, share, rng):
    """Wider ventricles: fluid pushes the tissue away, and near tissue moves farther.

    A slice without ventricles gets a pair of slits.
    """
    region = brain.ventricles if brain.ventricles.any() else _slits(brain, rng)
    within = ndimage.distance_transform_edt(region)
    distance = ndimage.distance_transform_edt(~region) - within
    distance = ndimage.gaussian_filter(distance, brain.unit)
    push = _push(region, within, share * brain.size, brain.unit, rng)
    fade = np.clip((distance - push) / (24 * brain.unit), 0, 1)
    # The outline of the brain stays where it is.
    shift = push * (1 - fade) ** 2 * np.clip(brain.depth / (12 * brain.unit), 0, 1)
    slopes = np.gradient(distance)
    places = [grid - shift * slope for grid, slope in zip(np.indices(image.shape), slopes)]
    moved = ndimage.map_coordinates(image, places, order=1, mode="nearest")
    alpha = _soft(push - distance)
    widened = _blend(moved, alpha, brain.fluid, brain, rng)
    # What lies in the ventricles stays too, the choroid plexus for one.
    kept = np.where(brain.ventricles, special.expit(-distance - 2), 0)
    return widened + kept * (image - widened), alpha * (brain.smooth > FLUID * brain.white)


def _slits(brain, rng):
    """Two narrow ellipses, one beside each side of the middle: bool `(S, S)`."""
    y, x = np.indices(brain.head.shape)
    x = x - np.flatnonzero(brain.head.any(0)).mean() - rng.uniform(-8, 8) * brain.unit
    across = (np.abs(y - brain.middle) - 11 * brain.unit) / 2
    return np.hypot(across, x / rng.uniform(10, 16)) < brain.unit


def _push(region, within, share, unit, rng):
    """How far the wall of the ventricles `region` moves at each pixel, in pixels `(S, S)`.

    `within` is the distance of each pixel in them to their wall, `share` the strength.
    """
    uneven = np.clip(1 + 0.15 * _texture(region.shape, 20 * unit, rng), 0.7, 1.3)
    push = 8 * share * unit * uneven
    # A narrow horn widens less than the body.
    half_width = ndimage.maximum_filter(within, round(24 * unit))
    push *= np.clip(half_width / (5 * unit), 0.5, 1)
    closed = ndimage.binary_closing(region, iterations=max(1, round(3 * unit)))
    septum = closed & ~region  # the wall between both ventricles stays
    if septum.any():
        push *= np.clip(ndimage.distance_transform_edt(~septum) / (6 * unit), 0, 1)
    return ndimage.gaussian_filter(push, 2 * unit)


# Each function takes a slice, its `Brain`, a share of `STRENGTHS` and a generator. It returns the
# slice with the lesion and the opacity of the lesion, `(S, S)` both.
MAKERS = {
    "bright": functools.partial(_lump, bright=True),
    "dark": functools.partial(_lump, bright=False),
    "irregular": _irregular,
    "white_matter_spots": _white_matter_spots,
    "resection": _resection,
    "wide_ventricles": _wide_ventricles,
}
KINDS = tuple(MAKERS)


def plant_section(
    image: np.ndarray, kind: str, strength: str, rng: np.random.Generator, *section
) -> tuple[np.ndarray, np.ndarray, list]:
    """Plant one cross-section of a lesion, or of a group of spots, in a slice `(S, S)` in [0, 1].

    The same state of the generator gives the same place at every strength. `section` is the size
    and the given places of `Brain`.

    Returns:
        The slice with the lesion, float32 `(S, S)` in [0, 1] with an untouched background, and its
        mask, bool `(S, S)`. It holds the pixels of the brain where the lesion is at least half
        opaque and the smoothed intensity changed by more than `VISIBLE`; gaps of a few pixels are
        closed. Where there are none, it is the pixel that changed most. So it is empty only if
        nothing changed. The swelling of an irregular lesion belongs to it. Tissue that wide
        ventricles only push aside does not. And the places, which other cross-sections take over.

    Raises:
        ValueError: The image is no slice of a brain.
    """
    image = np.asarray(image, "float32")
    brain = Brain(image, *section)
    planted, alpha = MAKERS[kind](image, brain, STRENGTHS[strength], rng)
    changed = brain.head & (planted != image)
    visible = np.clip(planted, 1 / 255, 1)  # 0 would be background
    planted = np.where(changed, visible, image).astype("float32")
    difference = np.abs(ndimage.gaussian_filter(planted - image, 1.0))
    difference = np.where(brain.head, difference, 0)
    mask = ndimage.binary_closing(difference > VISIBLE * brain.white, iterations=2)
    mask = mask & brain.head & (alpha >= 0.5)
    if not mask.any():
        mask = (difference > 0) & (difference == difference.max())
    return planted, mask, brain.places


def plant_lesion(
    stack: np.ndarray, kind: str, strength: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Plant one lesion, or one group of spots, in a stack. It tapers as an ellipsoid does.

    Args:
        stack: Slices from bottom to top, `(K, S, S)` in [0, 1], K at least `LEAST_SLICES`.
        kind: One of `KINDS`.
        strength: A key of `STRENGTHS`.
        rng: Generator; everything random is drawn from it.

    Returns:
        The stack with the lesion, float32, and its masks, bool, which are empty in slices that it
        does not reach; `(K, S, S)` both.
    """
    slices = int(rng.integers(LEAST_SLICES, min(MOST_SLICES, len(stack)) + 1))
    first = int(rng.integers(0, len(stack) - slices + 1))
    seed, middle = int(rng.integers(2**31)), first + slices // 2
    planted, masks = stack.astype("float32"), np.zeros(stack.shape, bool)
    places = ()
    # The middle comes first, because it decides the places.
    for k in sorted(range(first, first + slices), key=lambda k: abs(k - middle)):
        size = np.sqrt(1 - ((k - middle) / (slices / 2 + 0.5)) ** 2)
        chance = np.random.default_rng(seed)
        planted[k], masks[k], places = plant_section(stack[k], kind, strength, chance, size, places)
    return planted, masks


@dataclasses.dataclass(frozen=True)
class Planted:
    """A split with one lesion in each case.

    Attributes:
        images: Slices, float32 `(N, S, S)` in [0, 1].
        masks: Their lesions, bool `(N, S, S)`; empty in slices that no lesion reaches.
        kinds: Kind of the lesion of each slice's case, str `(N,)`.
        strengths: Strength of the lesion of each slice's case, str `(N,)`.
    """

    images: np.ndarray
    masks: np.ndarray
    kinds: np.ndarray
    strengths: np.ndarray


def plant_split(images: np.ndarray, split: Split, seed: int) -> Planted:
    """Plant one lesion in the stack of every case, of kinds and strengths drawn at random.

    All random numbers come from the seed and the split. So validation and test share no lesion.

    Args:
        images: Slices of the split, `(N, S, S)` in [0, 1].
        split: The split, with stacks of at least `LEAST_SLICES` slices without gaps.
        seed: Seed of the lesions.

    Raises:
        InputError: A case is no such stack.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split.name)))
    pairs = list(itertools.product(KINDS, STRENGTHS))
    deck = rng.permutation(len(pairs))  # so that all pairs come about equally often
    images, masks = images.astype("float32"), np.zeros(images.shape, bool)
    kinds, strengths = (np.empty(len(split), object) for _ in range(2))
    cases = np.unique(split.cases)
    for number, case in enumerate(progress(cases, "planting", unit="lesion")):
        stack = np.flatnonzero(split.cases == case)
        if len(stack) < LEAST_SLICES or (np.diff(split.levels[stack]) != 1).any():
            raise InputError(
                f"case {case} of {split.name} is no stack of {LEAST_SLICES} or more slices "
                "without gaps: take it out of the folder."
            )
        kind, strength = pairs[deck[number % len(deck)]]
        images[stack], masks[stack] = plant_lesion(images[stack], kind, strength, rng)
        kinds[stack], strengths[stack] = kind, strength
    return Planted(images, masks, kinds.astype(str), strengths.astype(str))
