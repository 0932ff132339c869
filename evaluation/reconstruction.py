"""Codes, reconstructions and likelihoods of all slices of a split, and their summary."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import special

from dataset import ImageSource, images_of
from evaluation import metrics, plots
from evaluation.context import Context
from evaluation.plots import GREY, GREY_SCALE, SIGNED, SIGNED_SCALE
from modules import VQVAE, Models, Texture
from networks import losses
from networks.attributes import labelled
from networks.frames import cut, per_pixel
from networks.layers import in_precision
from networks.order import among, arrange, batches
from networks.raster import numbered_seed
from sources.folder import NO_SLICE, Split
from sources.images import to_grey, to_unit
from utils import progress, read_arrays, reading, spread

BATCH = 16  # slices that go through the networks together
SHOWN_SLICES = 6  # in figures with one column a slice


def evaluate(
    models: Models,
    split: Split,
    rate_weight: float | None = None,
    given: np.ndarray | None = None,
    precision: str = "float32",
) -> dict[str, np.ndarray]:
    """Measure every slice of a split.

    Args:
        models: The networks, of which the prior chooses codes and counts their bits.
        split: The slices, N of them.
        rate_weight: Price of one bit when codes are chosen; see `RasterPrior.choose_codes`.
        given: What is known of all who are shown; see `SamplingOptions`.
        precision: In float64 codes and images are those of a file that `compress.py` writes, on any
            machine, but it takes several times as long. In float32 a few codes may differ.

    Returns:
        dict of `ssim`, `brain_ssim`, `psnr` and `brain_psnr` `(N,)`, of all that is not padding,
        `bits` and `codes` `(N, H, W)`, and `images` and `restored`, uint8 `(N, S, S)`.
        Codes are chosen, and bits counted, in the order in which whole stacks are drawn.
        `alone_bits` `(N, H, W)` are the bits of the same codes to a prior that is told no
        neighbours.
    """
    vqvae, prior = (in_precision(model, precision) for model in models[:2])
    size = vqvae.settings["image_size"]
    content = metrics.content_box(split.facts, size)
    codes = np.empty((len(split), *vqvae.grid), "int32")
    source, parts = ImageSource(split, size), []
    order = arrange(split.cases, split.levels, prior.settings["neighbours"])
    places = batches(order, BATCH)
    for batch in progress(places, f"evaluating {split.name}"):
        images, levels = images_of(source, batch), labelled(split.levels[batch], given)
        known = among(order, codes, batch)
        chosen = prior.choose_codes(vqvae.distances(images), levels, rate_weight, known)
        restored = tf.cast(vqvae.decode(chosen), tf.float32)  # (B, S, S, 1)
        pair = cut(images, content), cut(restored, content)
        maps = losses.ssim_map(*pair)
        part = {
            "ssim": np.asarray(tf.reduce_mean(maps, (1, 2))),
            "brain_ssim": metrics.brain_ssim(pair[0], maps),
            "psnr": metrics.psnr(*pair),
            "brain_psnr": metrics.brain_psnr(*pair),
            "bits": np.asarray(prior.bits(chosen, levels, known), "float32"),
            "alone_bits": np.asarray(prior.bits(chosen, levels), "float32"),
            "codes": np.asarray(chosen),
            "images": to_grey(images)[..., 0],
            "restored": to_grey(restored)[..., 0],
        }
        codes[batch] = part["codes"]
        parts.append(part)
    return join(parts, places)


def choose_codes(
    models: Models,
    cases: np.ndarray,
    levels: np.ndarray,
    images: np.ndarray,
    given: np.ndarray | None = None,
) -> np.ndarray:
    """Codes of slices, int32 `(N, H, W)`, that the prior chooses coarse to fine.

    Args:
        models: The networks.
        cases: Case of each slice, `(N,)`.
        levels: Level of each slice, `(N,)`.
        images: uint8 `(N, S, S)`.
        given: What is known of all who are shown; see `SamplingOptions`.
    """
    codes = np.empty((len(images), *models.vqvae.grid), "int32")
    order = arrange(cases, levels, models.prior.settings["neighbours"])
    for batch in progress(batches(order, BATCH), "choosing codes"):
        distances = models.vqvae.distances(to_unit(images[batch])[..., None])
        known = among(order, codes, batch)
        told = labelled(levels[batch], given)
        codes[batch] = models.prior.choose_codes(distances, told, None, known)
    return codes


def join(parts: Sequence[dict[str, np.ndarray]], batches: Sequence[np.ndarray]) -> dict:
    """Join the arrays of batches `(B, ...)`, whose indices say where each row belongs."""
    places = np.argsort(np.concatenate(batches))
    return {name: np.concatenate([part[name] for part in parts])[places] for name in parts[0]}


def texture_measures(
    texture: Texture, results: dict[str, np.ndarray], split: Split
) -> dict[str, float]:
    """Summarise how well a texture foresees slices, as `texture` of `metrics.json`.

    Beside it stand two baselines: normal distributions about the reconstruction, in whole grey
    values. `constant_deviation_bits_per_pixel` has one deviation, that of these very slices.
    `masked_deviation_bits_per_pixel` gets the mask of black pixels free of charge. Its deviation is
    that of the other pixels.

    Args:
        texture: The model.
        results: What `evaluate` returned.
        split: The slices.

    Returns:
        Bits a pixel of the frame.
    """
    images, restored = (to_unit(results[name])[..., None] for name in ("images", "restored"))
    bits = {"bits_per_pixel": [], "bits_per_pixel_alone": []}
    for begin in progress(range(0, len(split), BATCH), "measuring the texture"):
        batch = slice(begin, begin + BATCH)
        pair = images[batch], restored[batch]
        alone = texture.bits(*pair).numpy()
        lower = split.below[batch]
        given = texture.bits(*pair, images[lower]).numpy()
        bits["bits_per_pixel"] += np.where(lower == NO_SLICE, alone, given).tolist()
        bits["bits_per_pixel_alone"] += alone.tolist()
    frame = texture.settings["frame"]
    errors = cut(results["images"].astype(float) - results["restored"], frame)
    brain = cut(results["images"], frame) > 0
    masked = _normal_bits(errors[brain]) * float(brain.mean()) if brain.any() else 0.0
    return {
        **{name: float(np.mean(values)) for name, values in bits.items()},
        "constant_deviation_bits_per_pixel": _normal_bits(errors),
        "masked_deviation_bits_per_pixel": masked,
    }


def draw_textures(texture: Texture, restored: np.ndarray, split: Split, seed: int) -> np.ndarray:
    """Draw the texture of reconstructions, each given the drawn slice below it.

    Args:
        texture: The model.
        restored: Reconstructions of a split, uint8 `(N, S, S)`.
        split: The split.
        seed: Seed of all random numbers.

    Returns:
        uint8 `(N, S, S)`.
    """
    drawn = np.empty_like(restored)
    for batch in progress(split.upward(BATCH), "drawing textures"):
        lower = split.below[batch]
        below = None if (lower == NO_SLICE).any() else to_unit(drawn[lower])[..., None]
        seeds = numbered_seed(seed, batch)
        images = texture.draw(to_unit(restored[batch])[..., None], seeds, below)
        drawn[batch] = to_grey(images)[..., 0]
    return drawn


def _normal_bits(errors):
    """Bits of whole numbers under a normal distribution around 0 of their own deviation."""
    deviation = max(float(np.sqrt(np.mean(errors**2))), 0.1)
    upper, lower = (special.log_ndtr((half - abs(errors)) / deviation) for half in (0.5, -0.5))
    return float(-np.mean(upper + np.log1p(-np.exp(lower - upper))) / np.log(2))


def measures(
    results: dict[str, np.ndarray],
    split: Split,
    code_counts: np.ndarray,
    rate_weight: float,
    frame: Sequence[int],
) -> dict[str, Any]:
    """Summarise how good codes and reconstructions are, as `metrics.json` says it.

    Args:
        results: What `evaluate` returned.
        split: The slices.
        code_counts: Count of each code at each place in training, `(H, W, K)`.
        rate_weight: Price of one bit when the codes were chosen.
        frame: Part of the slices that the codes describe.
    """
    codebook_size = code_counts.shape[-1]
    shown, codes = metrics.not_black(results["images"]), results["codes"]
    ssim, psnr = results["ssim"][shown], results["psnr"][shown]
    used, perplexity = metrics.usage(codes, codebook_size)
    return {
        "ssim": {
            "mean": float(ssim.mean()),
            "ci95": metrics.subject_interval(ssim, split.subjects[shown]),
            "min": float(ssim.min()),
            "brain_mean": float(np.nanmean(results["brain_ssim"])),
        },
        "psnr": {
            "mean": float(psnr.mean()),
            "brain_mean": float(np.nanmean(results["brain_psnr"])),
        },
        "detail": metrics.detail(results["images"], results["restored"]),
        "rate": _rate(results, split, codebook_size, rate_weight),
        "codebook": {"size": codebook_size, "used": used, "perplexity": perplexity},
        "prior": _bits_per_code(results, metrics.baseline_bits(codes, code_counts), frame),
    }


def _rate(results, split, codebook_size, rate_weight):
    bits = results["bits"].sum((1, 2))  # (N,)
    prior_bits = float(bits.mean())
    case_bits = float(bits.sum()) / len(set(split.cases.tolist()))
    index_bits = results["codes"][0].size * float(np.log2(codebook_size))
    pixels = results["images"][0].size
    return {
        "rate_weight": rate_weight,
        "index_bits": index_bits,
        "prior_bits": prior_bits,
        "bits_per_pixel": index_bits / pixels,
        "prior_bits_per_pixel": prior_bits / pixels,
        "prior_bytes": prior_bits / 8,
        "brain_bytes" if split.facts.brain else "case_bytes": case_bits / 8,
    }


def _bits_per_code(results, baselines, frame):
    """Mean bits of a code under each model, over all places and over those that show brain."""
    brain = metrics.brain_places(results["images"], frame, results["codes"].shape[1:])
    models = {"": results["bits"], **{f"{name}_": bits for name, bits in baselines.items()}}
    alone = {"bits_per_code_alone": float(results["alone_bits"].mean())}
    everywhere = {f"{name}bits_per_code": float(bits.mean()) for name, bits in models.items()}
    in_brain = {
        f"brain_{name}bits_per_code": float(bits[brain].mean()) for name, bits in models.items()
    }
    return {**everywhere, **alone, **in_brain, "brain_share": float(brain.mean())}


def read_code_counts(path: pathlib.Path, vqvae: VQVAE) -> np.ndarray:
    """Read how often each code stood at each place in training.

    Args:
        path: `code_counts.npz` of a run, which may come from a stranger.
        vqvae: The VQ-VAE of that run.

    Returns:
        int32 `(H, W, K)`.

    Raises:
        InputError: The file is missing, damaged, or of another run.
    """
    shape = (*vqvae.grid, vqvae.settings["codebook_size"])
    remedy = "train the prior of this run again"
    with reading(path, remedy):
        counts = read_arrays(path, remedy)["counts"]
        if counts.dtype != "int32" or counts.shape != shape or not counts.any():
            raise ValueError(f"it holds no counts of shape {shape}, which the VQ-VAE asks for")
        return counts


# ---- the figures -------------------------------------------------------------------------------


def shown_slices(count: int) -> np.ndarray:
    """Choose the slices that figures show, spread evenly. Ends of a stack show little."""
    return spread(count, SHOWN_SLICES + 2)[1:-1] if count > SHOWN_SLICES else np.arange(count)


def slice_titles(split: Split, chosen: Sequence[int]) -> list[str]:
    """Case and level of some slices of a split."""
    return [f"case {split.cases[i]:03d}, level {split.levels[i]}" for i in chosen]


def summarise(
    context: Context,
    code_counts: np.ndarray,
    histories: dict[str, dict[str, np.ndarray]] | None,
    rate_weight: float | None,
) -> dict[str, Any]:
    """Say how good codes and reconstructions of the evaluated split are, and show some.

    Args:
        context: The run, and what was evaluated.
        code_counts: Count of each code at each place in training, `(H, W, K)`.
        histories: Learning curves of `vqvae` and `prior`, or None for no figure of them.
        rate_weight: Price of one bit when the codes were chosen, or None for that of the training.

    Returns:
        Entries of `metrics.json`.
    """
    (vqvae, prior, texture), results = context.models, context.results
    split, images = context.split, results["images"]
    weight = prior.settings["rate_weight"] if rate_weight is None else rate_weight
    report = {
        "data": {
            "name": split.facts.name,
            "split": split.name,
            "images": len(split),
            "subjects": len(set(split.subjects.tolist())),
            "image_size": images.shape[1],
            "frame": list(vqvae.frame),
            "outside_frame": int((metrics.lost_pixels(images, vqvae.frame) > 0).sum()),
            "black": int((~images.any((1, 2))).sum()),
            "masked": split.masked,
        },
        **measures(results, split, code_counts, weight, vqvae.frame),
    }
    if texture:
        report["texture"] = texture_measures(texture, results, split)
    _draw_reconstructions(context)
    _draw_codes(context, code_counts, report["codebook"])
    if histories:
        caption = (
            f"Trained on {context.facts.name}. {context.model}, then a {context.prior}. Grey "
            f"lines: models without context, on slices of {context.source}."
        )
        baselines = {name: report["prior"][f"{name}_bits_per_code"] for name in metrics.BASELINES}
        given = {**histories, "baselines": baselines, "caption": caption}
        context.draw(plots.training, "training.png", **given)
    return report


def _draw_codes(context, code_counts, codebook):
    codes, images = context.results["codes"], context.results["images"]
    patches = mean_patches(images, codes, codebook["size"], context.models.vqvae.frame)
    usage = f"{codebook['used']} codes used, perplexity {codebook['perplexity']:.1f}"
    context.draw(
        plots.codes,
        "codes.png",
        uses=np.bincount(codes.ravel(), minlength=codebook["size"]),
        training_uses=code_counts.sum((0, 1)),
        patches=to_unit(to_grey(patches)),
        caption=f"{context.source}. {context.model}; {usage}.",
    )


def _draw_reconstructions(context):
    """Originals, reconstructions, signed differences and code maps."""
    shown, results, vqvae = shown_slices(len(context.split)), context.results, context.models.vqvae
    images, restored = to_unit(results["images"][shown]), to_unit(results["restored"][shown])
    ranks = code_ranks(vqvae.quantizer.codebook.numpy())
    maps = per_pixel(ranks[results["codes"][shown]], vqvae.frame, images.shape[1])
    ranked = {**GREY, "cmap": "viridis", "vmax": len(ranks) - 1}
    rows = [
        plots.Row(images, "original"),
        plots.Row(restored, "reconstruction"),
        plots.Row(restored - images, "difference", SIGNED),
        plots.Row(maps, "codes", ranked),
    ]
    labels, scores = slice_titles(context.split, shown), results["ssim"][shown]
    titles = [f"{label}\nSSIM {ssim:.3f}" for label, ssim in zip(labels, scores)]
    chosen = context.of_whom and f", codes chosen{context.of_whom}"
    caption = (
        f"{context.source}. {context.model}{chosen}. {GREY_SCALE} Difference: reconstruction minus "
        f"original, {SIGNED_SCALE}. Codes: coloured by rank along the first "
        "principal component of the codebook."
    )
    context.draw(plots.rows_of_images, "reconstructions.png", rows, titles, caption)


def code_ranks(codebook: np.ndarray) -> np.ndarray:
    """Rank the codes `(K, D)` along their first principal component, so similar codes are close."""
    centred = codebook - codebook.mean(0)
    component = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.argsort(np.argsort(component))


def mean_patches(
    images: np.ndarray, codes: np.ndarray, codebook_size: int, frame: Sequence[int]
) -> np.ndarray:
    """Average the patch of originals around each place of a code.

    Args:
        images: Originals, uint8 `(N, S, S)`.
        codes: Their codes, `(N, H, W)`.
        codebook_size: Number of codes K.
        frame: Part of the images that the codes describe.

    Returns:
        `(K, P, P)` in [0, 1], where P is twice the pixels of a side that a code stands for.
    """
    frames = cut(images, frame)
    (height, width), step = frames.shape[1:], frames.shape[1] // codes.shape[1]
    margin = (step // 2, step // 2)
    padded = np.pad(frames, ((0, 0), margin, margin))
    codes = codes.ravel()
    sums = np.empty((codebook_size, 2 * step, 2 * step))
    for y, x in np.ndindex(2 * step, 2 * step):
        pixels = padded[:, y : y + height : step, x : x + width : step]  # (N, H, W)
        sums[:, y, x] = np.bincount(codes, pixels.ravel(), codebook_size)
    uses = np.bincount(codes, minlength=codebook_size)
    return sums / (255.0 * np.maximum(uses, 1)[:, None, None])
