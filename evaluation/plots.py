"""Figures of images from plain arrays, drawn with matplotlib.

Images are `(N, S, S)` in [0, 1] and share one grey scale, black 0 to white 1. The caller's caption
says data, model and levels; the function that draws adds the scale.
"""

import pathlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from evaluation.panels import (
    GREY,
    GREY_SCALE,
    ORANGE,
    PANEL_WIDTH,
    WIDTHS,
    brain_box,
    make_panels,
    save_figure,
    set_titles,
    show_row,
)

ANOMALY_LIMIT = 1.5  # value of the healing map at which its colours end
DIFFERENCE_LIMIT = 0.3  # value of a difference at which its colours end
SAMPLE_COLUMNS = 8


def reconstructions(
    path: pathlib.Path,
    images: np.ndarray,
    restored: np.ndarray,
    ranks: np.ndarray,
    codebook_size: int,
    titles: Sequence[str],
    caption: str,
) -> None:
    """Draw originals, reconstructions, signed differences and code maps, one column a slice.

    Args:
        path: PNG to write.
        images: Originals `(N, S, S)`.
        restored: Reconstructions `(N, S, S)`.
        ranks: Rank of the code of each pixel along the first principal component of the codebook,
            `(N, S, S)`.
        codebook_size: Number of codes K.
        titles: Title of each column.
        caption: What the figure shows.
    """
    box = brain_box(images)
    limit = DIFFERENCE_LIMIT
    figure, axes = make_panels(4, len(images), box)
    show_row(axes[0], images, box, "original")
    show_row(axes[1], restored, box, "reconstruction")
    signed = {**GREY, "cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    show_row(axes[2], restored - images, box, "difference", **signed)
    ranked = {**GREY, "cmap": "viridis", "vmax": codebook_size - 1}
    show_row(axes[3], ranks, box, "codes", **ranked)
    set_titles(axes[0], titles)
    save_figure(
        figure,
        path,
        f"{caption} {GREY_SCALE} Difference: reconstruction minus original, -{limit} (blue) to "
        f"+{limit} (red). Codes: coloured by rank along the first principal component of the "
        "codebook.",
    )


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


def comparison(
    path: pathlib.Path,
    real: np.ndarray,
    generated: np.ndarray,
    levels: np.ndarray,
    seed: int,
    caption: str,
) -> None:
    """Draw pairs of a real and a generated slice, in an order that only the caption tells.

    Args:
        path: PNG to write.
        real: `(N, S, S)`.
        generated: `(N, S, S)`.
        levels: Level of each pair, `(N,)`.
        seed: Seed of the order.
        caption: What the figure shows.
    """
    box = brain_box(np.concatenate([real, generated]))
    generated_below = np.random.default_rng(seed).random(len(levels)) < 0.5
    below = generated_below[:, None, None]
    figure, axes = make_panels(2, len(levels), box)
    show_row(axes[0], np.where(below, real, generated), box)
    show_row(axes[1], np.where(below, generated, real), box)
    set_titles(axes[0], [f"level {level}" for level in levels], size=8)
    answers = ", ".join("lower" if is_below else "upper" for is_below in generated_below)
    solution = f"Generated, from left to right: {answers}."
    save_figure(figure, path, f"{caption} {solution} {GREY_SCALE}")


def closest(
    path: pathlib.Path,
    generated: np.ndarray,
    real: np.ndarray,
    titles: Sequence[str],
    caption: str,
) -> None:
    """Draw generated slices above the training slices that are nearest to them.

    Args:
        path: PNG to write.
        generated: `(N, S, S)`.
        real: `(N, S, S)`.
        titles: Title of each pair.
        caption: What the figure shows.
    """
    box = brain_box(np.concatenate([real, generated]))
    figure, axes = make_panels(2, len(real), box)
    show_row(axes[0], generated, box, "generated")
    show_row(axes[1], real, box, "nearest")
    set_titles(axes[0], titles, size=8)
    save_figure(figure, path, f"{caption} {GREY_SCALE}")


def completions(
    path: pathlib.Path,
    restored: np.ndarray,
    given: float,
    drawings: Sequence[np.ndarray],
    titles: Sequence[str],
    caption: str,
) -> None:
    """Draw slices whose upper part was given, and several drawings of the rest.

    Args:
        path: PNG to write.
        restored: Reconstructions from all codes, `(N, S, S)`.
        given: Share of the rows that was given.
        drawings: Drawn slices, `(N, S, S)` each.
        titles: Title of each column.
        caption: What the figure shows.
    """
    box = brain_box(restored)
    edge = round(given * restored.shape[1])
    halves = restored.copy()
    halves[:, edge:] = 0
    figure, axes = make_panels(2 + len(drawings), len(restored), box)
    show_row(axes[0], restored, box, "reconstruction")
    show_row(axes[1], halves, box, "given")
    for number, (row, images) in enumerate(zip(axes[2:], drawings), start=1):
        show_row(row, images, box, f"drawing {number}")
        for axis in row:
            axis.axhline(edge - box[0].start - 0.5, color=ORANGE, linewidth=0.6)
    set_titles(axes[0], titles)
    line = "The line separates what was given from what was drawn."
    save_figure(figure, path, f"{caption} {line} {GREY_SCALE}")


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
    box = brain_box(images)
    figure, axes = make_panels(2 + len(maps), len(images), box)
    show_row(axes[0], images, box, "original")
    show_row(axes[1], healed, box, "healed")
    scales = []
    for row, (method, values) in zip(axes[2:], maps.items()):
        limit = ANOMALY_LIMIT if method == "healing" else float(values.max()) or 1.0
        show_row(row, values, box, method, **{**GREY, "cmap": "cividis", "vmax": limit})
        scales.append(f"{method} 0 to {limit:.2g}")
    set_titles(axes[0], titles)
    if masks is not None:
        for axis, mask in zip(axes[0], masks):
            axis.contour(mask[box], [0.5], colors=ORANGE, linewidths=0.7)
    colours = f"Maps, dark blue to yellow: {', '.join(scales)}."
    save_figure(figure, path, f"{caption} {GREY_SCALE} {colours}")


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
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
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
