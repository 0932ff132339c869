"""What the planter of lesions knows about a slice, and where in a stack a lesion is cut."""

import dataclasses

import numpy as np
from scipy import ndimage

# Shares of white matter's intensity. Fluid is darker than the first in the smoothed slice, and
# white matter is brighter than the second.
FLUID, WHITE = 0.42, 0.85


@dataclasses.dataclass
class Section:
    """One cross-section of a body that runs through several slices.

    Attributes:
        size: Size as a share of the middle cross-section, in (0, 1].
        places: Places that the middle cross-section drew; it notes them here. The others are given
            a list that is not empty, and take their places from it one by one.
    """

    size: float = 1.0
    places: list = dataclasses.field(default_factory=list)
    taken: int | None = None  # number of places taken, or None for the middle one

    def place(self, draw):
        """Draw a place and note it, or take the next noted one."""
        if self.taken is None:
            self.places.append(draw())
            return self.places[-1]
        self.taken += 1
        return self.places[self.taken - 1]


@dataclasses.dataclass(frozen=True)
class Brain:
    """What the planter knows about a slice.

    Attributes:
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
        section: Cross-section of the lesion that the slice gets.
    """

    head: np.ndarray
    depth: np.ndarray
    middle: float
    unit: float
    smooth: np.ndarray
    white: float
    fluid: float
    noise: float
    white_matter: np.ndarray
    ventricles: np.ndarray
    section: Section = dataclasses.field(default_factory=Section)


def measure(image: np.ndarray) -> Brain:
    """Measure the anatomy of a slice.

    Args:
        image: Slice `(S, S)` in [0, 1].

    Raises:
        ValueError: The image is not square, leaves [0, 1], or shows nothing as large as a brain.
    """
    square = image.ndim == 2 and image.shape[0] == image.shape[1]
    if not square or not np.all((image >= 0) & (image <= 1)):
        message = f"`image` must be `(S, S)` with values in [0, 1]. Received: shape={image.shape}"
        raise ValueError(message)
    unit = image.shape[0] / 256
    head = _head(image)
    depth = ndimage.distance_transform_edt(head)
    if depth.max() < 25 * unit:
        raise ValueError(
            "`image` must hold a brain. "
            f"Received: an image whose largest bright region is {2 * depth.max():.0f} pixels wide"
        )
    smooth = ndimage.gaussian_filter(image, unit)
    inner = smooth[depth > 6 * unit]
    white = np.percentile(inner, 85)
    ventricles = _ventricles(smooth < FLUID * white, head, depth)
    if ventricles.any():
        fluid = np.percentile(smooth[ventricles], 25)
    else:
        fluid = min(np.percentile(inner, 2), 0.2 * white)
    bright = smooth > WHITE * white
    return Brain(
        head=head,
        depth=depth,
        middle=np.flatnonzero(head.any(1)).mean(),
        unit=unit,
        smooth=smooth,
        white=white,
        fluid=fluid,
        noise=1.48 * np.median(np.abs(image - smooth)[bright]),
        white_matter=ndimage.binary_opening(bright & (depth > 8 * unit)),
        ventricles=ventricles,
    )


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
