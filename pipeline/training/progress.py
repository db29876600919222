"""How far a training is: a bar, a line and a row of history.csv an epoch, and a file for those who watch."""

import csv
import io
import math
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from pipeline.data.records import Record, write_record
from pipeline.paths import write_text
from pipeline.training.job import TrainJob

HISTORY = "history.csv"
PROGRESS = "work/progress.json"  # below a run: where its training stands, for those who watch
PROGRESS_SECONDS = 3.0  # between two writings of it


class ProgressRecord(Record):
    """progress.json: where a training stands."""

    epoch: int  # that are done
    epochs: int
    loss: float | None  # of the last step; None where it is not finite
    map50: float | None  # the best so far
    left: float  # seconds
    device: str
    time: float  # of writing, by the wall clock
    photos: int = 0  # that were learned from since the training began or went on
    memory: float = 0.0  # the largest share of its GPU's memory that it has reserved, 0 to 1


class Progress:
    """A bar over all steps of a training, one printed line and one row of history.csv an epoch."""

    def __init__(
        self,
        job: TrainJob,
        epochs: int,
        steps_per_epoch: int,
        start: int,
        memory: Callable[[], float],
        terminal: TextIO | None = None,
    ) -> None:
        """start: epochs that are done; memory: see `ProgressRecord`."""
        self.path, self.epochs, self.epoch = job.run / HISTORY, epochs, start
        self.watched, self.said, self.device = job.run / PROGRESS, 0.0, job.device
        self.memory, self.photos_per_step = memory, len(job.train.photos) / steps_per_epoch
        self.steps, self.done = steps_per_epoch, 0
        self.loss = math.nan
        self.terminal = terminal or sys.stdout
        self.began, self.start = time.monotonic(), start
        self.rows = self._rows_before(start)
        self.bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=start * steps_per_epoch,
            desc=job.label,
            unit="step",
            disable=None,
            dynamic_ncols=True,
            mininterval=0.5,
            file=sys.stderr,
        )
        self.label = job.label

    def _rows_before(self, start: int) -> list[dict[str, Any]]:
        """History of the epochs that the checkpoint holds; rows of a later, lost one are dropped."""
        if not self.path.is_file():
            return []
        with open(self.path, encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = [
                {k: float(v) if v else None for k, v in row.items()} | {"epoch": int(row["epoch"])}
                for row in csv.DictReader(file)
            ]
        return [row for row in rows if row["epoch"] <= start]

    def step(self, loss: float) -> None:
        self.done += 1
        self.loss = loss
        self._tell()
        self.bar.update()
        self.bar.set_postfix_str(f"epoch {self.epoch + 1}/{self.epochs} loss {loss:.3f}", refresh=False)

    def _tell(self) -> None:
        """Write where the training stands, every few seconds."""
        now = time.monotonic()
        if now - self.said < PROGRESS_SECONDS:
            return
        self.said = now
        ahead = (self.epochs - self.start) * self.steps - self.done
        scores = [row["map50"] for row in self.rows if row["map50"] is not None]
        record = ProgressRecord(
            epoch=self.epoch,
            epochs=self.epochs,
            loss=_finite(self.loss),
            map50=max(scores, default=None),
            left=round(ahead * (now - self.began) / self.done, 1),
            device=self.device,
            time=time.time(),
            photos=round(self.done * self.photos_per_step),
            memory=round(self.memory(), 4),
        )
        write_record(self.watched, record)

    def end_epoch(self, loss: float, map50: float | None) -> None:
        """Record the epoch that has just ended; `map50` is None when it was not validated.

        Called before the epoch's checkpoint is written: after a kill between the two the row is dropped
        and the epoch done again.
        """
        self.epoch += 1
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "loss": round(loss, 5),
            "map50": None if map50 is None else round(map50, 5),
            "seconds": round(time.monotonic() - self.began, 1),
        }
        self.rows.append(row)
        self.loss, self.said = loss, 0.0
        self._tell()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
        scored = "" if map50 is None else f"  mAP50 {map50:.3f}"
        tqdm.write(
            f"{self.label}: epoch {self.epoch}/{self.epochs}  loss {loss:.3f}{scored}",
            file=self.terminal,
        )
        self.terminal.flush()

    def close(self) -> None:
        self.bar.close()


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
