"""What a training does about its own trouble: a loss that is not finite, GPU memory that runs out.

Both go back to the newest whole checkpoint. Out of memory, each batch goes through the network in twice
as many parts whose gradients are added up, so that the learning rate and its schedule stay right. After a
loss that is not finite the learning rate is halved, once; the second time the training gives up.
What was decided is kept in the run's scratch folder, so that a killed training goes on with it.
"""

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.paths import write_json

FILE = "recovery.json"
# What a GPU says, besides OutOfMemoryError, when its libraries find no memory.
MEMORY_WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
)


class LossNotFiniteError(PipelineError):
    """A loss or a weight became NaN or infinite; raised by backends at the step or epoch where it shows."""


@dataclass(frozen=True)
class Recovery:
    """How a training departs from its config: parts of a batch, and what the learning rate is times."""

    parts: int = 1
    lr_factor: float = 1.0

    def photos_at_once(self, batch: int) -> int:
        return -(-batch // self.parts)


def read_recovery(work: Path) -> Recovery:
    path = work / FILE
    return Recovery(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Recovery()


def recovering(name: str, work: Path, batch: int, attempt: Callable[[Recovery], None]) -> dict[str, Any]:
    """Call `attempt` until it returns; each time it starts from the newest checkpoint in `work`.

    batch: photos a step and device. Returns what was decided on the way, as the card records it. Raises
    PipelineError when the remedies are used up.
    """
    while True:
        recovery = read_recovery(work)
        try:
            attempt(recovery)
            return asdict(recovery)
        except LossNotFiniteError as error:
            if recovery.lr_factor < 1:
                raise PipelineError(
                    f"{error}; again, with half the learning rate: gave up. Lower it in the config and "
                    "train anew with OVERWRITE=1"
                ) from None
            decided = replace(recovery, lr_factor=recovery.lr_factor / 2)
            said = f"{error}; going on from the last good checkpoint with half the learning rate"
        except RuntimeError as error:  # OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0][:150]
            if recovery.parts >= batch:
                raise PipelineError(
                    f"{name}: out of GPU memory with one photo at a time; lower IMAGE_SIZE= or take a "
                    f"larger GPU ({reason})"
                ) from None
            decided = replace(recovery, parts=min(recovery.parts * 2, batch))
            said = (
                f"{name}: out of GPU memory; going on with {decided.photos_at_once(batch)} photos at a "
                f"time instead of {recovery.photos_at_once(batch)}, their gradients added up over "
                f"{decided.parts} parts a step ({reason})"
            )
        print(said, flush=True)
        write_json(work / FILE, asdict(decided))
        gc.collect()  # the failed attempt's tensors; its frames went with the exception
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in MEMORY_WORDS)


@contextlib.contextmanager
def scaled_lr(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Let one optimizer step use `factor` times the learning rates, and put them back exactly."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def check_weights(name: str, epoch: int, state: dict[str, Any]) -> None:
    """Raise LossNotFiniteError when a state dict is not fit to be a checkpoint. `epoch` counts from 1."""
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise LossNotFiniteError(f"{name}: weights '{key}' are not finite after epoch {epoch}")
