"""Plant lesions with known masks in slices of brains.

These lesions are caricatures. They look like disease only roughly, and no clinician drew them. They
are good for one purpose: an anomaly map can be compared with a mask that is known exactly.

Slices are float `(S, S)` in [0, 1]: brain-masked T1, background exactly 0, the nose to the right.
Lengths are written for S = 256, where a pixel is about a millimetre, and they scale with S.
Intensities are relative to the tissue of the slice.
"""

import dataclasses
import functools

import numpy as np
from scipy import ndimage, special

from planting.anatomy import FLUID, Section, measure

# Each strength is the share of the way from the tissue's intensity to the lesion's.
STRENGTHS = {"obvious": 0.85, "moderate": 0.5, "subtle": 0.22}
VISIBLE = 0.03  # share of white matter's intensity; a smaller change is about the noise of a slice

EDGE = 0.45  # pixels; a logistic edge takes 4.4 times this from 10 % to 90 %


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

    return brain.section.place(draw)


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """A wobbly ellipse.

    Attributes:
        centre: Row and column.
        radius: Mean radius in pixels.
        ratio: Long axis over short axis.
        wobble: Standard deviation of the outline as a share of the radius.
        angle: Angle of the long axis in radians, or None to draw it.
    """

    centre: tuple
    radius: float
    ratio: float
    wobble: float
    angle: float | None = None

    def inside(self, shape, rng):
        """About the number of pixels to the outline, `shape`; negative outside."""
        angle = rng.uniform(0, np.pi) if self.angle is None else self.angle
        y, x = (grid - c for grid, c in zip(np.indices(shape), self.centre))
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        distance = np.hypot(along / self.ratio**0.5, across * self.ratio**0.5)
        return (
            self.radius
            - distance
            + self.wobble * self.radius * _texture(shape, self.radius / 2, rng)
        )


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

    Args:
        brain: Anatomy of the slice.
        radius: Radius of the lesion in pixels.
        rng: Random generator.
        ranks: Lowest and highest rank, in [0, 1], of the intensity around the centre. The ranks
            compare all places where the lesion fits.
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
    radius *= brain.section.size
    alpha = _soft(Ellipse(centre, radius, ratio, 0.06).inside(image.shape, rng))
    target = 1.0 if bright else brain.fluid
    return _blend(image, share * alpha, target, brain, rng), alpha


def _irregular(image, brain, share, rng):
    """A dark core with a brighter rim and a ragged outline; white matter around it swells."""
    radius, ratio = brain.unit * rng.uniform(9, 17), rng.uniform(1, 1.6)
    centre = _centre(brain, radius * ratio**0.5, rng, (0.3, 1))
    radius *= brain.section.size
    inside = Ellipse(centre, radius, ratio, 0.18).inside(image.shape, rng)
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
        spot = Ellipse(centre, radius * brain.section.size, ratio, 0.1).inside(image.shape, rng)
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
    angle = brain.section.place(lambda: np.arctan2(*inward) + np.pi / 2)
    radius *= brain.section.size
    alpha = _soft(Ellipse(centre, radius, ratio, 0.05, angle).inside(image.shape, rng))
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
    push = _push(region, within, share * brain.section.size, brain.unit, rng)
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
    """How far the wall of the ventricles moves at each pixel, in pixels `(S, S)`.

    Args:
        region: Ventricles, bool `(S, S)`.
        within: Distance of each pixel in them to their wall, `(S, S)`.
        share: Strength of the lesion.
        unit: Number of pixels in a 256th of S.
        rng: Random generator.
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


def plant(
    image: np.ndarray,
    kind: str,
    strength: str,
    rng: np.random.Generator,
    section: Section | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Plant one lesion, or one group of spots, in a slice.

    The same state of the generator gives the same place at every strength.

    Args:
        image: Slice `(S, S)` in [0, 1], background exactly 0.
        kind: One of `KINDS`.
        strength: A key of `STRENGTHS`.
        rng: Generator; everything random is drawn from it.
        section: Cross-section of a body through several slices, or None.

    Returns:
        The slice with the lesion, float32 `(S, S)` in [0, 1] with an untouched background, and its
        mask, bool `(S, S)`. It holds the pixels of the brain where the lesion is at least half
        opaque and the smoothed intensity changed by more than `VISIBLE`; gaps of a few pixels are
        closed. Where there are none, it is the pixel that changed most. So it is empty only if
        nothing changed. The swelling of an irregular lesion belongs to it. Tissue that wide
        ventricles only push aside does not.

    Raises:
        ValueError: The kind or the strength is unknown, or the image is no slice of a brain.
    """
    if kind not in MAKERS:
        raise ValueError(f"`kind` must be one of {KINDS}. Received: kind={kind!r}")
    if strength not in STRENGTHS:
        known = tuple(STRENGTHS)
        raise ValueError(f"`strength` must be one of {known}. Received: strength={strength!r}")
    image = np.asarray(image, "float32")
    brain = dataclasses.replace(measure(image), section=section or Section())
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
    return planted, mask
