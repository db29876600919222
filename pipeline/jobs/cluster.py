"""Ray: joining a cluster or starting one here, and running jobs to their ends."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.jobs.attempt import GB, Attempt, begin, end, stop
from pipeline.jobs.fit import Node, able_nodes
from pipeline.jobs.job import Job, Outcome
from pipeline.processes import python_path

OBJECT_STORE = 80 * 2**20  # bytes; jobs pass files, not objects
POLL = 0.5  # seconds between looks at the jobs
RETRIES = 3  # of a job that was lost


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
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            try:
                ray.init(
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": python_path()},
                    **({} if address else options),
                )
            except ConnectionError as error:
                reason = " ".join(str(error).split())[:150]
                raise PipelineError(f"RAY_ADDRESS={address}: no cluster answers there ({reason})") from None
            stack.callback(ray.shutdown)
        yield ray


def nodes(ray: Any) -> list[Node]:
    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(r.get("GPU", 0), r.get("CPU", 0), r.get("memory", 0) / GB) for r in held]


def run_jobs(
    ray: Any,
    jobs: Sequence[Job],
    folder: Path,
    report: Callable[[Job, str, int, str], None],
    look: Callable[[], None],
) -> dict[str, Outcome]:
    """Run all jobs, a lost one again up to RETRIES times; returns the outcome of each by name.

    report(job, state, attempt, reason) is called when a job is queued ("waiting", "retrying") or ends
    ("done", "failed"); look() between, about twice a second. Ctrl-C stops the jobs, then is raised.
    """
    running: list[Attempt] = []
    outcomes: dict[str, Outcome] = {}

    def start(job: Job, number: int) -> None:
        running.append(begin(ray, job, folder, number))

    for job in jobs:
        start(job, 1)
        report(job, "waiting", 1, "")
    try:
        while running:
            tasks = [task for attempt in running for task in attempt.tasks]
            ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=POLL)
            for attempt in [attempt for attempt in running if set(ended) & set(attempt.tasks)]:
                job, number = attempt.job, attempt.number
                outcome = end(ray, attempt, ended)
                running.remove(attempt)
                if outcome.lost and number <= RETRIES:
                    room = len(able_nodes(job, nodes(ray))) >= job.needs.nodes
                    waits = "" if room else f"; waits until the cluster has {job.needs} again"
                    report(job, "retrying", number, outcome.reason + waits)
                    start(job, number + 1)
                else:
                    outcomes[job.name] = outcome
                    report(job, "done" if outcome.ok else "failed", number, outcome.reason)
            look()
    except KeyboardInterrupt:
        stop(ray, running)
        raise
    return outcomes
