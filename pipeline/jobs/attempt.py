"""One attempt of a job on Ray: a task for each of its steps, which holds what the step's commands need."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster import GB
from pipeline.jobs.job import Job, Outcome
from pipeline.jobs.worker import work

PATIENCE = 30.0  # seconds that interrupted tasks have to end
SHARED_PART = 0.01  # of a GPU, for Ray to say which one it is: what holds it counts the jobs on it
NODE_LOST = "its node was lost"


@dataclass(frozen=True)
class Attempt:
    job: Job
    number: int  # from 1
    step: int  # of the job's steps
    task: Any  # Ray's reference


def begin(ray: Any, job: Job, folder: Path, number: int, step: int = 0, group: Any = None) -> Attempt:
    """Queue a task that runs a step of a job; `folder` is of logs and records.

    group: Ray's placement group that holds a GPU for this job and others, see `sharing`.
    """

    # No retries by Ray: it would not say so in the table, and never for what a command died of.
    @ray.remote(max_retries=0, max_calls=1)
    def on_node(job: Job) -> Outcome:
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        return work(job, step, folder, number, ray.get_runtime_context().get_node_id(), gpus)

    held = job.steps[step][0].resources or job.resources
    options: dict[str, Any] = {
        "name": job.name,
        "num_cpus": held.cpus,
        "num_gpus": held.gpus,
        "memory": int(held.memory_gb * GB),
    }
    if group is not None:
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
        options |= {"num_gpus": SHARED_PART, "scheduling_strategy": strategy}
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}  # where processes of a training run
    job = replace(job, environment=address | job.environment)
    return Attempt(job, number, step, on_node.options(**options).remote(job))


def outcome_of(ray: Any, attempt: Attempt) -> Outcome:
    """What an ended task returned; a worker or a node that died is a loss, with the cause in a line."""
    errors = ray.exceptions
    losses = {
        errors.NodeDiedError: NODE_LOST,
        errors.LocalRayletDiedError: NODE_LOST,
        errors.WorkerCrashedError: "its worker was killed",
        errors.ObjectLostError: NODE_LOST,
        errors.GetTimeoutError: "its node does not answer",
    }
    try:
        return ray.get(attempt.task, timeout=1)
    except errors.OutOfMemoryError:
        return Outcome(False, True, True, "killed, because its node ran out of memory")
    except errors.RayError as error:
        for kind, reason in losses.items():
            if isinstance(error, kind):
                return Outcome(False, lost=True, reason=reason)
        message = str(error).strip() or type(error).__name__  # a cancelled task's says nothing
        return Outcome(False, reason=message.splitlines()[-1][:200])


def stop(ray: Any, attempts: Sequence[Attempt]) -> None:
    """Interrupt running tasks, forget waiting ones, and wait for their processes to end."""
    tasks = [attempt.task for attempt in attempts]
    for force in (False, True):
        for task in tasks:
            with contextlib.suppress(ray.exceptions.RayError):  # it has ended meanwhile
                ray.cancel(task, force=force)
        deadline = time.monotonic() + PATIENCE
        while tasks and time.monotonic() < deadline:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=1.0)
