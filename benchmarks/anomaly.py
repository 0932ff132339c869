"""How well lesions of known place are found: planted in test slices, mapped by healing and by plain reconstruction error.

python benchmarks/anomaly.py --run DIR --data DIR [--ensemble DIR] [--json FILE] [--figure FILE]

Each slice gets one lesion, or none: the control. The threshold of a method is the one with the best mean Dice over lesions planted in
validation slices; the test slices only report. AUROC is of the slices' scores against those of the control, average
precision is over the pixels of the brain of all slices of a kind together.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import dataset
from utils import InputError, Parser, between, command_line, import_tensorflow, write_json


def plant(images, each, seed):
    """Lesions of every kind and strength, `each` of them, in slices drawn without return.

    Args:
        images: `(N, S, S)`, N at least what is asked for.

    Returns:
        dict of `images`, `masks`, `index` (of the slice), `kinds` and `strengths`, and `control`, the indices of slices that were left.
    """
    import lesions
    import numpy as np

    rng = np.random.default_rng(seed)
    wanted = [(kind, strength) for kind in lesions.KINDS for strength in lesions.STRENGTHS for _ in range(each)]
    order = rng.permutation(len(images))
    if len(order) <= len(wanted):
        raise InputError(f"--each asks for {len(wanted)} slices and some for the control, and a split has {len(order)}: ask for fewer.")
    planted = [lesions.plant(images[i], kind, strength, rng) for i, (kind, strength) in zip(order, wanted)]
    return {"images": np.stack([image for image, _ in planted]), "masks": np.stack([mask for _, mask in planted]), "index": order[: len(wanted)],
            "kinds": np.array([kind for kind, _ in wanted]), "strengths": np.array([strength for _, strength in wanted]), "control": order[len(wanted) :]}


def dice(maps, masks, threshold):
    """Overlap of each map above a threshold with its mask, `(N,)`."""
    above = maps > threshold
    return 2 * (above & masks).sum((1, 2)) / (above.sum((1, 2)) + masks.sum((1, 2)))


def best_threshold(maps, masks):
    import numpy as np

    candidates = np.quantile(maps[maps > 0], np.linspace(0.8, 0.9995, 80))
    return float(candidates[np.argmax([dice(maps, masks, threshold).mean() for threshold in candidates])])


def figures(maps, scores, control_scores, planted, brain, threshold, chosen):
    """`auroc`, `average_precision` and `dice` of the chosen slices."""
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = np.repeat([0, 1], [len(control_scores), chosen.sum()])
    inside = brain[chosen]
    return {"auroc": float(roc_auc_score(truth, np.concatenate([control_scores, scores[chosen]]))),
            "average_precision": float(average_precision_score(planted["masks"][chosen][inside], maps[chosen][inside])),
            "dice": float(dice(maps[chosen], planted["masks"][chosen], threshold).mean()), "slices": int(chosen.sum())}


def main(args):
    slices = dataset.open_slices(dataset.find_slices(args.data))
    import_tensorflow()
    import numpy as np

    import anomaly
    import evaluation
    import lesions
    import plots

    splits = {name: slices.splits[name] for name in ("validate", "test")}
    models = anomaly.load_ensemble([args.run, *args.ensemble], splits.values())
    planted, found, control = {}, {}, {}
    for name, split in splits.items():
        images = evaluation.decoded(split, models[0][0].settings["image_size"]) / np.float32(255)
        planted[name] = plant(images, args.each, args.seed)
        found[name] = anomaly.analyse(models, planted[name]["images"], split.levels[planted[name]["index"]], args.seed)
        if name == "test":
            left = planted[name]["control"][: 6 * args.each]
            control = anomaly.analyse(models, images[left], split.levels[left], args.seed)

    test, report = planted["test"], {"control": {}}
    brain = test["images"] > 0
    for method in anomaly.METHODS:
        threshold = best_threshold(found["validate"]["maps"][method], planted["validate"]["masks"])
        maps, scores, control_scores = found["test"]["maps"][method], found["test"]["scores"][method], control["scores"][method]

        def row(chosen):
            return figures(maps, scores, control_scores, test, brain, threshold, chosen)

        of_strength = {strength: test["strengths"] == strength for strength in lesions.STRENGTHS}
        of_kind = {kind: test["kinds"] == kind for kind in lesions.KINDS}
        report[method] = {
            **row(np.ones(len(maps), bool)), "threshold": threshold,
            "by_strength": {strength: row(here) for strength, here in of_strength.items()},
            "by_kind": {kind: {**row(here), **{strength: row(here & there) for strength, there in of_strength.items()}} for kind, here in of_kind.items()},
        }
        report["control"][method] = {"slices": len(left), "score_mean": float(control_scores.mean()), "score_p95": float(np.percentile(control_scores, 95)),
                                     "brain_above_threshold": float((control["maps"][method] > threshold).sum() / (images[left] > 0).sum())}
    report["data"] = {"name": slices.name, "fingerprint": slices.fingerprint, "planted": len(test["images"]), "seed": args.seed}
    show(report, anomaly.METHODS, lesions)
    if args.json:
        write_json(args.json, report)
    if args.figure:
        shown = [int(np.flatnonzero((test["kinds"] == kind) & (test["strengths"] == "obvious"))[0]) for kind in lesions.KINDS]
        plots.anomalies(args.figure, test["images"][shown], found["test"]["healed"][shown], {m: found["test"]["maps"][m][shown] for m in anomaly.METHODS},
                        [kind.replace("_", " ") for kind in lesions.KINDS],
                        f"{slices.name}, test split: obvious lesions planted in slices, outlined, and the maps of two methods.", test["masks"][shown])


def show(report, methods, lesions):
    """Print one line a kind and strength."""
    print(f"  {'':<32}" + "".join(f"{method:>28}" for method in methods))
    print(f"  {'':<32}" + f"{'AUROC':>10}{'AP':>9}{'Dice':>9}" * len(methods))
    by = {"all": lambda found: found}
    by |= {strength: lambda found, s=strength: found["by_strength"][s] for strength in lesions.STRENGTHS}
    by |= {f"{kind}, {strength}": lambda found, k=kind, s=strength: found["by_kind"][k][s] for kind in lesions.KINDS for strength in lesions.STRENGTHS}
    for name, row in by.items():
        rows = [row(report[method]) for method in methods]
        print(f"  {name:<32}" + "".join(f"{r['auroc']:>10.3f}{r['average_precision']:>9.3f}{r['dice']:>9.3f}" for r in rows))


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--run", metavar="DIR", type=pathlib.Path, required=True, help="run directory of train.py")
    parser.add_argument("--ensemble", metavar="DIR", type=pathlib.Path, action="append", default=[], help="another run, as for predict.py")
    parser.add_argument("--data", metavar="DIR", required=True, help="folder with the three splits")
    parser.add_argument("--each", type=between(int, 1, 10**4), default=20, metavar="N", help="lesions of each kind and strength, a split (default: %(default)s)")
    parser.add_argument("--seed", type=between(int, 0, 2**31 - 1), default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all figures here")
    parser.add_argument("--figure", metavar="FILE", type=pathlib.Path, help="draw an obvious lesion of each kind here, a PNG")
    command_line(main, parser.parse_args())
