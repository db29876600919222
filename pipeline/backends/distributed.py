"""One training in several processes, a GPU each, through torch's launcher; see `launcher`.

That is the launcher of both frameworks: mmdet's dist_train.sh and ultralytics' `device=0,1` start their own
scripts with it. Ours starts `python -m pipeline.backends.distributed`, which calls the backend's `run_rank`.

The rule: BATCH= is photos a step and GPU, so N GPUs make a step of N times as many. mmdet then multiplies the
learning rate by (photos a step) / base_batch_size. ultralytics adds gradients up to steps of nbs = 64 photos
and, past that, steps with each batch; its loss is a sum over photos, which is the same linear rule.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.backends import launcher, load_backend
from pipeline.backends.base import TrainTask
from pipeline.backends.recovery import LossNotFiniteError, Recovery, is_out_of_memory
from pipeline.errors import PipelineError
from pipeline.paths import write_json
from pipeline.processes import die_with_parent

FAILURE = "failed-rank{rank}.json"


def launch(
    backend: str, task: TrainTask, recovery: Recovery, processes: int, nodes: int = 1, **spec: Any
) -> None:
    """Run a backend's `run_rank(task, recovery, **spec)` in several processes, shared out over the nodes;
    raises what one of them met."""
    held = {"run": str(task.run), "label": task.label, "device": task.device, "seed": task.seed}
    plan = {"parts": recovery.parts, "lr_factor": recovery.lr_factor}
    for old in task.work.glob(FAILURE.format(rank="*")):
        old.unlink()
    content = {"backend": backend, "task": held, "recovery": plan, "spec": spec}
    status = launcher.lead(task.work / launcher.SPEC, content, processes, nodes)
    if status:
        raise failure(task, status)


def failure(task: TrainTask, status: int) -> BaseException:
    """What the first of the failed processes wrote down, as the exception it was."""
    for path in sorted(task.work.glob(FAILURE.format(rank="*")), key=lambda path: path.stat().st_mtime_ns):
        said = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"loss": LossNotFiniteError, "mistake": PipelineError}
        return kinds.get(said["kind"], RuntimeError)(said["message"])
    return PipelineError(
        f"{task.label}: a process of {task.device} ended with status {status} and said nothing"
    )


def main() -> None:
    """One of the processes: RANK, LOCAL_RANK and WORLD_SIZE are in its environment."""
    die_with_parent()
    (path,) = sys.argv[1:]
    held = json.loads(Path(path).read_text(encoding="utf-8"))
    rank, local = int(os.environ["RANK"]), os.environ["LOCAL_RANK"]
    values = held["task"] | {"run": Path(held["task"]["run"])}
    if values["device"] != "cpu":
        values["device"] = f"cuda:{local}"
    task = TrainTask(**values)
    try:
        load_backend(held["backend"]).run_rank(task, Recovery(**held["recovery"]), **held["spec"])
    except Exception as error:  # handed to the process that started all of them, which raises it
        kind = "loss" if isinstance(error, LossNotFiniteError) else "other"
        kind = "mistake" if kind == "other" and isinstance(error, PipelineError) else kind
        message = (
            str(error) if kind != "other" or is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        )
        write_json(task.work / FAILURE.format(rank=rank), {"kind": kind, "message": message})
        raise


if __name__ == "__main__":
    main()
