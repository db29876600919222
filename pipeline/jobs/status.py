"""The status of all jobs: the state file, which programs read, and the live table, which people do."""

import contextlib
import csv
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.data.records import AnyRecord, read_record, write_record
from pipeline.data.run_card import RunCard
from pipeline.errors import PipelineError
from pipeline.jobs.job import Job
from pipeline.jobs.worker import AttemptRecord, log_path, record_path
from pipeline.paths import CARD, shown
from pipeline.training.progress import HISTORY, PROGRESS, ProgressRecord

STATE = "state.json"
STYLES = {"done": "green", "failed": "bold red", "retrying": "yellow", "waiting": "dim", "stopped": "yellow"}
ENDS = ("done", "failed", "stopped")


@dataclass
class JobStatus:
    """One job in the state file; `left` is in seconds, times are of the wall clock."""

    model: str
    fold: int | str
    log: str
    state: str = "waiting"
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    map50: float | None = None
    left: float | None = None
    device: str = ""
    reason: str = ""
    attempts: list[dict[str, Any]] = field(default_factory=list)  # node, pid, gpus, began, ended, reason


class StatusTable:
    """Keeps the state file up to date and shows it: a table on a terminal, else a line for each change.

    finished: jobs that have nothing left to do and are in the state file all the same.
    """

    def __init__(
        self, jobs: Sequence[Job], folder: Path, finished: Sequence[Job] = (), seconds: float = 2.0
    ) -> None:
        self.jobs, self.folder, self.seconds = list(jobs), folder, seconds
        self.statuses = {
            job.name: JobStatus(job.model, job.fold, str(log_path(folder, job))) for job in [*finished, *jobs]
        }
        for job in finished:
            self.statuses[job.name].state = "done"
            self._read_card(job, self.statuses[job.name])
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False, transient=False)
        self.looked, self.shown_lines = 0.0, {job.name: "" for job in self.jobs}
        for job in self.jobs:  # of an earlier command
            record_path(folder, job).unlink(missing_ok=True)

    def __enter__(self) -> "StatusTable":
        if self.console.is_terminal:
            self.live.start()
        self.save()
        return self

    def __exit__(self, *error: object) -> None:
        for status in self.statuses.values():
            if status.state not in ENDS:
                status.state = "stopped"
                self._close_attempt(status, "stopped")
        self.show()
        self.save()
        if self.console.is_terminal:
            self.live.stop()

    def report(self, job: Job, state: str, reason: str) -> None:
        """Take note of a change that the cluster tells; see `run_jobs`."""
        status = self.statuses[job.name]
        self._read_record(job, status)
        if state in ("retrying", *ENDS):
            self._close_attempt(status, reason)
            status.left = None
        if state == "done":
            self._read_card(job, status)
        status.state, status.reason = state, reason
        self.show()
        self.save()

    def look(self) -> None:
        """Read what the running jobs say of themselves, every few seconds."""
        if time.monotonic() - self.looked < self.seconds:
            return
        self.looked = time.monotonic()
        for job in self.jobs:
            status = self.statuses[job.name]
            if status.state not in ENDS:
                self._read_record(job, status)
                self._read_progress(job, status)
        self.show()
        self.save()

    def _read_record(self, job: Job, status: JobStatus) -> None:
        if (record := read_whole(record_path(self.folder, job), AttemptRecord)) is None:
            return
        values = record.model_dump(mode="json", exclude={"state"})
        known = [attempt["attempt"] for attempt in status.attempts]
        if record.attempt not in known:
            status.attempts.append(values | {"reason": ""})
        elif status.attempts[-1]["ended"] is None:
            status.attempts[-1] |= values
        if record.state != "ended" and status.attempts[-1]["ended"] is None:
            status.state, status.reason = job.state(record.state), ""
            status.device = _device(job, record)

    def _read_progress(self, job: Job, status: JobStatus) -> None:
        """Epoch, loss and mAP50 of the training under way."""
        progress = read_whole(job.run / PROGRESS, ProgressRecord)
        if progress and status.attempts and progress.time >= status.attempts[-1]["began"]:  # of this attempt
            for key in ("epoch", "epochs", "loss", "map50", "left"):
                setattr(status, key, getattr(progress, key))

    def _read_card(self, job: Job, status: JobStatus) -> None:
        """Epochs, last loss and best mAP50 of a whole training."""
        if card := read_whole(job.run / CARD, RunCard):
            status.epoch = status.epochs = card.epochs
            status.map50 = card.framework_map50
        history = job.run / HISTORY
        if history.is_file():
            with open(history, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            status.loss = float(rows[-1]["loss"]) if rows else None

    @staticmethod
    def _close_attempt(status: JobStatus, reason: str) -> None:
        if status.attempts:
            attempt = status.attempts[-1]
            attempt["reason"] = reason
            attempt["ended"] = attempt["ended"] or time.time()

    def save(self) -> None:
        jobs = {name: asdict(status) for name, status in self.statuses.items()}
        write_record(self.folder / STATE, {"time": time.time(), "pid": os.getpid(), "jobs": jobs})

    def say(self, line: str) -> None:
        """Show a line that stays, above the table."""
        if self.console.is_terminal:
            self.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def show(self) -> None:
        if self.console.is_terminal:
            self.live.update(self.table(), refresh=True)
            return
        for name, shown_line in self.shown_lines.items():
            line = self.line(name, self.statuses[name])
            if line != shown_line:
                self.shown_lines[name] = line
                print(line)
        sys.stdout.flush()

    @staticmethod
    def line(name: str, status: JobStatus) -> str:
        """What changes from epoch to epoch, for output that is not a terminal."""
        parts = [f"{name}: {status.state}"]
        if status.state not in ("waiting", *ENDS) and status.epochs:
            parts.append(f"epoch {status.epoch}/{status.epochs}")
        if status.map50 is not None:
            parts.append(f"mAP50 {status.map50:.3f}")
        if status.state not in ENDS and status.device:
            parts.append(f"on {status.device}")
        if status.reason and status.state not in ENDS:  # the summary says those
            parts.append(f"({status.reason})")
        return "  ".join(parts)

    def table(self) -> Table:
        done = sum(status.state == "done" for status in self.statuses.values())
        table = Table(
            title=f"{done} of {len(self.statuses)} done", title_justify="left", box=None, pad_edge=False
        )
        for name in ("job", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("epoch", "loss", "mAP50", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("device", no_wrap=True)
        table.add_column("", overflow="fold")
        for name, s in self.statuses.items():
            again = f" ({len(s.attempts)})" if len(s.attempts) > 1 else ""
            state = f"[{STYLES.get(s.state, 'cyan')}]{s.state}{again}"
            epoch = f"{s.epoch}/{s.epochs}" if s.epochs else ""
            table.add_row(
                name, state, epoch, _number(s.loss), _number(s.map50), duration(s.left), s.device, s.reason
            )
        return table

    def summary(self) -> list[str]:
        """A line for each job that did not succeed, with the reason and its log."""
        return [
            f"{name}: {s.state}: {s.reason or 'not begun'} (log: {shown(Path(s.log))})"
            for name, s in self.statuses.items()
            if s.state != "done"
        ]


def read_whole(path: Path, model: type[AnyRecord]) -> AnyRecord | None:
    """A record, if there is a whole one: what is only shown stops no job."""
    with contextlib.suppress(PipelineError):
        return read_record(path, model, "")
    return None


def _device(job: Job, record: AttemptRecord) -> str:
    """What the running command is on; processes of a training are where Ray put them."""
    if record.gpus:
        return f"{record.node} gpu {','.join(record.gpus)}"
    return f"{job.resources.gpus:g} GPUs" if job.resources.processes > 1 else f"{record.node} cpu"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """12 s, 3 min, 2 h 05 min."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
