"""Stands for a training in several processes: really started, a real meeting over gloo, epochs of a moment.

    python fake_nodes.py RUN EPOCHS SECONDS PROCESSES NODES [error|mistake]

As a job's first command it has the pipeline start the processes; these call `fit`, and add up their ranks in
each epoch. The first writes RUN/work/epoch.json, from which all go on, and every process notes in RUN/rank<i>
where it is. In the end there is RUN/result.json. The last word has the last process raise
in its third epoch.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline import cli
from pipeline.data.models import ModelConfig, Overrides
from pipeline.data.run_card import RecoveryNote
from pipeline.data.runs import only_one
from pipeline.errors import PipelineError
from pipeline.paths import write_json
from pipeline.training.job import PhotoSet, TrainJob
from pipeline.training.processes import fit_in_processes


def fake_job(run: Path, gpus: int, nodes: int = 1) -> TrainJob:
    none = PhotoSet(pd.DataFrame(), pd.DataFrame(), [])
    model = ModelConfig("fake", "none", run)
    return TrainJob(model, run, (), none, none, frozenset(), Overrides(), "cpu", 0, 0, gpus, nodes)


def fit(epochs: int, seconds: float, trouble: str, job: TrainJob, note: RecoveryNote, rank: int) -> None:
    import ray
    import torch

    place = [os.environ[key] for key in ("LOCAL_RANK", "WORLD_SIZE")]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    with open(job.run / f"rank{rank}", "a") as file:
        node = ray.get_runtime_context().get_node_id()
        file.write(" ".join([*place, gpus, node, str(os.getpid())]) + "\n")
    path = job.work / "epoch.json"
    state = json.loads(path.read_text()) if path.is_file() else {"epoch": 0, "sum": 0}
    print(f"rank {rank} goes on from epoch {state['epoch']}")
    torch.distributed.barrier()  # all have read it
    while state["epoch"] < epochs:
        time.sleep(seconds)
        if trouble and state["epoch"] == 2 and rank == job.gpus - 1:
            raise {"error": ValueError, "mistake": PipelineError}[trouble]("no such layer")
        value = torch.tensor([rank + state["epoch"]])
        torch.distributed.all_reduce(value)
        state = {"epoch": state["epoch"] + 1, "sum": state["sum"] + int(value)}
        if rank == 0:
            write_json(path, state)
            shown = {"epoch": state["epoch"], "epochs": epochs, "loss": 1.0, "map50": 0.5, "left": 0.0}
            write_json(job.work / "progress.json", shown | {"device": "cpu", "time": time.time()})


def main() -> None:
    run, (epochs, seconds, gpus, nodes), trouble = Path(sys.argv[1]), sys.argv[2:6], "".join(sys.argv[6:])
    job = fake_job(run, int(gpus), int(nodes))
    job.work.mkdir(parents=True, exist_ok=True)
    with only_one(run, wait=30):
        path = job.work / "epoch.json"
        with open(run / "starts", "a") as file:
            file.write(f"{json.loads(path.read_text())['epoch'] if path.is_file() else 0}\n")
        fit_in_processes(job, RecoveryNote(), partial(fit, int(epochs), float(seconds), trouble))
        write_json(run / "result.json", json.loads(path.read_text()))


if __name__ == "__main__":
    import fake_nodes  # the processes find its function there

    cli.run(fake_nodes.main)
