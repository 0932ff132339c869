"""Evaluate a run on a split of the slices, draw its figures, and draw new slices and brains.

python predict.py                                  # the run of `python train.py`
python predict.py --run DIR --data DIR --samples 32 --brains 4 --seed 7
python predict.py --samples 0 --brains 4 --given cdr=1    # of people with that attribute
"""

from evaluation.bids import SUFFIXES
from fitting.run_directory import RunDirectory, read_config
from sources.facts import facts_of_run
from sources.folder import find_slices, open_slices
from sources.layout import DEFAULT_DIRECTORY, SPLITS
from sources.scans import open_scan
from sources.synthetic import write_cohort
from sources.volumes import axcodes
from utils import InputError, Parser, between, command_line, import_tensorflow

# A classifier is tested on subjects it has not seen, in five folds.
LEAST_SUBJECTS = {"training": 20, "evaluated": 5}
MAX_SEED = 2**31 - 1
MODES = ("anomaly", "classify", "counterfactual")  # what is done instead of all else
# Chosen on validation: drawn brains then have ventricles of one size on all levels, and of the size
# that is given. More makes the halves of a brain less alike.
GUIDANCE = 1.4, 2.5
STRENGTH = 2.5  # chosen there too: ventricles then move by most of what groups of people differ


# One flag in two or three lines reads best.
# fmt: off
def parse(arguments=None):
    """Flags of the script."""
    parser = Parser(__doc__)
    add = parser.add_argument_group("evaluation").add_argument
    add("--run", metavar="DIR", default="runs/default",
        help="run directory of train.py (default: %(default)s)")
    add("--out", metavar="DIR",
        help="folder for the results, for instance of a run that may not be written to "
        "(default: predict in the run)")
    add("--data", metavar="DIR",
        help="folder with the split, or a .zip archive of it (default: the synthetic cohort if the "
        "run was trained on it, else data/keras_png_slices_data)")
    add("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L",
        help="price of one bit when codes are chosen: code minimises distance + L x bits; "
        "0 for the nearest codes (default: that of the training)")
    add("--write-reconstructions", action="store_true",
        help="write every reconstruction of the split as a PNG")

    add("--open", action="store_true",
        help="show index.html, the page of all results, in a browser")
    add("--bids", metavar="SUFFIX", nargs="?", const="T1w", choices=SUFFIXES,
        help="write volumes by BIDS names too, such as sub-005_desc-anomalyMap_T1w.nii.gz, into "
        "bids/; one of %(choices)s (default: T1w)")

    add = parser.add_argument_group("samples").add_argument
    add("--given", metavar="NAME=VALUE", nargs="+", action="extend",
        help="who is shown, by attributes that the prior knows, such as cdr=1; what is not given "
        "is drawn as training people have it for samples and brains, and is else unknown")
    add("--samples", type=between(int, 0, 10**5), default=16, metavar="N",
        help="number of slices to generate (default: %(default)s)")
    add("--slice", type=between(int, 0, 9999), metavar="K",
        help="level of all samples (default: spread over all levels)")
    add("--seed", type=between(int, 0, MAX_SEED), default=0, metavar="N",
        help="the same seed gives the same slices (default: %(default)s)")
    add("--temperature", type=between(float, 0.01, 100), default=1.0, metavar="T",
        help="below 1 for likelier slices (default: %(default)s)")
    add("--top-k", type=between(int, 0, 2**16), default=0, metavar="K",
        help="draw among the K likeliest codes (default: all)")
    add("--top-p", type=between(float, 0.01, 1), default=1.0, metavar="P",
        help="draw among the likeliest codes that together reach probability P (default: all)")
    add("--guidance", type=between(float, 0, 100), nargs=2, default=GUIDANCE,
        metavar=("NEAR", "FAR"),
        help="guidance of brains: factor of what neighbours and attributes change where a slice "
        "within two levels is known, and of what attributes change elsewhere; 1 1 leaves it out "
        "(default: {} {})".format(*GUIDANCE))
    add("--evaluate-samples", type=between(int, 10, 10**5), metavar="N",
        help="compare N samples with real slices: `generation` in metrics.json")
    add("--complete", action="store_true",
        help="draw the missing half of slices of the split, several times: completions.png")
    add("--brains", type=between(int, 0, 10**4), metavar="N",
        help="number of whole brains, or stacks of other slices, to generate "
        "(default: 1 if the prior reads neighbouring slices)")
    add("--from-slice", metavar="FILE", nargs="+",
        help="draw the brains around these slices, at any levels; the file names say the levels, "
        "or for a single one --slice does")
    add("--fill", metavar="FOLDER", nargs="?", const="",
        help="complete the stacks of a folder or of a volume, which lack slices between others: "
        "fill/; without FOLDER, leave slices of the split out and measure what is drawn there")
    add("--no-texture", action="store_true",
        help="draw without the fine grain that codes lose")
    add("--walk", action="store_true", help="show every slice of the first brain: walk.png")

    add = parser.add_argument_group(
        "instead of all else, for the slices of a folder or of a volume (.nii.gz), or without "
        "FOLDER for those of the split").add_argument
    add("--anomaly", metavar="FOLDER", nargs="?", const="",
        help="map what is unusual; --slice, --seed and --given apply")
    add("--classify", metavar=("NAME", "FOLDER"), nargs="+",
        help="say how likely each value of an attribute is for each case; no diagnosis")
    add("--counterfactual", metavar="FOLDER", nargs="?", const="",
        help="draw how the same people would look if they were such as --given says; --seed "
        "applies")
    add("--own", metavar="NAME=VALUE", nargs="+", action="extend",
        help="what they are, for --counterfactual (default: as the table of the data says, else "
        "unknown)")
    add("--strength", type=between(float, 0, 100), default=STRENGTH, metavar="S",
        help="how much the attributes count in --counterfactual; 1 as the prior learned it "
        "(default: %(default)s)")
    add("--axcodes", metavar="XYZ", type=axcodes,
        help="where the axes of a volume run to that does not say it, such as RAS")
    args = parser.parse_args(arguments)
    if args.classify and (len(args.classify) > 2 or args.given):
        parser.error("--classify takes NAME and perhaps FOLDER, and no --given")
    if args.counterfactual is not None and not args.given:
        parser.error("--counterfactual needs --given NAME=VALUE")
    modes = [mode for mode in MODES if getattr(args, mode) is not None]
    if len(modes) > 1:
        parser.error("name one of --anomaly, --classify and --counterfactual")
    args.mode = modes[0] if modes else None
    args.folder = getattr(args, args.mode or "fill")  # "" is the split, None nothing
    if args.mode == "classify":
        args.folder = "".join(args.classify[1:])
    return args
# fmt: on


def main(args):
    """Map what is unusual, classify, draw people as they would look, or evaluate and draw."""
    run = RunDirectory(args.run)
    config = read_config(run)
    facts = facts_of_run(config["data"])
    scan = open_scan(args.folder, facts, args.axcodes) if args.folder else None
    slices, needed, needs_slices = None, [args.split], args.folder == ""
    if not args.mode:
        needed = SPLITS if args.evaluate_samples else needed
        needs_slices |= bool(args.write_reconstructions or args.evaluate_samples or args.complete)
    elif scan:
        needed = []  # what calibrates --classify is used where it is there
    is_there = args.data or facts.cohort or (facts.brain and DEFAULT_DIRECTORY.is_dir())
    if needs_slices or (is_there and args.mode in (None, "classify")):
        slices = find_data(args.data, facts, needed)
    if needed == SPLITS:
        check_comparison(slices, args.split, run, config["data"]["fingerprint"])
    import_tensorflow()  # takes seconds, so only now that all flags and files are checked
    from evaluation import steps  # noqa: PLC0415

    modes = {
        "anomaly": steps.map_anomalies,
        "classify": steps.classify,
        "counterfactual": steps.imagine,
    }
    modes.get(args.mode, steps.predict)(args, run, config, slices, scan)


def check_comparison(slices, split, run, fingerprint):
    """Check that `--evaluate-samples` has what it needs."""
    if slices.fingerprint != fingerprint:
        raise InputError(
            "--evaluate-samples looks for copies of training slices, and --data is not what "
            f"{run} was trained on: name its own data."
        )
    for kind, name in (("training", "train"), ("evaluated", split)):
        subjects, least = len(set(slices.splits[name].subjects.tolist())), LEAST_SUBJECTS[kind]
        if subjects < least:
            raise InputError(
                f"--evaluate-samples needs {least} {kind} subjects or more to compare with. "
                f"Received: {subjects} in --data"
            )


def find_data(folder, facts, needed):
    """Open the slices of a folder, else of the run's synthetic cohort, else of the default folder.

    Raises:
        InputError: There are none, a needed split is missing, or the cohort cannot be made.
    """
    if folder or not facts.cohort:
        return open_slices(find_slices(folder), needed=needed)
    return open_slices(write_cohort(facts.cohort["subjects"], facts.cohort["seed"]), needed=needed)


if __name__ == "__main__":
    command_line(main, parse())
