"""What is said of who is shown: read from flags, completed for drawings, and put into names."""

import math
import os
import re
from collections.abc import Sequence

import numpy as np

from evaluation.context import SamplingOptions
from networks.attributes import UNKNOWN, Attribute, Attributes
from networks.raster import RasterPrior, numbered_seed
from sources.attributes import attribute_name, attributes_of
from sources.folder import Split
from utils import InputError, clean_name

MOST_LISTED = 20  # names or values in a message
MOST_LETTERS = 100  # of what is given, in the name of a file


def read_given(
    run: os.PathLike | str, prior: RasterPrior, pairs: Sequence[str] | None, flag: str = "--given"
) -> np.ndarray | None:
    """Numbers of the values that a flag gives, int32 `(A,)`, 0 where it gives none.

    Args:
        run: The run, for messages.
        prior: Its prior.
        pairs: `NAME=VALUE` each. None, or nothing, gives None.
        flag: Name of the flag, for messages.

    Raises:
        InputError: The prior does not know a name or a value, or a name comes twice.
    """
    if not pairs:
        return None
    numbers = np.full(len(prior.attributes), UNKNOWN, "int32")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name and value):
            raise InputError(f"{flag} takes NAME=VALUE, such as age=70. Received: {pair}")
        number = find(run, prior, name, flag)
        if numbers[number]:
            raise InputError(f"{flag} gives {clean_name(name)} twice: leave one out.")
        numbers[number] = _read_value(prior.attributes.each[number], value, flag)
    return numbers


def find(run: os.PathLike | str, prior: RasterPrior, name: str, flag: str) -> int:
    """Place of an attribute among those of a prior; the arguments are those of `read_given`."""
    names, name = prior.attributes.names, attribute_name(name)
    if not names:
        raise InputError(f"the prior of {run} knows no attributes: leave {flag} out.")
    if name not in names:
        there = _listed(names)
        raise InputError(f"{flag} names one of {there} for {run}. Received: {clean_name(name)}")
    return names.index(name)


def _read_value(attribute: Attribute, text: str, flag: str) -> int:
    values = [value for group in attribute.groups for value in group]
    try:
        value = text if values and isinstance(values[0], str) else float(text)
    except ValueError:
        value = math.nan
    if attribute.edges:
        ends = attribute.edges[0], attribute.edges[-1]
        shown = [f"{end:.3g}" for end in ends]  # which may be within, or beyond
        least, most = min(ends[0], float(shown[0])), max(ends[1], float(shown[1]))
        number, there = UNKNOWN, " to ".join(shown)
        if not isinstance(value, str) and least <= value <= most:
            number = attribute.number(value)
    else:
        shown = (value if isinstance(value, str) else f"{value:g}" for value in values)
        number, there = attribute.number(value), _listed([*map(clean_name, shown)])
    if number == UNKNOWN:
        received = f"{attribute.name}={clean_name(text)}"
        raise InputError(f"{flag} knows {there} of {attribute.name}. Received: {received}")
    return number


def _listed(names):
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def values_of(split: Split, name: str) -> dict[int, str | float]:
    """Known values of an attribute of the cases of a split, as the table of the set has them."""
    return attributes_of(split.facts.cases, split.cases.tolist()).get(name, {})


def people(attributes: Attributes, options: SamplingOptions, numbers: np.ndarray) -> np.ndarray:
    """Attributes of who is drawn: what is given, and the rest as training people have it.

    Args:
        attributes: Those that the prior knows.
        options: What is given, and the seed.
        numbers: Number of the first slice of each drawing, `(B,)`. With the seed it decides.

    Returns:
        int32 `(B, A)` without zeros.
    """
    given = [UNKNOWN] * len(attributes) if options.given is None else options.given
    seeds = numbered_seed(options.seed, numbers).numpy().tolist()
    drawn = [attributes.complete(given, seed) for seed in seeds]
    return np.array(drawn, "int32").reshape(len(drawn), len(attributes))


def entities(values: dict[str, str]) -> str:
    """What is given, for the name of a file: `_cdr-1_age-70to75` as BIDS writes entities."""
    return "".join(f"_{plain(n)}-{plain(value)}" for n, value in values.items())[:MOST_LETTERS]


def plain(text: str) -> str:
    """What of a text may stand in the name of a file anywhere."""
    return re.sub(r"[^A-Za-z0-9.]", "", text)
