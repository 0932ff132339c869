"""What predict.py writes and prints: `metrics.json`, `anomaly.json`, images, figures, tables."""

import csv
import pathlib
import re
from typing import Any

import numpy as np

from evaluation import bids, plots
from evaluation.context import Context, Words
from evaluation.metrics import BASELINES
from evaluation.reconstruction import SHOWN_SLICES, slice_titles
from evaluation.stacks import write_stack
from evaluation.thresholds import QUANTILES, clusters
from sources.facts import FACTS_FILE, OASIS, DataFacts
from sources.images import to_grey, to_unit, write_png
from utils import clean_name, replacing, write_json

METRICS, ANOMALIES = "metrics.json", "anomaly.json"
PAGE = "index.html"  # which every call writes anew, and the viewers that have no room in it
CLUSTERS = "anomaly/clusters.csv"
OWNED_PAGE = (PAGE, "viewers/*.html")
FIGURES = (
    *("reconstructions", "codes", "training", "samples", "comparison", "completions", "walk"),
    *("brains", "ventricles", "anatomy", "closest"),
)
ALL_FIGURES = (*FIGURES, "anomaly", "counterfactual")  # as the page shows them
# Glob patterns of what predict.py may replace in its folder. All else there is the user's. Earlier
# versions wrote the `.npz` files.
OWNED = (
    METRICS,
    "results.npz",
    *(f"{name}.png" for name in FIGURES),
    "samples/sample_*_slice_*.png",
    "brains/brain_*.nii.gz",
    "brains/slices/case_*_slice_*.png",
    f"brains/slices/{FACTS_FILE}",
    "reconstructions/case_*_slice_*.png",
    f"reconstructions/{FACTS_FILE}",
    "fill/case_*.nii.gz",
    "fill/slices/case_*_slice_*.png",
    f"fill/slices/{FACTS_FILE}",
    *bids.owned("brains", "fill"),
    *OWNED_PAGE,
)
OWNED_ANOMALIES = (
    ANOMALIES,
    "anomaly.npz",
    "anomaly.png",
    "anomaly/case_*_slice_*.png",
    "anomaly/case_*.nii.gz",
    CLUSTERS,
    *bids.owned("anomaly"),
    *OWNED_PAGE,
)
COUNTERFACTUALS = "counterfactual.json"
OWNED_COUNTERFACTUALS = (
    COUNTERFACTUALS,
    "counterfactual.png",
    "counterfactual/case_*_*.nii.gz",
    *bids.owned("counterfactual"),
    *OWNED_PAGE,
)
PRINTED_SCORES, PRINTED_CASES = 10, 40


def named_for(metrics: Any, facts: DataFacts) -> Any:
    """The entries of `metrics.json` as they are called in a set; see `Words.part`."""
    if not isinstance(metrics, dict):
        return metrics
    part = rf"\1{Words.of(facts).part}_"
    return {
        re.sub("(^|_)brain_", part, name): named_for(value, facts)
        for name, value in metrics.items()
    }


def print_table(metrics: dict[str, Any], facts: DataFacts = OASIS) -> None:
    """Print the main figures of `metrics.json`, named for a set."""
    stack, part = Words.of(facts)
    lines = _evaluation_lines(metrics, part) if "ssim" in metrics else {}
    if "texture" in metrics:
        bits = metrics["texture"]
        lines["bits a pixel"] = (
            f"{bits['bits_per_pixel']:.2f} by the texture "
            f"(alone {bits['bits_per_pixel_alone']:.2f}, "
            f"constant deviation {bits['constant_deviation_bits_per_pixel']:.2f})"
        )
    for name, label in (("samples", "samples"), ("brains", f"{stack}s")):
        if name in metrics:
            lines[label] = f"{metrics[name]['count']} in {metrics[name]['seconds']:.1f} s"
    for name, text in lines.items():
        print(f"  {name:<18}{text}")
    for name, value in metrics.get("generation", {}).items():
        if isinstance(value, float):
            print(f"  {name:<48}{value:.4f}")
    if "generation" in metrics:
        found = metrics["generation"]["power"]["pyramid"].items()
        accuracies = (f"{damage} {a:.2f}" for damage, by in found for a in by.values())
        print(f"  power, half of real slices damaged: {', '.join(accuracies)}")
    for kept, found in metrics.get("fill", {}).items():
        for way, figures in found.items() if isinstance(found, dict) else ():
            if isinstance(figures, dict):
                print(
                    f"  {f'{kept} kept, {way}':<48}SSIM {figures['ssim']:.4f}, detail "
                    f"{figures['gradient_ratio']:.2f} of the gradient, in phase "
                    f"{figures['fine_correlation']:.2f}"
                )
    outside = metrics["data"].get("outside_frame")
    if outside:
        images = metrics["data"]["images"]
        print(f"  {outside} of {images} slices reach out of the frame, which the model sees.")


def _evaluation_lines(metrics, part):
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
        f"SSIM, {part}": f"{ssim[f'{part}_mean']:.4f}",
        "PSNR": f"{metrics['psnr']['mean']:.2f} dB",
        "codes used": f"{codebook['used']} of {codebook['size']}, "
        f"perplexity {codebook['perplexity']:.1f}",
        "bits per code": f"{prior['bits_per_code']:.3f}  "
        f"(unconditional {prior['bits_per_code_alone']:.3f}, by {', '.join(by_model)})",
        f"  {part}": f"{prior[f'{part}_bits_per_code']:.3f}  "
        f"(by position {prior[f'{part}_position_bits_per_code']:.3f})",
        "ideal bytes": f"{rate['prior_bytes']:.0f} a slice  "
        f"(as plain indices {rate['index_bits'] / 8:.0f})",
    }


# ---- anomalies ---------------------------------------------------------------------------------


def write_anomalies(
    context: Context,
    header: dict[str, Any],
    images: np.ndarray,
    limits: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Write `anomaly.json`, and original, healed version and map as images.

    Every slice gets three PNGs, and every case of several slices three volumes, which a viewer lays
    over the scan, and with thresholds the clusters of its map, which `clusters.csv` lists too.

    Args:
        context: The slices, and what `evaluation.anomalies.analyse` returned as `results`.
        header: What `anomaly.json` says before the slices: data, runs, settings and time.
        images: The slices, `(N, S, S)` in [0, 1].
        limits: What `evaluation.thresholds.kept` returned.

    Returns:
        Content of `anomaly.json`: the header, `cases` and `slices`, the highest score first.
    """
    split, results, folder = context.split, context.results, context.folder / "anomaly"
    scores = results["scores"]["healing"]
    order = np.argsort(-scores, kind="stable")
    shown = np.clip(results["maps"]["healing"] / plots.ANOMALY_LIMIT, 0, 1)
    kinds = {"original": images, "healed": results["healed"], "map": shown}
    kinds = {kind: to_grey(np.clip(values, 0, 1)) for kind, values in kinds.items()}
    for path, *versions in zip(split.paths, *kinds.values()):
        for kind, image in zip(kinds, versions):
            name = f"{pathlib.Path(path).name.removesuffix('.nii.png')}_{kind}.png"
            write_png(folder / name, image)
    cases = [
        _write_case(folder, case, split, kinds, scores, results["maps"]["healing"], limits)
        for case in np.unique(split.cases).tolist()
    ]
    cases.sort(key=lambda row: -row["score"])
    if limits:
        _write_clusters(context.folder / CLUSTERS, cases)
    rows = [
        {
            "file": str(pathlib.Path(split.paths[i])),
            "case": int(split.cases[i]),
            "level": int(split.levels[i]),
            **{f"score_{method}": float(of[i]) for method, of in results["scores"].items()},
            "score_in_case": float(results["in_case"][i]),
        }
        for i in order
    ]
    scale = {"map_white": plots.ANOMALY_LIMIT, "thresholds": limits}
    report = {**header, **scale, "cases": cases, "slices": rows}
    write_json(context.folder / ANOMALIES, report)

    shown = order[:SHOWN_SLICES]
    labels = zip(slice_titles(split, shown), scores[shown])
    told = context.of_whom and f", and read{context.of_whom}"
    caption = (
        f"{clean_name(header['data'])}: {len(shown)} of {len(split):,} slices, the highest scores "
        f"first. Model trained on {context.facts.name}{told}. Unusual does not mean ill, and this "
        "is no medical device."
    )
    context.draw(
        plots.anomalies,
        "anomaly.png",
        *(to_unit(kinds[kind][shown]) for kind in ("original", "healed")),
        maps={method: maps[shown] for method, maps in results["maps"].items()},
        titles=[f"{label}\nscore {score:.3f}" for label, score in labels],
        caption=caption,
    )
    return report


def _write_case(folder, case, split, kinds, scores, maps, limits):
    """Write the volumes of a case of several slices. Returns its row of `anomaly.json`."""
    here = np.flatnonzero(split.cases == case)
    if len(here) > 1:
        for kind, values in kinds.items():
            path = folder / f"case_{case:03d}_{kind}.nii.gz"
            write_stack(path, values[here], split.levels[here], split.facts, case)
    highest = here[scores[here].argmax()]
    place = {"case": case, "slices": len(here), "highest_level": int(split.levels[highest])}
    row = {**place, "score": float(scores[highest])}
    if limits and len(here) > 1:
        volume, found = folder / f"case_{case:03d}_map.nii.gz", maps[here]
        row["clusters"] = clusters(volume, found, split.levels[here], limits[QUANTILES[-1]])
    return row


def _write_clusters(path, cases):
    """Write one row for each cluster of each case."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "right_mm", "front_mm", "up_mm", "peak", "volume_mm3"])
        for row in cases:
            for found in row.get("clusters", []):
                place = [row["case"], *found["peak_mm"]]
                writer.writerow([*place, round(found["peak"], 4), found["volume_mm3"]])


def print_scores(report: dict[str, Any]) -> None:
    """Print the highest scores of `anomaly.json`, by case and by slice."""
    for row in report["cases"][:PRINTED_SCORES]:
        if row["slices"] > 1:
            where = f"highest at level {row['highest_level']} of {row['slices']} slices"
            print(f"  case {row['case']:03d}  {row['score']:.4f}, {where}")
    for row in report["slices"][:PRINTED_SCORES]:
        scores = f"healing {row['score_healing']:.4f}   error {row['score_error']:.4f}"
        print(f"  {pathlib.Path(row['file']).name:<34}{scores}")


def print_probabilities(name: str, rows: list[dict[str, Any]]) -> None:
    """Print a table of the first cases of `classify_NAME.json`: the probability of each value."""
    for row in rows[:PRINTED_CASES]:
        values = "   ".join(f"{value}: {p:.2f}" for value, p in row["p"].items())
        print(f"  case {row['case']:03d}  {name}   {values}")


def print_counterfactuals(rows: list[dict[str, Any]]) -> None:
    """Print what changed in the first cases of `counterfactual.json`."""
    for row in rows[:PRINTED_CASES]:
        text = f"  case {row['case']:03d}  {row['changed_codes']:.1%} of its codes change"
        if "ventricles" in row:
            areas = (row["ventricles"][kind] for kind in ("reconstruction", "counterfactual"))
            text += ", ventricles {:.4f} -> {:.4f} of the image".format(*areas)
        print(text)
