"""Our training command with a clock: `python -m benchmarks.gpu.timeline FILE ARGUMENTS` (of pipeline.train).

FILE gets what happened when, by the clock of time.monotonic(), which all processes of a machine share. The
device is waited for at the first and the last step of each epoch and at no other.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass
class Epoch:
    """Seconds by the machine's clock."""

    steps: list[float] = field(default_factory=list)  # at which each of its steps had ended
    validated: float = 0.0  # when its score was known
    ended: float = 0.0  # when its checkpoint was taken


@dataclass
class Timeline:
    """What a training did when."""

    began: float = 0.0  # before the first photo is read
    epochs: list[Epoch] = field(default_factory=list)
    memory: int = 0  # bytes that torch held at most on the device

    @classmethod
    def read(cls, path: Path) -> "Timeline":
        values = json.loads(path.read_text())
        return cls(values["began"], [Epoch(**epoch) for epoch in values["epochs"]], values["memory"])

    @property
    def ended(self) -> float:
        return self.epochs[-1].ended

    def step(self) -> float:
        """Seconds of a step: the median over all that follow another of their epoch."""
        of_all = [after - before for epoch in self.epochs for before, after in pairwise(epoch.steps)]
        return sorted(of_all)[len(of_all) // 2] if of_all else 0.0

    def validation(self) -> float:
        """Seconds an epoch between its last step and its score."""
        return sum(epoch.validated - epoch.steps[-1] for epoch in self.epochs) / len(self.epochs)

    def outside(self) -> float:
        """Seconds an epoch that are neither training nor validation: from its score to the first step of the
        next epoch, that step left out; of the last one to its end. The first epoch's start is left out."""
        gaps = [after.steps[0] - self.step() - before.validated for before, after in pairwise(self.epochs)]
        gaps.append(self.epochs[-1].ended - self.epochs[-1].validated)
        return sum(max(gap, 0.0) for gap in gaps) / len(gaps)


def together(lines: Sequence[Timeline], photos: int) -> float:
    """Photos a second of trainings side by side with so many photos an epoch each: while all of them run."""
    if len(lines) == 1:
        return photos * len(lines[0].epochs) / (lines[0].ended - lines[0].began)
    began = max(line.epochs[0].steps[0] for line in lines)
    ended = min(line.ended for line in lines)
    per_step = [photos / len(line.epochs[0].steps) for line in lines]
    counted = [sum(began < at <= ended for epoch in line.epochs for at in epoch.steps) for line in lines]
    return sum(a * b for a, b in zip(per_step, counted, strict=True)) / max(ended - began, 1e-9)


def record(path: Path) -> None:
    """From here on let trainings of this process write their timeline to a file."""
    import torch

    from pipeline.training.session import Session

    timeline = Timeline()
    begin, step, end_epoch = Session.begin, Session.step, Session.end_epoch

    def timed_begin(self: Session, epochs: int, steps_per_epoch: int) -> None:
        begin(self, epochs, steps_per_epoch)
        timeline.began, timeline.epochs = time.monotonic(), [Epoch()]  # anew after memory ran out
        vars(self)["steps_per_epoch"] = steps_per_epoch

    def timed_step(self: Session, *arguments: Any) -> None:
        step(self, *arguments)
        steps = timeline.epochs[-1].steps
        if torch.cuda.is_available() and len(steps) in (0, vars(self)["steps_per_epoch"] - 1):
            torch.cuda.synchronize()
        steps.append(time.monotonic())

    def timed_end_epoch(self: Session, *arguments: Any, **named: Any) -> None:
        timeline.epochs[-1].validated = time.monotonic()
        end_epoch(self, *arguments, **named)
        timeline.epochs[-1].ended = time.monotonic()
        if torch.cuda.is_available():
            timeline.memory = torch.cuda.max_memory_allocated()
        path.write_text(json.dumps(asdict(timeline)))
        timeline.epochs.append(Epoch())

    Session.begin, Session.step, Session.end_epoch = timed_begin, timed_step, timed_end_epoch  # type: ignore


if __name__ == "__main__":
    from pipeline import train

    record(Path(sys.argv[1]))
    train.main(sys.argv[2:])
