"""Damaged inputs, killed stages and hostile machines, a share of MINUTES= at a time (20).

Goes on where the last share stopped: runs/torture/state.json holds seeds, counts and findings. ONLY= names
kinds of input, stages or trials by parts of their names; FIRST= is the first seed of a new state, for shares
on several machines. Ends with status 1 where a finding is open.
"""

import contextlib
import itertools
import os
import re
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from pipeline import cli
from torture.inputs import KINDS
from torture.stages import STAGES, Stages
from torture.state import BAD, State
from torture.trials import ONLY, TRIALS, judge
from torture.tries import Worker

SECONDS = 1.5  # of a kind of input at a time


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=20)
    cli.add_list(arguments, "--only", default=[], help="parts of the names of inputs, stages or trials")
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
    kinds = [name for name in KINDS if chosen(name, options.only)]
    pairs = [pair for pair in all_trials() if chosen(" ".join(pair), options.only)]
    end = began + 60 * options.minutes
    with contextlib.ExitStack() as stack:
        stack.callback(state.save)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-", dir=scratch())))
        worker = stack.enter_context(contextlib.closing(Worker(folder)))
        stages = stack.enter_context(contextlib.closing(Stages(folder)))
        recheck(state, worker)
        while time.monotonic() < end and (kinds or pairs):
            turn = time.monotonic()
            for name in kinds:
                if time.monotonic() < end:
                    share["inputs"] += try_inputs(state, worker, name, options.first)
            turn = time.monotonic() + max(time.monotonic() - turn, 10)  # as long on trials
            while pairs and time.monotonic() < min(turn, end):
                try_stage(state, stages, *most_wanted(state, stages, pairs), options.first)
                share["trials"] += 1
                share["minutes"] = round((time.monotonic() - began) / 60, 2)
                state.save()
            share["minutes"] = round((time.monotonic() - began) / 60, 2)
            state.save()
    print("\n".join(state.lines()), flush=True)
    return int(any(found["open"] for found in state.values["findings"].values()))


def chosen(name: str, only: list[str]) -> bool:
    return not only or any(part in name for part in only)


def all_trials() -> list[tuple[str, str]]:
    """Every stage with every trial that it can have."""
    pairs = itertools.product((name for name, stage in STAGES.items() if stage.kills), TRIALS)
    return [(stage, trial) for stage, trial in pairs if stage in ONLY.get(trial, (stage,))]


def most_wanted(state: State, stages: Stages, pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """The trial on which least time was spent, those first of which less was done than is wanted."""

    def part(pair: tuple[str, str]) -> tuple[bool, float]:
        wanted = STAGES[pair[0]].kills if pair[1] == "killed" else 6
        done = state.trials(*pair, pair[1]) / wanted
        return done >= 1, done * stages.duration.get(pair[0], 5)

    return min(pairs, key=part)


def try_stage(state: State, stages: Stages, stage: str, trial: str, first: int) -> None:
    """Run one trial of a stage and note how its commands ended."""
    number = first + state.trials(stage, trial)
    outcomes, wrong = judge(stages, stage, trial, number)
    for outcome in outcomes:
        state.add_trial(stage, trial, outcome)
    if wrong:
        short = re.sub(r"[0-9a-f]{16}|[0-9]+", "N", wrong)[:110]
        state.find(f"{stage}, {trial}", short, 1, number, wrong.encode(), wrong)


def try_inputs(state: State, worker: Worker, name: str, first: int) -> int:
    """Judge inputs of a kind for a moment; returns how many."""
    start = state.next_input(name, first)
    following, found = worker.run(name, start, start + 10**9, SECONDS)
    state.add_inputs(name, following, found.counts)
    for key, (number, data, why) in found.examples.items():
        state.find(name, key, found.times[key], number, data, why)
    return following - start


def scratch() -> str | None:
    """Where scratch files go: into memory where there is a folder for that."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


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
