"""Damaged inputs, killed stages and hostile machines, a share of MINUTES= at a time (20).

Goes on where the last share stopped: runs/torture/state.json holds seeds, counts and findings. ONLY= names
kinds of input or stages (parts of names); FIRST= is the first seed of a new state, for shares on several
machines. Ends with status 1 where a finding is open.
"""

import time
from datetime import UTC, datetime

from pipeline import cli
from torture.inputs import KINDS
from torture.state import BAD, State
from torture.tries import Worker

SECONDS = 1.5  # of a kind of input at a time


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=20)
    cli.add_list(arguments, "--only", default=[], help="parts of the names of kinds or stages")
    arguments.add_argument("--first", type=int, default=0)
    options = arguments.parse_args(argv)
    state, began = State(), time.monotonic()
    share = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": 0.0,
        "inputs": 0,
        "trials": 0,
    }
    state.values["shares"].append(share)
    kinds = [name for name in KINDS if not options.only or any(part in name for part in options.only)]
    end = began + 60 * options.minutes
    worker = Worker()
    try:
        recheck(state, worker)
        while kinds and time.monotonic() < end:
            for name in kinds:
                if time.monotonic() >= end:
                    break
                share["inputs"] += try_inputs(state, worker, name, options.first)
                share["minutes"] = round((time.monotonic() - began) / 60, 2)
            state.save()
    finally:
        worker.close()
        state.save()
    print("\n".join(state.lines()), flush=True)
    return int(any(found["open"] for found in state.values["findings"].values()))


def try_inputs(state: State, worker: Worker, name: str, first: int) -> int:
    """Judge inputs of a kind for a moment; returns how many."""
    start = state.next_input(name, first)
    following, found = worker.run(name, start, start + 10**9, SECONDS)
    state.add_inputs(name, following, found.counts)
    for key, (number, data, why) in found.examples.items():
        state.find(name, key, found.times[key], number, data, why)
    return following - start


def recheck(state: State, worker: Worker) -> None:
    """Judge the examples of open findings again: those that are mended since are closed."""
    for key, found in state.values["findings"].items():
        name = key.split(" / ")[0]
        if found["open"] and name in KINDS:
            _, again = worker.run(name, found["number"], found["number"] + 1, 60)
            found["open"] = any(again.counts[outcome] for outcome in BAD)
    state.save()


if __name__ == "__main__":
    cli.run(main)
