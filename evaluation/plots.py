"""Figures from plain arrays, their style, and how one is saved, with matplotlib.

Images are `(N, S, S)` in [0, 1] and share one grey scale, black 0 to white 1. The caller's caption
says data and model.
"""

import functools
import io
import math
import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils import replacing

STYLE = {
    "font.size": 9,
    "figure.dpi": 130,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
# Decorates each figure: settings of the user may mirror brains or ask for LaTeX.
our_style = functools.partial(matplotlib.rc_context, {**matplotlib.rcParamsDefault, **STYLE})
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito: for colour-blind readers
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
GREY_SCALE = "Grey: 0 (black) to 1 (white)."
DIFFERENCE_LIMIT = 0.3  # value of a difference at which its colours end
SIGNED = {**GREY, "cmap": "RdBu_r", "vmin": -DIFFERENCE_LIMIT, "vmax": DIFFERENCE_LIMIT}
SIGNED_SCALE = f"-{DIFFERENCE_LIMIT} (blue) to +{DIFFERENCE_LIMIT} (red)"
BACKGROUND = 0.05  # grey values up to this do not count as brain
WIDTHS = 6.5, 10.0  # inches: the narrowest and the widest figure of panels
PANEL_WIDTH = 2.5  # inches, at most
LETTERS_PER_INCH = 16  # of a caption
PADDING = 0.12  # inches around a figure
CAPTION, ROWS_ABOVE = "Description", "Rows above the caption"  # texts in the PNG of a figure
ANOMALY_LIMIT = 1.5  # value of the healing map at which its colours end
SAMPLE_COLUMNS = 8


def save_figure(figure: Figure, path: pathlib.Path, caption: str) -> None:
    """Write a figure with its caption as a PNG.

    The file also says the caption as text, and how many rows of pixels are above it, so that the
    page can show both apart. The caption is never read as mathematics, because the names in it come
    from strangers.
    """
    lines = textwrap.fill(caption, int(LETTERS_PER_INCH * figure.get_figwidth()))
    below = figure.text(0.5, -0.01, lines, ha="center", va="top", fontsize=8.5, parse_math=False)
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A name in an alphabet that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(drawn, bbox_inches="tight", pad_inches=PADDING)
    # 256 colours look the same and take half the bytes.
    colours = Image.open(drawn).convert("RGB")
    colours = colours.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    notes = PngInfo()
    height = below.get_window_extent().height + PADDING * figure.dpi
    for name, text in ((CAPTION, caption), (ROWS_ABOVE, colours.height - math.ceil(height))):
        notes.add_itxt(name, str(text))
    with replacing(path) as temporary:
        colours.save(temporary, optimize=True, pnginfo=notes)


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


def _make_panels(rows, columns, box, title_share=0.0):
    """Make a figure and its empty panels `(rows, columns)`, each with the aspect of its box.

    The title of every panel takes a share of the panel's height.
    """
    aspect = (box[0].stop - box[0].start) / (box[1].stop - box[1].start)
    width = min(max(columns * PANEL_WIDTH, WIDTHS[0]), WIDTHS[1])
    panel_width = min(width / columns, PANEL_WIDTH)
    height = rows * panel_width * aspect * (1 + title_share) + 0.25
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    _hide_axes(figure, axes)
    return figure, axes


def _hide_axes(figure, axes):
    """Leave only images: panels close to each other, without ticks and frames."""
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)


def _show_row(axes, images, box, label="", scale=GREY):
    """Draw images `(N, S, S)` into a row of panels."""
    axes[0].set_ylabel(label)
    for axis, image in zip(axes, images):
        axis.imshow(image[box], **scale)


def _set_titles(axes, titles):
    """Write a title above each panel; of many panels it is small."""
    options = {"fontsize": 8, "pad": 2} if len(titles) > 6 else {"fontsize": 8.5}
    for axis, title in zip(axes, titles):
        axis.set_title(title, **options)


class Row(NamedTuple):
    """One row of panels of a figure.

    Attributes:
        images: What the panels show, `(N, S, S)`.
        label: Name of the row.
        scale: Scale of the colours, as `imshow` takes it.
        line: Where a line is drawn, or None: 0 and the row of pixels below it, or 1 and the column
            to the right of it.
        outlines: bool `(N, S, S)` of parts to outline, or None.
    """

    images: np.ndarray
    label: str = ""
    scale: dict[str, Any] = GREY
    line: tuple[int, int] | None = None
    outlines: np.ndarray | None = None


@our_style()
def rows_of_images(
    path: pathlib.Path,
    rows: Sequence[Row],
    titles: Sequence[str],
    caption: str,
    content: np.ndarray | None = None,
) -> None:
    """Draw rows of panels, one column a slice.

    Args:
        path: PNG to write.
        rows: The rows, from top to bottom, of N images each.
        titles: Title of each column.
        caption: What the figure shows.
        content: Images `(M, S, S)`. All panels show the part that is not background in these. None
            is the first row.
    """
    box = brain_box(rows[0].images if content is None else content)
    figure, axes = _make_panels(len(rows), len(rows[0].images), box)
    for panels, row in zip(axes, rows):
        _show_row(panels, row.images, box, row.label, row.scale)
        for number, axis in enumerate(panels):
            if row.line is not None:
                across, place = row.line
                draw = axis.axvline if across else axis.axhline
                draw(place - box[across].start - 0.5, color=ORANGE, linewidth=0.6)
            if row.outlines is not None:
                axis.contour(row.outlines[number][box], [0.5], colors=ORANGE, linewidths=0.7)
    _set_titles(axes[0], titles)
    save_figure(figure, path, caption)


@our_style()
def samples(path: pathlib.Path, images: np.ndarray, levels: np.ndarray, caption: str) -> None:
    """Draw generated slices in their order.

    Args:
        path: PNG to write.
        images: `(N, S, S)`.
        levels: Level of each slice, `(N,)`.
        caption: What the figure shows.
    """
    box = brain_box(images)
    columns = min(SAMPLE_COLUMNS, len(images))
    figure, axes = _make_panels(-(-len(images) // columns), columns, box, title_share=0.1)
    for axis in axes.flat[len(images) :]:
        axis.set_visible(False)
    _show_row(axes.flat, images, box)
    _set_titles(axes.flat, [f"level {level}" for level in levels])
    save_figure(figure, path, f"{caption} {GREY_SCALE}")


def anomalies(
    path: pathlib.Path,
    images: np.ndarray,
    healed: np.ndarray,
    maps: dict[str, np.ndarray],
    titles: Sequence[str],
    caption: str,
    masks: np.ndarray | None = None,
) -> None:
    """Draw originals, healed versions and anomaly maps, one column a slice.

    Args:
        path: PNG to write.
        images: Originals `(N, S, S)`.
        healed: Healed versions `(N, S, S)`.
        maps: `(N, S, S)` of each method. The colours of healing end at `ANOMALY_LIMIT`, those of
            another method at the highest value.
        titles: Title of each column.
        caption: What the figure shows.
        masks: bool `(N, S, S)` of true lesions to outline on the originals, or None.
    """
    rows = [Row(images, "original", outlines=masks), Row(healed, "healed")]
    scales = []
    for method, values in maps.items():
        limit = ANOMALY_LIMIT if method == "healing" else float(values.max()) or 1.0
        rows.append(Row(values, method, {**GREY, "cmap": "cividis", "vmax": limit}))
        scales.append(f"{method} 0 to {limit:.2g}")
    colours = f"Maps, dark blue to yellow: {', '.join(scales)}."
    rows_of_images(path, rows, titles, f"{caption} {GREY_SCALE} {colours}")


@our_style()
def brains(
    path: pathlib.Path,
    generated: dict[str, np.ndarray],
    real: dict[str, np.ndarray],
    frame: Sequence[int],
    caption: str,
    aspect: float = 1.0,
) -> None:
    """Draw three cuts of each brain, one column a brain, generated ones first.

    Args:
        path: PNG to write.
        generated: What `evaluation.brains.cuts` returned.
        real: The same of real brains, or an empty dict.
        frame: Part of the slices to show.
        caption: What the figure shows.
        aspect: Thickness of a slice, in pixels of a slice.
    """
    top, left, bottom, right = frame
    upwards = slice(None, None, -1)
    boxes = (
        (slice(top, bottom), slice(left, right)),
        (upwards, slice(left, right)),
        (upwards, slice(top, bottom)),
    )
    middle, *_, coronal = generated  # names of the first and of the last row
    sources = {"generated": generated, "real": real} if real else {"generated": generated}
    columns = sum(len(planes[middle]) for planes in sources.values())
    height, slices = bottom - top, aspect * generated[coronal].shape[1]
    width = min(max(columns * PANEL_WIDTH, WIDTHS[0]), WIDTHS[1])
    share = (height + 2 * slices) / (right - left)
    figure = Figure((width, width / columns * share + 0.3), layout="constrained")
    axes = figure.subplots(3, columns, squeeze=False, height_ratios=(height, slices, slices))
    _hide_axes(figure, axes)
    first = 0
    for source, planes in sources.items():
        last = first + len(planes[middle])
        for row, box, (name, images) in zip(axes, boxes, planes.items()):
            scale = GREY if name == middle else {**GREY, "aspect": aspect}
            _show_row(row[first:last], images, box, scale=scale)
            # Cuts are too low for a name that runs upwards.
            row[0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
        _set_titles(axes[0, first:last], [source] * (last - first))
        first = last
    save_figure(figure, path, f"{caption} {GREY_SCALE}")


# ---- curves --------------------------------------------------------------------------------------


@our_style()
def codes(
    path: pathlib.Path,
    uses: np.ndarray,
    training_uses: np.ndarray,
    patches: np.ndarray,
    caption: str,
) -> None:
    """Draw how evenly the codes are used, and what each code stands for.

    Args:
        path: PNG to write.
        uses: Uses of each code in the split, `(K,)`.
        training_uses: Uses of each code in training, `(K,)`.
        patches: Mean original patch around each code, `(K, P, P)`.
        caption: What the figure shows.
    """
    figure = Figure((10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.45))
    for values, label, colour in (
        (training_uses, "training", ORANGE),
        (uses, "this split", BLUE),
    ):
        share = np.sort(values[values > 0])[::-1] / values.sum()
        left.plot(np.arange(1, len(share) + 1), share, color=colour, label=label)
    left.set(xscale="log", yscale="log")
    left.set(xlabel="rank of the code", ylabel="share of all positions")
    left.legend()
    right.imshow(_sheet(uses, patches), **GREY)
    right.set(xticks=[], yticks=[])
    right.spines[:].set_visible(False)
    save_figure(
        figure,
        path,
        f"{caption} Left: share of all positions by rank. Right: mean original patch around each "
        "used code, the most used first; a patch is twice as wide as the pixels that the code "
        f"stands for. {GREY_SCALE}",
    )


def _sheet(uses, patches):
    """One image of the patches of all used codes, the most used first, with gaps between them."""
    order = np.argsort(-uses, kind="stable")[: np.count_nonzero(uses)]
    columns = int(np.ceil(np.sqrt(1.45 * len(order))))
    rows = -(-len(order) // columns)
    side = patches.shape[-1]
    size = side + 1
    sheet = np.full((rows * size, columns * size), np.nan)
    for place, code in enumerate(order):
        y, x = (size * number for number in divmod(place, columns))
        sheet[y : y + side, x : x + side] = patches[code]
    return sheet


@our_style()
def training(
    path: pathlib.Path,
    vqvae: dict[str, np.ndarray],
    prior: dict[str, np.ndarray],
    baselines: dict[str, float],
    caption: str,
) -> None:
    """Draw the learning curves of both stages.

    Args:
        path: PNG to write.
        vqvae: `epoch`, `ssim`, `codes_used`, and these and `perplexity` in validation, `val_`.
        prior: `epoch`, `loss` and `val_loss`.
        baselines: Bits per code of the models without context, `position` among them.
        caption: What the figure shows.
    """
    figure = Figure((10, 3), layout="constrained")
    quality, usage, bits = figure.subplots(1, 3)
    _show_curves(quality, vqvae, "ssim", "VQ-VAE: SSIM")
    _show_curves(usage, vqvae, "codes_used", "VQ-VAE: codes used")
    _show_curves(bits, prior, "loss", "prior: bits per code")
    epochs, perplexity = vqvae["epoch"], vqvae["val_perplexity"]
    usage.plot(epochs, perplexity, color=GREEN, marker=".", label="perplexity, validation")
    usage.set_ylim(bottom=0)
    for (name, value), style in zip(baselines.items(), (":", "-.", "--")):
        bits.axhline(value, color="0.5", linestyle=style, label=f"{name}: {value:.2f}")
    # The two weaker baselines may lie above the panel.
    highest = max(1.3 * baselines["position"], 1.1 * max(prior["val_loss"]))
    bits.set_ylim(0.9 * min(prior["val_loss"]), highest)
    quality.legend(fontsize=8, loc="lower right")
    usage.legend(fontsize=8, loc="lower right")
    # Below the line of the position baseline, and above the curves.
    bits.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.65))
    for axis in (quality, usage, bits):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, path, caption)


def _show_curves(axis, history, name, title):
    for prefix, colour, label in (("", ORANGE, "training"), ("val_", BLUE, "validation")):
        values = history[prefix + name]
        axis.plot(history["epoch"], values, color=colour, marker=".", label=label)
    axis.set(xlabel="epoch", title=title)


@our_style()
def ventricles(path: pathlib.Path, areas: dict[str, np.ndarray], caption: str) -> None:
    """Draw the area of the ventricles along the levels of brains.

    Args:
        path: PNG to write.
        areas: Shares of the slice by level, `(L,)` each: `generated`, `reconstructions`, `real` and
            `training`.
        caption: What the figure shows.
    """
    figure = Figure((7, 3.4), layout="constrained")
    axis = figure.subplots()
    looks = {
        "generated": (ORANGE, "-"),
        "reconstructions": (BLUE, "-"),
        "real": ("0.45", "--"),
        "training": (GREEN, ":"),
    }
    for name, (colour, style) in looks.items():
        axis.plot(100 * areas[name], color=colour, linestyle=style, label=name)
    axis.set(xlabel="level", ylabel="ventricles, % of the slice")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    save_figure(figure, path, caption)


@our_style()
def anatomy(path: pathlib.Path, report: dict[str, Any], caption: str) -> None:
    """Draw anatomical figures along the levels.

    Args:
        path: PNG to write.
        report: What `evaluation.anatomy.compare_anatomy` returned.
        caption: What the figure shows.
    """
    names = [name for name in report if name != "levels"]
    figure = Figure((max(3.2 * len(names), WIDTHS[0]), 2.7), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    levels = report["levels"]
    for axis, name in zip(axes, names):
        for source, colour in (("real", BLUE), ("validation", GREEN), ("samples", ORANGE)):
            ranges = np.transpose(report[name][f"{source}_by_level_ci95"])
            axis.plot(levels, report[name][f"{source}_by_level"], color=colour, label=source)
            axis.fill_between(levels, *ranges, color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel="level", title=name.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("mean")
    axes[0].legend(fontsize=8)
    save_figure(figure, path, caption)
