"""Stands for a training in tests of what runs trainings: an epoch is a moment, a checkpoint a number.

    python fake_stage.py RUN EPOCHS SECONDS [kill|error|memory]

Writes RUN/work/epoch.json after each epoch, goes on from it, and ends with RUN/result.json. It takes the
run's lock as a training does, and notes in RUN/starts when it began. `kill` dies by SIGKILL after its
first epoch, each time; `error` raises; `memory` runs out of it in its third epoch when others may be on its
GPU. It learns from 100 photos a second, however busy the machine, says that it takes FAKE_MEMORY of a GPU,
and goes on after its epochs until there is a file FAKE_HOLD.
"""

import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

from pipeline.data.runs import only_one
from pipeline.errors import NoMemoryError
from pipeline.paths import write_json
from pipeline.training.job import SHARED_GPU


def main(run: Path, epochs: int, seconds: float, trouble: str = "") -> None:
    with only_one(run, wait=30):
        run.mkdir(parents=True, exist_ok=True)
        path = run / "work" / "epoch.json"
        state = (
            json.loads(path.read_text())
            if path.is_file()
            else {"epoch": 0, "value": zlib.crc32(run.name.encode())}
        )
        began, hold = time.time(), os.environ.get("FAKE_HOLD")
        with open(run / "starts", "a") as file:
            file.write(f"{state['epoch']}\n")
        if trouble == "error":
            raise ValueError("no such layer")
        while state["epoch"] < epochs or (hold and not Path(hold).exists()):
            time.sleep(seconds)
            state = {"epoch": state["epoch"] + 1, "value": zlib.crc32(f"{state}".encode())}
            write_json(path, state)
            now = time.time()
            write_json(
                run / "work" / "progress.json",
                {
                    "epoch": state["epoch"],
                    "epochs": epochs,
                    "loss": 1.0,
                    "map50": 0.5,
                    "left": 0.0,
                    "device": "cpu",
                    "time": now,
                    "photos": round(100 * (now - began)),
                    "memory": float(os.environ.get("FAKE_MEMORY", "0")),
                },
            )
            if trouble == "memory" and state["epoch"] == 3 and SHARED_GPU in os.environ:
                raise SystemExit(NoMemoryError.status)
            if trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        write_json(run / "result.json", state)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
