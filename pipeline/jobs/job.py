"""A job, what it needs, and what became of it. Plain data: these travel to the workers and back."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Needs:
    """What a job asks for in all; `gpus` may be a part of one. Several nodes give equal shares of it."""

    gpus: float = 1.0
    cpus: int = 4
    memory_gb: float = 8.0
    nodes: int = 1

    @property
    def share(self) -> "Needs":
        """What each of its nodes gives."""
        n = self.nodes
        return self if n == 1 else Needs(self.gpus / n, -(-self.cpus // n), self.memory_gb / n)

    def __str__(self) -> str:
        if self.nodes > 1:
            return f"{self.nodes} nodes with {self.share} each"
        gpus = f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''}, " if self.gpus else ""
        return f"{gpus}{self.cpus} CPU{'s' if self.cpus > 1 else ''}, {self.memory_gb:g} GB"


def read_needs(values: Any, source: str) -> Needs:
    """`resources` of a model's config; raises PipelineError that names the key."""
    known = asdict(Needs())
    if not isinstance(values, dict) or set(values) - set(known):
        raise PipelineError(f"{source}: resources: expected {', '.join(known)}; got {values}")
    for key, value in values.items():
        if not isinstance(value, (int, float)) or value < 0:
            raise PipelineError(f"{source}: resources: {key} {value}: expected a number from 0")
    needs = Needs(**values)
    if needs.gpus > 1 and needs.gpus % 1:
        raise PipelineError(f"{source}: resources: gpus {needs.gpus}: expected a part of one, or whole ones")
    if needs.cpus < 1 or needs.cpus % 1:
        raise PipelineError(f"{source}: resources: cpus {needs.cpus}: expected a whole number from 1")
    check_nodes(needs, f"{source}: resources")
    return needs


def check_nodes(needs: Needs, source: str) -> None:
    """Raise PipelineError when the nodes cannot have as many whole GPUs each."""
    if needs.nodes < 1 or needs.nodes % 1:
        raise PipelineError(f"{source}: nodes {needs.nodes}: expected a whole number from 1")
    if needs.nodes > 1 and (needs.gpus < needs.nodes or needs.gpus % needs.nodes):
        raise PipelineError(
            f"{source}: nodes {needs.nodes}, gpus {needs.gpus:g}: expected as many whole GPUs on each node"
        )


@dataclass(frozen=True)
class Command:
    """One stage of a job: `state` is what the table says while it runs."""

    state: str
    arguments: tuple[str, ...]  # after the name of the Python interpreter


@dataclass(frozen=True)
class Job:
    model: str
    fold: int
    run: Path  # the stages write there
    needs: Needs
    commands: tuple[Command, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}-fold{self.fold}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `lost`: it was killed from outside, and trying again may help."""

    ok: bool
    lost: bool = False
    reason: str = ""
