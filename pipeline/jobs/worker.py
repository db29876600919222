"""What runs on a node: commands of one job, one after the other, with their output in its log."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from pipeline.data.records import Record, write_record
from pipeline.errors import LostProcessError, NoMemoryError
from pipeline.jobs.job import Command, Job, Outcome
from pipeline.paths import PROJECT
from pipeline.processes import finish, start, thread_limits

TAIL = 64 * 1024  # bytes of a log that are searched for the reason of a failure


class AttemptRecord(Record):
    """<job>.json beside its log: where an attempt runs, and since when (seconds of the wall clock)."""

    attempt: int  # from 1
    state: str  # of the command that runs, or "ended"
    node: str  # name of the machine
    node_id: str  # Ray's
    pid: int
    gpus: tuple[str, ...]  # that the commands hold; none while processes of a training have them
    began: float
    ended: float | None = None


def log_path(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.log"


def record_path(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.json"


def work(job: Job, step: int, folder: Path, attempt: int, node_id: str, gpus: tuple[str, ...]) -> Outcome:
    """Run the commands of a step. `folder` holds logs and records; node_id and gpus are where Ray put it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = AttemptRecord(
        attempt=attempt,
        state="",
        node=socket.gethostname(),
        node_id=node_id,
        pid=os.getpid(),
        gpus=gpus,
        began=time.time(),
    )
    outcome = Outcome(True)
    for command in job.steps[step]:
        write_record(record_path(folder, job), record.model_copy(update={"state": command.state}))
        outcome = _run(job, command, log_path(folder, job), attempt)
        if not outcome.ok:
            break
    if not outcome.ok or step == len(job.steps) - 1:
        end = {"state": "ended", "ended": time.time()}
        write_record(record_path(folder, job), record.model_copy(update=end))
    return outcome


def _run(job: Job, command: Command, path: Path, attempt: int) -> Outcome:
    """Run a command with its output at the end of a log."""
    limits = thread_limits(job.resources.each.cpus)
    environment = os.environ | limits | job.environment | {"PYTHONUNBUFFERED": "1"}
    with open(path, "ab") as log:
        arguments = " ".join(command.arguments)
        log.write(f"\n--- attempt {attempt}, {time.strftime('%F %T')}: {arguments}\n".encode())
        log.flush()
        before = log.tell()
        status = finish(start([sys.executable, *command.arguments], log, cwd=PROJECT, env=environment))
    return failure(job.state(command.state), status, path, before) if status else Outcome(True)


def failure(state: str, status: int, log: Path, begin: int) -> Outcome:
    """The outcome of a command that ended with a status: by a signal it was killed, else it says why."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return Outcome(False, lost=True, reason=f"{state}: killed by {name}{hint}")
    with open(log, "rb") as file:
        file.seek(max(begin, log.stat().st_size - TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = errors[-1] if errors else lines[-1] if lines else f"ended with status {status}"
    no_memory = status == NoMemoryError.status
    return Outcome(False, no_memory or status == LostProcessError.status, no_memory, f"{state}: {reason}")
