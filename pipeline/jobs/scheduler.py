"""Running jobs on a Ray cluster to their ends: which may begin, and what is tried again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster import GB
from pipeline.jobs.attempt import Attempt, begin, outcome_of, stop
from pipeline.jobs.job import Job, Outcome
from pipeline.jobs.placement import Node, fits
from pipeline.jobs.sharing import Sharing, is_alone, without_others

POLL = 0.5  # seconds between looks at the jobs
RETRIES = 3  # of a job that was lost
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds after a kill for want of memory; each twice the one before
PATIENCE = 3600.0  # seconds of such pauses in all


@dataclass(frozen=True)
class Turn:
    """A job that waits for its next attempt."""

    job: Job
    number: int = 1  # of that attempt
    losses: int = 0  # that count against it
    pause: float = 0.0  # seconds before it; the last of those for want of memory
    paused: float = 0.0  # seconds of all such pauses
    not_before: float = 0.0  # by time.monotonic()

    def after(self, outcome: Outcome) -> "Turn | None":
        """The turn after a loss; None when there were too many.

        What was killed because a node's memory was full is not the job's fault while others fill it: such a
        kill does not count, and the job tries again after growing pauses, for a limited time. One that may
        have shared a GPU is tried alone on one first.
        """
        turn = replace(self, number=self.number + 1, not_before=0.0)
        if outcome.no_memory and not is_alone(self.job):
            return replace(turn, job=without_others(self.job))
        if not outcome.no_memory:
            return replace(turn, losses=self.losses + 1) if self.losses < RETRIES else None
        pause = min(2 * self.pause or FIRST_PAUSE, LONGEST_PAUSE)
        if self.paused + pause > PATIENCE:
            return None
        return replace(turn, pause=pause, paused=self.paused + pause, not_before=time.monotonic() + pause)


def nodes(ray: Any) -> list[Node]:
    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(r.get("GPU", 0), r.get("CPU", 0), r.get("memory", 0) / GB) for r in held]


def run_jobs(
    ray: Any,
    jobs: Sequence[Job],
    folder: Path,
    report: Callable[[Job, str, str], None],
    look: Callable[[], None],
    sharing: Sharing | None = None,
) -> dict[str, Outcome]:
    """Run all jobs, a lost one again up to RETRIES times; returns the outcome of each by name.

    report(job, state, reason) is called when a job is queued ("waiting", "retrying") or ends ("done",
    "failed"); look() between, about twice a second. Ctrl-C stops the jobs, then is raised.
    sharing: decides how many jobs share a GPU; without it each has what it asks Ray for.
    """
    waiting = [Turn(job) for job in jobs]
    running: dict[str, tuple[Turn, Attempt]] = {}
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        report(job, "waiting", "")
    try:
        while waiting or running:
            if sharing:
                sharing.look()
                for name in sharing.stranded():
                    turn, attempt = running.pop(name)
                    ray.cancel(attempt.task, force=True)
                    sharing.ended(turn.job, no_memory=False)
                    waiting.append(turn)
            for turn in list(waiting):
                if not _may_begin(ray, turn, [attempt.job for _, attempt in running.values()]):
                    continue
                group = sharing.place(turn.job) if sharing else None
                if group is None and sharing:
                    continue
                waiting.remove(turn)
                running[turn.job.name] = turn, begin(ray, turn.job, folder, turn.number, group=group)
            ended = _wait(ray, [attempt.task for _, attempt in running.values()])
            for turn, attempt in [pair for pair in running.values() if pair[1].task in ended]:
                job, outcome = turn.job, outcome_of(ray, attempt)
                del running[job.name]
                if sharing:
                    sharing.ended(job, outcome.no_memory)
                if outcome.ok and attempt.step + 1 < len(job.steps):
                    running[job.name] = turn, begin(ray, job, folder, turn.number, attempt.step + 1)
                elif outcome.lost and (next_turn := turn.after(outcome)):
                    waiting.append(next_turn)
                    report(job, "retrying", outcome.reason + _what_it_waits_for(ray, job, next_turn))
                else:
                    outcomes[job.name] = outcome
                    report(job, "done" if outcome.ok else "failed", outcome.reason)
            look()
    except KeyboardInterrupt:
        stop(ray, [attempt for _, attempt in running.values()])
        raise
    return outcomes


def _may_begin(ray: Any, turn: Turn, running: Sequence[Job]) -> bool:
    """Whether it is a job's time.

    Ray queues tasks itself. But a task that starts a training in several processes holds nothing, and would
    wait for their GPUs with a process of its own: no more of these begin than all GPUs would do for.
    """
    if time.monotonic() < turn.not_before:
        return False
    several = [job for job in running if job.resources.processes > 1]
    if turn.job.resources.processes == 1 or not several:
        return True
    gpus = sum(job.resources.gpus for job in [*several, turn.job])
    return gpus <= sum(node.gpus for node in nodes(ray))


def _what_it_waits_for(ray: Any, job: Job, turn: Turn) -> str:
    if turn.job != job:
        return "; tried alone on a GPU when one is free"
    if turn.not_before:
        left = max((PATIENCE - turn.paused) / 60, 0)
        return f"; tries again in {turn.pause:.0f} s, and so on for at most {left:.0f} min more"
    room = fits(turn.job.resources, nodes(ray))
    return "" if room else f"; waits until the cluster has {turn.job.resources} again"


def _wait(ray: Any, tasks: list[Any]) -> list[Any]:
    if not tasks:
        time.sleep(POLL)
        return []
    ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=POLL)
    return list(ended)
