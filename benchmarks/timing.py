"""Times of contenders, taken in turn: what slows the machine for a while slows them all."""

import random
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

    Each round has an order of its own, drawn from a fixed seed, so that none always follows the same one.

    Args:
        timers: functions without arguments that return seconds, by name.
        reference: name of the contender that the others are compared with.

    Returns:
        `{name: {"seconds": S, "ratio": R}}`, R being how many times as long as the reference it took in the same round.
    """
    chance = random.Random(0)
    rows = [{name: timers[name]() for name in chance.sample(list(timers), len(timers))} for _ in range(1 + rounds)][1:]
    return {name: {"seconds": statistics.median(row[name] for row in rows), "ratio": statistics.median(row[name] / row[reference] for row in rows)}
            for name in timers}
