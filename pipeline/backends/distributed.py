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
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline.backends import launcher, load_backend
from pipeline.backends.base import TrainTask
from pipeline.backends.recovery import LossNotFiniteError, Recovery, is_out_of_memory
from pipeline.errors import PipelineError
from pipeline.paths import write_json
from pipeline.processes import die_with_parent

FAILURE = "failed-rank{rank}.json"
PATIENCE = 5.0  # seconds until what another node wrote is seen here


def launch(
    backend: str, task: TrainTask, recovery: Recovery, processes: int, nodes: int = 1, **spec: Any
) -> None:
    """Run a backend's `run_rank(task, recovery, **spec)` in several processes, shared out over the nodes;
    raises what one of them met."""
    held = {"run": str(task.run), "label": task.label, "device": task.device, "seed": task.seed}
    plan = {"parts": recovery.parts, "lr_factor": recovery.lr_factor}
    for old in task.work.glob(FAILURE.format(rank="*")):
        old.unlink()
    content: dict[str, Any] = {
        "backend": backend,
        "task": held,
        "recovery": plan,
        "spec": spec,
        "launch": uuid.uuid4().hex,
    }
    status = launcher.lead(task.work / launcher.SPEC, content, processes, nodes)
    if status:
        raise failure(task, status, content["launch"], nodes)


def failure(task: TrainTask, status: int, launch: str, nodes: int = 1) -> BaseException:
    """What a failed process wrote down, as the exception it was: rather a cause than that another went."""
    deadline = time.monotonic() + (PATIENCE if nodes > 1 else 0)
    while not (said := _failures(task, launch)) and time.monotonic() < deadline:
        time.sleep(launcher.POLL)
    if said:
        kinds = {"loss": LossNotFiniteError, "mistake": PipelineError}
        return kinds.get(said[0]["kind"], RuntimeError)(said[0]["message"])
    shared = f"; all nodes must share {task.run} and reach each other's ports" if nodes > 1 else ""
    return PipelineError(
        f"{task.label}: a process of {task.device} ended with status {status} and said nothing{shared}"
    )


def _failures(task: TrainTask, launch: str) -> list[dict[str, Any]]:
    """Of this start: causes before mere consequences, then in the order of their times."""
    found = []
    for path in task.work.glob(FAILURE.format(rank="*")):
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["launch"] == launch:
            consequence = said["kind"] == "other" and not is_out_of_memory(RuntimeError(said["message"]))
            found.append((consequence, path.stat().st_mtime_ns, path.name, said))
    return [said for *_, said in sorted(found, key=lambda row: row[:3])]


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
        said = {"kind": kind, "message": message, "launch": held["launch"]}
        write_json(task.work / FAILURE.format(rank=rank), said)
        raise


if __name__ == "__main__":
    main()
