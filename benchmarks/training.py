"""Training and prediction beside the frameworks' own: `make bench-train MODEL=yolov5m IMAGE_SIZE=640`.

Training: images a second of `make train` and of the framework's plain command on the same photos and the
same config, each in a process of its own, alternating; from the first step to the last epoch's score, so
that checkpoints and validation count and imports do not. Prediction: images a second of our k views and of
the framework's own test-time augmentation with the same views, decoding, boxes and merging of views by
each as it does it, at the best of the framework's batch sizes, and on all cores, of which ultralytics by
itself leaves one out. The best round of each counts. Both start from scratch.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ours, theirs
from pipeline import cli, folds
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model
from pipeline.paths import PROJECT
from pipeline.training.backend import load_detector
from pipeline.training.fold import Plan
from pipeline.training.job import TrainJob

# Trained where no model is named; others take their config's sizes, or IMAGE_SIZE= and BATCH=.
SIZES = {"faster_rcnn_tiny": (192, 8), "yolov5n": (192, 8)}
VIEWS = {"mmdet": 2, "ultralytics": 3}  # of the framework's own augmentation
BATCHES = (1, 4, 8, 16)


def train_ours(job: TrainJob) -> float:
    """Seconds of our command."""
    command = [sys.executable, "-m", "pipeline.train", *ours.arguments(job)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run(command, cwd=PROJECT, check=False, env=os.environ | ours.NO_DOWNLOAD, **quiet)
    if done.returncode:
        raise SystemExit(done.stderr)
    return ours.seconds_of(job)


def train_theirs(command: list[str]) -> float:
    """Seconds of the framework's own command."""
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def bench_training(plan: Plan, epochs: int, rounds: int, folder: Path) -> None:
    job = plan.job
    theirs.lay_out(job)
    command = theirs.training(job, folder)
    if command is None:
        print(f"train {job.model.name}: {job.model.backend} has no training command of its own")
        return
    photos = epochs * len(job.train.photos)
    best = {"plain": 1e9, "ours": 1e9}
    for _ in range(rounds):
        theirs.lay_out(job)  # our training removed it
        best["plain"] = min(best["plain"], train_theirs(command))
        best["ours"] = min(best["ours"], train_ours(job))
    show(f"train {job.model.name}", f"plain {job.model.backend}", photos, best["plain"], best["ours"])


def show(what: str, peer: str, photos: int, their_seconds: float, our_seconds: float) -> None:
    print(
        f"{what:<48} {peer} {photos / their_seconds:7.1f} images/s   ours {photos / our_seconds:7.1f} "
        f"images/s   ratio {their_seconds / our_seconds:.2f}",
        flush=True,
    )


def bench_prediction(plan: Plan, rounds: int) -> None:
    job = plan.job
    views = VIEWS.get(job.model.backend)
    if views is None:
        print(f"predict {job.model.name}: {job.model.backend} has no test-time augmentation of its own")
        return
    train_ours(job)
    theirs.lay_out(job)
    detector = load_detector(plan.run, job.device)
    contestants: dict[str, Callable[[], int]] = {
        f"batch {batch}": theirs.augmented(job, detector, views, batch) for batch in BATCHES
    }
    contestants["ours"] = ours.augmented(job.train, detector, theirs.VIEWS[views])
    count = len(job.train.photos)
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    seconds = {clock: dict.fromkeys(contestants, 1e9) for clock in clocks}
    for _ in range(rounds + 1):  # the first warms up
        for name, run in contestants.items():
            began = {clock: read() for clock, read in clocks.items()}
            assert run() == count
            for clock, read in clocks.items():
                seconds[clock][name] = min(seconds[clock][name], read() - began[clock])
    for clock, of in seconds.items():
        our_seconds = of.pop("ours")
        best = min(of, key=lambda name: of[name])
        what = f"predict {job.model.name}, {views} views, by the {clock}"
        show(what, f"its own, {best},", count, of[best], our_seconds)


def overrides_of(model: str, epochs: int, image_size: int | None, batch: int | None) -> Overrides:
    size, photos = SIZES.get(model, (None, None))
    return Overrides(epochs, image_size or size, batch or photos)


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_whole(arguments, "--photos", default=128, help="of which half are trained on")
    cli.add_whole(arguments, "--size", default=512, help="side of a photo in pixels")
    cli.add_whole(arguments, "--epochs", default=3)
    cli.add_whole(arguments, "--rounds", default=2)
    cli.add_image_size(arguments)
    cli.add_whole(arguments, "--batch", help="photos a step")
    cli.add_list(arguments, "--model", "--models", default=list(SIZES))
    cli.add_list(arguments, "--bench", allowed=["train", "predict"], default=["train", "predict"])
    options = arguments.parse_args(argv)
    for model in options.model:
        find_model(model)  # refuses a name that is none
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"PIPELINE_HOME": home, "PIPELINE_WEIGHTS": home}
        demo.generate(Path(home) / "data" / "demo", n_train=options.photos, n_test=2, size=options.size)
        folds.main(["--competition", "demo", "--k", "2"])
        print(
            f"{device}, {torch.get_num_threads()} threads, {options.photos} photos of {options.size} pixels"
        )
        for model in options.model:
            overrides = overrides_of(model, options.epochs, options.image_size, options.batch)
            plan = ours.plan_of(model, overrides, device)
            if "train" in options.bench:
                bench_training(plan, options.epochs, options.rounds, Path(home))
            if "predict" in options.bench:
                bench_prediction(plan, options.rounds)


if __name__ == "__main__":
    cli.run(main)
