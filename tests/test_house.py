"""The rules of the house: what may import what, how long things may be, what documents may name.

docs/architecture.md explains the rooms and the arrows between them.
"""

import ast
import collections
import functools
import graphlib
import importlib
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each room may import beside itself. Arrows point down, so no room names a higher one.
MAY_IMPORT = {
    "utils": set(),
    "sources": {"utils"},
    "networks": {"utils"},
    "modules": {"networks", "utils"},
    "dataset": {"networks", "sources", "utils"},
    "fitting": {"dataset", "modules", "networks", "sources", "utils"},
    "evaluation": {"fitting", "dataset", "modules", "networks", "sources", "utils"},
    "coding": {"evaluation", "fitting", "dataset", "modules", "networks", "sources", "utils"},
    "compress": {"coding", "fitting", "sources", "utils"},
    "train": {"fitting", "dataset", "modules", "networks", "sources", "utils"},
    "predict": {
        "fitting",
        "evaluation",
        "dataset",
        "modules",
        "networks",
        "sources",
        "utils",
    },
}
OUTSIDE = ("tests", "benchmarks", "docs")  # they may import anything, and no room imports them
WITHOUT_TENSORFLOW = ("utils", "sources", "fitting.run_directory")  # so that --help answers at once
WITHOUT_FILES = ("modules", "networks")  # networks know no path and print nothing

MAX_COLUMNS = 100
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FUNCTION_IMPORTS = 10
MAX_FOLDER_FILES = 12
MAX_README_LINES = 170

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "pretrained/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
OTHER_FLAGS = {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"}  # SLURM's


# ---- reading the code ------------------------------------------------------------------------


@functools.cache
def python_files():
    """All Python files of the repository: relative path -> text."""
    folders = [ROOT / name for name in (*MAY_IMPORT, *OUTSIDE)]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return {path.relative_to(ROOT): path.read_text() for path in sorted(paths)}


@functools.cache
def tree(path):
    return ast.parse(python_files()[path], str(path))


def is_test(path):
    return path.parts[0] == "tests"


def module_name(path):
    """`measures/metrics.py` -> `measures.metrics`, `sources/__init__.py` -> `sources`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules_of_rooms():
    """Module name -> path of every file that belongs to a room."""
    names = {module_name(path): path for path in python_files() if path.parts[0] not in OUTSIDE}
    return {name: path for name, path in names.items() if name.split(".")[0] in MAY_IMPORT}


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def import_statements(path):
    """`(in_function, in_file)`: the import statements within functions, and all others."""
    kinds = (ast.Import, ast.ImportFrom)
    within = {
        node
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, kinds)
    }
    every = [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]
    return list(within), [node for node in every if node not in within]


def imported(path, node):
    """Dotted names that an import statement names, a module of a room as deep as it can be."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert not node.level, f"{path}:{node.lineno} is a relative import: name the room."
    joined = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in modules_of_rooms() else node.module for name in joined]


def imported_in_file(path):
    return {name for node in import_statements(path)[1] for name in imported(path, node)}


# ---- what may import what --------------------------------------------------------------------


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room):
    outside = {path.stem for path in python_files() if path.parts[0] in OUTSIDE}
    forbidden = {*MAY_IMPORT, *OUTSIDE, *outside} - MAY_IMPORT[room] - {room}
    for name, path in modules_of_rooms().items():
        if name.split(".")[0] != room:
            continue
        for statements in import_statements(path):
            for node in statements:
                wrong = {top.split(".")[0] for top in imported(path, node)} & forbidden
                assert not wrong, f"{path}:{node.lineno} imports {wrong}"


def test_every_python_file_belongs_to_a_room():
    known = (*MAY_IMPORT, *OUTSIDE)
    strangers = [path for path in python_files() if path.with_suffix("").parts[0] not in known]
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("[!.]*/*.py")}
    assert not strangers
    assert {folder.parts[0] for folder in folders} <= set(known)


def test_imports_have_no_circle():
    graph = {
        name: {other for other in imported_in_file(path) if other in modules_of_rooms()} - {name}
        for name, path in modules_of_rooms().items()
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises where there is a circle


@pytest.mark.parametrize("place", WITHOUT_TENSORFLOW)
def test_what_scripts_load_first_has_no_tensorflow(place):
    for name, path in modules_of_rooms().items():
        if name == place or name.startswith(f"{place}."):
            tops = {imported_name.split(".")[0] for imported_name in imported_in_file(path)}
            assert not tops & {"tensorflow", "keras"}, path


@pytest.mark.parametrize("place", WITHOUT_FILES)
def test_networks_know_no_file_and_print_nothing(place):
    for name, path in modules_of_rooms().items():
        if name.split(".")[0] != place:
            continue
        assert not imported_in_file(path) & {"os", "pathlib", "shutil", "sys"}, path
        calls = {getattr(n.func, "id", "") for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
        assert not calls & {"print", "open"}, path


def test_at_most_ten_imports_stand_in_functions():
    hidden = [
        f"{path}:{node.lineno}"
        for path in python_files()
        if not is_test(path)
        for node in import_statements(path)[0]
    ]
    assert len(hidden) <= MAX_FUNCTION_IMPORTS, hidden


# ---- names and sizes -------------------------------------------------------------------------


def test_no_two_modules_share_a_name():
    names = [path.stem for path in python_files() if path.stem != "__init__"]
    folders = {path.parts[0] for path in python_files() if len(path.parts) > 1}
    counts = collections.Counter([*names, *folders])
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_line_is_too_long():
    long = [
        f"{path}:{number}"
        for path, text in python_files().items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert long == []


def test_files_and_functions_are_short():
    long = []
    for path, text in python_files().items():
        if is_test(path):
            continue
        if len(text.splitlines()) > MAX_FILE_LINES:
            long.append(f"{path}: {len(text.splitlines())} lines")
        for function in functions(path):
            length = function.end_lineno - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                long.append(f"{path}, {function.name}: {length} lines")
    assert long == []


def test_folders_hold_at_most_a_dozen_python_files():
    shown = [path for path in python_files() if path.stem != "__init__" and not is_test(path)]
    counts = collections.Counter(path.parent for path in shown)
    full = {str(folder): count for folder, count in counts.items() if count > MAX_FOLDER_FILES}
    assert full == {}


# ---- documents -------------------------------------------------------------------------------


def test_readme_is_short():
    shown = re.sub(r"<!--.*?-->\n", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(shown.splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_file_names_exist(document):
    path = ROOT / document
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            missing.append(link)
    names = re.findall(r"(?<![\w./-])[\w./-]+\.(?:py|md|txt|toml|svg)\b", text)
    missing += [n for n in names if not (ROOT / n).exists() and not (path.parent / n).exists()]
    assert missing == []


def anchors(text):
    """What links may name in a document: its headings in lower case, with hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_and_flags_exist(document):
    """Documents name only what is in the code: `room.module.Name` and `--flag`."""
    text = (ROOT / document).read_text()
    missing = []
    for dotted in re.findall(r"`(?:python -m )?((?:\w+\.)+\w+)[`( ]", text):
        if (
            dotted.split(".")[0] in MAY_IMPORT
            and not dotted.endswith(".py")
            and not defined(dotted)
        ):
            missing.append(dotted)
    code = "\n".join(python_files().values())
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) - OTHER_FLAGS - {"--help"}
    missing += [flag for flag in flags if f'"{flag}"' not in code]
    assert missing == []


def commands(text):
    """`(name of the script or module, arguments)` of each command of the shell in a document."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        for words in map(shlex.split, line.partition("#")[0].split("&&")):
            if words[:1] and words[0].endswith("python"):
                script, *arguments = words[2:] if words[1] == "-m" else words[1:]
                yield script, arguments


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_understood(document):
    """Each command of ours is read by the script that it names, so its flags and values exist."""
    for script, arguments in commands((ROOT / document).read_text()):
        name = {"dataset.py": "sources.commands"}.get(script, pathlib.Path(script).stem)
        if script == "fitting.export":
            name = script
        elif not (ROOT / script).exists():
            continue  # pytest, pip and the like
        importlib.import_module(name).parse(arguments)


def defined(dotted):
    """Whether `room.module.Name.part` stands in the code: each part is bound within the last."""
    parts = dotted.split(".")
    deepest = [n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in modules_of_rooms()]
    if not deepest:
        return False
    place = tree(modules_of_rooms()[".".join(parts[: deepest[0]])])
    for part in parts[deepest[0] :]:
        if place is None:
            return True  # an attribute of a value, which only a run could look up
        bound = bindings(place)
        if part not in bound:
            return False
        place = bound[part]
    return True


def bindings(place):
    """Names that a module or class body binds -> the class body, or None for anything else."""
    bound = {}
    for node in place.body:
        if isinstance(node, ast.ClassDef):
            bound[node.name] = node
        elif isinstance(node, ast.FunctionDef):
            bound[node.name] = None
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target)]
            bound.update({name.id: None for name in names if isinstance(name, ast.Name)})
    return bound
