"""Figures of images from plain arrays, drawn with matplotlib.

Images are `(N, S, S)` in [0, 1] and share one grey scale, black 0 to white 1.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from evaluation.panels import (
    GREY,
    GREY_SCALE,
    ORANGE,
    PANEL_WIDTH,
    WIDTHS,
    brain_box,
    hide_axes,
    make_panels,
    save_figure,
    set_titles,
    show_row,
)

ANOMALY_LIMIT = 1.5  # value of the healing map at which its colours end
SAMPLE_COLUMNS = 8


class Row(NamedTuple):
    """One row of panels of a figure.

    Attributes:
        images: What the panels show, `(N, S, S)`.
        label: Name of the row.
        scale: Scale of the colours, as `imshow` takes it.
        line: Row of pixels above which a line is drawn, or None.
        outlines: bool `(N, S, S)` of parts to outline, or None.
    """

    images: np.ndarray
    label: str = ""
    scale: dict[str, Any] = GREY
    line: int | None = None
    outlines: np.ndarray | None = None


def rows_of_images(
    path: pathlib.Path,
    rows: Sequence[Row],
    content: np.ndarray,
    titles: Sequence[str],
    caption: str,
    title_size: float = 8.5,
) -> None:
    """Draw rows of panels, one column a slice.

    Args:
        path: PNG to write.
        rows: The rows, from top to bottom, of N images each.
        content: Images `(M, S, S)`. All panels show the part that is not background in these.
        titles: Title of each column.
        caption: What the figure shows.
        title_size: Points of the titles.
    """
    box = brain_box(content)
    figure, axes = make_panels(len(rows), len(rows[0].images), box)
    for panels, row in zip(axes, rows):
        show_row(panels, row.images, box, row.label, **row.scale)
        for number, axis in enumerate(panels):
            if row.line is not None:
                axis.axhline(row.line - box[0].start - 0.5, color=ORANGE, linewidth=0.6)
            if row.outlines is not None:
                axis.contour(row.outlines[number][box], [0.5], colors=ORANGE, linewidths=0.7)
    set_titles(axes[0], titles, title_size)
    save_figure(figure, path, caption)


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
    figure, axes = make_panels(-(-len(images) // columns), columns, box, title_share=0.1)
    for axis in axes.flat[len(images) :]:
        axis.set_visible(False)
    show_row(axes.flat, images, box)
    set_titles(axes.flat, [f"level {level}" for level in levels], size=8)
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
    rows_of_images(path, rows, images, titles, f"{caption} {GREY_SCALE} {colours}")


def brains(
    path: pathlib.Path,
    generated: dict[str, np.ndarray],
    real: dict[str, np.ndarray],
    frame: Sequence[int],
    caption: str,
) -> None:
    """Draw three cuts of each brain, one column a brain, generated ones first.

    Args:
        path: PNG to write.
        generated: `axial` `(N, S, S)`, `sagittal` and `coronal` `(N, K, S)`, the bottom slice
            first.
        real: The same of real brains, or an empty dict.
        frame: Part of the slices to show.
        caption: What the figure shows.
    """
    top, left, bottom, right = frame
    boxes = {
        "axial": (slice(top, bottom), slice(left, right)),
        "sagittal": (slice(None, None, -1), slice(left, right)),
        "coronal": (slice(None, None, -1), slice(top, bottom)),
    }
    sources = {"generated": generated, "real": real} if real else {"generated": generated}
    columns = sum(len(planes["axial"]) for planes in sources.values())
    height, slices = bottom - top, generated["coronal"].shape[1]
    width = min(max(columns * PANEL_WIDTH, WIDTHS[0]), WIDTHS[1])
    share = (height + 2 * slices) / (right - left)
    figure, axes = plt.subplots(
        3, columns, squeeze=False, figsize=(width, width / columns * share + 0.3),
        height_ratios=(height, slices, slices), layout="constrained",
    )  # fmt: skip
    hide_axes(figure, axes)
    first = 0
    for source, planes in sources.items():
        last = first + len(planes["axial"])
        for row, (name, box) in zip(axes, boxes.items()):
            show_row(row[first:last], planes[name], box)
            if first == 0:  # cuts are too low for a name that runs upwards
                row[0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
        set_titles(axes[0, first:last], [source] * (last - first))
        first = last
    save_figure(figure, path, f"{caption} {GREY_SCALE}")
