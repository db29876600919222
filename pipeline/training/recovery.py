"""What a training does about its own trouble: a loss that is not finite, GPU memory that runs out.

Both go back to the newest whole checkpoint. Out of memory, each batch goes through the network in twice
as many parts whose gradients are added up, so that the learning rate and its schedule stay right. After a
loss that is not finite the learning rate is halved, once; the second time the training gives up.
What was decided is kept in the run's scratch folder, so that a killed training goes on with it. Beside other
trainings on its GPU, one that is out of memory ends instead, to be tried alone.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.data.records import read_record, write_record
from pipeline.data.run_card import RecoveryNote
from pipeline.errors import NoMemoryError, PipelineError, reason
from pipeline.inference.memory import is_out_of_memory, release_memory
from pipeline.training.job import SHARED_GPU

FILE = "recovery.json"


class LossNotFiniteError(PipelineError):
    """A loss or a weight became NaN or infinite; raised by backends at the step or epoch where it shows."""


def read_recovery(work: Path) -> RecoveryNote:
    path = work / FILE
    if not path.is_file():
        return RecoveryNote()
    return read_record(path, RecoveryNote, "remove it, or train anew: OVERWRITE=1")


def recovering(name: str, work: Path, batch: int, attempt: Callable[[RecoveryNote], None]) -> RecoveryNote:
    """Call `attempt` until it returns; each time it starts from the newest checkpoint in `work`.

    batch: photos per step and device. Returns what was decided on the way. Raises
    PipelineError when the remedies are used up, NoMemoryError beside other trainings.
    """
    while True:
        recovery = read_recovery(work)
        try:
            attempt(recovery)
            return recovery
        except LossNotFiniteError as error:
            if recovery.lr_factor < 1:
                raise PipelineError(
                    f"{error}; again, with half the learning rate: gave up. Lower it in the config and "
                    "train anew with OVERWRITE=1"
                ) from None
            decided = recovery.model_copy(update={"lr_factor": recovery.lr_factor / 2})
            said = f"{error}; going on from the last good checkpoint with half the learning rate"
        except RuntimeError as error:  # OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            why = reason(str(error).splitlines()[0])
            if SHARED_GPU in os.environ:
                raise NoMemoryError(f"{name}: out of GPU memory beside other trainings ({why})") from None
            if recovery.parts >= batch:
                raise PipelineError(
                    f"{name}: out of GPU memory with one photo at a time; lower IMAGE_SIZE= or take a "
                    f"larger GPU ({why})"
                ) from None
            decided = recovery.model_copy(update={"parts": min(recovery.parts * 2, batch)})
            said = (
                f"{name}: out of GPU memory; going on with {decided.photos_at_once(batch)} photos at a "
                f"time instead of {recovery.photos_at_once(batch)}, their gradients added up over "
                f"{decided.parts} parts a step ({why})"
            )
        print(said, flush=True)
        write_record(work / FILE, decided)
        release_memory()  # of the failed attempt, whose frames went with the exception


def scale_steps(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Let each step of an optimizer use `factor` times its learning rates, unseen by its schedule."""
    rates: list[float] = []

    def before(*_: Any) -> None:
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    def after(*_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    if factor != 1:
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)


def check_weights(name: str, epoch: int, networks: Sequence[torch.nn.Module]) -> None:
    """Raise LossNotFiniteError when a network is not fit to be a checkpoint. `epoch` counts from 1.

    The host waits for the device once.
    """
    items = [item for network in networks for item in network.state_dict().items()]
    floats = [(key, value) for key, value in items if torch.is_tensor(value) and value.is_floating_point()]
    finite = torch.stack([torch.isfinite(value).all() for _, value in floats]).tolist()
    if not all(finite):
        key = floats[finite.index(False)][0]
        raise LossNotFiniteError(f"{name}: weights '{key}' are not finite after epoch {epoch}")
