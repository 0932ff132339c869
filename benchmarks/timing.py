"""Times of contenders, taken in turn: what slows the machine for a while slows them all."""

import statistics
import time


def timed(action, count=1):
    """Seconds that `count` calls take."""
    begin = time.perf_counter()
    for _ in range(count):
        action()
    return time.perf_counter() - begin


def in_turn(timers, reference, rounds):
    """Medians over rounds, in each of which every contender is timed once, after one round that counts for nothing.

    Each round begins with the next contender, so that none always follows the same one.

    Args:
        timers: functions without arguments that return seconds, by name.
        reference: name of the contender that the others are compared with.

    Returns:
        `{name: {"seconds": S, "ratio": R}}`, R being how many times as long as the reference it took in the same round.
    """
    names = list(timers)
    firsts = [i % len(names) for i in range(1 + rounds)]
    rows = [{name: timers[name]() for name in names[first:] + names[:first]} for first in firsts][1:]
    return {name: {"seconds": statistics.median(row[name] for row in rows), "ratio": statistics.median(row[name] / row[reference] for row in rows)}
            for name in names}
