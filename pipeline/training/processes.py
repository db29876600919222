"""One training in several processes, a GPU each, through torch's launcher; see `launcher`.

The rule: BATCH= is photos per step and GPU, so N GPUs make a step of N times as many. mmdet then multiplies
the learning rate by (photos per step) / base_batch_size. ultralytics adds gradients up to steps of nbs = 64
photos and, past that, steps with each batch; its loss is a sum over photos, which is the same linear rule.
"""

import json
import os
import pickle
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.data.run_card import RecoveryNote
from pipeline.errors import PipelineError
from pipeline.paths import atomic, write_json
from pipeline.processes import die_with_parent
from pipeline.training import launcher
from pipeline.training.fit import fit_here
from pipeline.training.job import TrainJob
from pipeline.training.recovery import LossNotFiniteError, is_out_of_memory

FAILURE = "failed-rank{rank}.json"
PATIENCE = 5.0  # seconds until what another node wrote is seen here


def fit_in_processes(job: TrainJob, note: RecoveryNote) -> None:
    """Run `fit_here` in several processes, shared out over the nodes; raises what one of them met."""
    for old in job.work.glob(FAILURE.format(rank="*")):
        old.unlink()
    launch = uuid.uuid4().hex
    with atomic(job.work / "job.pickle") as temporary:
        temporary.write_bytes(pickle.dumps((job, note)))
    content: dict[str, Any] = {"job": str(job.work / "job.pickle"), "launch": launch}
    status = launcher.lead(job.work / launcher.SPEC, content, job.gpus, job.nodes)
    if status:
        raise failure(job, status, launch)


def failure(job: TrainJob, status: int, launch: str) -> BaseException:
    """What a failed process wrote down, as the exception it was: rather a cause than that another went."""
    deadline = time.monotonic() + (PATIENCE if job.nodes > 1 else 0)
    while not (failures := _failures(job, launch)) and time.monotonic() < deadline:
        time.sleep(launcher.POLL)
    if failures:
        kinds = {"loss": LossNotFiniteError, "mistake": PipelineError}
        return kinds.get(failures[0]["kind"], RuntimeError)(failures[0]["message"])
    shared = f"; all nodes must share {job.run} and reach each other's ports" if job.nodes > 1 else ""
    return PipelineError(
        f"{job.label}: a process of {job.device} ended with status {status} and said nothing{shared}"
    )


def _failures(job: TrainJob, launch: str) -> list[dict[str, Any]]:
    """Of this start: causes before mere consequences, then in the order of their times."""
    rows = []
    for path in job.work.glob(FAILURE.format(rank="*")):
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated["launch"] == launch:
            consequence = stated["kind"] == "other" and not is_out_of_memory(RuntimeError(stated["message"]))
            rows.append((consequence, path.stat().st_mtime_ns, path.name, stated))
    return [stated for *_, stated in sorted(rows, key=lambda row: row[:3])]


def main() -> None:
    """One of the processes: RANK, LOCAL_RANK and WORLD_SIZE are in its environment."""
    import torch

    die_with_parent()
    (path,) = sys.argv[1:]
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    rank, local = int(os.environ["RANK"]), os.environ["LOCAL_RANK"]
    job, note = pickle.loads(Path(spec["job"]).read_bytes())
    if job.device != "cpu":
        job = replace(job, device=f"cuda:{local}")
    try:
        torch.distributed.init_process_group("gloo" if job.device == "cpu" else "nccl")
        fit_here(job, note, rank)
        torch.distributed.destroy_process_group()
    except Exception as error:  # handed to the process that started all of them, which raises it
        kind = "loss" if isinstance(error, LossNotFiniteError) else "other"
        kind = "mistake" if kind == "other" and isinstance(error, PipelineError) else kind
        message = (
            str(error) if kind != "other" or is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        )
        failed = {"kind": kind, "message": message, "launch": spec["launch"]}
        write_json(job.work / FAILURE.format(rank=rank), failed)
        raise


if __name__ == "__main__":
    main()
