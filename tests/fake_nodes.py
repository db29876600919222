"""Stands for a training on several nodes: real launchers, a real meeting over gloo, epochs of a moment.

    python fake_nodes.py RUN EPOCHS SECONDS PROCESSES NODES

As a job's first command it has the pipeline start the processes of all nodes; these are this module too, and
add their ranks up after each epoch. The first alone writes RUN/work/epoch.json, from which all go on, and
every process notes in RUN/ranks where it is. In the end there is RUN/result.json.
"""

import json
import os
import sys
import time
from pathlib import Path

from pipeline.paths import write_json


def first_command(run: Path, epochs: int, seconds: float, gpus: int, nodes: int) -> None:
    import pandas as pd

    from pipeline.data.models import ModelConfig, Overrides
    from pipeline.data.run_card import RecoveryNote
    from pipeline.data.runs import only_one
    from pipeline.training import launcher, processes
    from pipeline.training.job import PhotoSet, TrainJob

    launcher.RANKS = (__file__,)
    with only_one(run, wait=30):
        nothing = PhotoSet(pd.DataFrame(), pd.DataFrame(), [])
        wanted = Overrides(epochs, options={"seconds": seconds})
        model = ModelConfig("fake", "fake", run)
        job = TrainJob(
            model, run, (), nothing, nothing, frozenset(), wanted, "cpu", 0, 0, gpus=gpus, nodes=nodes
        )
        job.work.mkdir(parents=True, exist_ok=True)
        path = job.work / "epoch.json"
        with open(run / "starts", "a") as file:
            file.write(f"{json.loads(path.read_text())['epoch'] if path.is_file() else 0}\n")
        processes.fit_in_processes(job, RecoveryNote())
        write_json(run / "result.json", json.loads(path.read_text()))


def one_process(spec: Path) -> None:
    import pickle

    import torch

    from pipeline.processes import die_with_parent

    die_with_parent()
    job, _ = pickle.loads(Path(json.loads(spec.read_text())["job"]).read_bytes())
    run, epochs = job.run, job.overrides.epochs
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    with open(run / f"rank{rank}", "a") as file:
        place = [os.environ[key] for key in ("LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")]
        file.write(" ".join([*place, os.environ["CUDA_VISIBLE_DEVICES"], str(os.getpid())]) + "\n")
    path = run / "work" / "epoch.json"
    state = json.loads(path.read_text()) if path.is_file() else {"epoch": 0, "sum": 0}
    torch.distributed.barrier()  # all have read it
    while state["epoch"] < epochs:
        time.sleep(job.overrides.options["seconds"])
        value = torch.tensor([rank + state["epoch"]])
        torch.distributed.all_reduce(value)
        state = {"epoch": state["epoch"] + 1, "sum": state["sum"] + int(value)}
        if rank == 0:
            write_json(path, state)
            said = {
                "epoch": state["epoch"],
                "epochs": epochs,
                "loss": 1.0,
                "map50": 0.5,
                "left": 0.0,
                "device": "cpu",
                "time": time.time(),
            }
            write_json(run / "work" / "progress.json", said)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        one_process(Path(sys.argv[1]))
    else:
        first_command(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:6]))
