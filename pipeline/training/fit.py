"""One training from its first weights to the best epoch's checkpoint, and what is done about trouble."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.records import Record, read_record, write_record
from pipeline.data.run_card import DetectorStart, RecoveryNote
from pipeline.errors import PipelineError, reason
from pipeline.inference.memory import release_memory
from pipeline.paths import atomic, shown
from pipeline.training.backend import Backend, load_backend
from pipeline.training.cache import photo_cache
from pipeline.training.checkpoints import BEST, LAST, save_tensors
from pipeline.training.job import TrainJob
from pipeline.training.pretrained import START
from pipeline.training.reading import ending_readers
from pipeline.training.recovery import recovering
from pipeline.training.session import RECORD, Session, checkpoints_of
from pipeline.training.staging import stage
from pipeline.training.weights import find_weights, weights_note

CONFIG = "config.json"
# What frameworks raise of options that they do not take; running out of memory is none of these.
REFUSALS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


class FirstWeights(Record):
    """first_weights.json in a run's scratch folder: what a training that is cut off goes on with."""

    found: dict[str, str | None]  # see `weights.find_weights`


@dataclass(frozen=True)
class Trained:
    """What a training leaves in the run's folder."""

    checkpoint: Path
    config: Path
    best_epoch: int  # from 1
    best_map50: float | None  # on the held-out photos; None without any, where the last epoch is taken
    pretrained: str  # where the first weights came from, or "from scratch"
    recovery: RecoveryNote  # how it departed from its config
    start: DetectorStart | None = None  # where that was a whole pretrained detector


def fit(job: TrainJob) -> Trained:
    """Train, or go on from the checkpoints in run/work of a training that was cut off."""
    backend = load_backend(job.model.backend)
    stage(job)
    backend.stage(job)
    job = replace(job, weights=_first_weights(backend, job))
    batch = backend.resolve(job.model, job.overrides).batch
    with photo_cache(job) as cache:
        note = recovering(job.model.name, job.work, batch, _attempt(replace(job, cache=cache)))
    return _export(backend, job, note)


def _attempt(job: TrainJob) -> Callable[[RecoveryNote], None]:
    if job.gpus == 1:
        return lambda note: fit_here(job, note)
    from pipeline.training.processes import fit_in_processes

    return lambda note: fit_in_processes(job, note)


def fit_here(job: TrainJob, note: RecoveryNote, rank: int = 0) -> None:
    """Train in this process, alone or as one of several whose process group is there already.

    Raises PipelineError where the framework refuses what the config says.
    """
    backend = load_backend(job.model.backend)
    with Session(job, note, backend.suffix, rank) as session, ending_readers():
        try:
            backend.fit(job, session)
        except REFUSALS as error:
            if session.begun:
                raise
            with open(session.log, "a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            raise PipelineError(
                f"{shown(job.model.path)}: {job.model.backend} cannot build it: {reason(error)}; where it "
                f"failed is in {shown(session.log)}"
            ) from None
    release_memory()  # of what a framework leaves in reference cycles


def _first_weights(backend: Backend, job: TrainJob) -> dict[str, str | None]:
    path = job.work / "first_weights.json"
    if path.is_file() and checkpoints_of(job.work, backend.suffix).newest(LAST):
        return dict(read_record(path, FirstWeights, "OVERWRITE=1 (--overwrite) trains anew").found)
    found = find_weights(backend, job.model.name, backend.wanted_weights(job))
    write_record(path, FirstWeights(found=found))
    return found


def _export(backend: Backend, job: TrainJob, note: RecoveryNote) -> Trained:
    checkpoints = checkpoints_of(job.work, backend.suffix)
    best = checkpoints.newest(BEST) or checkpoints.newest(LAST)
    assert best is not None, "a training ends with a checkpoint"
    held = backend.read_checkpoint(best)
    record = held[RECORD]
    checkpoint, config = job.run / f"best{backend.suffix}", job.run / CONFIG
    with atomic(checkpoint) as temporary:
        save_tensors(backend.exported(held), temporary)
    write_record(config, backend.saved_config(job))
    return Trained(
        checkpoint,
        config,
        record["epoch"],
        record["map50"],
        weights_note(dict(job.weights)),
        note,
        _start(job),
    )


def _start(job: TrainJob) -> DetectorStart | None:
    path = job.work / START
    return (
        read_record(path, DetectorStart, "OVERWRITE=1 (--overwrite) trains anew") if path.is_file() else None
    )
