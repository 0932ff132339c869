"""Measure how well an attribute of people is read from their slices, beside simpler ways.

python benchmarks/attributes.py --data DIR --run RUN [--attribute cdr] [--json FILE]

People of the validation and test splits are distinguished whose value is the first one, such as a
clinical dementia rating of 0, from all others. The ways:

- likelihood: the probability that `predict.py --classify` gives. Its scale is fitted on all of
  these people but the one who is asked about.
- ventricles: the mean area of the ventricles, if the slices are of brains.
- pixels: logistic regression on coarse pixels of the stacks of the training people.
- anomaly: the anomaly score of a slice over the median of its level in the validation split, a mean
  over the levels of a person, with nothing given and with the first value given.

Everything is measured per person, with 95 % bootstrap intervals over people. The difference of each
way from the ventricles, or from the pixels where there are none, is paired.
"""

from common import make_parser, show, write_report

# isort: split
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataset import load_images
from evaluation import anomalies, classification
from evaluation.anatomy import anatomy
from evaluation.attributes import find, values_of
from evaluation.metrics import middle95
from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from sources.folder import Split, find_slices, open_slices
from sources.images import to_unit
from utils import InputError, command_line

UNSEEN = ("validate", "test")
DRAWS = 2000  # of a bootstrap
BLOCKS, GROUPS = 16, 8  # of pixels along a side, and of levels along a stack, that are averaged
PENALTIES = np.geomspace(1e-5, 1, 6)  # of the regression, one of which is chosen on training people


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--run", "--json")
    parser.add_argument("--attribute", metavar="NAME", default="cdr", help="(default: %(default)s)")
    return parser.parse_args(arguments)


def main(args):
    """Score all people whose value is known in every way, and compare the ways."""
    slices, run, name = open_slices(find_slices(args.data)), RunDirectory(args.run), args.attribute
    models = load_models(run)
    place = find(run, models.prior, name, "--attribute")
    attribute, size = models.prior.attributes.each[place], models.vqvae.settings["image_size"]
    known = {kind: known_of(split, attribute) for kind, split in slices.splits.items()}
    splits = [known[kind][0] for kind in UNSEEN]
    values = np.concatenate([known[kind][1] for kind in UNSEEN])
    if not 0 < (values > 0).sum() < len(values):
        raise InputError(f"{args.data} tells too few values of {name}: give it a table of them.")
    subjects = np.concatenate([subjects_of(split) for split in splits])
    pairs = [classification.log_likelihoods(models, split, place) for split in splits]
    logs = np.concatenate([of for _, of in pairs])
    prior = classification.shares(models.prior.attributes, place)
    found = left_out(logs, prior, values, subjects)
    ways = {"likelihood": 1 - found[:, 0]}
    images = [load_images(split, size) for split in splits]
    if slices.facts.brain:
        ways["ventricles"] = np.concatenate(list(map(ventricles, images, splits)))
    training, of_training = known["train"]
    features = coarse(load_images(training, size), training)
    ways["pixels"] = regress(
        features, of_training > 0, np.concatenate(list(map(coarse, images, splits)))
    )
    first = np.zeros(len(models.prior.attributes), "int32")
    first[place] = 1
    for way, given in (("anomaly", None), (f"anomaly, given {attribute.labels[0]}", first)):
        ways[way] = unusual(models, images, splits, given)
    rows = np.arange(len(values))
    report = {
        "data": {"name": slices.name, "fingerprint": slices.fingerprint},
        "attribute": name,
        "people": {label: int((values == k).sum()) for k, label in enumerate(attribute.labels)},
        "nats": {
            "likelihood": float(-np.log(found[rows, values]).mean()),
            "shares": float(-np.log(prior[values]).mean()),
        },
        "ways": compare(ways, values > 0, subjects),
    }
    for way, figures in report["ways"].items():
        show(way, figures)
    show("nats a person", report["nats"])
    write_report(args.json, report)


def known_of(split: Split, attribute) -> tuple[Split, np.ndarray]:
    """Slices of the cases whose value is known, and these from 0 on, `(C,)`, in order of cases."""
    table = values_of(split, attribute.name)
    numbers = {case: attribute.number(table.get(case)) for case in np.unique(split.cases).tolist()}
    chosen = [i for i, case in enumerate(split.cases.tolist()) if numbers[case]]
    return split.pick(chosen), np.array([n for n in numbers.values() if n], int) - 1


def subjects_of(split: Split) -> np.ndarray:
    """Subject of each case, `(C,)`."""
    return split.subjects[np.unique(split.cases, return_index=True)[1]]


def left_out(
    logs: np.ndarray, prior: np.ndarray, values: np.ndarray, subjects: np.ndarray
) -> np.ndarray:
    """Probabilities `(C, V)` of each case, with the scale of all other subjects.

    Arguments are those of `evaluation.classification.fit_scale`, and the subject of each case.
    """
    found = np.empty_like(logs)
    for subject in np.unique(subjects):
        own = subjects == subject
        scale = classification.fit_scale(logs[~own], prior, values[~own])
        found[own] = classification.probabilities(logs[own], prior, scale)
    return found


def ventricles(images: np.ndarray, split: Split) -> np.ndarray:
    """Mean area of the ventricles of each case, `(C,)`."""
    return _means(anatomy(images)["ventricle_area"], split)


def _means(values, split):
    """Means of slices `(N, ...)` over the cases, `(C, ...)`."""
    return np.stack([values[split.cases == case].mean(0) for case in np.unique(split.cases)])


def coarse(images: np.ndarray, split: Split) -> np.ndarray:
    """Coarse pixels of each case, `(C, GROUPS BLOCKS^2)`; 0 where levels are missing."""
    step = images.shape[1] // BLOCKS
    blocks = to_unit(images[:, : step * BLOCKS, : step * BLOCKS])
    blocks = blocks.reshape(len(images), BLOCKS, step, BLOCKS, step).mean((2, 4))
    groups = GROUPS * split.levels // (split.facts.levels or 1 + split.levels.max())
    found = np.zeros((len(np.unique(split.cases)), GROUPS, BLOCKS, BLOCKS))
    for row, case in enumerate(np.unique(split.cases)):
        for group in np.unique(groups):
            here = (split.cases == case) & (groups == group)
            found[row, group] = blocks[here].mean(0) if here.any() else 0
    return found.reshape(len(found), -1)


def regress(training: np.ndarray, truth: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Log odds of each of the wanted cases by logistic regression on the training ones."""
    model = LogisticRegression(max_iter=2000, class_weight="balanced")
    model = make_pipeline(StandardScaler(), model)
    penalties = {"logisticregression__C": PENALTIES}
    search = GridSearchCV(model, penalties, scoring="roc_auc", cv=5)
    return search.fit(training, truth).decision_function(wanted)


def unusual(models, images, splits, given) -> np.ndarray:
    """Anomaly score of each case, `(C,)`, where a score of 1 is usual at each level."""
    scores = [
        anomalies.analyse(models, to_unit(some), split, given=given)["scores"]["healing"]
        for some, split in zip(images, splits)
    ]
    usual = {k: np.median(scores[0][splits[0].levels == k]) for k in np.unique(splits[0].levels)}
    parts = zip(scores, splits)
    relative = [of / [usual.get(k, np.nan) for k in split.levels] for of, split in parts]
    return np.concatenate([_means(np.nan_to_num(of), split) for of, split in zip(relative, splits)])


def compare(ways: dict[str, np.ndarray], truth: np.ndarray, subjects: np.ndarray) -> dict:
    """AUROC of each way with its interval, and its paired difference from the reference.

    Args:
        ways: Scores `(C,)` by name.
        truth: bool `(C,)`.
        subjects: Subject of each case, `(C,)`.
    """
    _, number = np.unique(subjects, return_inverse=True)
    count = number.max() + 1
    drawn = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    weights = np.stack([np.bincount(some, minlength=count)[number] for some in drawn])  # (D, C)
    both = (weights[:, truth].sum(1) > 0) & (weights[:, ~truth].sum(1) > 0)
    weights = np.concatenate([np.ones((1, len(truth))), weights[both]])  # all of them once, first
    values = {way: aurocs(scores, truth, weights) for way, scores in ways.items()}
    reference, report = "ventricles" if "ventricles" in ways else "pixels", {}
    for way, found in values.items():
        report[way] = _with_interval("auroc", found)
        if way != reference:
            report[way] |= _with_interval(f"above_{reference}", found - values[reference])
    return report


def _with_interval(name, values):
    return {name: float(values[0]), f"{name}_ci95": middle95(values[1:])}


def aurocs(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of scores `(C,)` for a truth `(C,)` under each of D sets of weights `(D, C)`."""
    above = scores[truth][:, None] - scores[~truth]
    wins = (above > 0) + 0.5 * (above == 0)
    ones, others = weights[:, truth], weights[:, ~truth]
    return np.einsum("dp,pn,dn->d", ones, wins, others) / (ones.sum(1) * others.sum(1))


if __name__ == "__main__":
    command_line(main, parse())
