"""Figures of a run, drawn with matplotlib. Every caption says data, model, levels and scale.

Images are `(N, S, S)` in [0, 1] and share one grey scale, black 0 to white 1; codes are `(N, H, W)`.
"""

import io
import itertools

import matplotlib
import matplotlib.ticker

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from utils import replacing

GREY = dict(cmap="gray", vmin=0, vmax=1, interpolation="nearest")
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's palette for colour-blind readers
ANOMALY_LIMIT = 1.5  # of the healing map, where its colours end
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def _save(figure, path, caption):
    figure.text(0.5, -0.01, caption, ha="center", va="top", fontsize=8.5, wrap=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    with replacing(path) as temporary:  # 256 colours look the same and take half the bytes
        Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(temporary, optimize=True)


def brain_box(images, margin=0.02):
    """Slices of rows and columns that hold everything that is not background in any of the images."""
    size = images.shape[-1]
    box = []
    for axis in (2, 1):
        seen = np.flatnonzero((images > 0.05).any(axis=(0, axis)))
        low, high = (seen[0], seen[-1] + 1) if len(seen) else (0, size)
        pad = round(margin * size)
        box.append(slice(max(0, low - pad), min(size, high + pad)))
    return tuple(box)


def _grid(rows, columns, aspect, width=10.0):
    height = width / columns * rows * aspect
    figure, axes = plt.subplots(rows, columns, figsize=(width, height + 0.25), squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def reconstructions(path, images, restored, codes, codebook, titles, caption):
    """Originals, reconstructions, signed differences and code maps, one column a slice.

    A code's colour is its rank along the first principal component of the codebook, so like codes look alike.
    """
    box = brain_box(images)
    centred = codebook - codebook.mean(0)
    component = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    ranks = np.argsort(np.argsort(component))
    step = images.shape[1] // codes.shape[1]
    maps = np.kron(ranks[codes], np.ones((1, step, step), int))
    limit = 0.3
    figure, axes = _grid(4, len(images), (box[0].stop - box[0].start) / (box[1].stop - box[1].start))
    for column, (image, back, code_map) in enumerate(zip(images, restored, maps)):
        axes[0, column].imshow(image[box], **GREY)
        axes[1, column].imshow(back[box], **GREY)
        axes[2, column].imshow((back - image)[box], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes[3, column].imshow(code_map[box], cmap="viridis", vmin=0, vmax=len(ranks) - 1, interpolation="nearest")
        axes[0, column].set_title(titles[column], fontsize=8.5)
    for axis, label in zip(axes[:, 0], ("original", "reconstruction", "difference", "codes")):
        axis.set_ylabel(label)
    _save(figure, path, f"{caption} Grey: 0 (black) to 1 (white). Difference: reconstruction less original, "
                        f"blue -{limit} to red +{limit}. Codes: coloured by rank along the codebook's first principal component.")


def samples(path, images, levels, caption, columns=8):
    """Generated slices in order of their level."""
    box = brain_box(images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = _grid(rows, columns, 1.1 * (box[0].stop - box[0].start) / (box[1].stop - box[1].start))
    for axis in axes.flat[len(images):]:
        axis.set_visible(False)
    for axis, image, level in zip(axes.flat, images, levels):
        axis.imshow(image[box], **GREY)
        axis.set_title(f"level {level}", fontsize=8, pad=2)
    _save(figure, path, f"{caption} Grey: 0 (black) to 1 (white).")


def comparison(path, real, generated, levels, seed, caption):
    """Pairs of a real and a generated slice of one level, in an order that only the caption reveals."""
    box = brain_box(np.concatenate([real, generated]))
    below = np.random.default_rng(seed).random(len(levels)) < 0.5  # which of the two is generated
    figure, axes = _grid(2, len(levels), (box[0].stop - box[0].start) / (box[1].stop - box[1].start))
    for column, (level, generated_below) in enumerate(zip(levels, below)):
        pair = (real[column], generated[column]) if generated_below else (generated[column], real[column])
        for axis, image in zip(axes[:, column], pair):
            axis.imshow(image[box], **GREY)
        axes[0, column].set_title(f"level {level}", fontsize=8, pad=2)
    _save(figure, path, f"{caption} Each pair is of one level; generated, from left to right: {', '.join('lower' if b else 'upper' for b in below)}. "
                        "Grey: 0 (black) to 1 (white).")


def closest(path, generated, real, titles, caption):
    """Generated slices above the training slices that are nearest to them."""
    box = brain_box(np.concatenate([real, generated]))
    figure, axes = _grid(2, len(real), (box[0].stop - box[0].start) / (box[1].stop - box[1].start))
    for row, (images, label) in enumerate(((generated, "generated"), (real, "nearest"))):
        axes[row, 0].set_ylabel(label)
        for axis, image in zip(axes[row], images):
            axis.imshow(image[box], **GREY)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=8, pad=2)
    _save(figure, path, f"{caption} Grey: 0 (black) to 1 (white).")


def completions(path, restored, given, drawings, titles, caption):
    """Slices of which a half was given, and several drawings of the other half.

    Args:
        restored: reconstructions from all codes, `(N, S, S)`.
        given: share of the rows that was given.
        drawings: list of `(N, S, S)`.
    """
    box = brain_box(restored)
    edge = round(given * restored.shape[1])
    figure, axes = _grid(2 + len(drawings), len(restored), (box[0].stop - box[0].start) / (box[1].stop - box[1].start))
    halves = restored.copy()
    halves[:, edge:] = 0
    for row, (images, label) in enumerate([(restored, "reconstruction"), (halves, "given"), *((d, f"drawing {i}") for i, d in enumerate(drawings, 1))]):
        axes[row, 0].set_ylabel(label)
        for axis, image in zip(axes[row], images):
            axis.imshow(image[box], **GREY)
            if row > 1:
                axis.axhline(edge - box[0].start - 0.5, color=ORANGE, linewidth=0.6)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title.splitlines()[0], fontsize=8.5)
    _save(figure, path, f"{caption} The line parts what was given from what was drawn. Grey: 0 (black) to 1 (white).")


def anomalies(path, images, healed, maps, titles, caption, masks=None):
    """Originals, healed versions and anomaly maps, one column a slice.

    Args:
        maps: by method, `(N, S, S)`; colours run from 0 to the highest, for healing to `ANOMALY_LIMIT`.
        masks: bool `(N, S, S)` of true lesions to outline on the originals, or None.
    """
    box = brain_box(images)
    figure, axes = _grid(2 + len(maps), len(images), (box[0].stop - box[0].start) / (box[1].stop - box[1].start))
    limits = {method: ANOMALY_LIMIT if method == "healing" else float(values.max()) or 1.0 for method, values in maps.items()}
    for row, (label, values) in enumerate({"original": images, "healed": healed, **maps}.items()):
        axes[row, 0].set_ylabel(label)
        scale = {**GREY, "cmap": "cividis", "vmax": limits[label]} if label in maps else GREY
        for axis, image in zip(axes[row], values):
            axis.imshow(image[box], **scale)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=8.5)
        if masks is not None:
            axes[0, column].contour(masks[column][box], [0.5], colors=ORANGE, linewidths=0.7)
    scales = ", ".join(f"{method} 0 to {limit:.2g}" for method, limit in limits.items())
    _save(figure, path, f"{caption} Grey: 0 (black) to 1 (white). Maps, dark blue to yellow: {scales}.")


def codes(path, counts, training_counts, patches, caption):
    """How evenly the codes are used, and what each one stands for.

    Args:
        counts, training_counts: uses of each code in the split and in training, `(K,)`.
        patches: mean original patch around each code, `(K, P, P)`.
    """
    order = np.argsort(-counts, kind="stable")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", width_ratios=(1, 1.45))
    for values, label, colour in ((training_counts, "training", ORANGE), (counts, "this split", BLUE)):
        share = np.sort(values)[::-1] / values.sum()
        left.plot(np.arange(1, len(share) + 1), np.where(share > 0, share, np.nan), color=colour, label=label)
    left.set(xscale="log", yscale="log", xlabel="rank of the code", ylabel="share of all positions")
    left.legend()
    columns = int(np.ceil(np.sqrt(1.45 * len(order))))
    rows = -(-len(order) // columns)
    size = patches.shape[-1] + 1
    sheet = np.full((rows * size, columns * size), np.nan)
    for place, code in enumerate(order):
        if counts[code]:
            row, column = divmod(place, columns)
            sheet[row * size : (row + 1) * size - 1, column * size : (column + 1) * size - 1] = patches[code]
    right.imshow(sheet, **GREY)
    right.set(xticks=[], yticks=[])
    right.spines[:].set_visible(False)
    _save(figure, path, f"{caption} Left: share of all positions by rank. Right: mean original patch around each code, twice as wide "
                        "as the pixels it stands for, most used first; codes that were not used are left out.")


def training(path, vqvae, prior, baselines, caption):
    """Learning curves of both stages.

    Args:
        vqvae, prior: rows of the histories.
        baselines: bits a code of the models without context, by name.
    """
    figure, (quality, usage, bits) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    epochs = [row["epoch"] for row in vqvae]
    for axis, name, label in ((quality, "ssim", "SSIM"), (usage, "codes_used", "codes used"), (bits, "loss", "bits a code")):
        rows = prior if axis is bits else vqvae
        for prefix, colour, kind in (("", ORANGE, "training"), ("val_", BLUE, "validation")):
            axis.plot([row["epoch"] for row in rows], [row[prefix + name] for row in rows], color=colour, marker=".", label=kind)
        axis.set(xlabel="epoch", title=f"{'prior' if axis is bits else 'VQ-VAE'}: {label}")
    usage.plot(epochs, [row["val_perplexity"] for row in vqvae], color=GREEN, marker=".", label="perplexity, validation")
    usage.set_ylim(bottom=0)
    for (name, value), style in zip(baselines.items(), (":", "-.", "--")):
        bits.axhline(value, color="0.5", linestyle=style, label=f"{name}: {value:.2f}")
    bits.set_ylim(0.9 * min(row["val_loss"] for row in prior), 1.3 * baselines["position"])  # the other two may lie above
    for axis, place in ((quality, (0.62, 0.05)), (usage, (0.45, 0.35)), (bits, (0.5, 0.6))):
        axis.legend(fontsize=8, loc=place)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    _save(figure, path, caption)


def rate_distortion(path, models, codecs, caption):
    """SSIM against bytes a slice.

    Args:
        models: by name, points with `ssim` and `prior_bytes`; index bytes stand in the legend.
        codecs: by name, points with `ssim`, `payload_bytes` and `file_bytes`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for (name, points), marker in zip(models.items(), itertools.cycle("osD^v")):
        points = sorted(points, key=lambda point: point["prior_bytes"])
        axis.plot([p["prior_bytes"] for p in points], [p["ssim"] for p in points], color=BLUE, marker=marker, linewidth=2,
                  label=f"{name} ({points[0]['index_bytes']:.0f} bytes as indices)")
    for (name, points), colour, marker in zip(codecs.items(), (ORANGE, GREEN, "#CC79A7", "0.45"), "xP*+"):
        axis.plot([p["payload_bytes"] for p in points], [p["ssim"] for p in points], color=colour, marker=marker, label=f"{name}, payload")
        axis.plot([p["file_bytes"] for p in points], [p["ssim"] for p in points], color=colour, linestyle=":", linewidth=1)
    ticks = (100, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
    axis.set(xscale="log", xlim=(100, 3000), ylim=(0.88, 1), xlabel="bytes a slice", ylabel="SSIM")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", fontsize=8)
    _save(figure, path, f"{caption} Models: negative log2-likelihood of the codes under the prior. Codecs: file less the file of an all-black slice; dotted, whole file.")
