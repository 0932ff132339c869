"""What the names of files tell of slices and volumes: split, class, subject, scan and level.

Names are read as a set, never one by one. Directories tell splits and classes. `PATTERNS` knows the
names that nobody could guess. For the rest there is one rule, over all names of one form: numbers
and words that are the same everywhere drop out, the level is the number that runs densely where all
else stands still, and of what else varies the first is the subject and the rest its scans.
Nothing here opens a file.
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils import InputError

FIT = 0.99  # share of the names that a pattern or a reading must fit
MAX_CLASSES = 20
MAX_LEVELS = 512
MAX_SPLIT_FOLDERS = 6
MAX_EXAMPLES = 3
MOSTLY = 0.9
COUNTED = 0.9  # share of the numbers from the first to the last that a count has
NUMBERS_RATHER = 0.3
MAX_TWICE = 0.25  # share of the numbers that occur twice in a stack
MAX_OFFSET = 4  # levels of the set, in those of a typical stack
RARE = 0.01  # share of the names
DENSE = 0.7  # share of the numbers between the first and the last that are there
MARGIN = 0.15  # of two dense numbers, the one that is denser by this is the level

_IMAGES = r"\.(?:png|jpe?g|jfif|tiff?|bmp|nii(?:\.gz)?)"
_VOLUMES = r"\.(?:nii(?:\.gz)?|mg[zh]|hdr)"
_ENDINGS = {False: re.compile(_IMAGES + "$", re.I), True: re.compile(_VOLUMES + "$", re.I)}
_ANY_ENDING = re.compile(rf"(?:{_IMAGES}|{_VOLUMES})$", re.I)
_SYSTEM = re.compile(r"(?:^|/)(?:\.|__MACOSX/|(?:thumbs\.db|desktop\.ini|@eaDir)(?:$|/))", re.I)

# Names of splits as directories have them, in one word: Training, valid, testset, imagesTr.
_SPLITS = {
    "train": re.compile(r"[Tt]r|(?i:trn|train|training)(?:data|sets?|images?)?"),
    "validate": re.compile(r"(?i:val|valid|validate|validation|dev)(?:data|sets?|images?)?"),
    "test": re.compile(r"[Tt]s|(?i:tst|test|testing)(?:data|sets?|images?)?"),
}
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

# Words of files that lie beside images and show none.
_LABELS = re.compile(
    r"(?:[a-z]*mask|label|lbl|annotation|contour|roi)(?:s|map|maps)?|[a-z]*seg(?:s|mentations?)?|gt"
    r"|ground|groundtruth|[a-z]*parc|parcellations?|ribbon|pve|prob(?:s|map|maps|ability)?"
)
_TISSUE = re.compile(r"(?:^|/)m?w?r?c[1-6](?=[a-z])[^/]*$", re.I)  # of SPM, as in c1sub-01_T1w.nii
_OTHER = re.compile(r"derivatives?|func|dwi|fmap|perf|bold")  # BIDS: no anatomical scans
# Words of processed copies. Of several copies of a scan the one with the fewest is taken.
_PROCESSED = re.compile(
    r"[a-z]*(?:brain|norm|norm\w*linear|nu|mni\w*|restored?|aligned|warp(?:ed)?|regist\w+|reg"
    r"|stripp?ed|bet|preproc\w*|correct\w*|smooth\w*|resampled?|rawavg|filled|wm|gm|csf|masked)"
)

# Words that tell scans of one subject apart: contrast, side, plane, visit.
_CONTRAST = (
    r"(?:(?:t1|t2|pd)(?:w|wi|ce|c|gd|n|f|post|pre|km)?\+?"
    r"|flair|dwi|adc|swi|bold|mra|dti|asl|stir|dess|pet|ct)(?![^\W_])"
)
_KNOWN = (
    r"(?:left|right|lh|rh|axial|coronal|sagittal|baseline|followup|screening|pre|post)(?![^\W_])"
)
_SCAN_WORD = re.compile(f"{_CONTRAST}|{_KNOWN}", re.I)
# Words before numbers that tell scans of one subject apart.
_SCAN_LABEL = re.compile(
    r"weeks?|wk|months?|days?|years?|yr|visits?|vis|ses|sessions?|scans?|runs?|mr|mpr|echo|tp"
    r"|timepoints?|series|time|date|rep|repeats?|frame|phase"
)
_CLASS_LABEL = re.compile(r"(?:class|grade|stage|type|cdr|kl|group)(?![a-z])", re.I)
_CLASS_WORD = re.compile(
    r"normal|health|control|tumou?r|oma(?![a-z])|dement|cancer|benign|malign|covid|pneumon|disease"
    r"|lesion|alzheimer|(?<![a-z])(?:yes|no|pos|neg|ad|e?l?mci|cn|nc|hc|abnormal)(?![a-z])",
    re.I,
)

# Ways to write a subject and a level that the numbers alone do not tell. The groups `split`,
# `class`, `subject`, `scan` and `level` are taken out of the path, and the rule reads the rest.
PATTERNS = {
    "BIDS": r"(?<![^/])(?P<subject>sub-[a-z0-9]+)",
    "ADNI": r"(?<!\d)(?P<subject>\d{3}_S_\d{4})(?!\d)",
    "OASIS": r"(?P<subject>OAS\d_?\d{4})(?!\d)",
    "numbered subject": r"(?<![^\W\d_])(?P<subject>(?:case|sub|subj|subject|patient|pat|pt|person"
    r"|participant|proband|id|volunteer)s?[-_ ]*(?:no|nr|id)?[-_. ]*\d+)",
    "numbered level": r"(?<![^\W\d_])(?:slice|slc|sl|level|lvl|z|schicht|coupe|corte)s?[-_ =]*"
    r"(?:no|nr|id)?[-_. ]*(?P<level>\d+)",
}
_PATTERNS = {name: re.compile(pattern, re.I) for name, pattern in PATTERNS.items()}

# Numbers in parentheses at the end count files that had one name: 26.jpg, 26 (2).jpg, 26 (3).jpg.
_COPY = re.compile(r"\((\d+)\)$")
_TOKEN = re.compile(
    rf"(?P<slash>/)|\((?P<copy>\d+)\)$|(?<![^\W\d_])(?:(?P<contrast>(?i:{_CONTRAST}))|(?P<known>(?i:{_KNOWN})))"
    r"|(?<![^\W_])(?P<hash>(?=[0-9a-f]*\d[a-f]+\d)[0-9a-f]{8,}(?:-[0-9a-f]{4,})*)(?![^\W_])"
    r"|(?P<number>\d+)|(?P<word>[^\W\d_]+)"
)


class Rules(NamedTuple):
    """What the flags --subject, --level, --split and --class say: regular expressions.

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
        pattern: An example of the most frequent form of names, with what was read from it.
        notes: Sentences for the user.
    """

    places: list[Place]
    ignored: dict[str, list[str]]
    pattern: str
    notes: list[str]


class _Token(NamedTuple):
    kind: str  # "number", "word" or "copy"
    text: str  # in lower case
    start: int
    end: int
    depth: int  # of its directory or file name, counted from 0


@dataclasses.dataclass(slots=True, eq=False)
class _Name:
    """A path and what is read from it, step by step."""

    path: str
    text: str  # the path without its ending
    parts: list[str]  # its directories
    claims: dict[str, tuple[str, int, int]]  # text and place in the path, by role
    split: str | None = None
    own: set[int] = dataclasses.field(default_factory=set)  # depth of a folder of the file's name
    taken: set[int] = dataclasses.field(default_factory=set)  # depths of split and class
    class_: str | None = None
    tokens: list[_Token] = dataclasses.field(default_factory=list)
    subject: str = ""
    contrast: str = ""
    known: str = ""  # other words that tell scans of a subject apart
    numbers: str = ""  # those that tell scans of a subject apart
    version: str = ""  # all other words
    level: int | None = None
    number: int | None = None  # of the subject
    is_known: bool = True  # or else the file is taken for a person
    copies: bool = False  # the subject is the number of a copy


def understand(paths: Sequence[str], rules: Rules = NO_RULES, volumes: bool = False) -> Understood:
    """Read split, class, subject, scan and level from the names of a set.

    Args:
        paths: Relative POSIX paths of all files of a folder.
        rules: What the user says of the names. Names that a rule does not fit are ignored.
        volumes: Whether volumes are looked for, which have no levels, and not slices.

    Returns:
        What the names tell. Levels that fewer than 99 % of the names have are no levels. Subjects
        may stand in two splits: the places show it.

    Raises:
        InputError: No image is there, names can be read in two ways, one slice is named twice in
            a split, or a rule fits nothing.
    """
    ignored, notes = defaultdict(list), []
    names = _apply_rules(_set_aside(paths, volumes, ignored), rules, ignored)
    names = _find_splits(names, rules, ignored)
    _find_classes(names, rules)
    _split_into_tokens(names)
    always = _shared_by_all({token.text for token in name.tokens} for name in names)
    forms = defaultdict(list)
    for name in names:
        forms[_form(name)].append(name)
    _apply_patterns(names, forms.values())
    for form in forms.values():
        _Form(form, always, volumes, len(form) < RARE * len(names)).read()
    names = _drop_rare_levels(names, ignored, notes)
    _find_unknown(names, forms.values())
    if volumes:
        names = _choose_versions(names, ignored)
    for attribute in ("class_", "split"):
        _qualify_restarted(names, attribute)
    _check_twice(names)
    notes += _describe(names, ignored, volumes)
    places = [
        Place(
            name.path,
            name.split,
            name.subject,
            " ".join(filter(None, (name.contrast, name.known, name.numbers, name.version))),
            name.level,
            {} if name.class_ is None else {"class": name.class_},
        )
        for name in names
    ]
    largest = max(forms.values(), key=len)[0]
    return Understood(places, dict(ignored), largest.path, notes)


def _shared_by_all(sets):
    return set.intersection(*sets)


def _examples(paths):
    return ", ".join(list(paths)[:MAX_EXAMPLES])


# ---- what is no image --------------------------------------------------------------------------


def _set_aside(paths, volumes, ignored):
    """Names of images or volumes. All other paths go to `ignored`."""
    names = []
    for path in paths:
        ending = _ENDINGS[volumes].search(path)
        if _SYSTEM.search(path):
            ignored["system files"].append(path)
        elif ending is None:
            ignored[
                "volumes' second files"
                if path.lower().endswith(".img") and volumes
                else "other files"
            ].append(path)
        else:
            text = path[: ending.start()]
            *parts, stem = text.split("/")
            own = {len(parts) - 1} if parts and _ANY_ENDING.sub("", parts[-1]) == stem else set()
            names.append(_Name(path, text, parts, {}, own=own))
    if not names:
        kinds = (
            "volume (.nii, .nii.gz, .mgz, .hdr)"
            if volumes
            else ("image (.png, .jpg, .tif, .bmp, .nii, .nii.gz)")
        )
        found = f": it has {_examples(paths)}" if paths else ""
        raise InputError(f"the folder holds no {kinds}{found}.")
    words = [_words(name.text) for name in names]
    always = _shared_by_all(words)
    kept = []
    reasons = {"label maps and masks": [], "derivatives": []}
    for name, found in zip(names, words):
        found = found - always
        if any(map(_LABELS.fullmatch, found)) or _TISSUE.search(name.text):
            reasons["label maps and masks"].append(name.path)
        elif any(map(_OTHER.fullmatch, found)):
            reasons["derivatives"].append(name.path)
        else:
            kept.append(name)
    if not kept:
        return names
    ignored.update({reason: found for reason, found in reasons.items() if found})
    return kept


def _words(text):
    """Words of a path in lower case: those between other signs, and their parts as inCamelCase."""
    words = set()
    for word in set(_WORD.findall(text)):
        words.add(word.lower())
        words.update(part.lower() for part in _CAMEL_WORD.findall(word))
    return words


# ---- what the user says ------------------------------------------------------------------------


def _apply_rules(names, rules, ignored):
    """Names that all rules fit, with what the rules read there."""
    for role, rule in zip(("subject", "level", "split", "class"), rules):
        if rule is None:
            continue
        try:
            pattern = re.compile(rule)
        except re.error as error:
            raise InputError(f"--{role} {rule} is no regular expression: {error}.") from error
        fitting = []
        for name in names:
            match = pattern.search(name.path)
            group = min(1, pattern.groups)
            if match and match[group]:
                name.claims[role] = (match[group], *match.span(group))
                fitting.append(name)
            else:
                ignored[f"names that --{role} does not fit"].append(name.path)
        if not fitting:
            raise InputError(
                f"--{role} {rule} fits no name, as {_examples(name.path for name in names)}."
            )
        names = fitting
    for name in names:
        if "level" in name.claims and not name.claims["level"][0].isdecimal():
            raise InputError(
                f"{name.path}: --level reads {name.claims['level'][0]!r}, which is no number."
            )
    return names


# ---- directories: splits and classes -----------------------------------------------------------


def _split_named(word):
    """The split that a directory is called by, or None."""
    found = {
        split
        for part in _CAMEL_WORD.findall(word)
        for split, pattern in _SPLITS.items()
        if pattern.fullmatch(part)
    }
    return found.pop() if len(found) == 1 else None


def _find_splits(names, rules, ignored):
    """Names with their splits. Without at least two splits there are none."""
    if rules.split:
        for name in names:
            text = name.claims["split"][0]
            name.split = _split_named(text)
            if name.split is None:
                raise InputError(
                    f"{name.path}: --split reads {text!r}, and not train, validate or test."
                )
        return names
    constant = _shared_by_all(set(name.parts) for name in names)
    split_of = {
        part: _split_named(part) for name in names for part in name.parts if part not in constant
    }
    used = set()
    for name in names:
        depths = [depth for depth, part in enumerate(name.parts) if split_of.get(part)]
        if depths:
            part = name.parts[depths[0]]
            used.add(part)
            name.split = split_of[part]
            name.taken = {d for d in depths if split_of[name.parts[d]] == name.split}
    inside = [name for name in names if name.split]
    # A split's word inside names, as in BraTS20_Training_001, makes many directories.
    if (
        len({name.split for name in inside}) < 2
        or len(used) > MAX_SPLIT_FOLDERS
        or len(inside) < FIT * len(names)
    ):
        for name in names:
            name.split, name.taken = None, set()
        return names
    outside = [name.path for name in names if not name.split]
    if outside:
        ignored["outside the folders of the splits"] += outside
    return inside


def _find_classes(names, rules):
    """Give names their classes: by directories that are words, above those of the subjects."""
    if rules.class_:
        for name in names:
            name.class_ = name.claims["class"][0]
        return
    constant = _shared_by_all(set(name.parts) for name in names)
    free = {
        name: [
            depth
            for depth, part in enumerate(name.parts)
            if part not in constant and depth not in name.taken | name.own
        ]
        for name in names
    }
    found, position = [], 0
    while True:
        members = {
            name: name.parts[depths[position]]
            for name, depths in free.items()
            if len(depths) > position and not _is_claimed(name, depths[position])
        }
        if len(members) < len(names) / 2:
            break
        if not all(_SCAN_WORD.fullmatch(part) for part in set(members.values())):
            if not _are_classes(members, position, free):
                break
            found.append(members)
            for name in members:
                name.taken = name.taken | {free[name][position]}
        position += 1
    for name in names:
        parts = [members[name] for members in found if name in members]
        for i in reversed(range(len(parts) - 1)):  # AD-parent/AD
            if _is_function(found[i], found[i + 1]):
                del parts[i]
        name.class_ = "/".join(parts) or None


def _is_claimed(name, depth):
    start = sum(len(part) + 1 for part in name.parts[:depth])
    end = start + len(name.parts[depth])
    return any(s < end and e > start for _, s, e in name.claims.values())


def _are_classes(members, position, free):
    """Whether the directories at a position are classes, and no subjects or scans.

    Args:
        members: Directory of each name at this position.
        position: Number of the position among the `free` directories of each name.
        free: Depths of the directories of each name that are no splits and not the same for all.
    """
    parts, rests, by_split = set(members.values()), defaultdict(set), defaultdict(set)
    for name, part in members.items():
        by_split[name.split].add(part)
        rests[part].add("/".join(name.text.split("/")[free[name][position] + 1 :]))
    if not 2 <= len(parts) <= MAX_CLASSES or any(map(_PATTERNS["BIDS"].search, parts)):
        return False
    wordy = [
        part
        for part in parts
        if _CLASS_LABEL.match(part) or not re.search(r"\d", _SCAN_WORD.sub("", part))
    ]
    if len(by_split) > 1:  # a class stands in several splits, a subject in one
        fewest = min(by_split.values(), key=len)
        shared = [part for part in fewest if sum(part in other for other in by_split.values()) > 1]
        short = [part for part in parts if not re.search(r"\d\d\d|(?<!\d)0\d", part)]
        return len(shared) >= len(fewest) / 2 and len(short + wordy) >= len(parts) / 2
    if len(wordy) < len(parts) / 2:
        return False
    common, union = _shared_by_all(rests.values()), set().union(*rests.values())
    if len(common) < FIT * len(union) or any(map(_CLASS_WORD.search, parts)):
        return True
    if len({re.sub(r"\d", "", rest) for rest in common}) == len(common):
        return False  # Anna/T1.nii, Bob/T1.nii: every directory holds the same few files
    if any(name.claims for name in members):
        return True
    raise InputError(
        f"the folders {_examples(sorted(parts))} can be subjects or classes: say "
        "--subject '([^/]+)/[^/]+$' or --class '([^/]+)/[^/]+$', or what else fits."
    )


def _is_function(coarse, fine):
    """Whether the value of `fine` tells that of `coarse`; both are given for names."""
    pairs = {(fine[name], coarse.get(name)) for name in fine}
    return len(pairs) == len({value for value, _ in pairs})


# ---- tokens and forms --------------------------------------------------------------------------


def _split_into_tokens(names):
    """Cut names into numbers and words, without the directories that are split or class."""
    copies = [_COPY.search(name.text) for name in names]
    originals = {name.text[: copy.start()].rstrip() for name, copy in zip(names, copies) if copy}
    for name in names:
        depth, tokens = 0, []
        for match in _TOKEN.finditer(name.text):
            if match.lastgroup == "slash":
                depth += 1
                continue
            text = match[match.lastgroup].lower()
            if depth in name.taken | name.own:
                continue
            if match.lastgroup == "contrast":
                name.contrast = text  # the last: T1w/T2w_acpc_dc.nii
            elif match.lastgroup == "known":
                name.known = f"{name.known} {text}".strip()
            else:
                tokens.append(_Token(match.lastgroup, text, *match.span(match.lastgroup), depth))
        if name.text in originals:  # 26.jpg is the first of 26 (2).jpg, 26 (3).jpg
            tokens.append(_Token("copy", "1", len(name.text), len(name.text), depth))
        name.tokens = tokens
    for attribute in ("contrast", "known"):
        if len({getattr(name, attribute) for name in names}) == 1:
            for name in names:
                setattr(name, attribute, "")


def _form(name):
    """Kinds of the tokens of a name, directory by directory."""
    form, depth = [], -1
    for token in name.tokens:
        form.append(token.kind[0] if token.depth == depth else "/" + token.kind[0])
        depth = token.depth
    return "".join(form)


def _apply_patterns(names, forms):
    """Read what `PATTERNS` knows, for each form of names that a pattern fits throughout."""
    for pattern in _PATTERNS.values():
        found = {name: pattern.search(name.text) for name in names}
        values = {match[0].lower() for match in found.values() if match}
        for role in pattern.groupindex:
            for form in forms:
                if role in form[0].claims or not all(found[name] for name in form):
                    continue
                for name in form:
                    match = found[name]
                    if len(values) > 1:
                        name.claims[role] = (match[role], *match.span(role))
                    elif role == "subject":  # the only one, unless something else varies
                        name.subject = match[role]


@dataclasses.dataclass(frozen=True, eq=False)
class _Column:
    """The tokens of one place in all names of a form."""

    index: int
    kind: str
    depth: int
    label: str | None  # the word before a number
    codes: np.ndarray  # (N,) int: equal where the tokens are
    count: int  # of different tokens


class _Form:
    """All names whose tokens have the same kinds, and the one rule that reads them."""

    def __init__(self, names, always, volumes, is_rare):
        self.names = names
        self.always = always
        self.volumes = volumes
        self.is_rare = is_rare
        self.constant = set()
        self.context = _code((name.class_, name.split) for name in names)
        self.columns = self._varying_columns()

    def _varying_columns(self):
        columns = []
        for index, first in enumerate(self.names[0].tokens):
            tokens = [name.tokens[index] for name in self.names]
            if any(
                token.start < end and token.end > start
                for name, token in zip(self.names, tokens)
                for _, start, end in name.claims.values()
            ):
                continue
            codes = _code(token.text for token in tokens)
            before = self.names[0].tokens[index - 1] if index else first
            label = before.text if before.kind == "word" and before.depth == first.depth else None
            column = _Column(index, first.kind, first.depth, label, codes, int(codes.max()) + 1)
            is_same = any(
                earlier.count == column.count == _count(earlier.codes, codes) for earlier in columns
            )
            by_class = column.kind == "word" and self._is_told(column, self.context)
            if column.count == 1:
                self.constant.add(index)
            if column.count > 1 and not is_same and not by_class:
                columns.append(column)
        return columns

    def _is_told(self, column, codes):
        """Whether `codes` tell the tokens of a column."""
        return _count(codes, column.codes) == _count(codes)

    def read(self):
        """Give all names of the form their subject, scan and level."""
        level = None
        columns = list(self.columns)
        if "level" in self.names[0].claims:
            for name in self.names:
                name.level = int(name.claims["level"][0])
        elif not self.volumes:
            level = self._find_level()
        if level is not None:
            columns.remove(level)
            for name in self.names:
                name.level = int(name.tokens[level.index].text)
        subject = self._read_subject(columns)
        self._read_scans(columns, subject)

    # -- level --

    def _find_level(self):
        """The number that runs densely where all else stands still, or None.

        Raises:
            InputError: Two numbers do.
        """
        density = {column: self._density(column) for column in self.columns}
        dense = [column for column, share in density.items() if share >= DENSE]
        dense = [column for column in dense if column.depth == max(c.depth for c in dense)]
        if len(dense) > 1 and dense[-1].kind == "copy":
            first_copies = [name.tokens[-1].end == name.tokens[-1].start for name in self.names]
            dense = dense[:-1] if any(first_copies) else dense[-1:]
        if len(dense) > 1:
            best = max(density[column] for column in dense)
            dense = [column for column in dense if density[column] > best - MARGIN]
        if len(dense) > 1:
            texts = " and ".join(self.names[0].tokens[column.index].text for column in dense)
            raise InputError(
                f"{_examples(name.path for name in self.names[:: len(self.names) // 3 or 1])}: "
                f"each of the numbers {texts} can be the subject or the level: say --subject REGEX "
                r"and --level REGEX, such as --level '(\d+)[^/\d]*$'."
            )
        return dense[0] if dense else None

    def _density(self, column):
        """Share of the numbers that are there, from the first to the last of each stack."""
        if column.kind not in ("number", "copy") or column.count > MAX_LEVELS:
            return 0.0
        if column.label and _SCAN_LABEL.fullmatch(column.label):
            return 0.0
        values = np.array([int(name.tokens[column.index].text[:9]) for name in self.names])
        claimed = (
            [_code(name.claims["subject"][0] for name in self.names)]
            if ("subject" in self.names[0].claims)
            else []
        )
        if not claimed and len(self.columns) == 1:
            return 0.0
        others = [c.codes for c in self.columns if c is not column and c.count < len(self.names)]
        scans = _code((name.contrast, name.known) for name in self.names)
        stacks = _joint(scans, *claimed, *others)
        return max(_density(values, stacks), _density(values, _joint(stacks, self.context)))

    # -- subject and scan --

    def _read_subject(self, columns):
        """Give names their subjects, and return these as codes `(N,)`."""
        names = self.names
        if "subject" in names[0].claims:
            for name in names:
                name.subject = name.claims["subject"][0]
                name.number = _last_number(name.subject)
            return _code(name.subject for name in names)
        free = [c for c in columns if not self._is_scan_number(c)]
        if self.is_rare or (not free and len(names) == 1 and not names[0].subject):
            for name in names:
                name.subject, name.is_known = name.path, False
            return np.arange(len(names))
        if not free:
            for name in names:
                name.subject = name.subject or "1"
            return np.zeros(len(names), int)
        first = _first_of_many(free)
        chosen = [c for c in free if c.index < first.index and self._counts_anew(first, c)]
        chosen.append(first)
        codes = _joint(*(c.codes for c in chosen))
        for name in names:
            name.subject = "/".join(self._subject_text(name, c, columns, codes) for c in chosen)
            name.number = _last_number(name.tokens[first.index].text)
            name.copies = first.kind == "copy"
        for column in chosen:
            columns.remove(column)
        return codes

    def _is_scan_number(self, column):
        return column.label is not None and bool(_SCAN_LABEL.fullmatch(column.label))

    def _counts_anew(self, numbers, groups):
        """Whether the numbers of subjects are counted from one in each of some groups."""
        if self._is_told(groups, numbers.codes) or numbers.kind == "word":
            return False
        values = [int(name.tokens[numbers.index].text) for name in self.names]
        return _are_counted(zip(groups.codes.tolist(), values))

    def _subject_text(self, name, column, columns, codes):
        """A subject's token with the word it is glued to; of a directory all, if it is all his."""
        start, end = name.tokens[column.index].start, name.tokens[column.index].end
        own = [c for c in columns if c.depth == column.depth]
        if column.depth < len(name.parts) and all(self._is_told(c, codes) for c in own):
            return name.parts[column.depth]
        before = name.tokens[column.index - 1] if column.index else None
        if before and before.end == start and before.kind == "word":
            start = before.start
        return name.text[start:end] or "1"

    def _read_scans(self, columns, subject):
        """Give names what tells scans of a subject apart."""
        claimed = (
            [_code(name.level for name in self.names)] if self.names[0].level is not None else []
        )
        key = _joint(subject, self.context, *claimed)
        told = {c.index for c in self.columns if self._is_told(c, subject)}
        needed = set()
        for column in columns:
            more = _joint(key, column.codes)
            if self._is_scan_number(column) or _count(more) > _count(key):
                if column.index not in told:
                    needed.add(column.index)
                    key = more
        for name in self.names:
            rest = [
                token
                for index, token in enumerate(name.tokens)
                if index in needed or (index in self.constant and token.text not in self.always)
            ]
            name.numbers = " ".join(token.text for token in rest if token.kind != "word")
            name.version = " ".join(token.text for token in rest if token.kind == "word")


# ---- codes and numbers -------------------------------------------------------------------------


def _code(values):
    """Codes `(N,)` from 0 on that are equal where the values are."""
    codes = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values])


def _joint(first, *others):
    """Codes `(N,)` that are equal where all the codes are."""
    for codes in others:
        first = np.unique(first * (codes.max() + 1) + codes, return_inverse=True)[1]
    return first


def _count(first, *others):
    return len(np.unique(_joint(first, *others)))


def _density(values, stacks):
    """Share of the numbers between the first and the last of each stack that are there.

    It is 0 where numbers are no levels: they occur twice in a stack, most stacks hold one, or
    stacks have few of their numbers in common.

    Args:
        values: Numbers `(N,)`.
        stacks: Codes `(N,)` of what they belong to.
    """
    order = np.lexsort((values, stacks))
    values, stacks = values[order], stacks[order]
    steps = np.diff(values)[np.diff(stacks) == 0]
    if np.mean(steps == 0) > MAX_TWICE:
        return 0.0
    steps = steps[steps > 0]
    sizes = np.unique(stacks, return_counts=True)[1]
    typical = np.median(sizes)
    if len(sizes) < 2 or typical < 2:
        return 0.0
    if len(np.unique(values)) > MAX_OFFSET * typical:
        return 0.0
    return (len(steps) + len(sizes)) / (steps.sum() / np.gcd.reduce(steps) + len(sizes))


def _are_counted(pairs):
    """Whether numbers are counted from 0 or 1 on in each of several groups.

    Args:
        pairs: Group and number, for each name.
    """
    numbers = defaultdict(set)
    for group, number in pairs:
        numbers[group].add(number)
    return len(numbers) > 1 and all(
        None not in found
        and min(found) < 2
        and len(found) >= COUNTED * (max(found) - min(found) + 1)
        for found in numbers.values()
    )


def _last_number(text):
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None


def _first_of_many(columns):
    """The first column with many different tokens, a number if there is one: the subject's."""
    most = max(column.count for column in columns)
    numbers = [column for column in columns if column.kind != "word"]
    if numbers and max(column.count for column in numbers) >= NUMBERS_RATHER * most:
        columns = numbers
    most = max(column.count for column in columns)
    return next(column for column in columns if column.count >= most / 2)


# ---- the whole set -----------------------------------------------------------------------------


def _drop_rare_levels(names, ignored, notes):
    """Names whose levels are those of the set: all names have one, or none has."""
    with_level = [name for name in names if name.level is not None]
    if len(with_level) >= FIT * len(names):
        if len(with_level) < len(names):
            without = [name.path for name in names if name.level is None]
            ignored["names without a level"] += without
        return with_level
    if with_level:
        notes.append(
            f"Only {len(with_level)} of {len(names)} names tell a level, as {with_level[0].path}: "
            "the set has one level."
        )
        for name in with_level:
            name.numbers = f"{name.numbers} {name.level}".strip()
            name.level = None
    return names


def _choose_versions(names, ignored):
    """Of volumes that differ in words that are no contrast, side or visit, one of each scan."""
    groups = defaultdict(list)
    for name in names:
        groups[name.split, name.subject].append(name)
    chosen = set()
    for group in groups.values():
        scans = defaultdict(list)
        contrasts = {name.contrast for name in group} - {""}
        for name in group:
            if name.contrast or not contrasts:
                scans[name.contrast, name.known, name.numbers].append(name)
        chosen.update(min(scan, key=_processing) for scan in scans.values())
    left = [name.path for name in names if name not in chosen]
    if left:
        ignored["further versions of a scan"] += left
    return [name for name in names if name in chosen]


def _processing(name):
    words = [word.lower() for word in _WORD.findall(name.text)]
    return sum(map(bool, map(_PROCESSED.fullmatch, words))), len(name.path), name.path


def _find_unknown(names, forms):
    """Say of which files the subject is not known. Each of them is taken for a person."""
    files = Counter((name.split, name.class_, name.subject) for name in names)
    for form in forms:
        if "subject" not in form[0].claims and form[0].level is None:
            alone = [files[name.split, name.class_, name.subject] == 1 for name in form]
            if np.mean(alone) > MOSTLY:
                for name in form:
                    name.is_known = False
    unknown = [name for name in names if not name.is_known]
    if len({name.subject for name in unknown}) < len(unknown):
        for name in unknown:
            name.subject, name.version = name.path, ""


def _qualify_restarted(names, attribute):
    """Name subjects after their class or split too, where each counts its subjects from one.

    One person may stand in two classes or splits. But where two classes have the same slices of the
    same numbers, and these are counted without gaps in each, they are different persons.
    """
    groups, numbers = defaultdict(set), set()
    for name in names:
        groups[_key(name)].add(getattr(name, attribute))
        numbers.add((getattr(name, attribute), name.number))
    twice = [name for name in names if len(groups[_key(name)]) > 1]
    if not twice:
        return
    if twice[0].copies or _are_counted(numbers):
        for name in names:
            if name.is_known:
                name.subject = f"{getattr(name, attribute)}/{name.subject}"
    elif attribute == "class_":
        for name in twice:
            name.version = f"{name.version} {name.class_}".strip()


def _key(name):
    return name.subject, name.contrast, name.known, name.numbers, name.version, name.level


def _check_twice(names):
    paths = {}
    for name in names:
        earlier = paths.setdefault((name.split, *_key(name)), name.path)
        if earlier != name.path:
            level = "" if name.level is None else f", level {name.level}"
            raise InputError(
                f"{earlier} and {name.path} are both subject {name.subject}{level}: take one out, "
                "or say --subject REGEX or --level REGEX if that is misread."
            )


def _describe(names, ignored, volumes):
    """Sentences for the user."""
    notes = []
    files = "volume" if volumes else "file"
    unknown = [name for name in names if not name.is_known]
    if len(unknown) < len(names):
        known = next(name for name in names if name.is_known)
        notes.append(f"The subject of {known.path} is {known.subject!r}.")
    if unknown:
        share = "every" if len(unknown) == len(names) else f"{len(unknown)} times, a"
        notes.append(
            f"Subjects are not known: {share} {files} is taken for a person, as {unknown[0].path}. "
            "One person may stand in two splits, so figures of the test split may flatter. "
            "If the names tell the person, say --subject REGEX."
        )
    splits = defaultdict(set)
    for name in names:
        splits[name.split].add(name.is_known)
    if splits.get("test") and True in splits["test"] and splits.get("train") == {False}:
        notes.append(
            "Only the test part tells subjects, and its people may stand in the training part too: "
            "figures of the test split are worth nothing."
        )
    contrasts = sorted({name.contrast for name in names} - {""})
    if len(contrasts) > 1:
        counts = Counter(
            name.contrast for name in {(n.subject, n.contrast): n for n in names}.values()
        )
        listed = ", ".join(f"{contrast} ({counts[contrast]} subjects)" for contrast in contrasts)
        notes.append(
            f"Contrasts: {listed}. Each is a scan of its subject; --subject REGEX that fits one "
            "contrast alone takes that."
        )
    scans = defaultdict(set)
    for name in names:
        if name.is_known:
            scans[name.subject].add(_key(name)[1:-1])
    several = [subject for subject, found in scans.items() if len(found) > 1]
    if several and not contrasts:
        notes.append(
            f"{len(several)} of {len(scans)} subjects have several scans, as {several[0]!r}: all "
            "scans of a subject belong to one split."
        )
    for reason, found in ignored.items():
        notes.append(f"Ignored: {len(found)} {reason}, as {found[0]}.")
    return notes
