"""The tables of the documents, each from the JSON file of its measurements.

python docs/tables.py            # write every table anew
python docs/tables.py --check    # fail where a table is not that of its file

The comment above a table calls a function of this module, and cogapp puts there what it prints.
`tables.toml` names the figures of each table. So a figure and the words beside it cannot drift
apart.
"""

import functools
import json
import pathlib
import sys
import tomllib

from cogapp import Cog

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "pretrained/README.md")
MODELS = ("oasis-256", "oasis-256-fine")
FIGURES = tomllib.loads((ROOT / "docs/tables.toml").read_text())
PLAIN = {
    "cases": "a file per stack",
    "alone": "a file per slice",
}  # what documents call the members of a report
MODEL_FIGURES = 6  # of README and of the model card


def results(name, folder="benchmarks/results"):
    """Return a report of the benchmarks."""
    return json.loads((ROOT / folder / f"{name}.json").read_text())


def shipped(model="oasis-256"):
    """Return the `metrics.json` of a shipped model."""
    return results("metrics", f"pretrained/{model}")


def cell(report, figure):
    """Show a figure of a report.

    Args:
        report: Nested dictionaries.
        figure: Names, `key/key` for nested ones, and last the format of a number, between commas.
            A name of two bounds puts these in brackets after the number before them.
    """
    *names, form = figure.split(", ")
    texts = []
    for name in names:
        value = report
        for key in name.split("/"):
            value = value.get(key, {})
        if isinstance(value, list):
            low, high = value
            texts[-1] += f" ({low:,{form}} to {high:,{form}})"
        else:
            text = "never" if value is None else "" if value == {} else str(value)
            texts.append(f"{value:,{form}}" if isinstance(value, float) else text)
    return "; ".join(filter(None, texts))


def table(name, reports, corner=None, most=None):
    """Print a table in Markdown.

    Args:
        name: Name of its figures in `tables.toml`.
        reports: Label -> report.
        corner: Heading of the first column, where it is not that of `tables.toml`.
        most: Number of figures to show, if not all.
    """
    figures = dict(FIGURES[name])
    corner, by_column = corner or figures.pop(""), figures.pop("reports_are_columns", False)
    figures = {label: figures[label] for label in list(figures)[:most] if label}
    cells = [[cell(report, figure) for figure in figures.values()] for report in reports.values()]
    lines = [[corner, *figures], *([label, *row] for label, row in zip(reports, cells))]
    lines = list(zip(*lines)) if by_column else lines
    lines.insert(1, ["---"] * len(lines[0]))
    for line in lines:
        print(f"| {' | '.join(line)} |")


def models(detailed=False):
    """What the shipped models reach on the test split."""
    reports = {f"`{model}`": shipped(model) for model in MODELS}
    table("models", reports, most=None if detailed else MODEL_FIGURES)


def two_sample():
    """How often a classifier distinguishes sets of slices from real test slices."""
    found = {
        name.removeprefix("two_sample_"): value for name, value in shipped()["generation"].items()
    }
    inside = {name.replace("_inside", ""): found[name] for name in found if "_inside" in name}
    table("two_sample", {"whole slice": found, "inside the brain": inside})


def generation():
    """Drawn slices and brains beside real ones."""
    table("generation", {"drawn; real test": shipped()["generation"]})


def fill(kept):
    """Slices that were left out of stacks, by what stands in their place."""
    ways = shipped()["fill"][kept]
    del ways["missing"]
    table("fill", {name.replace("_", " "): figures for name, figures in ways.items()})


def rates(measure, form, *levels):
    """Bytes per slice of the models and of codecs at equal quality."""
    rows = results("rates")["at_equal"][measure]
    reports = {f"{row[measure]:{form}}": row for row in rows if row[measure] in levels}
    table("rates", reports, {"ssim": "SSIM", "brain_psnr": "PSNR inside, dB"}[measure])


def rivals(**files):
    """Other people's models after the same minutes: name of a file -> what its rows add."""
    reports = {}
    for file, minutes in files.items():
        contenders = results(file.replace("_", "-"))["contenders"]
        reports |= {f"{name}, {minutes}": contender for name, contender in contenders.items()}
    table("rivals", reports)


def members(name, file, *group, gap="_"):
    """Print a row for each member of a group of a report that has the last figure of the table.

    Args:
        name: Name of the table's figures.
        file: Name of the report.
        group: Keys that lead to the group.
        gap: What stands for a space in the names of the members.
    """
    parts = functools.reduce(dict.get, group, results(file))
    *_, last = FIGURES[name].values()
    rows = {row: part for row, part in parts.items() if isinstance(part, dict) and cell(part, last)}
    table(name, {PLAIN.get(row, row).replace(gap, " "): part for row, part in rows.items()})


def training():
    """Seconds of a training step, and ratios of the same in other hands."""
    report = results("training")
    reports = {f"quantizer, {part['codebook_size']} codes": part for part in report["quantizer"]}
    table("training", reports | {"VQ-VAE": report["vqvae"], "prior": report["prior"]})


def sampling():
    """Time of the cached sampler beside the naive loop."""
    cases = results("sampling")["cases"]
    table("sampling", {"{batch} of {grid} x {grid}".format(**case): case for case in cases})


def stacks():
    """Seconds of whole brains, drawn as a wavefront and slice by slice."""
    cases = results("stacks")["stacks"]
    table("stacks", {"{} of {} x {}".format(c["batch"], *c["grid"]): c for c in cases})


if __name__ == "__main__":
    files = [str(path) for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    setup = ["-r", "-P", "--verbosity=1", "-I", str(ROOT / "docs"), "-p", "import tables"]
    sys.exit(Cog().main(["cog", *setup, *sys.argv[1:], *files]))
