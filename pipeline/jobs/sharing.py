"""How many trainings of a model share a GPU (GPUS=auto), found out with the first of them.

Ray reserves each GPU as a whole, with its share of a node's CPUs and memory. It holds jobs of one model at a
time. On the first GPU that takes a model one job trains for a minute, then one more beside it, and so on as
long as `decide` says so; meanwhile other GPUs take one job each. What was decided holds for all GPUs. A job
that ran out of memory beside others has a GPU for itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.cluster import GB
from pipeline.errors import PipelineError
from pipeline.jobs.job import Job
from pipeline.jobs.placement import Node, most_processes
from pipeline.jobs.status import read_whole
from pipeline.jobs.worker import AttemptRecord, record_path
from pipeline.training.job import SHARED_GPU
from pipeline.training.progress import PROGRESS, ProgressRecord

TRIAL = 60.0  # seconds over which so many jobs are measured together
ROOM = 0.9  # of a GPU's memory that the jobs on it may take
GAIN = 1.1  # one job more must bring so many times the photos per second


@dataclass(frozen=True)
class Measured:
    """Jobs side by side on a GPU: photos per second of all, and the peak share of its memory of each."""

    rate: float
    memory: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """How many jobs share a GPU, whether that is final or to be measured next, and why."""

    jobs: int
    is_final: bool
    reason: str = ""


def check_gpus_there(nodes: Sequence[Node], device: str | None) -> None:
    """Raise PipelineError where there is no GPU to share, or none is wanted."""
    if device == "cpu" or not any(node.gpus >= 1 for node in nodes):
        raise PipelineError("GPUS=auto: no GPU here; without GPUS= the jobs share the cores")


def decide(measured: Sequence[Measured], most: int) -> Decision:
    """From what one job, two jobs and so on did; `most` that the CPUs and memory beside a GPU hold."""
    count, last = len(measured), measured[-1]
    if count > 1:
        before = measured[-2].rate
        if sum(last.memory) > ROOM:
            return Decision(count - 1, True, f"{count} take {sum(last.memory):.0%} of its memory")
        if last.rate < GAIN * before:
            return Decision(count - 1, True, f"{count} are {last.rate / before:.2f} times as fast")
    needed = sum(last.memory) + max(last.memory)
    if needed > ROOM:
        return Decision(count, True, f"{count + 1} would take {needed:.0%} of its memory")
    if count == most:
        return Decision(count, True, "the CPUs and the memory beside it hold no more")
    return Decision(count + 1, False)


def is_alone(job: Job) -> bool:
    """Whether a job is to have what it runs on for itself."""
    return SHARED_GPU not in job.environment


def without_others(job: Job) -> Job:
    """The job as it is to run alone on a GPU."""
    return replace(job, environment={k: v for k, v in job.environment.items() if k != SHARED_GPU})


@dataclass(eq=False)
class Gpu:
    """A GPU that Ray has reserved, or will."""

    group: Any  # Ray's placement group
    is_there: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)  # that run on it, by name


@dataclass
class Trial:
    """What is known of a model's jobs side by side."""

    measured: list[Measured] = field(default_factory=list)
    per_gpu: int | None = None  # once it is decided
    gpu: Gpu | None = None  # where it is being found out
    since: dict[str, ProgressRecord] = field(default_factory=dict)  # of each job when all were training


class Sharing:
    """The GPUs of a cluster and the jobs on them. `say` shows a line."""

    def __init__(
        self, ray: Any, nodes: Sequence[Node], jobs: Sequence[Job], folder: Path, say: Callable[[str], None]
    ) -> None:
        """folder: of the jobs' records."""
        self.ray, self.folder, self.say = ray, folder, say
        having = [node for node in nodes if node.gpus >= 1]
        cpus = min(int(node.cpus / node.gpus) for node in having)
        memory_gb = min(node.memory_gb / node.gpus for node in having)
        self.beside = Node(  # each GPU, at least what one job asks for
            gpus=0,
            cpus=max(cpus, *(job.resources.cpus for job in jobs)),
            memory_gb=max(memory_gb, *(job.resources.memory_gb for job in jobs)),
        )
        bundle = {"GPU": 1, "CPU": self.beside.cpus, "memory": int(self.beside.memory_gb * GB)}
        count = min(sum(int(node.gpus) for node in having), len(jobs))
        self.gpus = [Gpu(ray.util.placement_group([bundle])) for _ in range(count)]
        self.trials: dict[str, Trial] = {job.model: Trial() for job in jobs}

    def place(self, job: Job) -> Any:
        """Ray's placement group for a job that may begin now; None where it has to wait."""
        trial = self.trials[job.model]
        gpus = [gpu for gpu in self.gpus if gpu.is_there and len(gpu.jobs) < self._room(gpu, job)]
        if not gpus:
            return None
        gpu = min(gpus, key=lambda gpu: len(gpu.jobs))
        gpu.jobs[job.name] = job
        if trial.gpu is None and not is_alone(job):
            trial.gpu = gpu
        if trial.gpu is gpu:
            trial.since = {}
        record_path(self.folder, job).unlink(missing_ok=True)  # of an earlier attempt
        return gpu.group

    def _room(self, gpu: Gpu, job: Job) -> int:
        """How many jobs like this one a GPU may hold now."""
        trial = self.trials[job.model]
        others = gpu.jobs.values()
        if is_alone(job) or any(is_alone(other) or other.model != job.model for other in others):
            return 0 if others else 1
        if trial.per_gpu is not None:
            return trial.per_gpu
        return len(trial.measured) + 1 if gpu is trial.gpu else 1

    def ended(self, job: Job, no_memory: bool) -> None:
        """Take note that a job does not run any more, and whether memory ran out."""
        trial = self.trials[job.model]
        gpu = next(gpu for gpu in self.gpus if gpu.jobs.pop(job.name, None))
        if trial.gpu is gpu:
            trial.since = {}
            trial.gpu = gpu if gpu.jobs else None
        if no_memory and not is_alone(job) and (trial.per_gpu or 2) > 1:
            self._settle(job.model, max(len(gpu.jobs), 1), f"{job.name} ran out of memory")

    def stranded(self) -> list[str]:
        """Names of the jobs that wait for a GPU whose node was lost, perhaps for ever."""
        jobs = [job for gpu in self.gpus if not gpu.is_there for job in gpu.jobs.values()]
        return [job.name for job in jobs if not record_path(self.folder, job).exists()]

    def look(self) -> None:
        """See which GPUs are there, measure what runs on them, and decide."""
        table = self.ray.util.placement_group_table()
        for gpu in self.gpus:
            gpu.is_there = table.get(gpu.group.id.hex(), {}).get("state") == "CREATED"
        for model, trial in self.trials.items():
            if trial.per_gpu is None and trial.gpu and len(trial.gpu.jobs) > len(trial.measured):
                self._measure(model, trial, list(trial.gpu.jobs.values()))

    def _measure(self, model: str, trial: Trial, jobs: Sequence[Job]) -> None:
        now = {job.name: record for job in jobs if (record := self._progress(job))}
        if len(now) < len(jobs):
            return
        trial.since = trial.since or now
        seconds = {name: record.time - trial.since[name].time for name, record in now.items()}
        if max(seconds.values()) < TRIAL:
            return
        photos = {name: record.photos - trial.since[name].photos for name, record in now.items()}
        if min(seconds.values()) < TRIAL / 2 or min(photos.values()) < 0:  # one predicts, or began anew
            trial.since = {}
            return
        rate = sum(photos[name] / seconds[name] for name in now)
        trial.measured.append(Measured(rate, tuple(record.memory for record in now.values())))
        trial.since = {}
        (most,) = most_processes(replace(jobs[0].resources, gpus=0), [self.beside])
        decision = decide(trial.measured, most)
        if decision.is_final:
            self._settle(model, decision.jobs, decision.reason)
        else:
            self.say(f"GPUS=auto: {model}: {_rates(trial)}; trying {decision.jobs}")

    def _settle(self, model: str, jobs: int, reason: str) -> None:
        trial = self.trials[model]
        trial.per_gpu = jobs
        known = f"{_rates(trial)}; " if trial.measured else ""
        self.say(f"GPUS=auto: {model}: {known}{reason}: {jobs} per GPU")

    def _progress(self, job: Job) -> ProgressRecord | None:
        """Where the training of a running job stands; None before its first steps."""
        attempt = read_whole(record_path(self.folder, job), AttemptRecord)
        progress = read_whole(job.run / PROGRESS, ProgressRecord)
        if not attempt or attempt.ended or not progress or progress.time < attempt.began:
            return None
        return progress


def _rates(trial: Trial) -> str:
    rates = [f"{n} job{'s' if n > 1 else ''} {m.rate:.1f}" for n, m in enumerate(trial.measured, 1)]
    return f"photos per second of {', '.join(rates)}"
