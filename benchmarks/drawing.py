"""Measure how well attributes steer what is drawn: brains, and people as they would look.

python benchmarks/drawing.py --data DIR --run RUN [--attribute cdr] [--brains N] [--json FILE]

All figures are of whole stacks without texture, measured in 8-bit images. They are compared with
reconstructions of people: of the training people, which the prior learned from, and of `unseen`
ones of the validation and test splits. Brains are drawn as `predict.py --brains` draws them.

- people, drawn: anatomy of people, and of brains drawn of such people: of `anyone`, which is with
  nothing given; of each value of the attribute; and of five bins of `ventricles`, an eighth of the
  brains each, if the prior knows that attribute. `ratio_of_means` and `ratio_of_deviations` compare
  drawn brains with training people.
- order_kept: whether the ventricles of brains drawn of each value have the order that those of the
  training people have.
- stated: the correlation of the ventricles that are given, the centres of these five bins, with
  those that are drawn, over all brains and over the five means.
- counterfactuals: people of the last value drawn as the first, and the other way, in the splits of
  `--split`. `moved` is the change of their ventricles over the difference of both groups of
  training people. `ssim_elsewhere` compares reconstructions with counterfactuals in the brain, away
  from the ventricles of both. `changed_by_own` counts the codes that the own value, given again,
  changes.

Intervals are 95 % bootstrap intervals over people or over brains. A part that the --json file holds
is not measured again.
"""

from common import continue_report, make_parser, show, write_report

# isort: split
import itertools
import math

import numpy as np
from attributes import UNSEEN, known_of, subjects_of
from scipy import ndimage

from dataset import load_images
from evaluation.anatomy import ANATOMY, anatomy
from evaluation.attributes import find
from evaluation.brains import draw_brain_codes, draws_stacks
from evaluation.context import SamplingOptions
from evaluation.counterfactuals import draw, own_numbers
from evaluation.metrics import subject_interval
from evaluation.reconstruction import BATCH, choose_codes
from evaluation.samples import decode
from fitting.checkpoints import fingerprint, load_models
from fitting.run_directory import RunDirectory
from modules import Models
from networks.guidance import Guidance
from networks.layers import in_precision
from networks.losses import SSIM_BORDER, ssim_map
from predict import GUIDANCE, STRENGTH
from sources.anatomy import measured, regions
from sources.attributes import attributes_of
from sources.folder import Split, find_slices, open_slices
from sources.images import to_unit
from sources.layout import SPLITS
from utils import InputError, between, command_line, spread

OPTIONS = SamplingOptions(seed=0, guidance=Guidance(*GUIDANCE))
PEOPLE = {"training": ("train",), "unseen": UNSEEN}
ANYONE, SIZE, AREA = "anyone", "ventricles", "ventricle_area"
STATED = 5  # sizes of ventricles that are given
NEAR = 8 / 256  # of a side: how far changed ventricles may change what is around them


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--run", "--json")
    parser.add_argument("--attribute", metavar="NAME", default="cdr", help="(default: %(default)s)")
    parser.add_argument(
        "--brains",
        type=between(int, 2, 10**4),
        metavar="N",
        default=128,
        help="brains of each value (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=SPLITS,
        default=["validate"],
        help="whose counterfactuals are drawn (default: validate)",
    )
    return parser.parse_args(arguments)


def main(args):
    """Measure each part that the report lacks."""
    slices, run = open_slices(find_slices(args.data)), RunDirectory(args.run)
    models = load_models(run)
    place, prior = find(run, models.prior, args.attribute, "--attribute"), models.prior
    if not (slices.facts.brain and draws_stacks(prior)):
        raise InputError(f"ventricles are measured in stacks of brains, which {run} does not draw.")
    conditions = {
        "data": {"name": slices.name, "fingerprint": slices.fingerprint},
        "models": [fingerprint(model) for model in models[:2]],
        "attribute": args.attribute,
        "brains": args.brains,
        "guidance": list(OPTIONS.guidance),
        "strength": STRENGTH,
    }
    report = continue_report(args.json, conditions)
    levels = range(prior.settings["num_levels"])
    splits = {kind: whole_stacks(split, levels) for kind, split in slices.splits.items()}
    who, stated = groups(prior.attributes, place)
    fast = Models(*(in_precision(model, "float32") for model in models[:2]))

    def part(section, name, measure, *arguments):
        found = report.setdefault(section, {})
        if name not in found:
            found[name] = measure(*arguments)
            write_report(args.json, report)
        return found[name]

    for name, kinds in PEOPLE.items():
        people = part("people", name, people_of, fast, [splits[kind] for kind in kinds], who)
        show(f"people, {name}", {group: of[AREA] for group, of in people.items()})
    training = report["people"]["training"]
    missing = ", ".join(group for group in who if group not in training)
    if missing:
        raise InputError(f"nobody in the training split of {args.data} is known to be {missing}.")
    for group, given in who.items():
        count = max(2, args.brains // 8) if group in stated else args.brains
        drawn = part("drawn", group, brains_of, fast, count, given, training[group])
        show(f"drawn, {group}", drawn)
    labels = prior.attributes.each[place].labels
    values = [f"{args.attribute} {label}" for label in labels]
    report["order_kept"] = same_order(training, report["drawn"], values)
    if stated:
        report["stated"] = correlations(stated, report["drawn"])
    write_report(args.json, report)
    show("ventricles", report, "order_kept", *(["stated"] if stated else []))
    means = [training[value][AREA]["mean"] for value in values]
    exact = Models(*(in_precision(model, "float64") for model in models[:2]))  # as predict.py does
    for own, other in ((len(labels), 1), (1, len(labels))):
        name = f"{labels[own - 1]} as {labels[other - 1]}, {' and '.join(args.split)}"
        known = exact, [splits[kind] for kind in args.split], place, own, other
        known += (means[other - 1] - means[own - 1],)
        show(name, part("counterfactuals", name, counterfactuals_of, *known))


def whole_stacks(split: Split, levels) -> Split:
    """The cases that have all levels, L slices each, in order of cases and levels."""
    return split.pick(split.stacks(levels).ravel())


def groups(attributes, place: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Who is measured and drawn.

    Args:
        attributes: Those that the prior knows.
        place: Place of the attribute whose values are given.

    Returns:
        Numbers of what is known of each group, int32 `(A,)`, by name. And the size of ventricles
        that is stated of some of them.
    """
    who, stated = {ANYONE: np.zeros(len(attributes), "int32")}, {}

    def add(place, number):
        attribute = attributes.each[place]
        name = f"{attribute.name} {attribute.labels[number]}"
        who[name] = number_alone(attributes, place, 1 + number)
        return name

    for number in range(len(attributes.each[place].labels)):
        add(place, number)
    if SIZE in attributes.names and attributes.names[place] != SIZE:
        sizes = attributes.names.index(SIZE)
        bins = list(itertools.pairwise(attributes.each[sizes].edges))
        stated = {add(sizes, k): float(np.mean(bins[k])) for k in spread(len(bins), STATED)}
    return who, stated


def number_alone(attributes, place: int, number: int) -> np.ndarray:
    """Numbers `(A,)` of which one is known."""
    given = np.zeros(len(attributes), "int32")
    given[place] = number
    return given


# ---- people and brains -------------------------------------------------------------------------


def people_of(models, splits, who) -> dict:
    """Anatomy of the reconstructions of people, by group; groups of nobody are left out."""
    size, attributes = models.vqvae.settings["image_size"], models.prior.attributes
    found, numbers, subjects = [], [], []
    for split in splits:
        images = load_images(split, size)
        codes = choose_codes(models, split.cases, split.levels, images)
        found.append(measure(restored(models, codes)))
        table = measured(images, split.cases, split.facts)
        table |= attributes_of(split.facts.cases, split.cases.tolist())
        for case in np.unique(split.cases).tolist():
            values = {name: column[case] for name, column in table.items() if case in column}
            numbers.append(attributes.numbers(values))
        subjects.append(subjects_of(split))
    found, subjects = joined(found), np.concatenate(subjects)
    members = {name: ((given == 0) | (numbers == given)).all(1) for name, given in who.items()}
    return {
        name: summarise({figure: values[here] for figure, values in found.items()}, subjects[here])
        for name, here in members.items()
        if here.any()
    }


def brains_of(models, count, given, people) -> dict:
    """Anatomy of drawn brains, and ratios to that of people."""
    options = OPTIONS._replace(given=given)
    drawn = decode(models, draw_brain_codes(models.prior, count, options), options)
    found = summarise(measure(itertools.chain.from_iterable(drawn)), np.arange(count))
    for figure in ANATOMY:
        for name, ratio in (("mean", "ratio_of_means"), ("sd", "ratio_of_deviations")):
            found[figure][ratio] = found[figure][name] / (people[figure][name] or math.nan)
    return found


def restored(models, codes: np.ndarray) -> np.ndarray:
    """Reconstructions of whole stacks, uint8 `(C, L, S, S)`, of codes `(C L, H, W)`."""
    stacks = np.arange(len(codes)).reshape(-1, models.prior.settings["num_levels"])
    batches = np.split(stacks, range(BATCH, len(stacks), BATCH))
    return np.concatenate(list(decode(models, ((codes[b], b) for b in batches), OPTIONS)))


def measure(brains) -> dict[str, np.ndarray]:
    """Mean anatomy of each of C brains `(L, S, S)`: `(C,)` by name of `ANATOMY`."""
    found = [anatomy(brain) for brain in brains]
    return {figure: np.array([of[figure].mean() for of in found]) for figure in ANATOMY}


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One dict of arrays of several."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def summarise(found: dict[str, np.ndarray], subjects: np.ndarray) -> dict:
    """Mean with its interval, and standard deviation, of figures `(C,)` of people or brains."""
    report = {"count": len(subjects)}
    for name, values in found.items():
        report[name] = {
            "mean": float(values.mean()),
            "ci95": subject_interval(values, subjects),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        }
    return report


def same_order(people: dict, drawn: dict, values: list[str]) -> bool:
    """Whether ventricles of drawn brains rise from value to value as those of people do."""
    orders = [np.argsort([of[value][AREA]["mean"] for value in values]) for of in (people, drawn)]
    return bool((orders[0] == orders[1]).all())


def correlations(stated: dict[str, float], drawn: dict) -> dict[str, float]:
    """Correlation of stated and drawn ventricles, over all brains and over the means of groups.

    Groups are of one size, so that the variance over all brains is that of the means, and the mean
    of the variances within groups.
    """
    of_groups = [drawn[name] for name in stated]
    means, deviations = (np.array([of[AREA][name] for of in of_groups]) for name in ("mean", "sd"))
    within = np.mean(deviations**2) * (1 - 1 / of_groups[0]["count"])
    of_means = np.corrcoef(list(stated.values()), means)[0, 1]
    over_brains = of_means * np.sqrt(means.var() / (means.var() + within))
    return {"correlation": float(over_brains), "correlation_of_means": float(of_means)}


# ---- counterfactuals ---------------------------------------------------------------------------


def counterfactuals_of(models, splits, place, own, other, difference) -> dict:
    """People of one value drawn as of another.

    Args:
        models: The networks.
        splits: Slices of whole stacks.
        place: Place of the attribute.
        own: Number of the value of the people.
        other: Number of the value that is given.
        difference: Ventricles of training people of the other value, above those of the own one.
    """
    attributes, parts, subjects = models.prior.attributes, [], []
    for split in splits:
        known, values = known_of(split, attributes.each[place])
        split = known.pick(np.flatnonzero(np.repeat(values == own - 1, len(known) // len(values))))
        if not len(split):
            continue
        images = load_images(split, models.vqvae.settings["image_size"])
        codes = choose_codes(models, split.cases, split.levels, images)
        again, given = (number_alone(attributes, place, number) for number in (own, other))
        told = own_numbers(attributes, split, given, again)
        same, drawn = (draw(models, split, codes, told, k, STRENGTH, 0) for k in (again, given))
        before, after = restored(models, codes), restored(models, drawn)
        anatomies = measure(before), measure(after)
        moved = anatomies[1][AREA] - anatomies[0][AREA]
        stacks = (len(before), -1)
        parts.append(
            {
                "moved": moved / difference,
                "symmetry_before": anatomies[0]["symmetry"],
                "symmetry_after": anatomies[1]["symmetry"],
                "ssim_elsewhere": np.array(list(map(ssim_elsewhere, before, after))),
                "changed_codes": (drawn != codes).reshape(stacks).mean(1),
                "changed_by_own": (same != codes).reshape(stacks).sum(1),
            }
        )
        subjects.append(subjects_of(split))
    if not parts:
        return {"count": 0}
    found, subjects = joined(parts), np.concatenate(subjects)
    report = {name: float(values.mean()) for name, values in found.items()}
    moved_ci95 = subject_interval(found["moved"], subjects)
    counts = {"count": len(subjects), "changed_by_own": int(found["changed_by_own"].sum())}
    return {**report, "moved_ci95": moved_ci95, **counts}


def ssim_elsewhere(before: np.ndarray, after: np.ndarray) -> float:
    """SSIM of two brains, uint8 `(L, S, S)`, in the first, away from the ventricles of both."""
    before, after = to_unit(before), to_unit(after)
    maps = np.asarray(ssim_map(before[..., None], after[..., None]))  # (L, S - 10, S - 10)
    size, inside = before.shape[-1], slice(SSIM_BORDER, -SSIM_BORDER)
    places = []
    for pair in zip(before, after):
        one, other = (regions(image, size) for image in pair)
        near = one.ventricles | other.ventricles
        near = ndimage.binary_dilation(near, np.ones((3, 3)), round(NEAR * size))
        places.append((one.head & ~near)[inside, inside])
    return float(maps[np.array(places)].mean())


if __name__ == "__main__":
    command_line(main, parse())
