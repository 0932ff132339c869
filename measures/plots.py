"""Figures from plain arrays, drawn with matplotlib.

Images are `(N, S, S)` in [0, 1] and share one grey scale, black 0 to white 1. The caller's caption
says data, model and levels; the function that draws adds the scale.
"""

import itertools
import pathlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from measures.panels import (
    GREY,
    GREY_SCALE,
    brain_box,
    make_panels,
    save_figure,
    set_titles,
    show_row,
)

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito: for colour-blind readers
PURPLE, MIDDLE_GREY = "#CC79A7", "0.45"
ANOMALY_LIMIT = 1.5  # value of the healing map at which its colours end
DIFFERENCE_LIMIT = 0.3  # value of a difference at which its colours end
SAMPLE_COLUMNS = 8


# ---- slices ------------------------------------------------------------------------------------


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


# ---- curves ------------------------------------------------------------------------------------


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
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.6), layout="constrained", width_ratios=(1, 1.45)
    )
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
    figure, (quality, usage, bits) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    _show_curves(quality, vqvae, "ssim", "VQ-VAE: SSIM")
    _show_curves(usage, vqvae, "codes_used", "VQ-VAE: codes used")
    _show_curves(bits, prior, "loss", "prior: bits per code")
    epochs, perplexity = vqvae["epoch"], vqvae["val_perplexity"]
    usage.plot(epochs, perplexity, color=GREEN, marker=".", label="perplexity, validation")
    usage.set_ylim(bottom=0)
    for (name, value), style in zip(baselines.items(), (":", "-.", "--")):
        bits.axhline(value, color="0.5", linestyle=style, label=f"{name}: {value:.2f}")
    # The two weaker baselines may lie above the panel.
    bits.set_ylim(0.9 * min(prior["val_loss"]), 1.3 * baselines["position"])
    for axis in (quality, usage, bits):
        axis.legend(fontsize=8, loc="best")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    save_figure(figure, path, caption)


def _show_curves(axis, history, name, title):
    for prefix, colour, label in (("", ORANGE, "training"), ("val_", BLUE, "validation")):
        values = history[prefix + name]
        axis.plot(history["epoch"], values, color=colour, marker=".", label=label)
    axis.set(xlabel="epoch", title=title)


def rate_distortion(
    path: pathlib.Path,
    models: dict[str, list[dict[str, float]]],
    codecs: dict[str, list[dict[str, float]]],
    caption: str,
) -> None:
    """Draw SSIM against bytes a slice.

    Args:
        path: PNG to write.
        models: By name, points with `ssim`, `prior_bytes` and `index_bytes`, which the legend says.
        codecs: By name, points with `ssim`, `payload_bytes` and `file_bytes`.
        caption: What the figure shows.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for (name, points), marker in zip(models.items(), itertools.cycle("osD^v")):
        points = sorted(points, key=lambda point: point["prior_bytes"])
        label = f"{name} ({points[0]['index_bytes']:.0f} bytes as indices)"
        style = {"color": BLUE, "marker": marker, "linewidth": 2, "label": label}
        axis.plot(*_column(points, "prior_bytes", "ssim"), **style)
    colours = (ORANGE, GREEN, PURPLE, MIDDLE_GREY)
    for (name, points), colour, marker in zip(codecs.items(), colours, "xP*+"):
        style = {"color": colour, "marker": marker, "label": f"{name}, payload"}
        axis.plot(*_column(points, "payload_bytes", "ssim"), **style)
        axis.plot(*_column(points, "file_bytes", "ssim"), color=colour, linestyle=":", linewidth=1)
    ticks = (100, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
    axis.set(xscale="log", xlim=(100, 3000), ylim=(0.88, 1), xlabel="bytes a slice", ylabel="SSIM")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", fontsize=8)
    save_figure(
        figure,
        path,
        f"{caption} Models: bits of the codes under the prior, as bytes. Codecs: payload, which is "
        "the file minus the file of an all-black slice; dotted: the whole file.",
    )


def _column(points, *names):
    return [[point[name] for point in points] for name in names]
