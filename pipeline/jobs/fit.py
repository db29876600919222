"""What the nodes of a cluster have, and whether and how jobs fit them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import PipelineError
from pipeline.jobs.job import Job, Needs


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all, used or not."""

    gpus: float
    cpus: float
    memory_gb: float


def check_fit(jobs: Sequence[Job], found: Sequence[Node]) -> None:
    """Raise PipelineError for the first job that the cluster could not hold even when it is idle."""
    for job in jobs:
        needs, able = job.needs, able_nodes(job, found)
        if len(able) >= needs.nodes:
            continue
        others = [node for node in found if node not in able]
        best = min(others, key=lambda node: _distance(node, needs.share), default=None)
        lacks = f"{needs.nodes - len(able)} more needed"
        if best is not None:
            lacks = f"the nearest {'other ' if able else ''}lacks {', '.join(missing(best, needs.share))}"
        several = ""
        if needs.nodes == 1 and needs.gpus > 1 and len(found) > 1:
            shared = spread(needs, found).nodes
            several = (
                ", nor have several of them equal shares of it"
                if shared == 1
                else f", and its framework or NODES=1 takes no {shared} that have it together"
            )
        raise PipelineError(
            f"{job.name} asks for {needs}; {len(able) or 'none'} of {len(found)} nodes has that{several}, "
            f"{lacks}: lower `resources` in the model's config or GPUS="
        )


def able_nodes(job: Job, found: Sequence[Node]) -> list[Node]:
    """Those that, when idle, hold the job, or its share of one node."""
    return [node for node in found if holds(node, job.needs.share)]


def spread(needs: Needs, found: Sequence[Node]) -> Needs:
    """Over as few nodes as hold it in equal shares of whole GPUs; on one, when one or no set of them does.

    One that has the GPUs is not left for want of CPUs or memory: that is for the user to ask.
    """
    if any(node.gpus >= needs.gpus for node in found):
        return needs
    for count in range(1, len(found) + 1):
        shared = replace(needs, nodes=count)
        whole = count == 1 or (needs.gpus >= count and needs.gpus % count == 0)
        if whole and sum(holds(node, shared.share) for node in found) >= count:
            return shared
    return needs


def holds(node: Node, needs: Needs) -> bool:
    return not missing(node, needs)


def _distance(node: Node, needs: Needs) -> tuple[int, float]:
    """Smaller for a node that is nearer to holding it: kinds of what it lacks, then GPUs."""
    return len(missing(node, needs)), needs.gpus - node.gpus


def missing(node: Node, needs: Needs) -> list[str]:
    """What an idle node lacks for a job, or for a share of one, in words."""
    lacks = (
        ("GPUs", needs.gpus, node.gpus),
        ("CPUs", needs.cpus, node.cpus),
        ("GB of memory", needs.memory_gb, node.memory_gb),
    )
    return [f"{asked - have:.3g} {name}" for name, asked, have in lacks if asked > have]
