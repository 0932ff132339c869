"""No number of a marked table can drift: each is a figure of a JSON file, as far as it is printed.

A comment directly above a table names the file and then, row by row, the figures of the table.
CONTRIBUTING.md says how to write one.
"""

import json
import pathlib
import re

import pytest

from fitting.run_directory import read_history

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "pretrained/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
STAGES = ("vqvae", "prior")
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
MADE = {"command", "commit", "changed", "versions", "date"}

COMMENT = re.compile(r"<!-- from: (\S+)\n?(.*?)-->\n(.*?)(?:\n\n|\Z)", re.DOTALL)
CODE_OR_LINK = re.compile(r"`[^`]*`|\]\([^)]*\)")
NUMBER = re.compile(r"(?<![\w.])-?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?( ?%)?|never|not reached")
# First cells of the tables with numbers that have no file: they explain, and report nothing.
EXPLANATIONS = {"word", "step", "split", ""}


def marked_tables(text):
    """`(source, lines of figures, rows of cells)` of each marked table."""
    for source, figures, table in COMMENT.findall(text):
        rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("|")]
        assert len(rows) == len(table.splitlines()) > 2, f"no table follows {source}"
        yield source, [line.split() for line in figures.splitlines() if line.strip()], rows


def read(source):
    """What a JSON file holds; of a folder, the `metrics.json` of each run in it by its name.

    A run also has `minutes`, those of the passes of VQ-VAE and prior.
    """
    if source.is_dir():
        runs = [path.parent for path in source.glob("*/metrics.json")]
        return {run.name: {**read(run / "metrics.json"), "minutes": minutes(run)} for run in runs}
    return json.loads(source.read_text())


def minutes(run):
    """Minutes of the passes of each stage."""
    histories = {stage: read_history(run / f"{stage}_history.csv") for stage in STAGES}
    return {stage: sum(row["seconds"] for row in rows) / 60 for stage, rows in histories.items()}


def mismatches(report, lines, rows):
    """What is wrong with a table: numbers that differ from the report, and rows without figures."""
    lines, repeats, wrong = list(lines), 0, []
    for row in rows:
        cells = [CODE_OR_LINK.sub("", cell) for cell in row]
        numbers = [match for cell in cells[1:] for match in NUMBER.finditer(cell)]
        if not numbers:
            continue
        names = lines[0] if lines else []
        if any("*" in name for name in names):
            entries = figure(report, names[0].partition(".*")[0])
            label = row[0].strip().replace(",", "")
            if isinstance(entries, dict) and label != list(entries)[repeats].replace(",", ""):
                wrong.append(f"{label} is not row {repeats}, {list(entries)[repeats]}")
            names = [name.replace("*", str(repeats)) for name in names]
            repeats += 1
        else:
            lines = lines[1:]
        if len(names) != len(numbers):
            wrong.append(f"{row[0].strip()}: {len(numbers)} numbers, {len(names)} figures")
            continue
        for match, name in zip(numbers, names):
            try:
                value = figure(report, name)
            except LookupError:
                wrong.append(f"{row[0].strip()}: there is no {name}")
                continue
            if not prints(match, value):
                wrong.append(f"{row[0].strip()}: {match[0]} is not {name}, {value}")
    if len(lines) > bool(repeats):
        wrong.append(f"{len(lines)} lines of figures are left over")
    return wrong


def figure(report, name):
    """Look up `key.key.2`, divided by 8 if `/8` follows.

    An entry is named by its key or by its place. A number stands for itself.
    """
    path, _, divisor = name.partition("/")
    if re.fullmatch(r"-?[\d.]+", path):
        return float(path)
    value = report
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif key.isdigit() and int(key) < len(value):
            value = list(value.values() if isinstance(value, dict) else value)[int(key)]
        else:
            raise LookupError(name)
    return value / float(divisor) if divisor else value


def prints(match, value):
    """Whether a printed number is this value, rounded to its digits. "Never" is no value."""
    if value is None or not match[1]:
        return value is None and not match[1]
    whole, decimals, percent = match.groups()
    printed = float(match[0].rstrip("% ").replace(",", ""))
    digits = len(decimals) - 1 if decimals else 0
    exact = value * 100 if percent else value
    return abs(printed - exact) <= 0.5 * 10**-digits * (1 + 1e-9)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_hold_the_figures_of_their_files(document):
    text = (ROOT / document).read_text()
    tables = list(marked_tables(text))
    assert len(tables) == text.count("<!-- from:")
    for source, lines, rows in tables:
        assert mismatches(read(ROOT / source), lines, rows) == [], source


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_table_without_a_file_reports_nothing(document):
    rest = COMMENT.sub("", (ROOT / document).read_text())
    for table in re.findall(r"(?:^\|.*\n)+", rest, re.MULTILINE):
        head, _, *rows = table.splitlines()
        if NUMBER.search(CODE_OR_LINK.sub("", "\n".join(rows))):
            assert head.split("|")[1].strip() in EXPLANATIONS, head


def test_the_results_of_the_readme_are_held():
    (table,) = marked_tables((ROOT / "README.md").read_text())
    assert table[0] == "pretrained"


JUDGES = "oasis-256-fine.generation.judges"
SENTENCES = [  # of README, with # for a number; where its figures are
    (
        "in # bytes a slice, with an SSIM of #.",
        "pretrained",
        ["oasis-256.rate.prior_bytes", "oasis-256.ssim.mean"],
    ),
    (
        "the VQ-VAE has SSIM #, and that of keras.io's tutorial #",
        "benchmarks/results/rivals-30.json",
        ["contenders.ours.ssim", "contenders.tutorial.ssim"],
    ),
    (
        "After 45 they have # and # (inside the brain # and #), the tutorial",
        "benchmarks/results/rivals-90.json",
        [
            f"contenders.{name}.{measure}"
            for measure in ("ssim", "brain_ssim")
            for name in ("ours", "tutorial")
        ],
    ),
    (
        "from real slices (accuracy #), and drawn slices in most cases (#; inside #)",
        "pretrained",
        [
            f"{JUDGES}.{name}"
            for name in ("reconstructions.pyramid", "samples.pyramid", "samples.pyramid_inside")
        ],
    ),
]


def readme():
    return " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize("sentence, source, names", SENTENCES)
def test_sentences_of_the_readme_hold_the_figures_of_their_files(sentence, source, names):
    (match,) = re.finditer(re.escape(sentence).replace(r"\#", r"([\d.]*\d)"), readme())
    report = read(ROOT / source)
    for number, name in zip(match.groups(), names, strict=True):
        assert prints(NUMBER.fullmatch(number), figure(report, name)), name


def test_ratios_in_the_readme_are_those_of_the_files():
    sampling = read(ROOT / "benchmarks/results/sampling.json")
    times = sampling["naive_whole_seconds"] / sampling["cached_seconds"]
    assert f"16 maps of 32 x 32 codes {times:.0f} times as fast" in readme()
    rates = read(ROOT / "benchmarks/results/rates.json")
    ratios = {
        measure: {
            row[measure]: row["models"] / row["payload_bytes"]["AVIF sequences"] for row in rows
        }
        for measure, rows in rates["at_equal"].items()
    }
    low, high = (round(100 * pick(ratios["ssim"].values())) for pick in (min, max))
    assert f"files of brains take {low} to {high} % of the bytes of AVIF sequences" in readme()
    above = min(level for level, ratio in ratios["brain_psnr"].items() if ratio > 1)
    assert f"inside the brain, AVIF is smaller from {above:.0f} dB on" in readme()


def test_the_data_of_the_results_have_the_digest_of_the_documents():
    report = json.loads((ROOT / "pretrained/oasis-256/metrics.json").read_text())
    (row,) = re.findall(r"^\| all \|.*$", (ROOT / "docs/data.md").read_text(), re.MULTILINE)
    assert f"`{report['data']['fingerprint']}`" in row


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_say_how_they_were_made(path):
    report = json.loads(path.read_text())
    assert "made" in report
    for made in every("made", report):
        assert set(made) >= MADE
        assert re.fullmatch("[0-9a-f]{40}", made["commit"]) and not made["changed"]
        script, *_ = made["command"].removeprefix("python ").split()
        assert script.startswith("benchmarks/") and (ROOT / script).is_file()


def test_the_packages_of_rivals_have_the_versions_of_their_figures():
    files = (ROOT / "benchmarks").glob("requirements-*.txt")
    pins = set(re.findall(r"^[\w-]+==[\d.]+", "\n".join(map(pathlib.Path.read_text, files)), re.M))
    packages = {pin.partition("==")[0] for pin in pins}
    measured = {
        f"{package}=={version.partition('+')[0]}"
        for package in packages
        for path in RESULTS
        for version in every(package, json.loads(path.read_text()))
        if isinstance(version, str)
    }
    assert measured == pins


def every(key, report):
    """Values of a key in a report, at any depth."""
    entries = report.items() if isinstance(report, dict) else enumerate(report)
    for name, value in entries:
        if name == key:
            yield value
        if isinstance(value, (dict, list)):
            yield from every(key, value)


TABLE = """
<!-- from: made_up.json
cases.0.naive
cases.*.naive cases.*.cached/1000 share
-->
|  | 12.3 s at first | `8 bit` |
| --- | --- | --- |
| 16 x 16 | 12.3 s | **1,235** of [x](y9), 4 % |
| 32 x 32 | 4 | 1.0, 4.2 % |
"""
REPORT = {
    "cases": [{"naive": 12.345, "cached": 1_234_500}, {"naive": 4.0, "cached": 1040}],
    "share": 0.0415,
    "minutes": None,
}


def wrong(text, report=REPORT):
    ((_, lines, rows),) = marked_tables(text)
    return mismatches(report, lines, rows)


def test_a_true_table_passes():
    assert wrong(TABLE) == []


@pytest.mark.parametrize(
    "old, new",
    [
        ("12.3 s at", "12.4 s at"),
        ("| 12.3 s |", "| 12.36 |"),
        ("1,235", "1,236"),
        ("1,235", "1235.1"),
        ("| 4 |", "| 5 |"),
        ("| 4 |", "| -4 |"),
        ("4.2 %", "4.3 %"),
        ("4.2 %", "4.2"),
        ("1.0, 4.2 %", "1.0"),
        ("1.0, 4.2 %", "1.0, 4.2 %, 7"),
        ("share\n", "share share\n"),
        ("share\n", "share\nshare\n"),
        ("cases.0.naive\n", ""),
    ],
)
def test_a_wrong_table_fails(old, new):
    assert old in TABLE and wrong(TABLE.replace(old, new, 1))


def test_rows_of_named_entries_bear_their_names():
    report = {"runs": {"one": {"x": 1}, "another, with a comma": {"x": 2}}}
    table = "<!-- from: a.json\nruns.*.x\n-->\n|  | x |\n| --- | --- |\n"
    rows = "| one | 1 |\n", "| another with a comma | 2 |\n"
    assert wrong(table + rows[0] + rows[1], report) == []
    assert wrong(table + rows[0].replace("one", "two") + rows[1], report)


def test_never_is_a_figure_without_a_value():
    table = "<!-- from: a.json\nminutes\n-->\n|  | x |\n| --- | --- |\n| one | never |\n"
    assert wrong(table) == [] and wrong(table, {"minutes": 5.0}) and wrong(table, {})
    assert wrong(table.replace("never", "5"))


def test_a_figure_or_table_that_is_gone_fails():
    assert wrong(TABLE, {"cases": REPORT["cases"]})
    with pytest.raises(AssertionError, match="no table follows"):
        list(marked_tables(TABLE.replace("|  |", "Text.\n\n|  |")))
