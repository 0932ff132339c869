"""What the figures share: panels of images with one grey scale, and how a figure is saved."""

import io
import pathlib
import textwrap
import warnings
from collections.abc import Iterable, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from utils import replacing

matplotlib.use("Agg")
plt.rcParams.update(
    {
        "font.size": 9,
        "figure.dpi": 130,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito: for colour-blind readers
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
GREY_SCALE = "Grey: 0 (black) to 1 (white)."
BACKGROUND = 0.05  # grey values up to this do not count as brain
WIDTHS = 6.5, 10.0  # inches: the narrowest and the widest figure of panels
PANEL_WIDTH = 2.5  # inches, at most
LETTERS_PER_INCH = 16  # of a caption


def save_figure(figure: Figure, path: pathlib.Path, caption: str) -> None:
    """Write a figure with its caption as a PNG and close it.

    The caption is never read as mathematics, because the names in it come from strangers.
    """
    lines = textwrap.fill(caption, int(LETTERS_PER_INCH * figure.get_figwidth()))
    figure.text(0.5, -0.01, lines, ha="center", va="top", fontsize=8.5, parse_math=False)
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A name in an alphabet that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(drawn, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    # 256 colours look the same and take half the bytes.
    colours = Image.open(drawn).convert("RGB")
    colours = colours.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with replacing(path) as temporary:
        colours.save(temporary, optimize=True)


def brain_box(images: np.ndarray, margin: float = 0.02) -> tuple[slice, slice]:
    """Find the rows and columns that hold everything but background in any of the images.

    Args:
        images: `(N, S, S)` in [0, 1].
        margin: Background to leave around it, as a share of a side.
    """
    size = images.shape[-1]
    padding = round(margin * size)
    box = []
    for axis in (2, 1):
        brain = np.flatnonzero((images > BACKGROUND).any(axis=(0, axis)))
        low, high = (brain[0], brain[-1] + 1) if len(brain) else (0, size)
        box.append(slice(max(0, low - padding), min(size, high + padding)))
    return tuple(box)


def make_panels(
    rows: int, columns: int, box: tuple[slice, slice], title_share: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """Make a grid of empty panels, each with the aspect of what it shows.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        box: Rows and columns of the images that a panel shows, from `brain_box`.
        title_share: Height of the title of every panel, as a share of the panel.

    Returns:
        The figure, and its axes `(rows, columns)`.
    """
    aspect = (box[0].stop - box[0].start) / (box[1].stop - box[1].start)
    width = min(max(columns * PANEL_WIDTH, WIDTHS[0]), WIDTHS[1])
    panel_width = min(width / columns, PANEL_WIDTH)
    height = rows * panel_width * aspect * (1 + title_share) + 0.25
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    hide_axes(figure, axes)
    return figure, axes


def hide_axes(figure: Figure, axes: np.ndarray) -> None:
    """Leave only images: panels close to each other, without ticks and frames."""
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)


def show_row(
    axes: Sequence[Axes], images: np.ndarray, box: tuple[slice, slice], label: str = "", **scale
) -> None:
    """Draw images `(N, S, S)` into a row of panels, on the scale of `GREY` or another."""
    axes[0].set_ylabel(label)
    for axis, image in zip(axes, images):
        axis.imshow(image[box], **(scale or GREY))


def set_titles(axes: Iterable[Axes], titles: Iterable[str], size: float = 8.5) -> None:
    """Write a title above each panel; a small one stands closer to it."""
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=size, pad=2 if size < 8.5 else None)
