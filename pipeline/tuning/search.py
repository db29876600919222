"""The search: greedy steps over fixed grids, for every set of images at once.

Each row of the engine's weights has a candidate of its own, chosen by its own images. The rows go
through the same steps side by side; their candidates are mostly the same, so each is scored once. The best of
many candidates looks better than it is: the standard error of its gain over the row's parts is
subtracted from the gain, and the candidate is taken where a gain is left.
No search library: proposing a candidate costs nothing here, and scoring it for all rows at once is
worth more than better proposals for a single row.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.tuning import candidates as grid
from pipeline.tuning.candidates import Candidate
from pipeline.tuning.engine import Engine

MIN_GAIN = 1e-4  # of a change, after its standard error
ROUNDS = 4


@dataclass
class Budget:
    """The seconds, and the number of candidates per row; `stop` ends the search early (Ctrl-C).

    Candidates are counted per row: with one count for all, the truth of one row would decide how many
    candidates another row tries.
    """

    seconds: float
    trials: int | None
    began: float = field(default_factory=time.monotonic)
    stop: bool = False

    def left(self, state: "State") -> bool:
        if self.stop or (self.trials is not None and len(state.tried) >= self.trials):
            return False
        return time.monotonic() - self.began < self.seconds


@dataclass
class State:
    """The best candidate so far for one row of weights, its value there, and the keys of all it tried."""

    best: Candidate
    value: float
    tried: set[str] = field(default_factory=set)


def search(engine: Engine, budget: Budget, seed: int, extra: int) -> list[State]:
    """Find the best candidate for each row of weights.

    extra: candidates changed at random that each row tries when no step gains any more.
    """
    n = len(engine.members)
    rows = list(range(len(engine.weights)))
    first = grid.start(n)
    states = [State(first, engine.value(first, row)) for row in rows]
    bar: tqdm[Any]
    with tqdm(desc="candidates", unit="", dynamic_ncols=True) as bar:
        steps = _Steps(engine, budget, states, bar)
        steps.drop()  # first of all: a bad member spoils every method
        steps.look(lambda state: grid.methods(state.best))
        if n > 2:
            steps.grow()
        for _ in range(ROUNDS):
            before = [state.best for state in states]
            steps.drop()
            while steps.look(lambda state: grid.more(state.best)):
                pass
            steps.look(lambda state: grid.calibrated(state.best))
            steps.look(lambda state: grid.member_settings(state.best))
            steps.look(lambda state: grid.fine(state.best))
            if before == [state.best for state in states]:
                break
        # Last of all: from a member alone, its boxes as they are, no step leads back to an ensemble.
        steps.look(lambda state: [grid.alone(state.best, i) for i in range(n)])
        rngs = [np.random.default_rng([seed, row]) for row in rows]
        for _ in range(extra):
            for row in rows:
                steps.look_one(row, [grid.mutated(states[row].best, rngs[row])])
    return states


class _Steps:
    """One step of the search for all rows: each looks at its own proposals and takes the best."""

    def __init__(self, engine: Engine, budget: Budget, states: list[State], bar: "tqdm[Any]") -> None:
        self.engine, self.budget, self.states, self.bar = engine, budget, states, bar

    def look(self, propose: Callable[[State], Iterable[Candidate]], sure: bool = True) -> bool:
        """Whether any row found a better candidate."""
        moved = [self.look_one(row, propose(state), sure) for row, state in enumerate(self.states)]
        return any(moved)

    def drop(self) -> None:
        """Backward selection: drop members without which nothing is lost."""
        while self.look(lambda state: grid.fewer(state.best), sure=False):
            pass

    def grow(self) -> None:
        """Forward selection: from the best single member on, and its result where it beats all members."""
        n = len(self.engine.members)
        for row, state in enumerate(self.states):
            singles = [self.engine.value(grid.alone(state.best, i), row) for i in range(n)]
            weights = grid.alone(state.best, int(np.argmax(singles))).weights  # from the best one on
            kept = State(state.best, state.value)
            state.best = replace(state.best, weights=weights)
            state.value = self.engine.value(state.best, row)
            while self.look_one(row, grid.more(state.best)):
                pass
            if state.value < kept.value + MIN_GAIN:
                state.best, state.value = kept.best, kept.value

    def look_one(self, row: int, proposals: Iterable[Candidate], sure: bool = True) -> bool:
        """Take the best proposal where it is a gain; without `sure` also one that is as good."""
        state = self.states[row]
        current = self.engine.evaluate(state.best, row)
        best, most = state.best, MIN_GAIN if sure else 0.0
        for candidate in proposals:
            if not self.budget.left(state):
                break
            before = len(self.engine.values)
            values = self.engine.evaluate(candidate, row)
            state.tried.add(candidate.key)
            if len(self.engine.values) > before:
                self.bar.set_postfix_str(f"best {self.states[0].value:.4f}", refresh=False)
                self.bar.update()
            gain = float(values[row] - current[row])
            if sure:
                each = (values - current)[self.engine.parts_of(row)]
                gain -= float(each.std(ddof=1)) / len(each) ** 0.5
            if candidate != state.best and gain >= most:
                best, most = candidate, gain
        moved = best != state.best
        state.best, state.value = best, self.engine.value(best, row)
        return moved
