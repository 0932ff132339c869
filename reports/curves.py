"""Figures of curves and histograms from plain arrays, drawn with matplotlib.

The caller's caption says data and model.
"""

import itertools
import pathlib

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from reports.panels import BLUE, GREEN, GREY, GREY_SCALE, ORANGE, save_figure

PURPLE, MIDDLE_GREY = "#CC79A7", "0.45"


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
