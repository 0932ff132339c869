"""Pictures of any unit and size -> square 8-bit slices, and what can be seen in them.

Grey values are scaled over a subject or a set, never slice by slice, by percentiles that one hot
voxel does not move.
"""

import collections
import io
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # which loads `ndimage` at its first use
from PIL import Image, ImageDraw, ImageFont

from utils import replacing, spread

# Of a grey range.
OUTLIERS = 0.5  # percent of the values at either end that may be outliers
MARGIN = 0.2  # of what lies between the outliers; values beyond it are cut
BACKGROUND_SHARE = 0.1  # of the values that are exactly equal, above which they are background
DIM = 64  # 8-bit images that are darker than this are scaled, others stay as they are
SAMPLED_PIXELS, SAMPLED_IMAGES = 2048, 512  # of an image, and at most at a time

# Of the size.
MAX_SIDE, SIDE_STEP = 256, 8

# Of finding what a mirror image exchanges. Medians of axial and coronal brains (OASIS, templates,
# also shifted, tilted by 8 degrees, shaded or noisy) are 0.76 to 0.98, of sagittal ones 0.41 to
# 0.67, of ellipses filled with random texture 0.54.
MIRROR_LIKENESS = 0.72
MIRROR_IMAGES, MIRROR_SIDE = 40, 64
TILTS = (-12, -6, 0, 6, 12)  # degrees between an image and its mirror image: twice its own tilt
MAX_OFFSET, MAX_OFFSET_ACROSS = (
    0.5,
    0.08,
)  # share of the side; along the axis twice that of the midline

# Of what is suspicious.
LIT = 16  # grey values above this are no background
FAR_DARKER = 0.5  # of the mean of the neighbours
HOT = 4.0  # times brighter than all but a hundredth of what is lit
STANDS_OUT = 0.05  # of the range of values: such a difference from the background
BLACKENED = 0.05  # share of what stands out

# Of the contact sheet.
SHEET_BYTES = 500_000
TILES, COLUMNS = (160, 128, 96, 64), 8  # pixels of a side, the first that is small enough
MAX_TILES = 64
LABEL_HEIGHT, GAP = 16, 4  # pixels


class GreyRange(NamedTuple):
    """What becomes black and white.

    Attributes:
        low: Values up to this become 0.
        high: Values from this on become 255.
        background: A value that becomes 0 although others below it do not, or None.
    """

    low: float
    high: float
    background: float | None = None


class GreySample:
    """A sample of the pixels of many images, of which it keeps at most 4 MB.

    Add images in a fixed order, and the range is the same each time.
    """

    def __init__(self):
        self._samples, self._stride, self._count = [], 1, 0

    def add(self, pixels: np.ndarray) -> None:
        """Add an image `(H, W)`, or any further array."""
        if self._count % self._stride == 0:
            values = np.asarray(pixels, "float32").ravel()
            self._samples.append(values[spread(values.size, SAMPLED_PIXELS)])
        self._count += 1
        if len(self._samples) > SAMPLED_IMAGES:  # every second one stays, so that all count alike
            self._samples, self._stride = self._samples[::2], 2 * self._stride

    def range(self) -> GreyRange:
        """`grey_range` of what was added."""
        return grey_range(np.concatenate(self._samples)) if self._samples else GreyRange(0.0, 255.0)


def grey_range(pixels: np.ndarray) -> GreyRange:
    """Choose what becomes black and white.

    Where more than a tenth of the pixels are exactly equal and others are brighter, that value is
    background. Of the rest, half a percent at either end is left out, and a fifth of what remains
    is added at either end, as far as there are such values. So a hot voxel cannot blacken the
    rest, and of an ordinary image nothing is cut. The range begins at the background, or below it
    where a good part lies there, as in volumes that were normalised to mean 0. Whole numbers from
    0 to 255 that reach `DIM` are 8-bit images that were scaled already, and stay as they are.

    Args:
        pixels: Values of any number of images of one subject or set, `(...)`. What is no finite
            number does not count.
    """
    values = np.asarray(pixels, "float64").ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return GreyRange(0.0, 255.0)
    distinct, counts = np.unique(values, return_counts=True)
    common = distinct[counts.argmax()]
    is_background = counts.max() > BACKGROUND_SHARE * values.size and common < distinct[-1]
    subject = values[values != common] if is_background else values
    first, last = np.percentile(
        subject, (OUTLIERS, 100 - OUTLIERS), method="inverted_cdf" if len(subject) > 2 else "lower"
    )
    margin = MARGIN * (last - first)
    high = min(last + margin, distinct[-1])
    is_8_bit = distinct[0] >= 0 and distinct[-1] <= 255 and not np.any(distinct % 1)
    if is_8_bit and high >= DIM:
        return GreyRange(0.0, 255.0)
    low = max(first - margin, distinct[0])
    if is_background and common <= first:
        return GreyRange(float(max(low, common)), float(high))
    return GreyRange(float(low), float(high), float(common) if is_background else None)


def to_grey_values(pixels: np.ndarray, grey: tuple) -> np.ndarray:
    """Scale pixels of any shape by a `GreyRange`, or by `(low, high)`, to uint8."""
    low, high, background = GreyRange(*grey)
    pixels = np.nan_to_num(np.asarray(pixels, "float32"), nan=low, posinf=high, neginf=low)
    scale = 255.0 / (high - low) if high > low else 255.0
    values = np.rint(np.clip((pixels - low) * scale, 0, 255)).astype("uint8")
    if background is not None:
        values[pixels == np.float32(background)] = 0
    return values


# ---- size --------------------------------------------------------------------------------------


def common_side(sizes: Iterable[tuple[int, int]]) -> int:
    """The most common longer side of images `(H, W)`, up to a multiple of 8, at most `MAX_SIDE`.

    Of two that are as common the longer one is taken.
    """
    counts = collections.Counter(max(height, width) for height, width, *_ in sizes)
    side = max(counts, key=lambda side: (counts[side], side))
    return min(-(-side // SIDE_STEP) * SIDE_STEP, MAX_SIDE)


def fit_square(
    image: np.ndarray, side: int, how: str = "pad"
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Make an image square.

    "pad" scales it until its longer side fits and leaves black bars. "crop" scales it until its
    shorter side fits and cuts off the rest, as much at both ends. "stretch" scales each side. An
    image that lacks less than 8 pixels is padded and not enlarged, so that nothing is blurred.

    Args:
        image: uint8 `(H, W)`.
        side: Pixels of a side of the result.
        how: "pad", "crop" or "stretch".

    Returns:
        uint8 `(side, side)`, and the part that is no padding: first row, first column, and the row
        and column after the last.
    """
    if how == "crop":
        image = centre_square(image, side)
    longest = max(image.shape)
    scale = 1.0 if 0 <= side - longest < SIDE_STEP else side / longest
    shape = tuple(max(1, round(length * scale)) for length in image.shape)
    height, width = (side, side) if how == "stretch" else shape
    if (height, width) != image.shape:  # bicubic, which makes no ripples on black
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        image = np.asarray(resized)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), "uint8")
    square[top : top + height, left : left + width] = image
    return square, (top, left, top + height, left + width)


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """What "crop" of `fit_square` keeps of an image `(H, W)`, before it is scaled."""
    edge = min(image.shape)
    edge = side if side <= edge < side + SIDE_STEP else edge
    top, left = ((length - edge) // 2 for length in image.shape)
    return image[top : top + edge, left : left + edge]


def share_lost(whole: np.ndarray, kept: np.ndarray) -> float:
    """Share of what is lit in grey images, uint8 of any shape, that a part of them lacks."""
    lit = np.count_nonzero(whole > LIT)
    return 1.0 - np.count_nonzero(kept > LIT) / lit if lit else 0.0


# ---- mirror ------------------------------------------------------------------------------------


def find_mirror(images: Sequence[np.ndarray]) -> str:
    """Find what may be mirrored: the axis about which the slices match their mirror images.

    Each slice is compared with its mirror image at the shift and tilt that fit best, after
    differences of brightness that are wider than some details were removed. The median over up to
    `MIRROR_IMAGES` slices, spread over all of them, must reach `MIRROR_LIKENESS`.

    Args:
        images: uint8 `(S, S)` each, of one size or of several.

    Returns:
        "rows" (upside down, such as axial brains with the nose to the right), "columns" (left and
        right, such as axial brains with the nose up), or "none" (such as sagittal slices).
    """
    chosen = [images[i] for i in spread(len(images), MIRROR_IMAGES)] if len(images) else []
    pairs = [_mirror_likeness(image) for image in chosen if image.max(initial=0) > LIT]
    if not pairs:
        return "none"
    rows, columns = np.median(pairs, axis=0)
    if max(rows, columns) < MIRROR_LIKENESS:
        return "none"
    return "rows" if rows > columns else "columns"


def _mirror_likeness(image):
    """Highest correlation with the mirror image, upside down and left to right."""
    small = Image.fromarray(image).resize((MIRROR_SIDE, MIRROR_SIDE), Image.Resampling.BOX)
    details = _local_contrast(np.asarray(small, "float32"))
    padded = (2 * MIRROR_SIDE, 2 * MIRROR_SIDE)
    spectrum, power = np.fft.rfft2(details, padded), np.sum(details**2)
    best = []
    for axis in (0, 1):
        reach = [round(MAX_OFFSET_ACROSS * MIRROR_SIDE)] * 2
        reach[axis] = round(MAX_OFFSET * MIRROR_SIDE)
        shifts = np.ix_(*(np.arange(-most, most + 1) for most in reach))
        likeness = []
        for tilt in TILTS:
            mirrored = np.flip(details, axis)
            if tilt:
                mirrored = scipy.ndimage.rotate(mirrored, tilt, reshape=False, order=1)
            product = spectrum * np.conj(np.fft.rfft2(mirrored, padded))
            correlation = np.fft.irfft2(product, padded)[shifts].max()
            likeness.append(correlation / np.sqrt(power * np.sum(mirrored**2) + 1e-9))
        best.append(max(likeness))
    return best


def _local_contrast(image):
    """An image less its surroundings, over its deviation there: bias fields go, outlines count."""
    smooth = scipy.ndimage.gaussian_filter(image, 0.7)
    details = smooth - scipy.ndimage.gaussian_filter(smooth, 4)
    floor = 0.05 * smooth.std() + 1e-3
    return details / np.sqrt(scipy.ndimage.gaussian_filter(details**2, 4) + floor**2)


# ---- looking -----------------------------------------------------------------------------------


def suspicious(images: Sequence[np.ndarray], values: Sequence[np.ndarray] = ()) -> list[str]:
    """Look for what a conversion may have spoilt in the slices of one case.

    Args:
        images: Slices in the order of their levels, uint8 `(H, W)` each.
        values: The same before they were scaled, where it is known, each of the same shape.

    Returns:
        A few words for each kind of thing found: slices that are far darker than both neighbours,
        slices with a spot that leaves the rest dark, and a good part that turned black.
    """
    means = [float(image.mean()) for image in images]
    darker = [
        level
        for level, (below, mean, above) in enumerate(zip(means, means[1:], means[2:]), 1)
        if mean < FAR_DARKER * min(below, above)
    ]
    spots = [level for level, image in enumerate(images) if _has_hot_spot(image)]
    black = _blackened(images, values) if len(values) else 0.0
    notes = [f"slices far darker than their neighbours: {_listed(darker)}"] if darker else []
    notes += [f"slices darkened by one bright spot: {_listed(spots)}"] if spots else []
    if black > BLACKENED:
        least = min(float(np.nanmin(part)) for part in values)
        below = f"; values go down to {least:.4g}" if least < 0 else ""
        notes.append(f"{black:.0%} of what is no background turned black{below}")
    return notes


def _listed(numbers):
    more = ", ..." if len(numbers) > 8 else ""
    return ", ".join(map(str, numbers[:8])) + more


def _has_hot_spot(image):
    lit = image[image > 0]
    return lit.size > 1 and lit.max() > HOT * max(np.percentile(lit, 99, method="lower"), 1)


def _blackened(images, values):
    """Share of the values that stand out from the background, and became black."""
    pairs = zip(map(np.ravel, images), map(np.ravel, values))
    places = [(image[i], of[i]) for image, of in pairs for i in [spread(of.size, SAMPLED_PIXELS)]]
    grey, before = map(np.concatenate, zip(*places))
    distinct, counts = np.unique(before[np.isfinite(before)], return_counts=True)
    if not distinct.size:
        return 0.0
    first, last = np.percentile(before, (OUTLIERS, 100 - OUTLIERS))
    stands_out = np.abs(before - distinct[counts.argmax()]) > STANDS_OUT * (last - first)
    return np.count_nonzero((grey == 0) & stands_out) / max(np.count_nonzero(stands_out), 1)


def contact_sheet(
    path: str | os.PathLike, images: Sequence[np.ndarray], labels: Sequence[str]
) -> None:
    """Write a PNG that shows images with a label under each, at most `SHEET_BYTES` long.

    Args:
        path: File to write.
        images: uint8 `(H, W)` each. Of more than `MAX_TILES` some are shown, spread over all.
        labels: One for each image. What does not fit is cut off.
    """
    chosen = spread(len(images), MAX_TILES)
    for tile in TILES:
        content = _draw_sheet([images[i] for i in chosen], [labels[i] for i in chosen], tile)
        if len(content) <= SHEET_BYTES:
            break
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _draw_sheet(images, labels, tile):
    columns = min(COLUMNS, len(images))
    width, height = tile + GAP, tile + GAP + LABEL_HEIGHT
    sheet = Image.new("L", (columns * width + GAP, -(-len(images) // columns) * height + GAP), 40)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (image, label) in enumerate(zip(images, labels)):
        row, column = divmod(number, columns)
        left, top = column * width + GAP, row * height + GAP
        sheet.paste(Image.fromarray(fit_square(image, tile)[0]), (left, top))
        label = label.encode("ascii", "replace").decode()  # the font knows few other letters
        while label and draw.textlength(label, font) > tile:
            label = label.removesuffix("...")[:-1] + "..." if len(label) > 4 else ""
        draw.text((left, top + tile), label, 255, font)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
