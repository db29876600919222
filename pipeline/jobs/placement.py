"""What the nodes of a cluster have, and whether and how jobs fit them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import PipelineError
from pipeline.jobs.job import Job, Resources


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all, used or not."""

    gpus: float
    cpus: float
    memory_gb: float


def check_fit(jobs: Sequence[Job], nodes: Sequence[Node]) -> None:
    """Raise PipelineError for the first job that the cluster could not hold even when it is idle."""
    for job in jobs:
        resources, wanted = job.resources, job.resources.processes
        if fits(resources, nodes):
            continue
        if resources.nodes > 1:
            held = sum(most_processes(resources, nodes))
            lacks = (
                f"{resources.nodes} nodes hold {held} of its {wanted} processes with {resources.each} each"
            )
        else:
            best = min(nodes, key=lambda node: (len(missing(node, resources)), resources.gpus - node.gpus))
            lacks = ", ".join(missing(best, resources))
            lacks = f"none of {len(nodes)} nodes has that, the nearest lacks {lacks}"
            shared = spread(resources, nodes).nodes
            if shared > 1:
                lacks += f"; {shared} have it together, which its framework or NODES=1 does not take"
        raise PipelineError(
            f"{job.name} asks for {resources}; {lacks}: lower `resources` in the model's config or GPUS="
        )


def fits(resources: Resources, nodes: Sequence[Node]) -> bool:
    """Whether as many of the nodes, when idle, hold all processes of a job."""
    return sum(most_processes(resources, nodes)) >= resources.processes


def most_processes(resources: Resources, nodes: Sequence[Node]) -> list[int]:
    """How many of a job's processes the best of its nodes hold."""
    each = resources.each
    needs = (each.gpus, each.cpus, each.memory_gb)
    counts = []
    for node in nodes:
        has = (node.gpus, node.cpus, node.memory_gb)
        rooms = [int(a / b + 1e-9) for a, b in zip(has, needs, strict=True) if b]
        counts.append(min(rooms, default=resources.processes))
    return sorted(counts, reverse=True)[: resources.nodes]


def spread(resources: Resources, nodes: Sequence[Node]) -> Resources:
    """Over as few nodes as hold it; on one, when one or no number of them does.

    One that has the GPUs is not left for want of CPUs or memory: that is for the user to ask.
    """
    if any(node.gpus >= resources.gpus for node in nodes) or resources.processes == 1:
        return resources
    for count in range(2, len(nodes) + 1):
        shared = replace(resources, nodes=count)
        if fits(shared, nodes):
            return shared
    return resources


def missing(node: Node, resources: Resources) -> list[str]:
    """What an idle node lacks for a whole job, in words."""
    lacks = (
        ("GPUs", resources.gpus, node.gpus),
        ("CPUs", resources.each.cpus * resources.processes, node.cpus),
        ("GB of memory", resources.memory_gb, node.memory_gb),
    )
    return [f"{asked - has:.3g} {name}" for name, asked, has in lacks if asked > has]
