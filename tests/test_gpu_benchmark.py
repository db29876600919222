"""The benchmark of a GPU: what its table is made of, and that it fits our own training and prediction."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ours
from benchmarks.gpu.busy import Busy
from benchmarks.gpu.limit import training
from benchmarks.gpu.results import Results
from benchmarks.gpu.timeline import Epoch, Timeline, together
from pipeline import folds
from pipeline.data import demo
from pipeline.data.models import Overrides
from pipeline.paths import PROJECT
from pipeline.training.reading import EpochBatches


def test_the_table_survives_a_cut_off_and_says_what_is_missing(tmp_path: Path) -> None:
    results = Results(tmp_path / "runs" / "a.jsonl")
    results.add("train m, 48 photos an epoch", "ours", ours=90.0, busy=0.5, validation=1.5, outside=0.25)
    results.add("train m, 48 photos an epoch", "limit", limit=100.0)
    results.add("predict m, 2 views", "theirs", theirs=30.0, batch=8)
    with open(results.path, "a") as file:
        file.write('{"row": "predict m, 2 vi')
    again = Results(results.path)
    assert again.has("predict m, 2 views", "theirs") and not again.has("predict m, 2 views", "ours")
    again.add("predict m, 2 views", "ours", ours=45.0)
    title, train, predict = Results(results.path).table()
    assert title.split() == [
        "limit",
        "ours",
        "theirs",
        "ours/limit",
        "ours/theirs",
        "busy",
        "GiB",
        "val",
        "s",
        "outside",
        "s",
    ]
    assert train.split()[6:] == ["100.0", "90.0", "-", "0.90", "-", "50%", "-", "1.50", "0.25"]
    assert predict.split()[4:] == ["-", "45.0", "30.0", "-", "1.50", "-", "-", "-", "-"]


def test_seconds_outside_training_are_what_is_neither_step_nor_validation(tmp_path: Path) -> None:
    first = Epoch([3.0, 4.0, 5.0], validated=7.0, ended=7.5)
    second = Epoch([9.0, 10.0, 11.0], validated=13.0, ended=14.0)
    line = Timeline(1.0, [first, second])
    path = tmp_path / "timeline.json"
    path.write_text(json.dumps({"began": 1.0, "epochs": [vars(first), vars(second)], "memory": 0}))
    assert Timeline.read(path) == line
    assert line.step() == 1.0 and line.validation() == 2.0
    assert line.outside() == pytest.approx((9.0 - 1.0 - 7.0 + 1.0) / 2)
    assert together([line], 6) == pytest.approx(12 / 13)
    later = Timeline(2.0, [Epoch([4.0, 5.0, 6.0], 7.0, 8.0)])
    # From 4, when both train, to 8, when one has ended: steps at 5 of the one, at 5 and 6 of the other.
    assert together([line, later], 6) == pytest.approx(3 * 2 / 4)


def test_the_share_of_time_in_which_a_gpu_is_busy() -> None:
    busy = Busy()
    for at, line in enumerate(["0, 100", "50, 2048\n", "100, 1024", "[N/A], 5000", "7"]):
        busy.take(line, float(at))
    assert busy.between(1.0, 9.0) == {"busy": 0.75, "memory": 2.0}
    assert busy.between(8.0, 9.0) == {}


@pytest.mark.parametrize("model", ["yolov5n", "faster_rcnn_tiny", "tv_ssdlite320"])
def test_a_resident_batch_is_trained_on_by_every_framework(model: str, home: Path) -> None:
    demo.generate(home / "data" / "demo", n_train=8, n_test=1, size=64, processes=2)
    folds.main(["--competition", "demo", "--k", "2"])
    job = ours.plan_of(model, Overrides(2, 64, 2), "cpu").job
    assert training(job, 0.01)["rate"] > 0
    assert not list(job.run.rglob("checkpoints/*")), "it took no checkpoint"
    assert len(EpochBatches(5, 2, 0, 0, 1)) == 3, "a later training has epochs of its own"


def test_the_command_says_what_it_takes() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--budget" in done.stdout, done.stderr
