"""What runs on a node: the commands of one job, one after the other, with their output in its log."""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.jobs.job import Command, Job, Outcome
from pipeline.paths import PROJECT, write_json
from pipeline.processes import finish, start, thread_limits

TAIL = 64 * 1024  # bytes of a log that are searched for the reason of a failure


def log_path(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.log"


def record_path(folder: Path, job: Job) -> Path:
    """Where the worker says that it has begun, and where it is."""
    return folder / f"{job.name}.json"


def assistant_path(folder: Path, job: Job, node: int) -> Path:
    """Where a further node of a job says that it has begun, and which one it is."""
    return folder / f"{job.name}.node{node}.json"


def work(job: Job, folder: Path, attempt: int, place: dict[str, Any]) -> Outcome:
    """Run a job to its end. `folder` holds logs and records; `place` is where Ray put it: node_id, gpus."""
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "attempt": attempt,
        "node": socket.gethostname(),
        "pid": os.getpid(),
        **place,
        "began": time.time(),
        "ended": None,
    }
    outcome = Outcome(True)
    for command in job.commands:
        write_json(record_path(folder, job), record | {"state": command.state})
        outcome = _run(job, command, log_path(folder, job), attempt)
        if not outcome.ok:
            break
    write_json(record_path(folder, job), record | {"state": "ended", "ended": time.time()})
    return outcome


def assist(job: Job, folder: Path, attempt: int, token: str, node: int, node_id: str) -> Outcome:
    """Run a further node's processes of a job, with a log of their own, until stopped from outside.

    It never ends well by itself: whether the job did, its first node says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(assistant_path(folder, job, node), {"attempt": attempt, "node_id": node_id})
    arguments = ("-m", "pipeline.training.launcher", str(job.run / "work"), token, str(node))
    outcome = _run(job, Command(f"node {node}", arguments), folder / f"{job.name}.node{node}.log", attempt)
    return Outcome(False, lost=True, reason=f"node {node}: was stopped") if outcome.ok else outcome


def _run(job: Job, command: Command, path: Path, attempt: int) -> Outcome:
    """Run a command with its output at the end of a log."""
    limits = thread_limits(job.needs.share.cpus)
    environment = os.environ | limits | job.environment | {"PYTHONUNBUFFERED": "1"}
    with open(path, "ab") as log:
        said = " ".join(command.arguments)
        log.write(f"\n--- attempt {attempt}, {time.strftime('%F %T')}: {said}\n".encode())
        log.flush()
        before = log.tell()
        status = finish(start([sys.executable, *command.arguments], log, cwd=PROJECT, env=environment))
    return failure(command.state, status, path, before) if status else Outcome(True)


def failure(state: str, status: int, log: Path, begin: int) -> Outcome:
    """The outcome of a command that ended with a status: by a signal it was killed, else it says why."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return Outcome(False, lost=True, reason=f"{state}: killed by {name}{hint}")
    with open(log, "rb") as file:
        file.seek(max(begin, log.stat().st_size - TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = said[-1] if said else lines[-1] if lines else f"ended with status {status}"
    return Outcome(False, reason=f"{state}: {reason}")
