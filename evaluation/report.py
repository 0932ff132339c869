"""The report of predict.py: save what the figures need, draw every figure from it, print tables.

Results are saved first, and every figure is drawn from what was saved. So
`predict.py --redraw` gives the same figures without evaluating. This file loads no TensorFlow.
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from evaluation import captions, curves, plots, selection
from evaluation.captions import BASELINES, Facts, read_facts
from evaluation.saved import CURVES, METHODS, Parts, read_parts, write_parts
from networks.frames import per_pixel
from sources.folder import Split
from sources.images import enlarge, to_grey, to_unit, write_png
from sources.layout import SLICE_SIDE
from sources.volumes import write_volume
from utils import InputError, clean_name, read_json, replacing_results, write_json

METRICS, RESULTS = "metrics.json", "results.npz"
ANOMALIES, ANOMALY_RESULTS, ANOMALY_FIGURE = "anomaly.json", "anomaly.npz", "anomaly.png"
AGAIN = "run predict.py without --redraw to make it again"
PRINTED_SCORES = 10

# What drawing from damaged results can raise.
UNDRAWABLE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError)


# ---- evaluation and samples --------------------------------------------------------------------


def save(folder: pathlib.Path, metrics: dict[str, Any], parts: Parts) -> None:
    """Write `metrics.json` and `results.npz`, from which `draw` makes the figures."""
    write_json(folder / METRICS, metrics)
    write_parts(folder / RESULTS, parts)


def draw(source: pathlib.Path, out: pathlib.Path) -> None:
    """Draw every figure of the saved results of an evaluation.

    Args:
        source: Folder that `save` wrote.
        out: Folder for the figures, which may be the same.

    Raises:
        InputError: The saved results are missing or damaged.
    """
    metrics = read_json(source / METRICS, ("data", "codebook", "samples"), AGAIN)
    parts = read_parts(source / RESULTS, AGAIN)
    facts = read_facts(metrics, parts)
    for name, draw_figure in FIGURES.items():
        if name in parts:
            draw_figure(out / f"{name}.png", parts, facts)


def _reconstructions(path, parts, facts):
    part = parts["reconstructions"]
    images, restored = to_unit(part["images"]), to_unit(part["restored"])
    scores = [f"\nSSIM {ssim:.3f}" for ssim in part["ssim"]]
    titles = [label + score for label, score in zip(_labels(part), scores)]
    ranks = per_pixel(part["ranks"][part["codes"]], facts.frame, facts.image_size)
    caption = captions.reconstructions(facts)
    plots.reconstructions(path, images, restored, ranks, len(part["ranks"]), titles, caption)


def _labels(part):
    return [f"case {c:03d}, level {level}" for c, level in zip(part["cases"], part["levels"])]


def _codes(path, parts, facts):
    part = parts["codes"]
    patches = to_unit(part["patches"])
    curves.codes(path, part["uses"], part["training_uses"], patches, captions.codes(facts))


def _training(path, parts, facts):
    part = parts["training"]
    histories = {stage: dict(zip(columns, part[stage].T)) for stage, columns in CURVES.items()}
    curves.training(path, **histories, baselines=facts.baselines, caption=captions.training(facts))


def _samples(path, parts, facts):
    part = parts["samples"]
    caption = captions.samples(facts, len(part["images"]))
    plots.samples(path, to_unit(part["images"]), part["levels"], caption)


def _comparison(path, parts, facts):
    part = parts["comparison"]
    real, generated = to_unit(part["real"]), to_unit(part["generated"])
    seed = facts.sampling["seed"]
    plots.comparison(path, real, generated, part["levels"], seed, captions.comparison(facts))


def _completions(path, parts, facts):
    part, slices = parts["completions"], parts["reconstructions"]
    drawings = to_unit(part["drawings"])
    top, _, bottom, _ = facts.frame
    rows = top + int(part["rows"]) * (bottom - top) // facts.grid[0]  # of pixels
    given = rows / facts.image_size
    caption = captions.completions(facts, len(drawings))
    plots.completions(path, to_unit(slices["restored"]), given, drawings, _labels(slices), caption)


def _walk(path, parts, facts):
    part = parts["walk"]
    plots.samples(path, to_unit(part["images"]), part["levels"], captions.walk(facts))


def _closest(path, parts, facts):
    part = parts["closest"]
    generated, real = to_unit(part["generated"]), to_unit(part["real"])
    pairs = zip(part["levels"], part["distances"])
    titles = [f"level {level}, {distance:.3f}" for level, distance in pairs]
    plots.closest(path, generated, real, titles, captions.closest(facts, len(titles)))


def _brains(path, parts, facts):
    generated, real = ({**parts.get(name, {})} for name in ("brains", "real_brains"))
    level = int(generated.pop("level"))
    real.pop("level", None)
    planes = {name: to_unit(images) for name, images in generated.items()}
    real_planes = {name: to_unit(images) for name, images in real.items()}
    shown = len(planes["axial"]), level + planes["coronal"].shape[1] // 2
    caption = captions.brains(facts, *shown, bool(real))
    plots.brains(path, planes, real_planes, facts.frame, caption)


def _ventricles(path, parts, facts):
    curves.ventricles(path, parts["ventricles"], captions.ventricles(facts))


def _anatomy(path, parts, facts):
    curves.anatomy(path, parts["anatomy"], captions.anatomy(facts))


# Part of the results -> function that draws its figure, which has the name of the part.
FIGURES: dict[str, Callable[[pathlib.Path, Parts, Facts], None]] = {
    "reconstructions": _reconstructions,
    "codes": _codes,
    "training": _training,
    "samples": _samples,
    "comparison": _comparison,
    "completions": _completions,
    "walk": _walk,
    "brains": _brains,
    "ventricles": _ventricles,
    "anatomy": _anatomy,
    "closest": _closest,
}


# ---- anomalies ---------------------------------------------------------------------------------


def save_anomalies(
    folder: pathlib.Path,
    header: dict[str, Any],
    split: Split,
    images: np.ndarray,
    results: dict,
    model: dict[str, Any],
) -> dict[str, Any]:
    """Write `anomaly.json`, `anomaly.npz`, and original, healed version and map as images.

    Every slice gets three PNGs, and every case of several slices three volumes, so that a viewer
    lays the map over the scan.

    Args:
        folder: Folder to write into.
        header: What `anomaly.json` says before the slices: data, runs, settings and time.
        split: The slices that were mapped.
        images: Their images, `(N, S, S)` in [0, 1].
        results: What `evaluation.anomalies.analyse` returned.
        model: What `LAYOUT` says of the part "model".

    Returns:
        Content of `anomaly.json`: the header, `cases` and `slices`, the highest score first.
    """
    scores = results["scores"]["healing"]
    order = np.argsort(-scores, kind="stable")
    shown = np.clip(results["maps"]["healing"] / plots.ANOMALY_LIMIT, 0, 1)
    kinds = {"original": images, "healed": results["healed"], "map": shown}
    kinds = {kind: to_grey(np.clip(values, 0, 1)) for kind, values in kinds.items()}
    rows = []
    for i in order:
        path = pathlib.Path(split.paths[i])
        for kind, values in kinds.items():
            name = f"{path.name.removesuffix('.nii.png')}_{kind}.png"
            write_png(folder / "anomaly" / name, values[i])
        own = {f"score_{name}": float(s[i]) for name, s in results["scores"].items()}
        in_case = float(results["in_case"][i])
        own["score_in_case"] = in_case if math.isfinite(in_case) else None
        place = {"case": int(split.cases[i]), "level": int(split.levels[i])}
        rows.append({"file": str(path), **place, **own})
    cases = [
        _save_case(folder / "anomaly", case, split, kinds, scores)
        for case in np.unique(split.cases).tolist()
    ]
    cases.sort(key=lambda row: -row["score"])
    report = {**header, "map_white": plots.ANOMALY_LIMIT, "cases": cases, "slices": rows}
    write_json(folder / ANOMALIES, report)
    parts = selection.anomaly_parts(split, images, results, order)
    write_parts(folder / ANOMALY_RESULTS, {"model": model, **parts})
    return report


def _save_case(folder, case, split, kinds, scores):
    """Write the volumes of a case of several slices. Returns its row of `anomaly.json`."""
    here = np.flatnonzero(split.cases == case)
    levels = split.levels[here]
    first, last = int(levels.min()), int(levels.max())
    if len(here) > 1:
        for kind, values in kinds.items():
            volume = np.zeros((last - first + 1, SLICE_SIDE, SLICE_SIDE), "uint8")
            for i, level in zip(here, levels):  # a level that is missing stays black
                volume[level - first] = enlarge(values[i])
            write_volume(folder / f"case_{case:03d}_{kind}.nii.gz", volume, first)
    highest = here[scores[here].argmax()]
    place = {"case": case, "slices": len(here), "highest_level": int(split.levels[highest])}
    return {**place, "score": float(scores[highest])}


def draw_anomalies(source: pathlib.Path, out: pathlib.Path) -> None:
    """Draw the figure of the saved anomalies.

    Args:
        source: Folder that `save_anomalies` wrote.
        out: Folder for the figure, which may be the same.

    Raises:
        InputError: The saved anomalies are missing or damaged.
    """
    report = read_json(source / ANOMALIES, ("data", "slices"), AGAIN)
    parts = read_parts(source / ANOMALY_RESULTS, AGAIN)
    part, trained_on = parts["anomaly"], str(parts["model"]["trained_on"])
    scores = [f"\nscore {score:.3f}" for score in part["scores"]]
    titles = [label + score for label, score in zip(_labels(part), scores)]
    names = clean_name(report["data"]), clean_name(trained_on)
    caption = captions.anomaly(*names, len(titles), len(report["slices"]))
    images, healed = to_unit(part["images"]), to_unit(part["healed"])
    maps = {method: part[method] for method in METHODS}
    plots.anomalies(out / ANOMALY_FIGURE, images, healed, maps, titles, caption)


# ---- both --------------------------------------------------------------------------------------

# Glob patterns of what predict.py may replace in its folder. All else there is the user's.
OWNED = (
    METRICS,
    RESULTS,
    *(f"{name}.png" for name in FIGURES),
    "samples/sample_*_slice_*.png",
    "brains/brain_*.nii.gz",
    "brains/slices/case_*_slice_*.png",
    "reconstructions/case_*_slice_*.png",
)
OWNED_ANOMALIES = (
    ANOMALIES,
    ANOMALY_RESULTS,
    ANOMALY_FIGURE,
    "anomaly/case_*_slice_*.png",
    "anomaly/case_*.nii.gz",
)


def redraw(folder: pathlib.Path) -> None:
    """Draw all figures again from what a folder holds: of an evaluation, of anomalies, or both.

    Raises:
        InputError: The folder holds no saved results, or damaged ones.
    """
    has_results = (folder / RESULTS).exists()
    has_anomalies = (folder / ANOMALY_RESULTS).exists()
    if not (has_results or has_anomalies):
        raise InputError(
            f"{folder} holds no {RESULTS} to draw from: run predict.py once without --redraw."
        )
    owned = [f"{name}.png" for name in FIGURES] if has_results else []
    owned += [ANOMALY_FIGURE] if has_anomalies else []
    with replacing_results(folder, owned) as staging:
        if has_results:
            _draw_again(draw, folder, staging, RESULTS, METRICS)
        if has_anomalies:
            _draw_again(draw_anomalies, folder, staging, ANOMALY_RESULTS, ANOMALIES)


def _draw_again(draw_from, folder, staging, arrays, numbers):
    """Draw from files that a stranger may have written."""
    try:
        draw_from(folder, staging)
    except InputError:
        raise
    except UNDRAWABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{folder / arrays} or {numbers} beside it is damaged ({reason}): {AGAIN}."
        ) from error


def print_table(metrics: dict[str, Any]) -> None:
    """Print the main figures of `metrics.json`."""
    lines = _evaluation_lines(metrics) if "ssim" in metrics else {}
    if "texture" in metrics:
        bits = metrics["texture"]
        lines["bits a pixel"] = (
            f"{bits['bits_per_pixel']:.2f} by the texture "
            f"(alone {bits['bits_per_pixel_alone']:.2f}, "
            f"constant deviation {bits['constant_deviation_bits_per_pixel']:.2f})"
        )
    for name in ("samples", "brains"):
        if name in metrics:
            lines[name] = f"{metrics[name]['count']} in {metrics[name]['seconds']:.1f} s"
    for name, text in lines.items():
        print(f"  {name:<18}{text}")
    for name, value in metrics.get("generation", {}).items():
        if isinstance(value, float):
            print(f"  {name:<38}{value:.4f}")
    outside = metrics["data"].get("outside_frame")
    if outside:
        images = metrics["data"]["images"]
        print(f"  {outside} of {images} slices reach out of the frame, which the model sees.")


def _evaluation_lines(metrics):
    ssim, detail, data = metrics["ssim"], metrics["detail"], metrics["data"]
    prior, rate, codebook = metrics["prior"], metrics["rate"], metrics["codebook"]
    low, high = ssim["ci95"]
    by_model = [f"{n} {prior[f'{n}_bits_per_code']:.3f}" for n in reversed(BASELINES)]
    return {
        "SSIM": f"{ssim['mean']:.4f}  (95 % interval over {data['subjects']} subjects "
        f"{low:.4f} to {high:.4f})",
        "detail, energy": f"{detail['gradient_ratio']:.3f} of the gradient, "
        f"{detail['spectrum_ratio']:.3f} of the fine spectrum",
        "detail, in phase": f"correlation {detail['fine_correlation']:.3f} of the fine spectrum",
        "SSIM, brain only": f"{ssim['brain_mean']:.4f}",
        "PSNR": f"{metrics['psnr']['mean']:.2f} dB",
        "codes used": f"{codebook['used']} of {codebook['size']}, "
        f"perplexity {codebook['perplexity']:.1f}",
        "bits a code": f"{prior['bits_per_code']:.3f}  "
        f"(alone {prior['bits_per_code_alone']:.3f}, by {', '.join(by_model)})",
        "  in the brain": f"{prior['brain_bits_per_code']:.3f}  "
        f"(by position {prior['brain_position_bits_per_code']:.3f})",
        "ideal bytes": f"{rate['prior_bytes']:.0f} a slice  "
        f"(as plain indices {rate['index_bits'] / 8:.0f})",
    }


def print_scores(report: dict[str, Any]) -> None:
    """Print the highest scores of `anomaly.json`, by case and by slice."""
    for row in report["cases"][:PRINTED_SCORES]:
        if row["slices"] > 1:
            where = f"highest at level {row['highest_level']} of {row['slices']} slices"
            print(f"  case {row['case']:03d}  {row['score']:.4f}, {where}")
    for row in report["slices"][:PRINTED_SCORES]:
        scores = f"healing {row['score_healing']:.4f}   error {row['score_error']:.4f}"
        print(f"  {pathlib.Path(row['file']).name:<34}{scores}")
