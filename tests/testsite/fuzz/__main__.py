"""Run cases; cut down the first one that fails, and show it."""

import asyncio
import pprint
import random
import sys
import time
import traceback
import warnings

from websocket import sweep

from testsite.fuzz.case import Case
from testsite.fuzz.plans import make_case
from testsite.fuzz.server import Loop

# Seconds to look for a smaller case that fails.
PATIENCE = 60


def run(plan):
    """Run a case; raises what is wrong with it."""
    case = Case(**plan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=lambda: Loop(plan["hops"], case.look)) as runner:
            runner.run(case.run())
        case.check()
        left = case.left_in_memory()
    assert not caught, [str(warning.message) for warning in caught]
    assert not left, f"These sockets are still in memory: {left}."


def failure(plan):
    """Return where a case fails, and the traceback."""
    sweep._open.clear()  # Of the case before, if that has failed.
    try:
        run(plan)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (place.filename, place.lineno), traceback.format_exc()
    return None, ""


def cut_down(plan, place):
    """Return a smaller case that fails at the same place, as far as one is found in time."""
    deadline = time.perf_counter() + PATIENCE
    candidates = smaller(plan)
    while (candidate := next(candidates, None)) and time.perf_counter() < deadline:
        if failure(candidate)[0] == place:
            plan, candidates = candidate, smaller(candidate)
    return plan


def smaller(value):
    """Yield a value without one of the items of a list in it, for each of them."""
    if isinstance(value, list):
        for index in range(len(value)):
            yield [*value[:index], *value[index + 1 :]]
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            for less in smaller(item):
                yield type(value)([*value[:index], less, *value[index + 1 :]])
    elif isinstance(value, dict):
        for key, item in value.items():
            for less in smaller(item):
                yield {**value, key: less}


def main(seed, start, stop):
    for number in range(int(start), int(stop)):
        plan = make_case(random.Random(f"{seed}-{number}"))
        place, text = failure(plan)
        if place:
            print(text)
            pprint.pp(cut_down(plan, place), width=100)
            sys.exit(f"Run it again: python -m testsite.fuzz {seed} {number} {number + 1}")


if __name__ == "__main__":
    main(*sys.argv[1:])
