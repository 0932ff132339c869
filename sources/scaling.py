"""Pictures of any unit and size -> square 8-bit slices, and what can be seen in them."""

import collections
import io
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # which loads `ndimage` at its first use
from PIL import Image, ImageDraw, ImageFont

from utils import replacing, spread

SAMPLED_PIXELS, SAMPLED_IMAGES = 2048, 1025  # of an image; one more than are kept at a time
OUTLIERS = 0.5  # percent of the values at either end
MARGIN = 0.2  # of the distance between the outliers; what lies beyond is cut
BACKGROUND_SHARE = 0.1  # of the pixels; a value that more of them have is background
FEW_VALUES = 16  # images with fewer distinct ones are no photographs
FAR = 4  # times the width of the rest: a background that is so far below it is not black
DIM = 64  # 8-bit images that are darker than this are scaled
LIT = 16  # grey values above this are no background
MAX_SIDE, SIDE_STEP = 256, 8
LIKE = 0.7  # medians are 0.73 to 0.98 in axial and coronal heads, 0.27 to 0.67 in sagittal ones
MIRROR_IMAGES, MIRROR_SIDE = 40, 64
TILTS = (-12, -6, 0, 6, 12)  # degrees between an image and its mirror image: twice its own tilt
REACH, REACH_ACROSS = 16, 5  # pixels of shifts, along the axis twice that of the midline
FAINT = 0.5  # of the deviation of the image: weaker contrast is not brought to the same strength
FAR_DARKER = 0.5  # of the mean of either neighbour
SPOT, SPOT_PIXELS = 4, 9  # times as bright as all else, and how small
TILE, GAP, LINE = 96, 4, 14  # pixels of a contact sheet of at most half a megabyte
SHEET_ROWS, SHEET_COLUMNS = 6, 8


class GreyRange(NamedTuple):
    """What becomes black and white.

    Attributes:
        low: Values up to this become 0.
        high: Values from this on become 255.
        background: A value, 0, that becomes 0 although it is above `low`, or None.
    """

    low: float
    high: float
    background: float | None = None


def grey_range(images: Iterable[np.ndarray]) -> GreyRange:
    """Choose what becomes black and white in all images of a subject or a set.

    A value that more than a tenth of the pixels have exactly, though others are brighter, is
    background. Of the rest, half a percent at either end may be outliers, and a fifth of what lies
    between is added at either end: a hot voxel cannot blacken the rest.

    Black is the background. But where the rest begins very far above it (CT of a masked brain),
    black is a little below the rest. Where a part of the rest is below the background, the range
    holds that part, and a background of 0 becomes black all the same (a masked volume that was
    normalised to mean 0). 8-bit images whose range ends at `DIM` or more stay as they are.

    Args:
        images: Arrays of any shape and at least one pixel, in the unit of the files. Of very many,
            every second, fourth and so on is looked at. What is no finite number does not count.
    """
    samples, stride = [np.zeros(0, "float32")], 1
    for number, image in enumerate(images):
        if number % stride == 0:
            flat = np.ravel(image)
            samples.append(np.float32(flat[spread(flat.size, SAMPLED_PIXELS)]))
        if len(samples) == SAMPLED_IMAGES:
            samples, stride = samples[::2], 2 * stride
    values = np.concatenate(samples)
    values = values[np.isfinite(values)]
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return GreyRange(0.0, 255.0)
    frequent = (counts > BACKGROUND_SHARE * values.size) & (distinct < distinct[-1])
    if len(distinct) < FEW_VALUES:
        frequent &= counts == counts.max()
    rest = values[~np.isin(values, distinct[frequent])]
    first, last = np.percentile(rest, (OUTLIERS, 100 - OUTLIERS), method="inverted_cdf")
    margin = MARGIN * (last - first)
    low, high = max(first - margin, rest.min()), min(last + margin, rest.max())
    if high >= DIM and distinct[0] >= 0 and distinct[-1] <= 255 and not np.any(distinct % 1):
        return GreyRange(0.0, 255.0)
    background = distinct[frequent].max(initial=-np.inf)
    if background > first:
        return GreyRange(float(low), float(high), None if background else 0.0)
    if first - background <= FAR * (last - first):
        low = background
    return GreyRange(float(low), float(high))


def to_grey_values(pixels: np.ndarray, grey: tuple) -> np.ndarray:
    """Scale pixels of any shape by a `GreyRange`, or by `(low, high)`, to uint8. NaN becomes 0."""
    low, high, background = GreyRange(*grey)
    pixels = np.asarray(pixels, "float32")
    values = np.clip((pixels - low) * (255.0 / max(high - low, 1e-30)), 0, 255)
    values[np.isnan(values)] = 0
    if background is not None:  # to compare with None would take most of the time
        values[pixels == background] = 0
    return np.rint(values).astype("uint8")


def scale_to_grey(slices: np.ndarray) -> np.ndarray:
    """Scale intensities `(K, H, W)` to 8-bit grey: the maximum of each slice becomes 255.

    The published slices of OASIS are scaled so. With scalp, exactly one pixel of a slice is 255. In
    brain-masked ones, white matter jumps by up to a third from one millimetre to the next.
    """
    slices = np.clip(np.nan_to_num(slices.astype("float64"), posinf=0.0), 0, None)
    peaks = slices.max((1, 2), keepdims=True)  # (K, 1, 1)
    return np.rint(slices * (255.0 / np.where(peaks > 0, peaks, 1.0))).astype("uint8")


def share_lost(whole: np.ndarray, kept: np.ndarray) -> float:
    """Share of what is lit in grey values, uint8 of any shape, that a part of them lacks."""
    lit = np.count_nonzero(whole > LIT)
    return 1.0 - np.count_nonzero(kept > LIT) / lit if lit else 0.0


def common_side(sizes: Iterable[tuple[int, int]]) -> int:
    """The most common longer side of images `(H, W)`, up to a multiple of 8, at most 256.

    Of two sides that are as common the longer one is taken.
    """
    counts = collections.Counter(map(max, sizes))
    side = max(counts, key=lambda side: (counts[side], side))
    return min(-(-side // SIDE_STEP) * SIDE_STEP, MAX_SIDE)


def fit_square(
    image: np.ndarray, side: int, how: str = "pad", enlarge: bool = True
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Make an image square.

    Args:
        image: uint8 `(H, W)`.
        side: Pixels of a side of the result.
        how: "pad" scales it until its longer side fits, unless that lacks less than 8 pixels, and
            leaves black bars. "crop" scales `centre_square` of it, "stretch" scales each side.
        enlarge: Whether "pad" enlarges a smaller image.

    Returns:
        uint8 `(side, side)`, and the part that is no padding: first row, first column, and the row
        and column after the last.
    """
    image = centre_square(image, side) if how == "crop" else image
    longest = max(image.shape)
    enough = SIDE_STEP if enlarge else side
    scale = 1.0 if how == "pad" and 0 <= side - longest < enough else side / longest
    shape = [max(1, round(length * scale)) for length in image.shape]
    height, width = (side, side) if how == "stretch" else shape
    if (height, width) != image.shape:  # bicubic, which makes no ripples on black
        image = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), "uint8")
    square[top : top + height, left : left + width] = image
    return square, (top, left, top + height, left + width)


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """What "crop" keeps of an image `(H, W)` before it is scaled to a side."""
    edge = min(image.shape)
    edge = side if side <= edge < side + SIDE_STEP else edge
    top, left = ((length - edge) // 2 for length in image.shape)
    return image[top : top + edge, left : left + edge]


def find_mirror(images: Sequence[np.ndarray]) -> str:
    """Find the axis about which slices match their mirror images.

    The match of a slice is the correlation of local contrast at the shift and tilt that fit best.
    Its median over up to `MIRROR_IMAGES` slices, spread over all of them, must reach `LIKE`.

    Args:
        images: uint8 `(H, W)` each.

    Returns:
        "rows" where upside down is as good (axial brains, the nose to the right), "columns" where
        left and right may be exchanged (the nose up), or "none" (sagittal slices).
    """
    chosen = (images[i] for i in spread(len(images), MIRROR_IMAGES))
    pairs = [_mirror_likeness(image) for image in chosen if image.max() > LIT]
    rows, columns = np.median(pairs, axis=0) if pairs else (0, 0)
    if max(rows, columns) < LIKE:
        return "none"
    return "rows" if rows > columns else "columns"


def _mirror_likeness(image):
    """How well an image matches its mirror image, upside down and left to right, in [0, 1]."""
    small = Image.fromarray(image).resize((MIRROR_SIDE, MIRROR_SIDE), Image.Resampling.BOX)
    details = _local_contrast(np.asarray(small, "float32"))
    padded = [2 * MIRROR_SIDE] * 2  # so that no shift wraps around
    spectrum, best = np.fft.rfft2(details, padded), [0.0, 0.0]
    for axis, reach in enumerate([(REACH, REACH_ACROSS), (REACH_ACROSS, REACH)]):
        shifts = np.ix_(*(np.arange(-most, most + 1) for most in reach))
        for tilt in TILTS:
            flipped = np.flip(details, axis)
            flipped = scipy.ndimage.rotate(flipped, tilt, reshape=False, order=1)
            product = spectrum * np.conj(np.fft.rfft2(flipped, padded))
            correlation = np.fft.irfft2(product, padded)[shifts].max()
            norm = np.linalg.norm(details) * np.linalg.norm(flipped)
            best[axis] = max(best[axis], correlation / max(norm, 1e-9))
    return best


def _local_contrast(image):
    """An image less its surroundings over its deviation there: shading goes, outlines count."""
    smooth = scipy.ndimage.gaussian_filter(image, 0.7)
    details = smooth - scipy.ndimage.gaussian_filter(smooth, 4)
    floor = FAINT * smooth.std() + 1e-3
    return details / np.sqrt(scipy.ndimage.gaussian_filter(details**2, 4) + floor**2)


def suspicious(images: Sequence[np.ndarray]) -> list[str]:
    """Look for what spoils slices of one case: a few words for each kind of thing found.

    Args:
        images: Slices in the order of their levels, uint8 `(H, W)` each.
    """
    means = [float(image.mean()) for image in images]
    neighbours = enumerate(zip(means, means[1:], means[2:]), 1)
    dark = [k for k, (low, mean, up) in neighbours if mean < FAR_DARKER * min(low, up)]
    spots = [k for k, image in enumerate(images) if _has_hot_spot(image)]
    if 2 * len(spots) > len(images):  # then they are part of what the slices show
        spots = []
    found = {"far darker than their neighbours": dark, "dark but for a bright spot": spots}
    return [f"slices {what}: {', '.join(map(str, at))}" for what, at in found.items() if at]


def _has_hot_spot(image):
    """Whether all but a few pixels are dark, of an image that holds more than these few."""
    most, lit = int(image.max()), np.count_nonzero(image)
    return most >= DIM and np.count_nonzero(image > most / SPOT) <= SPOT_PIXELS < lit / 10


def contact_sheet(
    path: str | os.PathLike, images: Sequence[np.ndarray], labels: Sequence[str]
) -> None:
    """Write a PNG that shows images, each above its label.

    Args:
        path: File to write.
        images: uint8 `(H, W)` each. Of many, some that are spread over all are shown.
        labels: One for each image, of one line or more. What does not fit is cut off.
    """
    chosen = spread(len(images), SHEET_ROWS * SHEET_COLUMNS)
    columns, lines = min(SHEET_COLUMNS, len(chosen)), max(text.count("\n") + 1 for text in labels)
    width, height = TILE + GAP, TILE + GAP + lines * LINE
    size = (columns * width + GAP, -(-len(chosen) // columns) * height + GAP)
    sheet, font = Image.new("L", size, 40), ImageFont.load_default(10)
    for number, index in enumerate(chosen):
        tile = Image.new("L", (TILE, TILE + lines * LINE), 40)
        tile.paste(Image.fromarray(fit_square(images[index], TILE)[0]))
        text = labels[index].encode("ascii", "replace").decode()  # the font knows few other letters
        ImageDraw.Draw(tile).text((0, TILE), text, 255, font)
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * width + GAP, row * height + GAP))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    with replacing(path) as temporary:
        temporary.write_bytes(file.getvalue())
