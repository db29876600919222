"""One attempt of a job on Ray: a task, or for a job on several nodes a task on each of them."""

import contextlib
import json
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.jobs.job import Job, Needs, Outcome
from pipeline.jobs.worker import assist, assistant_path, record_path, work
from pipeline.training.launcher import TEAM

GB = 2**30
PATIENCE = 30.0  # seconds that interrupted tasks have to end
ANSWER = 30.0  # seconds within which a node that lives runs a task of nothing
NODE_LOST = "its node was lost"


@dataclass(frozen=True)
class Attempt:
    job: Job
    folder: Path  # of logs and records
    number: int  # from 1
    tasks: tuple[Any, ...]  # references; the first runs the job's commands, the others help it to train
    group: Any = None  # the placement group of several tasks


def begin(ray: Any, job: Job, folder: Path, number: int) -> Attempt:
    """Queue a job's tasks; those of several nodes begin when each of these has room, and then together."""
    token, count = uuid.uuid4().hex, job.needs.nodes

    # No retries by Ray: it would not say so in the table, and never for what a command died of.
    @ray.remote(max_retries=0, max_calls=1)
    def on_node(job: Job, folder: Path, number: int, node: int) -> Outcome:
        node_id = ray.get_runtime_context().get_node_id()
        if node:
            return assist(job, folder, number, token, node, node_id)
        place = {"node_id": node_id, "nodes": count, "gpus": [str(gpu) for gpu in ray.get_gpu_ids()]}
        if count > 1:
            team = {TEAM: f"{token} {ray.util.get_node_ip_address()}"}
            job = replace(job, environment=job.environment | team)
        return work(job, folder, number, place)

    share = job.needs.share
    options: dict[str, Any] = {
        "name": job.name,
        "num_cpus": share.cpus,
        "num_gpus": share.gpus,
        "memory": int(share.memory_gb * GB),
    }
    if count == 1:
        return Attempt(job, folder, number, (on_node.options(**options).remote(job, folder, number, 0),))
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.placement_group([_bundle(share)] * count, strategy="STRICT_SPREAD", name=job.name)
    tasks = tuple(
        on_node.options(**options, scheduling_strategy=PlacementGroupSchedulingStrategy(group, node)).remote(
            job, folder, number, node
        )
        for node in range(count)
    )
    return Attempt(job, folder, number, tasks, group)


def _bundle(share: Needs) -> dict[str, float]:
    bundle = {"CPU": share.cpus, "GPU": share.gpus, "memory": int(share.memory_gb * GB)}
    return {key: value for key, value in bundle.items() if value}


def end(ray: Any, attempt: Attempt, ended: Collection[Any]) -> Outcome:
    """The outcome of an attempt of which a task has ended; stops its other tasks.

    When a node is lost, processes on the others fail too, and may say so before Ray knows of the loss: a
    failure on several nodes is taken for one only when all of them answer, and a loss comes before it.
    """
    first = attempt.tasks[0]
    well = first in ended and _outcome(ray, first).ok
    lost_node = not well and attempt.group is not None and _lost_a_node(ray, attempt)
    stop(ray, [attempt])
    outcomes = {task: _outcome(ray, task) for task in attempt.tasks}
    if outcomes[first].ok:
        return outcomes[first]
    losses = [outcome for outcome in outcomes.values() if outcome.lost]
    if lost_node:
        losses.append(Outcome(False, lost=True, reason=NODE_LOST))
    return [*losses, *(outcomes[task] for task in attempt.tasks if task in ended)][0]


def _lost_a_node(ray: Any, attempt: Attempt) -> bool:
    """Whether a node of the attempt is dead, or runs no task any more and Ray does not know it yet."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = _node_ids(attempt)
    ping = ray.remote(num_cpus=0, max_retries=0)(lambda: None)
    asked = [
        ping.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in own
    ]
    try:
        ray.get(asked, timeout=ANSWER)
    except ray.exceptions.RayError:
        return True
    finally:
        for task in asked:
            ray.cancel(task, force=True)
    return any(node["NodeID"] in own for node in ray.nodes() if not node["Alive"])


def _node_ids(attempt: Attempt) -> list[str]:
    """The nodes on which the attempt's tasks have begun, by their own records."""
    job, folder = attempt.job, attempt.folder
    helpers = [assistant_path(folder, job, node) for node in range(1, len(attempt.tasks))]
    paths = [path for path in (record_path(folder, job), *helpers) if path.is_file()]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [record["node_id"] for record in records if record["attempt"] == attempt.number]


def _outcome(ray: Any, task: Any) -> Outcome:
    """What a task returned; a worker or a node that died is a loss, with the cause in a line."""
    errors = ray.exceptions
    losses = {
        errors.OutOfMemoryError: "killed, because its node ran out of memory",
        errors.NodeDiedError: NODE_LOST,
        errors.LocalRayletDiedError: NODE_LOST,
        errors.WorkerCrashedError: "its worker was killed",
        errors.ObjectLostError: NODE_LOST,
        errors.GetTimeoutError: "its node does not answer",
    }
    try:
        return ray.get(task, timeout=1)
    except errors.RayError as error:
        for kind, reason in losses.items():
            if isinstance(error, kind):
                return Outcome(False, lost=True, reason=reason)
        said = str(error).strip() or type(error).__name__  # a cancelled task's says nothing
        return Outcome(False, reason=said.splitlines()[-1][:200])


def stop(ray: Any, attempts: Sequence[Attempt]) -> None:
    """Interrupt running tasks, forget waiting ones, and wait for their processes to end."""
    tasks = [task for attempt in attempts for task in attempt.tasks]
    _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=0)
    for force in (False, True):
        for task in tasks:
            with contextlib.suppress(ray.exceptions.RayError):  # it has ended meanwhile
                ray.cancel(task, force=force)
        deadline = time.monotonic() + PATIENCE
        while tasks and time.monotonic() < deadline:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=1.0)
    for attempt in attempts:
        if attempt.group is not None:
            ray.util.remove_placement_group(attempt.group)
