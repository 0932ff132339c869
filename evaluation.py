"""Codes, reconstructions and likelihoods of every slice of a split, and the figures of `metrics.json` that come of them."""

import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

import metrics
import pipeline
from utils import InputError, replacing

BATCH = 16  # slices that go through the networks together


def check_levels(run, prior, split):
    if split.levels.max() >= prior.settings["levels"]:
        raise InputError(f"there are slices up to number {split.levels.max()}, and the prior of {run} knows 0 to "
                         f"{prior.settings['levels'] - 1}: train a run on such data.")


def evaluate(vqvae, prior, split, rate_weight=None, folder=None):
    """Measures of every slice of a split.

    Args:
        rate_weight: see `PixelCNN.describe`.
        folder: where every reconstruction goes as a PNG, or None.

    Returns:
        dict of `ssim`, `brain_ssim`, `psnr` (N,), `bits` and `codes` (N, H, W), and `images` and `restored`, uint8 (N, S, S).
    """
    example = pipeline.images_of(pipeline.image_source(split, vqvae.settings["image_size"]))
    results = {name: [] for name in ("ssim", "brain_ssim", "psnr", "bits", "codes", "images", "restored")}
    for begin, (images, _) in zip(range(0, len(split), BATCH), pipeline.evaluation_batches(example, len(split), BATCH)):
        levels = split.levels[begin : begin + BATCH]
        codes = prior.describe(vqvae.distances(images), levels, rate_weight)
        restored = vqvae.decode(codes)
        maps = metrics.ssim_map(images, restored)
        values = (tf.reduce_mean(maps, (1, 2)), metrics.brain_ssim(images, maps), metrics.psnr(images, restored),
                  prior.bits(codes, levels), codes, grey(images), grey(restored))
        for name, value in zip(results, values):
            results[name].append(np.asarray(value))
        if folder:
            for path, image in zip(split.paths[begin:], restored.numpy()[..., 0]):
                write_png(folder / pathlib.Path(path).name.replace(".nii", ""), image)
    return {name: np.concatenate(value) for name, value in results.items()}


def measures(results, subjects, baselines, codebook_size, rate_weight):
    """The part of `metrics.json` that says how good codes and reconstructions are.

    Args:
        results: from `evaluate`.
        subjects: of the slices, `(N,)`.
        baselines: bits of each code under models without context, `(N, H, W)` by name.
    """
    ssim, codes = results["ssim"], results["codes"]
    brain = metrics.brain_places(results["images"], codes.shape[1])
    bits = {"": results["bits"], **{f"{name}_": values for name, values in baselines.items()}}
    used, perplexity = metrics.usage(codes, codebook_size)
    prior_bits, index_bits, pixels = float(results["bits"].sum((1, 2)).mean()), codes[0].size * float(np.log2(codebook_size)), results["images"][0].size
    return {
        "ssim": {"mean": float(ssim.mean()), "ci95": metrics.subject_interval(ssim, subjects), "min": float(ssim.min()),
                 "brain_mean": float(np.nanmean(results["brain_ssim"]))},
        "psnr": {"mean": float(results["psnr"].mean())},
        "detail": metrics.detail(results["images"], results["restored"]),
        "rate": {"rate_weight": rate_weight, "index_bits": index_bits, "prior_bits": prior_bits, "bits_per_pixel": index_bits / pixels,
                 "prior_bits_per_pixel": prior_bits / pixels, "prior_bytes": prior_bits / 8},
        "codebook": {"size": codebook_size, "used": used, "perplexity": perplexity},
        "prior": {**{f"{name}bits_per_code": float(values.mean()) for name, values in bits.items()},
                  **{f"brain_{name}bits_per_code": float(values[brain].mean()) for name, values in bits.items()}, "brain_share": float(brain.mean())},
    }


def decoded(split, image_size):
    """All images of a split, uint8 `(N, S, S)`."""
    example = pipeline.images_of(pipeline.image_source(split, image_size))
    return np.concatenate([grey(images) for images, _ in pipeline.evaluation_batches(example, len(split), BATCH)])


def grey(images):
    """Images `(..., S, S, 1)` in [0, 1] -> uint8 `(..., S, S)`."""
    return np.round(np.asarray(images)[..., 0] * 255).astype("uint8")


def write_png(path, image):
    """Image `(S, S)` in [0, 1] as an 8-bit grey PNG."""
    with replacing(path) as temporary:
        Image.fromarray(grey(image[..., None])).save(temporary)
