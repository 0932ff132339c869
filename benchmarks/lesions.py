"""Lesions with known masks, planted in lesion-free slices: caricatures against which to measure anomaly detection.

Slices are float `(S, S)` in [0, 1], brain-masked T1 with background exactly 0 and the nose to the right. Lengths are written for
S = 256, where a pixel is about a millimetre, and scale with S; intensities are relative to the slice's own tissue.
"""

import functools
from types import SimpleNamespace

import numpy as np
from scipy import ndimage, special

STRENGTHS = {"obvious": 0.85, "moderate": 0.5, "subtle": 0.22}  # share of the way from the tissue's intensity to the lesion's
VISIBLE = 0.03  # of the slice's white matter: less is about its noise
FLUID, WHITE = 0.42, 0.85  # of white matter: smoothed intensity below the first is fluid, above the second is white matter
EDGE = 0.45  # pixels; a logistic edge goes from 10 to 90 % in 4.4 times this


def measure(image):
    """What a slice says about itself: a namespace of `head` (bool `(S, S)`, holes filled), `depth` (pixels to its outline), `middle`
    (row between the hemispheres), `unit` (pixels in a 256th of S), `smooth` (the image without its noise), the intensities `white`,
    `fluid` and `noise`, and the bool maps `white_matter` and `ventricles`, which may be empty. Deep cisterns count as ventricles.

    Raises:
        ValueError: no square image in [0, 1], or nothing in it of a brain's size.
    """
    if image.ndim != 2 or image.shape[0] != image.shape[1] or not np.all((image >= 0) & (image <= 1)):
        raise ValueError(f"`image` must be `(S, S)` with values in [0, 1]. Received: shape={image.shape}")
    unit = image.shape[0] / 256
    # JPEG leaves specks around the brain: opening and closing separate them, and what is 0 outside stays 0
    solid = ndimage.binary_closing(ndimage.binary_opening(image > 0.05 * image.max()), iterations=2)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(solid) & ndimage.binary_fill_holes(image > 0))  # holes: fluid can be 0
    head = labels == 1 + np.bincount(labels.ravel(), minlength=2)[1:].argmax()
    depth = ndimage.distance_transform_edt(head)
    if depth.max() < 25 * unit:
        raise ValueError(f"`image` must hold a brain. Received: an image whose largest bright region is {2 * depth.max():.0f} pixels wide")
    rows = np.flatnonzero(head.any(1))
    height, middle = len(rows), rows.mean()
    smooth = ndimage.gaussian_filter(image, unit)
    inner = smooth[depth > 6 * unit]
    white = np.percentile(inner, 85)
    # thin fissures fall to the opening; sulci are shallow, and those between the hemispheres get deeper than those at the sides
    labels, count = ndimage.label(ndimage.binary_opening((smooth < FLUID * white) & (depth > 0.15 * height)))
    regions = [labels == i for i in range(1, count + 1)]
    aside = [abs(np.nonzero(region)[0].mean() - middle) > 0.08 * height for region in regions]
    kept = [r for r, a in zip(regions, aside) if r.sum() > 25 * unit**2 and depth[r].max() > (0.27 if a else 0.35) * height]
    ventricles = np.any(kept, axis=0) if kept else np.zeros_like(head)
    return SimpleNamespace(
        head=head, depth=depth, middle=middle, unit=unit, smooth=smooth, white=white, ventricles=ventricles,
        fluid=np.percentile(smooth[ventricles], 25) if kept else min(np.percentile(inner, 2), 0.2 * white),
        noise=1.48 * np.median(np.abs(image - smooth)[smooth > WHITE * white]),
        white_matter=ndimage.binary_opening((smooth > WHITE * white) & (depth > 8 * unit)),
    )


def _texture(shape, sigma, rng):
    """Smooth noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / noise.std()


def _draw(weights, brain, rng):
    """A place drawn with these weights, the deepest in the head where all are 0: `(row, column)`."""
    total = np.cumsum(weights, dtype="float64")
    place = np.searchsorted(total, rng.uniform(0, total[-1]), side="right") if total[-1] > 0 else brain.depth.argmax()
    return np.unravel_index(place, weights.shape)


def _blob(brain, centre, radius, ratio, wobble, rng, angle=None):
    """Pixels inside the outline of a wobbly ellipse of that mean radius and ratio of axes, about; negative outside."""
    angle = rng.uniform(0, np.pi) if angle is None else angle
    y, x = (grid - c for grid, c in zip(np.indices(brain.head.shape), centre))
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return radius - np.hypot(along / ratio**0.5, across * ratio**0.5) + wobble * radius * _texture(y.shape, radius / 2, rng)


def _soft(inside):
    """Opacity of a region with a soft edge from the pixels inside of it; exactly 0 some pixels outside."""
    alpha = special.expit(inside / EDGE)
    return np.where(alpha > 0.02, alpha, 0.0)


def _blend(image, alpha, target, brain, rng):
    """Blends towards an intensity; noise like the tissue's makes up for what the blend takes of it."""
    return image + alpha * (target - image) + np.sqrt(1 - (1 - alpha) ** 2) * brain.noise * _texture(image.shape, 0.5, rng)


def _centre(brain, radius, rng, ranks):
    """Centre of a lesion of that radius in tissue; `ranks` bound the rank of its surroundings' intensity among all such places."""
    tissue = ndimage.gaussian_filter((brain.smooth > FLUID * brain.white).astype("float64"), radius / 2)
    possible = (brain.depth > radius + 4 * brain.unit) & (tissue > 0.85)
    around = ndimage.gaussian_filter(brain.smooth, radius / 2)
    if possible.any():
        low, high = np.quantile(around[possible], ranks)
        possible &= (around >= low) & (around <= high)
    return _draw(possible, brain, rng)


def _lump(image, brain, share, rng, bright):
    radius, ratio = brain.unit * 3 * (14 / 3) ** rng.uniform(), rng.uniform(1, 1.7)
    # white matter is nearly as bright as an image can be, so a bright lesion shows in grey matter and a dark one in white
    centre = _centre(brain, radius * ratio**0.5, rng, (0, 0.4) if bright else (0.4, 1))
    alpha = _soft(_blob(brain, centre, radius, ratio, 0.06, rng))
    return _blend(image, share * alpha, 1.0 if bright else brain.fluid, brain, rng), alpha


def _irregular(image, brain, share, rng):
    """A dark core with a brighter rim and a ragged outline, in white matter that is darker around it for the swelling."""
    radius, ratio = brain.unit * rng.uniform(9, 17), rng.uniform(1, 1.6)
    centre = _centre(brain, radius * ratio**0.5, rng, (0.3, 1))
    inside = _blob(brain, centre, radius, ratio, 0.18, rng) + 0.08 * radius * _texture(image.shape, radius / 8, rng)
    rim = radius * (0.35 + 0.1 * _texture(image.shape, radius / 3, rng))
    core, edge = brain.fluid + 0.1 * (brain.white - brain.fluid), min(1.0, 1.12 * brain.white)
    target = edge + (core - edge) * special.expit((inside - rim) / brain.unit)
    target = target + 0.12 * brain.white * _texture(image.shape, 2 * brain.unit, rng)
    swelling = inside > -0.4 * radius
    beyond = ndimage.distance_transform_edt(~swelling) - ndimage.distance_transform_edt(swelling)
    swollen = _soft(-beyond / 2.5) * ndimage.gaussian_filter(brain.white_matter.astype("float64"), brain.unit)
    image = _blend(image, 0.4 * share * swollen, brain.fluid, brain, rng)
    alpha = _soft(inside)
    return _blend(image, share * alpha, target, brain, rng), np.maximum(alpha, swollen)


def _white_matter_spots(image, brain, share, rng):
    """Dark spots, the likelier the nearer to the ventricles."""
    room = ndimage.distance_transform_edt(brain.white_matter)
    away = ndimage.distance_transform_edt(~brain.ventricles) if brain.ventricles.any() else brain.depth.max() - brain.depth
    near, alpha = np.exp(-away / (12 * brain.unit)), np.zeros(image.shape)
    for _ in range(rng.integers(3, 11)):
        radius, ratio = brain.unit * rng.uniform(1.5, 4), rng.uniform(1, 1.6)
        centre = _draw((room > min(radius, 0.8 * room.max())) * near, brain, rng)
        alpha = np.maximum(alpha, _soft(_blob(brain, centre, radius, ratio, 0.1, rng)))
    return _blend(image, share * alpha, brain.fluid + 0.2 * (brain.white - brain.fluid), brain, rng), alpha


def _resection(image, brain, share, rng):
    """A bite out of the brain, filled with fluid; the weaker, the smaller and the less dark."""
    radius, ratio = brain.unit * (8 + 24 * share) * rng.uniform(0.9, 1.1), rng.uniform(1.2, 1.7)
    aside = np.abs(np.arange(len(image)) - brain.middle)[:, None] > 32 * brain.unit  # surgery keeps to one hemisphere
    centre = _draw((brain.depth > 0) & (brain.depth <= 2) & aside, brain, rng)
    inward = [g[centre] for g in np.gradient(ndimage.gaussian_filter(brain.depth, 4 * brain.unit))]
    alpha = _soft(_blob(brain, centre, radius, ratio, 0.05, rng, np.arctan2(*inward) + np.pi / 2))
    return _blend(image, (0.65 + 0.35 * share) * alpha, rng.uniform(0.02, 0.1) * brain.white, brain, rng), alpha


def _wide_ventricles(image, brain, share, rng):
    """Fluid pushes the tissue around it away from it, the less the farther; a slice without ventricles gets a pair of slits."""
    unit, region = brain.unit, brain.ventricles
    if not region.any():
        y, x = np.indices(image.shape)
        x = x - np.flatnonzero(brain.head.any(0)).mean() - rng.uniform(-8, 8) * unit
        region = np.hypot((np.abs(y - brain.middle) - 11 * unit) / 2, x / rng.uniform(10, 16)) < unit
    within = ndimage.distance_transform_edt(region)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(~region) - within, unit)
    push = 8 * share * unit * np.clip(1 + 0.15 * _texture(image.shape, 20 * unit, rng), 0.7, 1.3)
    push *= np.clip(ndimage.maximum_filter(within, round(24 * unit)) / (5 * unit), 0.5, 1)  # a narrow horn widens less than the body
    between = ndimage.binary_closing(region, iterations=max(1, round(3 * unit))) & ~region  # the septum, which stays
    if between.any():
        push *= np.clip(ndimage.distance_transform_edt(~between) / (6 * unit), 0, 1)
    push = ndimage.gaussian_filter(push, 2 * unit)
    fade = np.clip((distance - push) / (24 * unit), 0, 1)
    shift = push * (1 - fade) ** 2 * np.clip(brain.depth / (12 * unit), 0, 1)  # the outline stays
    places = [grid - shift * slope for grid, slope in zip(np.indices(image.shape), np.gradient(distance))]
    alpha = _soft(push - distance)
    widened = _blend(ndimage.map_coordinates(image, places, order=1, mode="nearest"), alpha, brain.fluid, brain, rng)
    kept = np.where(brain.ventricles, special.expit(-distance - 2), 0)  # what is in the ventricles, the choroid plexus too
    return widened + kept * (image - widened), alpha * (brain.smooth > FLUID * brain.white)


MAKERS = {
    "bright": functools.partial(_lump, bright=True), "dark": functools.partial(_lump, bright=False), "irregular": _irregular,
    "white_matter_spots": _white_matter_spots, "resection": _resection, "wide_ventricles": _wide_ventricles,
}
KINDS = tuple(MAKERS)


def plant(image, kind, strength, rng):
    """Plants one lesion, or one group of spots; the same draws give the same place at every strength.

    Args:
        image: float `(S, S)` in [0, 1], background exactly 0.
        kind, strength: one of `KINDS`, a key of `STRENGTHS`.
        rng: `np.random.Generator`; everything random is drawn from it.

    Returns:
        float32 `(S, S)` in [0, 1], its background untouched, and a bool mask `(S, S)` that is never empty: pixels of the brain
        where the lesion, a tumour's swelling with it, is at least half opaque and the intensity, smoothed over a pixel, changed by
        more than 3 % of white matter's, gaps of a few pixels closed. Tissue that wide ventricles only push aside is not in it.

    Raises:
        ValueError: unknown kind or strength, or an image that is no slice of a brain.
    """
    if kind not in MAKERS:
        raise ValueError(f"`kind` must be one of {KINDS}. Received: kind={kind!r}")
    if strength not in STRENGTHS:
        raise ValueError(f"`strength` must be one of {tuple(STRENGTHS)}. Received: strength={strength!r}")
    image = np.asarray(image, "float32")
    brain, share = measure(image), STRENGTHS[strength]
    planted, alpha = MAKERS[kind](image, brain, share, rng)
    changed = brain.head & (planted != image)
    planted = np.where(changed, np.clip(planted, 1 / 255, 1), image).astype("float32")  # above 0, which would be background
    change = np.where(brain.head, np.abs(ndimage.gaussian_filter(planted - image, 1.0)), 0)
    mask = ndimage.binary_closing(change > VISIBLE * brain.white, iterations=2) & brain.head & (alpha >= 0.5)
    return planted, mask if mask.any() else change == change.max()
