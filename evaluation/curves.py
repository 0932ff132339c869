"""Figures of curves and histograms from plain arrays, drawn with matplotlib.

The caller's caption says data and model.
"""

import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.plots import (
    BLUE,
    GREEN,
    GREY,
    GREY_SCALE,
    ORANGE,
    WIDTHS,
    our_style,
    save_figure,
)


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
