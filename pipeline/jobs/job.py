"""A job, the resources it asks for, and what became of it: plain data that travels to workers and back."""

import itertools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.paths import CARD, fold_name

TRAINING, PREDICTING = "training", "predicting"  # states of a command


@dataclass(frozen=True)
class Resources:
    """What a job asks for in all; `gpus` may be a part of one. Each of several has a process that trains."""

    gpus: float = 1.0
    cpus: int = 4
    memory_gb: float = 8.0
    nodes: int = 1  # that may have them together; their processes need not be shared out equally

    @property
    def processes(self) -> int:
        return max(int(self.gpus), 1)

    @property
    def each(self) -> "Resources":
        """What each of its processes has: at least a CPU."""
        n = self.processes
        return self if n == 1 else Resources(self.gpus / n, max(self.cpus // n, 1), self.memory_gb / n)

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''}, " if self.gpus else ""
        return f"{gpus}{self.cpus} CPU{'s' if self.cpus > 1 else ''}, {self.memory_gb:g} GB"


NONE = Resources(0, 0, 0)


def read_resources(values: Any, source: str) -> Resources:
    """`resources` of a model's config; raises PipelineError that names the key."""
    known = asdict(Resources())
    if not isinstance(values, dict) or set(values) - set(known):
        raise PipelineError(f"{source}: resources: expected {', '.join(known)}; got {values}")
    for key, value in values.items():
        if not isinstance(value, (int, float)) or value < 0:
            raise PipelineError(f"{source}: resources: {key} {value}: expected a number from 0")
    resources = Resources(**values)
    if resources.cpus < 1 or resources.cpus % 1:
        raise PipelineError(f"{source}: resources: cpus {resources.cpus}: expected a whole number from 1")
    check_gpus(resources, f"{source}: resources")
    return resources


def check_gpus(resources: Resources, source: str) -> None:
    """Raise PipelineError for parts of several GPUs, and for more nodes than GPUs."""
    if resources.gpus > 1 and resources.gpus % 1:
        raise PipelineError(f"{source}: gpus {resources.gpus}: expected a part of one, or whole ones")
    if resources.nodes < 1 or resources.nodes % 1:
        raise PipelineError(f"{source}: nodes {resources.nodes}: expected a whole number from 1")
    if resources.nodes > max(resources.gpus, 1):
        raise PipelineError(
            f"{source}: nodes {resources.nodes}, gpus {resources.gpus:g}: expected a GPU for each node"
        )


@dataclass(frozen=True)
class Command:
    """One stage of a job: `state` is what the table says while it runs."""

    state: str
    arguments: tuple[str, ...]  # after the name of the Python interpreter
    resources: Resources | None = None  # that it holds itself; None: the job's


@dataclass(frozen=True)
class Job:
    model: str
    fold: int | str
    run: Path  # the stages write there
    resources: Resources
    commands: tuple[Command, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return job_name(self.model, self.fold)

    def state(self, command: str) -> str:
        """What a command in the state `command` does now: one that trains may then predict."""
        return PREDICTING if command == TRAINING and (self.run / CARD).is_file() else command

    @property
    def steps(self) -> list[list[Command]]:
        """Its commands, those together that run one after the other on the same resources."""
        return [list(group) for _, group in itertools.groupby(self.commands, lambda c: c.resources)]


def job_name(model: str, fold: int | str) -> str:
    return f"{model}-{fold_name(fold)}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `lost`: it was killed from outside, and trying again may help."""

    ok: bool
    lost: bool = False
    no_memory: bool = False  # lost because its node ran out of memory, perhaps by what others do there
    reason: str = ""
