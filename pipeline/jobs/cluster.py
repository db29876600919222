"""Ray: joining a cluster or starting one here, whether jobs fit, and running them to their ends."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.jobs.job import Job, Needs, Outcome
from pipeline.jobs.worker import work
from pipeline.paths import PROJECT

GB = 2**30
OBJECT_STORE = 80 * 2**20  # bytes; jobs pass files, not objects
POLL = 0.5  # seconds between looks at the jobs
RETRIES = 3  # of a job that was lost


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all, used or not."""

    gpus: float
    cpus: float
    memory_gb: float


def load_ray() -> Any:
    """Import Ray, without telemetry."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray
    except ModuleNotFoundError:
        raise PipelineError("train-all needs the package 'ray', which is not installed; make setup") from None
    # Its pages on a worker's death; the table and the summary say it in a line.
    ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
    return ray


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS or to one that lives here as long as the block."""
    ray = load_ray()
    # "local", or Ray joins whatever cluster it finds on this machine.
    options: dict[str, Any] = {
        "address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE,
    }  # fmt: skip
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            try:
                ray.init(
                    log_to_driver=False, logging_level=logging.ERROR,
                    runtime_env={"env_vars": {"PYTHONPATH": str(PROJECT)}}, **({} if address else options),
                )  # fmt: skip
            except ConnectionError as error:
                reason = " ".join(str(error).split())[:150]
                raise PipelineError(f"RAY_ADDRESS={address}: no cluster answers there ({reason})") from None
            stack.callback(ray.shutdown)
        yield ray


def nodes(ray: Any) -> list[Node]:
    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(r.get("GPU", 0), r.get("CPU", 0), r.get("memory", 0) / GB) for r in held]


def check_fit(jobs: Sequence[Job], found: Sequence[Node]) -> None:
    """Raise PipelineError for the first job that no node could hold even when it is idle."""
    for job in jobs:
        if not any(holds(node, job.needs) for node in found):
            best = min(found, key=lambda node: len(missing(node, job.needs)), default=Node(0, 0, 0))
            raise PipelineError(
                f"{job.name} asks for {job.needs}; none of {len(found)} nodes has that, the nearest lacks "
                f"{', '.join(missing(best, job.needs))}: lower `resources` in the model's config or GPUS="
            )


def holds(node: Node, needs: Needs) -> bool:
    return not missing(node, needs)


def missing(node: Node, needs: Needs) -> list[str]:
    """What an idle node lacks for a job, in words."""
    lacks = (
        ("GPUs", needs.gpus, node.gpus), ("CPUs", needs.cpus, node.cpus),
        ("GB of memory", needs.memory_gb, node.memory_gb),
    )  # fmt: skip
    return [f"{asked - have:.3g} {name}" for name, asked, have in lacks if asked > have]


def _submit(ray: Any, job: Job, folder: Path, attempt: int) -> Any:
    # No retries by Ray: it would not say so in the table, and never for what a command died of.
    @ray.remote(max_retries=0, max_calls=1)
    def on_node(job: Job, folder: Path, attempt: int) -> Outcome:
        granted = [str(gpu) for gpu in ray.get_gpu_ids()]
        place = {"node_id": ray.get_runtime_context().get_node_id(), "gpus": granted}
        return work(job, folder, attempt, place)

    options = on_node.options(
        name=job.name, num_cpus=job.needs.cpus, num_gpus=job.needs.gpus, memory=int(job.needs.memory_gb * GB)
    )
    return options.remote(job, folder, attempt)


def run_jobs(
    ray: Any, jobs: Sequence[Job], folder: Path, report: Callable[[Job, str, int, str], None],
    look: Callable[[], None],
) -> dict[str, Outcome]:  # fmt: skip
    """Run all jobs, a lost one again up to RETRIES times; returns the outcome of each by name.

    report(job, state, attempt, reason) is called when a job is queued ("waiting", "retrying") or ends
    ("done", "failed"); look() between, about twice a second. Ctrl-C stops the jobs, then is raised.
    """
    attempts = {job.name: 1 for job in jobs}
    running: dict[Any, Job] = {}
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        running[_submit(ray, job, folder, 1)] = job
        report(job, "waiting", 1, "")
    try:
        while running:
            ended, _ = ray.wait(list(running), num_returns=len(running), timeout=POLL)
            for reference in ended:
                job = running.pop(reference)
                outcome = _outcome(ray, reference)
                if outcome.lost and attempts[job.name] <= RETRIES:
                    report(job, "retrying", attempts[job.name], outcome.reason)
                    attempts[job.name] += 1
                    running[_submit(ray, job, folder, attempts[job.name])] = job
                else:
                    outcomes[job.name] = outcome
                    state = "done" if outcome.ok else "failed"
                    report(job, state, attempts[job.name], outcome.reason)
            look()
    except KeyboardInterrupt:
        _stop(ray, list(running))
        raise
    return outcomes


def _outcome(ray: Any, reference: Any) -> Outcome:
    """What a task returned; a worker or a node that died is a loss, with the cause in a line."""
    errors = ray.exceptions
    losses = {
        errors.OutOfMemoryError: "killed, because its node ran out of memory",
        errors.NodeDiedError: "its node was lost",
        errors.LocalRayletDiedError: "its node was lost",
        errors.WorkerCrashedError: "its worker was killed",
        errors.ObjectLostError: "its node was lost",
    }
    try:
        return ray.get(reference)
    except errors.RayError as error:
        for kind, reason in losses.items():
            if isinstance(error, kind):
                return Outcome(False, lost=True, reason=reason)
        return Outcome(False, reason=str(error).strip().splitlines()[-1][:200])


def _stop(ray: Any, references: list[Any], patience: float = 30.0) -> None:
    """Interrupt running jobs, forget waiting ones, and wait for their processes to end."""
    for reference in references:
        with contextlib.suppress(ray.exceptions.RayError):  # it has ended meanwhile
            ray.cancel(reference)
    deadline = time.monotonic() + patience
    while references and time.monotonic() < deadline:
        _, references = ray.wait(references, num_returns=len(references), timeout=1.0)
