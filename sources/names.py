"""What the names of files tell of slices and volumes: split, class, subject, scan and level.

Names are read as a set, never one by one, and nothing here opens a file:

1. Files that are no images, or lie beside images (masks, derivatives), are set aside.
2. What a flag or one of `vocabulary.PATTERNS` says is taken out of the names.
3. Directories tell splits (`train`, `test`) and classes (words, each with subjects of its own).
4. What is left is cut into tokens: numbers and words. Names whose tokens are of the same kinds are
   of one form, a table: a row for each name, a column for each token.
5. In each form, columns that are the same everywhere drop out. The level is the number that runs
   densely where all else stands still. Of what else varies, the first with many different tokens
   is the subject, and the rest its scans.
6. Over all forms: a set has levels or none, and persons counted anew in each class are different.
"""

import dataclasses
import functools
import math
import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sources import vocabulary
from utils import InputError

_ROLES = ("subject", "level", "split", "class")  # of `Rules`
MAX_EXAMPLES = 3  # of names in a message
VOXELS = "voxels of .hdr files"  # are not named as ignored
# Shares of the names of a set.
FIT = 0.99  # that a pattern or a reading must fit
LEVELLED = 0.95  # that tell a level, where levels are levels
MOSTLY = 0.9  # of files that are the only one of their subject, where subjects are not known
# Directories.
MAX_SPLIT_FOLDERS = 6
MAX_CLASSES = 20
# Numbers that are levels.
MAX_LEVEL = 9999  # longer numbers are subjects, dates or the like
MIN_STACK = 3  # slices of a typical stack
MAX_OFFSET = 4  # different levels of the set, in those of a typical stack
MAX_TWICE = 0.25  # share of the slices of a stack that have the number of another
DENSE = 0.7  # share of the numbers between the first and the last of a stack that are there
MARGIN = 0.05  # of two dense numbers, the one that is denser by this is the level
# Numbers that are subjects.
COUNTED = 0.9  # share of the numbers from 1 to the last that are there, where subjects are counted
MANY = 0.4  # different subjects, in different tokens of the column that has the most


class Rules(NamedTuple):
    """Regular expressions of the flags --subject, --level, --split and --class.

    Each is searched in the relative path. Its first group counts, or else the whole match.
    """

    subject: str | None = None
    level: str | None = None
    split: str | None = None
    class_: str | None = None


NO_RULES = Rules()


class Place(NamedTuple):
    """What the name of a file tells.

    Attributes:
        path: Relative path, as it was given.
        split: "train", "validate" or "test". None: the set has no splits.
        subject: Who was scanned, as the names call the person.
        scan: What tells scans of one subject apart. May be empty.
        level: Number of the slice. None: the set has no levels, and every file is a scan.
        attributes: `class`, where there are classes.
    """

    path: str
    split: str | None
    subject: str | None
    scan: str
    level: int | None
    attributes: dict[str, str]


class Understood(NamedTuple):
    """What the names of a set tell.

    Attributes:
        places: One for each slice or volume, in the order of the paths.
        ignored: Paths of all other files, by the reason.
        notes: Sentences for the user.
    """

    places: list[Place]
    ignored: dict[str, list[str]]
    notes: list[str]


class _Token(NamedTuple):
    kind: str  # "number", "date", "copy", "word", "hash", "contrast" or "scan"
    text: str  # in lower case
    name: str  # as it is written, with a word that stands right before it, as in P01
    depth: int  # of its directory or file name, counted from 0
    label: str = ""  # the word before a number

    @property
    def is_glued(self):
        return len(self.name) > len(self.text)


class _Column(NamedTuple):
    """The tokens of one place in all names of a form."""

    index: int
    token: _Token  # of the first name
    values: list[str]
    count: int  # of different values


@dataclasses.dataclass(slots=True, eq=False)
class _Name:
    """A path and what is read from it, step by step."""

    path: str
    text: str  # the path without a directory of the file's own name
    parts: list[str]  # of `text`, without the ending and what was read
    tokens: list[_Token] = dataclasses.field(default_factory=list)  # of `parts`
    split: str | None = None
    class_: str | None = None
    subject: str | None = None
    group: str = ""  # what varies before the subject
    contrast: str = ""
    scan: str = ""  # numbers, side, plane, visit
    version: str = ""  # all other words
    level: int | None = None
    is_said: bool = False  # a pattern or a rule tells the subject
    is_known: bool = True  # or else the file is taken for a person

    def key(self):
        """What no two files of a split have in common."""
        return self.subject, self.contrast, self.scan, self.version, self.level


def understand(paths: Sequence[str], rules: Rules = NO_RULES, volumes: bool = False) -> Understood:
    """Read split, class, subject, scan and level from the names of a set.

    Args:
        paths: Relative POSIX paths of all files of a folder.
        rules: What the user says of the names. Names that a rule does not fit are ignored.
        volumes: Whether volumes are looked for, which have no levels, and not slices.

    Returns:
        What the names tell. A set has levels where 95 % of the names tell one. Subjects may stand
        in two splits: the places show it.

    Raises:
        InputError: No image is there, names can be read in two ways, one slice is named twice in
            a split, or a rule fits nothing.
    """
    ignored, notes, spelling = defaultdict(list), [], {}
    names = _set_aside(paths, volumes, ignored)
    names = _apply_rules(names, rules, ignored)
    _apply_patterns(names, rules, volumes)
    if rules.split is None:
        names = _find_splits(names, ignored)
    if rules.class_ is None:
        _find_classes(names)
    _split_into_tokens(names)
    always = _common({token.text for token in name.tokens} for name in names)
    forms = defaultdict(list)
    for name in names:
        kinds = [(token.depth, token.kind) for token in name.tokens]
        forms[name.is_said, name.level is None, *kinds].append(name)
    for form in forms.values():
        _read_form(form, always, volumes)
    for name in names:
        name.subject = spelling.setdefault(name.subject.lower(), name.subject)
    names = _settle_levels(names, ignored, notes)
    _qualify_restarted(names, "group")
    _find_unknown(names, forms.values())
    _qualify_restarted(names, "class_")
    _qualify_restarted(names, "split")
    if volumes:
        names = _choose_versions(names, ignored)
    _check_twice(names)
    notes += _describe(names, ignored, volumes)
    places = []
    for name in names:
        scan = " ".join(filter(None, (name.contrast, name.scan, name.version)))
        attributes = {} if name.class_ is None else {"class": name.class_}
        places.append(Place(name.path, name.split, name.subject, scan, name.level, attributes))
    return Understood(places, dict(ignored), notes)


def _common(sets):
    return set.intersection(*map(set, sets))


def _examples(paths):
    return ", ".join(list(paths)[:MAX_EXAMPLES])


def _tell(fine, coarse):
    """Whether each value of `fine` stands beside one value of `coarse`: two lists `(N,)`."""
    return len(set(zip(fine, coarse))) == len(set(fine))


# ---- what is no image --------------------------------------------------------------------------


def _set_aside(paths, volumes, ignored):
    """Names of images or volumes. All other paths go to `ignored`."""
    names, spelling = [], {}
    pairs = {path.lower().removesuffix(".hdr") for path in paths if path.lower().endswith(".hdr")}
    for path in paths:
        ending = vocabulary.ENDINGS[volumes].search(path)
        if vocabulary.SYSTEM.search(path):
            ignored["system files"].append(path)
        elif volumes and path.lower().endswith(".img"):
            is_whole = path.lower().removesuffix(".img") in pairs
            ignored[VOXELS if is_whole else "files .img without .hdr"].append(path)
        elif ending is None:
            ignored["other files"].append(path)
        else:
            *parts, stem = path[: ending.start()].split("/")
            if parts and parts[-1] != stem == vocabulary.ENDINGS[volumes].sub("", parts[-1]):
                parts.pop()  # case_004.nii/case_004.nii
            parts = [spelling.setdefault(part.lower(), part) for part in parts] + [stem]
            names.append(_Name(path, "/".join(parts) + ending[0], parts))
    if not names:
        kind = "volume (.nii, .nii.gz, .mgz, .hdr)" if volumes else "image (.png, .jpg, .tif, .nii)"
        found = _examples(paths) or "none"
        raise InputError(f"no {kind} is among the {len(paths)} files: {found}.")
    words = {
        name: {word.lower() for word in vocabulary.LABELS.findall(name.text)} for name in names
    }
    always = _common(words.values())  # a word that is everywhere tells nothing

    def is_label(name):
        return words[name] - always or (volumes and vocabulary.TISSUE.search(name.text))

    beside = [("label maps and masks", is_label)]
    beside += [("derivatives", _is_made_of(names))] if volumes else []
    beside += [("derivatives", lambda name, p=p: p.search(name.text)) for p in vocabulary.DERIVED]
    for reason, is_beside in beside:
        images = [name for name in names if not is_beside(name)]
        if 0 < len(images) < len(names):
            ignored[reason] += [name.path for name in names if is_beside(name)]
            names = images
    if copies := _copies(names):
        ignored["copies of files of the same names"] = [name.path for name in copies]
        names = [name for name in names if name not in copies]
    return names


def _copies(names):
    """Names below a directory that repeats what stands beside it, as x/yes/1.jpg does yes/1.jpg."""
    shared = len(os.path.commonprefix([name.parts[:-1] for name in names]))
    below = defaultdict(list)
    for name in names:
        if len(name.parts) > shared + 1:
            below[name.parts[shared]].append(name)
    for folder, inside in below.items():
        beside = {"/".join(n.parts[shared:]) for n in names if n.parts[shared] != folder}
        rests = {"/".join(name.parts[shared + 1 :]) for name in inside}
        if not _split_named(folder) and rests <= beside:
            return inside
    return []


def _is_made_of(names):
    """Function: whether the name of a volume is that of one beside it, and something added."""
    stems = {"/".join(name.parts) for name in names}

    def is_made(name):
        *folders, stem = name.parts
        above = [folders, folders[:-1]] if folders[-1:] == ["mri"] else [folders]  # of CAT12
        shorter = [stem[k:] for k in range(1, 12) if vocabulary.PREFIX.fullmatch(stem[:k])]
        shorter += [vocabulary.SUFFIX.sub("", stem)] if vocabulary.SUFFIX.search(stem) else []
        return any("/".join([*folder, first]) in stems for folder in above for first in shorter)

    return is_made


# ---- rules and patterns ------------------------------------------------------------------------


def _apply_rules(names, rules, ignored):
    """Names that all rules of the user fit, with what these read."""
    for role, rule in zip(_ROLES, rules):
        if rule is None:
            continue
        try:
            pattern = re.compile(rule)
        except re.error as error:
            raise InputError(f"--{role} {rule} is no regular expression: {error}.") from error
        group, fitting = min(1, pattern.groups), []
        for name in names:
            match = pattern.search(name.text)
            if match and match[group]:
                _take(name, role, match, group)
                fitting.append(name)
            else:
                ignored[f"names that --{role} does not fit"].append(name.path)
        if not fitting:
            raise InputError(f"--{role} {rule} fits no name: {_examples(n.path for n in names)}.")
        names = fitting
    return names


def _apply_patterns(names, rules, volumes):
    """Read what `vocabulary.PATTERNS` knows and no rule says."""
    taken = {role for role, rule in zip(_ROLES, rules) if rule} | ({"level"} if volumes else set())
    for pattern in vocabulary.PATTERNS:
        (role,) = pattern.groupindex
        matches = {name: match for name in names if (match := pattern.search(name.text))}
        several = len({match[role].lower() for match in matches.values()}) > 1
        if role not in taken and several and len(matches) >= FIT * len(names):
            taken.add(role)
            for name, match in matches.items():
                _take(name, role, match, role)


def _take(name, role, match, group):
    """Take what a match says of a name, and leave the rest of the name."""
    text, rest = match[group], list("/".join(name.parts))
    if role == "subject":
        name.subject, name.is_said = text, True
    elif role == "class":
        name.class_ = text
    elif role == "split":
        name.split = _split_named(text)
        if name.split is None:
            raise InputError(f"{name.path}: --split reads {text!r}, not train, validate or test.")
    elif text.isdecimal():
        name.level = int(text)
    else:
        raise InputError(f"{name.path}: --level reads {text!r}, which is no number.")
    start, end = match.span(group)
    rest[start:end] = "\0" * len(rest[start:end])
    name.parts = "".join(rest).split("/")


# ---- directories: splits and classes -----------------------------------------------------------


@functools.cache
def _split_named(word):
    """The split that a word names, or None."""
    parts = vocabulary.CAMEL_WORD.findall(word)
    found = [name for name, form in vocabulary.SPLITS.items() if any(map(form.fullmatch, parts))]
    return found[0] if len(found) == 1 else None


def _find_splits(names, ignored):
    """Names inside split folders, or all names where these are not at least two splits."""
    constant, found = _common(name.parts[:-1] for name in names), {}
    for name in names:
        for part in name.parts[:-1]:
            if part not in constant and _split_named(part):
                found.setdefault(name, part)
    folders = set(found.values())
    # A split's word inside the names of subjects, as in BraTS20_Training_001, has many folders.
    is_few = len(folders) <= MAX_SPLIT_FOLDERS and len(set(map(_split_named, folders))) > 1
    if not is_few or len(found) < FIT * len(names):
        return names
    for name, folder in found.items():
        name.split = _split_named(folder)
        name.parts[name.parts.index(folder)] = ""
    if len(found) < len(names):
        outside = [name.path for name in names if name not in found]
        ignored["outside the folders of the splits"] += outside
    return list(found)


def _find_classes(names):
    """Give names their classes: directories that are words, above those of the subjects."""
    constant = _common(name.parts[:-1] for name in names)
    free = {
        name: [i for i, p in enumerate(name.parts[:-1]) if p.strip("\0") and p not in constant]
        for name in names
    }
    found = []
    for position in range(max(map(len, free.values()))):
        depths = {name: places[position] for name, places in free.items() if len(places) > position}
        folders = {name: name.parts[depth] for name, depth in depths.items()}
        splits = [name.split for name in folders]
        if all(map(vocabulary.NO_CLASS.fullmatch, set(folders.values()))):
            continue
        if len(set(splits)) > 1 and _tell(splits, folders.values()):
            continue  # train/train_images
        if not _are_classes(folders, depths):
            break
        found = [  # of AD-parent/AD the finer
            coarse for coarse in found if not _tell(folders.values(), map(coarse.get, folders))
        ]
        found.append(folders)
        for name, depth in depths.items():
            name.parts[depth] = ""
    for name in names:
        name.class_ = "/".join(folders[name] for folders in found if name in folders) or None


def _are_classes(folders, depths):
    """Whether the directories of names, at these depths, are classes, and no subjects."""
    by_split, rests = defaultdict(set), defaultdict(set)
    for name, folder in folders.items():
        by_split[name.split].add(folder)
        rests[folder].add("/".join(name.parts[depths[name] + 1 :]))
    kinds = set(rests)
    plain = {kind for kind in kinds if not re.search(r"\d", vocabulary.SCAN_WORD.sub("", kind))}
    if len({re.sub(r"\d+", "", kind).strip("-_ .") for kind in kinds} - {""}) == len(kinds):
        plain = kinds  # covid1, normal1: the words tell the kinds, without their numbers
    plain |= {kind for kind in kinds if vocabulary.CLASS_LABEL.match(kind)}
    are_words = len(plain) >= len(kinds) / 2
    if not 2 <= len(kinds) <= MAX_CLASSES:
        return False
    if len(by_split) > 1:  # a class stands in several splits, a subject in one
        fewest = min(by_split.values(), key=len)
        shared = [kind for kind in fewest if sum(kind in found for found in by_split.values()) > 1]
        if are_words and len(shared) >= len(fewest) / 2:
            return True
        if all(re.fullmatch(r"0|[1-9]\d?|\D\d?", kind) for kind in kinds):
            return len(shared) == len(kinds)  # numbers are classes if all splits have the same few
    if not are_words:
        return False
    if next(iter(folders)).is_said or any(map(vocabulary.CLASS_WORD.search, kinds)):
        return True
    if all(map(vocabulary.CLASS_LABEL.match, kinds)):
        return True
    if _are_stacks_of_persons(folders):
        return False
    common, union = _common(rests.values()), set().union(*rests.values())
    if len(common) < FIT * len(union):
        return True
    if len({re.sub(r"\d", "", rest) for rest in common}) == len(common):
        return False  # Anna/T1.nii, Bob/T1.nii: all directories hold the same few files
    if any("/" in rest for rest in common):
        return True
    if len(by_split) > 1:
        return False
    raise InputError(
        f"the folders {_examples(sorted(kinds))} can be subjects or classes: say "
        "--subject '([^/]+)/[^/]+$' or --class '([^/]+)/[^/]+$', or what fits. Move one of masks."
    )


def _are_stacks_of_persons(folders):
    """Whether directories whose words begin alike hold a stack each, as person_A/slice_10.png."""
    stem = os.path.commonprefix(list(folders.values()))
    numbers = [re.findall(r"\d+", name.parts[-1]) for name in folders]
    if not re.search(r"[^\W\d_]{2}|[-_ .]", stem) or any(len(found) != 1 for found in numbers):
        return False
    return _density_of([int(*found) for found in numbers], folders.values()) >= DENSE


# ---- names of one form -------------------------------------------------------------------------


def _split_into_tokens(names):
    """Cut what is left of the names into numbers and words."""
    originals = {
        vocabulary.COPY.sub("", name.text) for name in names if vocabulary.COPY.search(name.text)
    }
    for name in names:
        tokens = [token for i, part in enumerate(name.parts) for token in _cut(part, i)]
        name.tokens = [token for token in tokens if token.kind not in ("contrast", "scan")]
        name.scan = " ".join(token.text for token in tokens if token.kind == "scan")
        contrasts = [token.text.upper() for token in tokens if token.kind == "contrast"]
        name.contrast = contrasts[-1] if contrasts else ""  # T1w/T2w_acpc_dc.nii.gz
        if name.text in originals:  # 26.jpg is the first of 26 (2).jpg, 26 (3).jpg
            name.tokens.append(_Token("copy", "1", "", len(name.parts) - 1))
    for attribute in ("contrast", "scan"):
        if len({getattr(name, attribute) for name in names}) == 1:
            for name in names:
                setattr(name, attribute, "")


@functools.lru_cache(2**16)
def _cut(part, depth):
    """Tokens of a directory or file name."""
    tokens, label, start, end = [], "", 0, 0
    for match in vocabulary.TOKEN.finditer(part):
        kind = match.lastgroup
        if not label or match.start(kind) > end:
            start = match.start(kind)
        end = match.end(kind)
        tokens.append(_Token(kind, match[kind].lower(), part[start:end], depth, label))
        label = tokens[-1].text if kind == "word" else ""
    return tokens


def _read_form(names, always, volumes):
    """Give all names of one form their subject, scan and level.

    Tokens of `always` stand in all names of the set.
    """
    columns, constant = _find_columns(names)
    if names[0].level is None and not volumes:
        level = _find_level(names, columns)
        if level is not None:
            columns.remove(level)
            for name, value in zip(names, level.values):
                name.level = int(value)
    if names[0].level is not None:
        stacks = [column for column in columns if column.count < len(names)]
        if stacks or len({name.level for name in names}) == len(names):
            columns = stacks  # without numbers that each file has of its own
    free = [column for column in columns if not vocabulary.SCAN_LABEL.fullmatch(column.token.label)]
    free = [column for column in free if column.token.kind != "date"] or free
    if names[0].is_said:
        pass
    elif len(names) == 1 and not _only_subject(names[0]):
        names[0].subject, names[0].is_known = names[0].path, False
    elif not free:  # one subject
        for name in names:
            name.subject, name.is_said = _only_subject(name) or "1", True
    else:
        most = max(column.count for column in free)
        many = [column for column in free if column.count >= MANY * most]
        # What is given to persons and stands for several files is the subject, rare as it may be.
        ids = [c for c in free if _are_ids(names, c) and c.count < MOSTLY * len(names)]
        numbers = [c for c in many if c.token.kind in ("number", "copy")]
        if ids:
            numbers = [c for c in free if c in ids or (c in numbers and c.count < len(names))]
        first = next(iter(numbers or many))
        before = [column for column in free if column.index < first.index and first not in ids]
        before = [column for column in before if not _tell(first.values, column.values)]
        columns = [column for column in columns if column not in before and column is not first]
        told = {c.token.depth for c in columns if not _tell(first.values, c.values)}
        constant.discard(first.index - 1)  # the word before the number
        # Of a directory all is the subject, if all of it is his.
        is_whole = first.token.depth < len(names[0].parts) - 1 and first.token.depth not in told
        is_whole |= first.token.kind == "copy" and not _counts_persons(names, first)
        for name in names:
            token = name.tokens[first.index]
            name.subject = name.parts[token.depth] if is_whole else token.name or token.text
            name.group = " ".join(name.tokens[column.index].text for column in before)
    subjects = [(name.subject, name.group) for name in names]
    known = [(name.subject, name.group, name.class_, name.split, name.level) for name in names]
    needed = {index for index in constant if names[0].tokens[index].text not in always}
    for column in columns:
        more = list(zip(known, column.values))
        if not _tell(subjects, column.values) and (
            column not in free or len(set(more)) > len(set(known))
        ):
            needed.add(column.index)
            known = more
    for name in names:
        tokens = [name.tokens[index] for index in sorted(needed)]
        words = [token.text for token in tokens if token.kind == "word"]
        others = [(token.label, token.text) for token in tokens if token.kind != "word"]
        name.version = " ".join(words)
        name.scan = " ".join(filter(None, [name.scan, *sum(others, ())]))


def _are_ids(names, column):
    """Whether tokens are given to persons: hashes, long numbers, or many folders of a number."""
    depth, numbers = column.token.depth, set(column.values)
    if column.token.kind == "hash":
        return True
    if column.token.kind != "number":
        return False
    if column.count > MAX_CLASSES and depth < len(names[0].parts) - 1:
        if all(name.parts[depth] == name.tokens[column.index].text for name in names):
            return True
    are_long = all(map(vocabulary.LONG_NUMBER.fullmatch, numbers))
    return are_long and not _are_counted(list(map(int, numbers)))


def _only_subject(name):
    """The subject of names of which all have the same, as a pattern tells it, or None."""
    matches = [pattern.search(name.text) for pattern in vocabulary.PATTERNS]
    return next((m["subject"] for m in matches if m and "subject" in m.re.groupindex), None)


def _find_columns(names):
    """Columns that vary and say something new, and indices of those that do not vary."""
    context = [(name.class_, name.split) for name in names]
    subjects = [name.subject for name in names] if names[0].is_said else [None] * len(names)
    columns, constant = [], set()
    for index, token in enumerate(names[0].tokens):
        values = [name.tokens[index].text for name in names]
        count = len(set(values))
        if count == 1:
            constant.add(index)
        elif not (
            (token.kind == "word" and _tell(context, values))
            or _repeats_class(names, values)
            or _tell(subjects, values)
            or any(_tell(values, c.values) and _tell(c.values, values) for c in columns)
        ):
            columns.append(_Column(index, token, values, count))
    return columns, constant


def _repeats_class(names, values):
    """Whether tokens are numbers of the classes, as 0 in 0Normal/NormalG0 (1).png."""
    return all(
        name.class_
        and value.isdecimal()
        and int(value) in map(int, re.findall(r"\d+", name.class_))
        for name, value in zip(names, values)
    )


def _find_level(names, columns):
    """The number that runs densely where all else stands still, or None."""
    if columns and _counts_persons(names, columns[-1]):  # 26 (19).jpg is slice 26 of person 19
        same = [c for c in columns[:-1] if c.token.depth == columns[-1].token.depth]
        if len(same) == 1 and same[0].token.kind == "number":
            return same[0]
    density = {column.index: _density(names, columns, column) for column in columns}
    dense = [column for column in columns if density[column.index] >= DENSE]
    dense = [column for column in dense if column.token.depth == dense[-1].token.depth]
    if len(dense) > 1 and dense[-1].token.kind == "copy":  # S1 (2).jpg without S1.jpg
        dense = dense[-1:]
    if len(dense) > 1 and not dense[-1].token.is_glued:  # the subject in P01_12.png
        dense = [c for c in dense if c is dense[-1] or not c.token.is_glued]
    best = max((density[column.index] for column in dense), default=0)
    dense = [column for column in dense if density[column.index] > best - MARGIN]
    if len(dense) == 1:  # the last number of a name is rather the level, as in P_007_1.png
        dense += [c for c in columns if _may_be_level(c, dense[0]) and c.count < len(names)]
    if len(dense) > 1:
        shown = names[len(names) // 2]
        numbers = [shown.tokens[column.index].text for column in dense]
        raise InputError(
            f"{names[0].path}, {shown.path}: in the last, {' and '.join(numbers)} can each be the "
            "subject or the level: say --subject REGEX and, if there are levels, --level REGEX, "
            r"as '(\d+)[^\d]*$'."
        )
    return dense[0] if dense and _are_stacks(names, columns, dense[0]) else None


def _may_be_level(column, dense):
    """Whether a number stands after another, dense one in the names of files, and is no scan's."""
    is_after = column.token.depth == dense.token.depth and column.index > dense.index
    is_scan = vocabulary.SCAN_LABEL.fullmatch(column.token.label)
    return is_after and column.token.kind == "number" and not is_scan


def _are_stacks(names, columns, level):
    """Whether levels belong to subjects, and not to mere words as in benign_1, malignant_1."""
    others = [c for c in columns if c is not level]
    telling = [c for c in others if c.token.kind != "word" or c.token.depth < level.token.depth]
    if names[0].is_said or any(c.count < len(names) for c in telling):
        return True
    words = {value for c in others if c.token.kind == "word" for value in c.values}
    if telling or any(map(vocabulary.CLASS_WORD.search, words)):
        return False
    raise InputError(
        f"{_examples(sorted(words))} in names as {names[0].path} can be subjects or classes: say "
        r"--subject '([a-z]+)_\d+', or --class and --subject, or what fits."
    )


def _counts_persons(names, column):
    """Whether a column counts files that had one name, such as 26.jpg and 26 (2).jpg."""
    tokens = [name.tokens[column.index] for name in names]
    return tokens[0].kind == "copy" and not all(token.name for token in tokens)


def _density(names, columns, column):
    """How densely a column of numbers runs where all else stands still, 0 to 1."""
    is_scan = vocabulary.SCAN_LABEL.fullmatch(column.token.label)
    if column.token.kind not in ("number", "copy") or is_scan:
        return 0.0
    others = [c.values for c in columns if c is not column and c.count < len(names)]
    if names[0].is_said:
        others.append([name.subject for name in names])
    values = list(map(int, column.values))
    if not others or max(values) > MAX_LEVEL:
        return 0.0
    stacks = list(zip(*others, [(name.contrast, name.scan) for name in names]))
    context = [(name.class_, name.split) for name in names]
    return max(_density_of(values, stacks), _density_of(values, zip(stacks, context)))


def _density_of(values, stacks):
    """Share of the numbers between the first and the last of each stack that are there.

    It is 0 where numbers are no levels: many occur twice in a stack, most stacks hold one, or
    stacks have few of their numbers in common. `stacks` is what each of the `values` belongs to.
    """
    numbers = defaultdict(list)
    for stack, value in zip(stacks, values):
        numbers[stack].append(value)
    typical = statistics.median(map(len, numbers.values()))
    different = {stack: sorted(set(found)) for stack, found in numbers.items()}
    count = sum(map(len, different.values()))
    if len(numbers) < 2 or typical < MIN_STACK or len(values) - count > MAX_TWICE * len(values):
        return 0.0
    if len(set(values)) > MAX_OFFSET * typical:
        return 0.0
    gaps = math.gcd(*(b - a for found in different.values() for a, b in zip(found, found[1:])))
    extent = sum(found[-1] - found[0] for found in different.values()) // max(gaps, 1)
    return count / (extent + len(different))


# ---- the whole set -----------------------------------------------------------------------------


def _settle_levels(names, ignored, notes):
    """Names of the set: all have a level, or none has."""
    with_level = [name for name in names if name.level is not None]
    without = [name.path for name in names if name.level is None]
    if len(with_level) >= LEVELLED * len(names):
        if without:
            ignored["names without a level"] = without
        return with_level
    if with_level:
        notes.append(
            f"Only {len(with_level)} of {len(names)} names tell a level, as {with_level[0].path}: "
            "the set has one level."
        )
    for name in with_level:
        name.scan, name.level = f"{name.scan} {name.level}".strip(), None
    return names


def _qualify_restarted(names, attribute):
    """Name subjects after their group, class or split too, where each counts its subjects anew.

    One person may stand in two groups. But where two groups have the same slices of the same
    numbers, and each counts its subjects from 1 without gaps, or copies of one name, these are
    different persons.
    """
    names = [name for name in names if name.is_known and getattr(name, attribute)]
    groups, numbers = defaultdict(set), defaultdict(set)
    for name in names:
        groups[name.key()].add(getattr(name, attribute))
        found = re.findall(r"\d+", name.subject) or ["-1"]
        numbers[getattr(name, attribute)].add(int(found[-1]))
    twice = {name for name in names if len(groups[name.key()]) > 1}
    are_copies = any(t[:2] == ("copy", name.subject) for name in twice for t in name.tokens[-1:])
    is_anew = are_copies or (twice and all(map(_are_counted, numbers.values())))
    for name in names:
        if is_anew:
            name.subject = f"{getattr(name, attribute)}/{name.subject}"
        elif attribute == "group" or (attribute == "class_" and name in twice):
            name.scan = f"{getattr(name, attribute)} {name.scan}".strip()


def _are_counted(numbers):
    """Whether numbers are counted from 0 or 1 on, almost without gaps."""
    return 0 <= min(numbers) < 2 and len(numbers) >= COUNTED * max(numbers)


def _find_unknown(names, forms):
    """Find of which files the subject is not known. Each of them is taken for a person."""
    files = Counter((name.split, name.class_, name.subject) for name in names)
    keys = Counter((name.split, name.class_, name.key()) for name in names)
    for form in forms:
        if form[0].is_said or form[0].level is not None:
            continue
        alone = sum(files[name.split, name.class_, name.subject] == 1 for name in form)
        for name in form:
            is_twice = keys[name.split, name.class_, name.key()] > 1
            name.is_known &= alone < MOSTLY * len(form) and not is_twice
    unknown = [name for name in names if not name.is_known]
    if len({name.subject for name in unknown}) < len(unknown):
        for name in unknown:
            name.subject, name.scan, name.version = name.path, "", ""


def _choose_versions(names, ignored):
    """Of volumes that differ in words that are no contrast, side or visit, one of each scan.

    That is the one with the fewest words of processing. Of two alike the shorter path comes first.
    """
    scans = defaultdict(list)
    has_contrasts = {(name.split, name.subject) for name in names if name.contrast}
    for name in names:
        if name.contrast or (name.split, name.subject) not in has_contrasts:
            scans[name.split, name.subject, name.contrast, name.scan].append(name)
    chosen = {
        min(scan, key=lambda n: (len(vocabulary.PROCESSED.findall(n.text)), len(n.path), n.path))
        for scan in scans.values()
    }
    left = [name.path for name in names if name not in chosen]
    if left:
        ignored["further versions of a scan"] = left
    for name in chosen:
        name.version = ""
    return [name for name in names if name in chosen]


def _check_twice(names):
    paths = {}
    for name in names:
        earlier = paths.setdefault((name.split, name.key()), name.path)
        if earlier != name.path:
            level = "" if name.level is None else f", level {name.level}"
            raise InputError(
                f"{earlier} and {name.path} are both subject {name.subject}{level}: take one out, "
                "or say --subject REGEX and --level REGEX if that is misread."
            )


def _describe(names, ignored, volumes):
    """Sentences for the user."""
    known = [name for name in names if name.is_known]
    unknown = [name for name in names if not name.is_known]
    if unknown:
        share = f"{len(unknown)} times a" if known else "every"
        yield (
            f"Subjects are not known: {share} {'volume' if volumes else 'file'} is taken for a "
            f"person, as {unknown[0].path}. Slices of one person may stand in two splits, so "
            "figures of the test split flatter. If names tell the person, say --subject REGEX; "
            "if these are slices of one person, --level REGEX."
        )
    if {name.split for name in known} == {"test"}:
        yield (
            "The training part has no subjects in its names, and people of the test part may stand "
            "in it: figures of the test split are worth nothing."
        )
    contrasts = Counter(contrast for _, contrast in {(n.subject, n.contrast) for n in names})
    del contrasts[""]
    if len(contrasts) > 1:
        of = ", ".join(f"{contrast} of {count}" for contrast, count in sorted(contrasts.items()))
        yield (
            f"Contrasts: {of} subjects. Each is a scan of its subject; a --subject REGEX that "
            "fits the names of one contrast takes that alone."
        )
    for reason, found in ignored.items():
        if reason != VOXELS:
            yield f"Ignored: {len(found)} {reason}, as {found[0]}."
