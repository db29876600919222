"""The life of one training, whatever runs its loop: progress, checkpoints, resume, and the check for NaN.

A loop calls `begin` once, `begin_epoch` and `step` as it goes, and `end_epoch` when an epoch is trained and,
if it was its turn, validated. In several processes each has a session; the first one writes. Checkpoints are
copied to host memory and written while the next epoch runs.
"""

import contextlib
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from pipeline.data.run_card import RecoveryNote
from pipeline.errors import PipelineError
from pipeline.paths import shown
from pipeline.training.checkpoints import BEST, LAST, BackgroundWriter, Checkpoints, host_copy
from pipeline.training.job import TrainJob
from pipeline.training.progress import Progress
from pipeline.training.recovery import LossNotFiniteError, check_weights, scale_steps
from pipeline.training.seeds import reseed

RECORD = "session"  # key of a checkpoint under which the session keeps its own record
CHECK_STEPS = {"cpu": 1, "cuda": 50}  # steps between two looks at the losses; each makes the host wait


class Session:
    """One process's part in one training; as a context it ends when all checkpoints are written."""

    def __init__(self, job: TrainJob, recovery: RecoveryNote, suffix: str, rank: int = 0) -> None:
        self.job, self.recovery, self.rank = job, recovery, rank
        self.leads = rank == 0
        self.log = job.run / "train.log"
        self.checkpoints = checkpoints_of(job.work, suffix)
        self.writer = BackgroundWriter(self.checkpoints)
        self.begun = False  # all is built, and its first step comes next
        self.epoch = 0  # epochs that are done
        self.best = -1.0  # mAP50 of the best epoch so far
        self.improved = 0  # the last epoch that was better than those before, or not better than 0
        self.patience: int | None = None  # epochs without a better one until a training ends; 0: never
        self.terminal = sys.stdout
        self.progress: Progress | None = None
        self.ending = contextlib.ExitStack()  # puts back what a loop changed in its framework
        self._check_every = CHECK_STEPS[job.device.partition(":")[0]]
        self._losses: list[float] = []  # of this epoch's steps, looked at
        self._waiting: list[Tensor] = []  # of the steps since, on the device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.ending.close()
        self.writer.close()
        if self.progress:
            self.progress.close()
        if kind is None:
            self.writer.wait()

    def take_log(self, logger: logging.Logger) -> None:
        """Until the session ends a framework's messages go to the run's log, those of the first process."""
        handler = logging.FileHandler(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handler.setLevel(logging.INFO if self.leads else logging.ERROR)
        self.ending.callback(logger.setLevel, logger.level)
        self.ending.callback(setattr, logger, "handlers", logger.handlers)
        self.ending.callback(handler.close)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)

    def last(self) -> Path | None:
        """The checkpoint to go on from; the loop reads it and calls `resume` with what it holds."""
        return self.checkpoints.newest(LAST)

    def resume(self, checkpoint: Mapping[str, Any], *parts: str) -> None:
        """Go on after the epoch that a checkpoint holds, with the parts that the loop takes from it.

        Raises PipelineError for one of an older version, or that lacks a part.
        """
        try:
            if empty := [part for part in parts if not checkpoint[part]]:
                raise KeyError(empty[0])
            record = checkpoint[RECORD]
            self.epoch, self.best = int(record["epoch"]), float(record["best"])
            self.improved = int(record.get("improved", self.epoch))
        except (KeyError, TypeError, ValueError):
            raise PipelineError(
                f"{shown(self.checkpoints.folder)}: damaged checkpoints, or of another version of this "
                "pipeline; OVERWRITE=1 (--overwrite) trains anew"
            ) from None

    def begin(self, epochs: int, steps_per_epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Show progress from here on, and let the optimizer's steps be as small as recovery decided."""
        scale_steps(optimizer, self.recovery.lr_factor)
        self.begun = True
        if self.leads:
            self.progress = Progress(
                self.job, epochs, steps_per_epoch, self.epoch, self._memory, self.terminal
            )

    def _memory(self) -> float:
        """The largest share of the device's memory that this process has reserved so far; 0 on a CPU."""
        if self.job.device == "cpu":
            return 0.0
        total = torch.cuda.get_device_properties(self.job.device).total_memory
        return torch.cuda.max_memory_reserved(self.job.device) / total

    @property
    def ends_early(self) -> bool:
        """Whether as many epochs as `patience` says were no better than the best one."""
        return 0 < (self.patience or 0) <= self.epoch - self.improved

    def begin_epoch(self) -> int:
        """Seed Python, NumPy and torch for the epoch that begins; returns the seed."""
        self._losses, self._waiting = [], []
        return reseed(self.job.seed, self.epoch, self.rank)

    def step(self, losses: Tensor | Mapping[str, Tensor]) -> None:
        """Take note of a step's loss: a tensor of one value, or several that are added up.

        On a GPU nothing waits for the device but every 50th step. Raises LossNotFiniteError, and OSError
        where a checkpoint could not be written.
        """
        self.writer.check()
        loss = sum(losses.values()) if isinstance(losses, Mapping) else losses
        self._waiting.append(torch.as_tensor(loss).detach().reshape(()))
        if len(self._waiting) >= self._check_every:
            self._check_losses()
        if self.progress:
            self.progress.step(self._losses[-1] if self._losses else math.nan)

    def _check_losses(self) -> None:
        if not self._waiting:
            return
        values = torch.stack(self._waiting).tolist()
        first = len(self._losses) + 1
        self._waiting = []
        for step, value in enumerate(values, first):
            if not math.isfinite(value):
                raise LossNotFiniteError(
                    f"{self.job.label}: loss is {value} at epoch {self.epoch + 1}, step {step}"
                )
        self._losses += values

    def end_epoch(
        self,
        map50: float | None,
        networks: Sequence[nn.Module],
        state: Callable[[bool], dict[str, Any]],
    ) -> None:
        """Record an epoch: history, and the checkpoint to go on from; the best one where it is the best.

        map50: on the held-out photos, None for an epoch without validation; without held-out photos it counts
        for nothing. networks: checked to be finite.
        state(whole) makes the checkpoint: with all that resuming needs, or with the weights alone. Its
        tensors, mappings and lists may change afterwards, its other objects must not. Raises as `step`.
        """
        self._check_losses()
        self.epoch += 1
        loss = sum(self._losses) / max(len(self._losses), 1)
        if not self.job.held_out.photos:
            map50 = None
        is_best = map50 is not None and map50 > self.best
        if is_best or self.best <= 0:
            self.improved = self.epoch
        self.best = self.best if map50 is None else max(self.best, map50)
        if not self.leads:
            return
        check_weights(self.job.label, self.epoch, networks)
        self.writer.wait()  # before there are copies of another epoch in memory
        if self.progress:
            self.progress.end_epoch(loss, map50)
        kinds = [BEST, LAST] if is_best else [LAST]
        record = {"epoch": self.epoch, "map50": map50, "best": self.best, "improved": self.improved}
        self.writer.write(
            self.epoch, {kind: host_copy(state(kind == LAST)) | {RECORD: record} for kind in kinds}
        )


def checkpoints_of(work: Path, suffix: str) -> Checkpoints:
    """The checkpoints in a run's scratch folder."""
    return Checkpoints(work / "checkpoints", suffix)
