"""What may import what, and whether documents name only what is there."""

import ast
import contextlib
import functools
import graphlib
import importlib
import io
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A package imports only what stands before it; scripts do not import each other.
LAYERS = ("utils", "sources", "networks", "modules", "dataset", "fitting", "evaluation", "coding")
SCRIPTS = ("train", "predict", "compress")
ORDER = LAYERS + SCRIPTS
OUTSIDE = ("tests", "benchmarks", "docs")  # they import anything, and nothing imports them
PLACES = ("*.md", "docs/*.md", "pretrained/*.md")
DOCUMENTS = [str(p.relative_to(ROOT)) for place in PLACES for p in sorted(ROOT.glob(place))]
COMMANDS = {"dataset.py": "sources.commands", "fitting.export": "fitting.export"}
OTHER_FLAGS = {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--check"}


@functools.cache
def modules():
    """Dotted name -> text of every Python file but those outside."""
    paths = [*ROOT.glob("*.py"), *(path for top in ORDER for path in (ROOT / top).rglob("*.py"))]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path.read_text() for name, path in zip(names, paths)}


def imports(name):
    """Dotted names that a module imports, a module of ours as deep as it can be."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import: name the package."
            joined = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {full if full in modules() else node.module for full in joined}
    return found


def test_every_python_file_has_its_place():
    tops = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/*.py")}
    assert tops | {name.split(".")[0] for name in modules()} <= {*ORDER, *OUTSIDE}


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_what_is_below_it(package):
    forbidden = {*ORDER, *OUTSIDE} - {package, *LAYERS[: ORDER.index(package)]}
    for name in (name for name in modules() if name.split(".")[0] == package):
        assert not {top.split(".")[0] for top in imports(name)} & forbidden, name


def test_imports_have_no_circle():
    graph = {name: imports(name) & {*modules()} - {name} for name in modules()}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises where there is a circle


def test_networks_know_no_file_and_print_nothing():
    for name in (name for name in modules() if name.split(".")[0] in ("networks", "modules")):
        assert not imports(name) & {"os", "pathlib", "shutil", "sys"}, name
        assert not re.search(r"(?<![\w.])(print|open)\(", modules()[name]), name


def test_scripts_read_their_flags_without_tensorflow():
    code = f"import sys, {', '.join(SCRIPTS)}, sources.commands\nprint(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not {"tensorflow", "keras", "matplotlib.pyplot"} & set(ended.stdout.split())


def anchors(path):
    """What links may name in a document: its headings in lower case, with hyphens."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M) if path.suffix == ".md" else []
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_files_exist(document):
    path = ROOT / document
    text = path.read_text()
    links = [link.split("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for file, *anchor in links:
        target = path.parent / file if file else path
        assert target.exists() and set(anchor) <= anchors(target), (file, anchor)
    for name in re.findall(r"(?<![\w./-])[\w./-]+\.(?:py|md|txt|toml|svg)\b", text):
        assert (ROOT / name).exists() or (path.parent / name).exists(), name


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_names_and_flags_exist(document):
    text = (ROOT / document).read_text()
    for name in re.findall(r"`((?:\w+\.)+\w+)[`( ]", text):
        if name.split(".")[0] in ORDER and not name.endswith((".py", ".json")):
            module = max(known for known in modules() if f"{name}.".startswith(f"{known}."))
            for part in name.removeprefix(module).strip(".").split("."):
                assert re.search(rf"\b{part}\b", modules()[module]), name
    lines = "\n".join(line for line in text.splitlines() if ".py" in line)
    for name in re.findall(r"`(_\w+)`", lines):
        assert any(f"def {name}(" in code for code in modules().values()), name
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    assert flags <= known_flags() | OTHER_FLAGS


@functools.cache
def known_flags():
    """All flags that --help of our scripts and of their commands names."""
    benchmarks = (path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    scripts = [[name] for name in (*SCRIPTS, *COMMANDS.values(), *benchmarks)]
    makers = ("from-nifti", "from-images", "from-oasis1", "add-table")
    scripts += [["compress", "encode"], *(["sources.commands", maker] for maker in makers)]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for name, *command in scripts:
            if parse := getattr(importlib.import_module(name), "parse", None):
                with contextlib.suppress(SystemExit):
                    parse([*command, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]+", out.getvalue()))


def blocks(document, language):
    """The code blocks of a document in a language."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_understood(document):
    for line in "\n".join(blocks(document, "sh")).replace("\\\n", " ").splitlines():
        for words in map(shlex.split, line.partition("#")[0].split("&&")):
            if words[:1] and words[0].endswith("python"):
                script, *arguments = words[2:] if words[1] == "-m" else words[1:]
                ours = script in COMMANDS or (ROOT / script).is_file()
                if ours and not script.startswith("docs/"):
                    name = COMMANDS.get(script, pathlib.Path(script).stem)
                    importlib.import_module(name).parse(arguments)


def test_the_example_of_the_readme_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = blocks("README.md", "python")
    images = np.zeros((1, 256, 256, 1), "float32")
    names = {"images": images, "levels": np.array([9]), "seeds": np.array([1])}
    exec(code, names)
    assert names["slices"].shape == names["restored"].shape == images.shape
    assert names["codes"].shape == names["nearest"].shape


def test_results_say_how_they_were_made():
    for path in (ROOT / "benchmarks/results").glob("*.json"):
        made = json.loads(path.read_text())["made"]
        assert re.fullmatch("[0-9a-f]{40}", made["commit"]) and not made["changed"], path
        assert (ROOT / made["command"].removeprefix("python ").split()[0]).is_file(), path
