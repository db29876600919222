"""How busy a GPU is kept: ours beside the limit and the frameworks' own commands: `make bench-gpu`.

One table over MODEL=: training with few and with many photos an epoch, prediction with 1, 2, 3 and 8 views,
and 1, 2 and 4 trainings on one GPU. What was measured is a line of JSON in FILE= at once; the same command
goes on with what is missing there. BUDGET= seconds are not exceeded by much. Columns: docs/benchmarks.md.
"""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import ours, theirs
from benchmarks.gpu.busy import Busy
from benchmarks.gpu.limit import prediction
from benchmarks.gpu.results import Results
from benchmarks.gpu.timeline import Timeline, together
from pipeline import cli, folds
from pipeline.cpus import usable_cpus
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model
from pipeline.paths import PROJECT, home
from pipeline.training.backend import load_detector
from pipeline.training.fold import Plan
from pipeline.training.job import TrainJob
from pipeline.views import parse_views

MODELS = ("yolov5m", "cascade_swin")
SMALL_MODELS = ("yolov5n", "faster_rcnn_tiny", "tv_ssdlite320")
SIZES = {"yolov5m": (640, 32), "cascade_swin": (1024, 8)}  # image size, batch; others take their config's
PARTS = ("train", "predict", "jobs", "train-many")
WARM = 20.0  # seconds of a first round beside which those that it takes to warm up do not matter
LEAST = 15.0  # seconds that must be left for one more measurement


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    size: int  # pixels, longer side of a photo
    folds: int = 4
    few: int = 48  # photos that a fold trains on
    many: int = 1000
    held_out: int = 50  # of many
    epochs: int = 6  # with few photos; with many 2
    predicted: int = 256  # photos; a quarter of them for networks of more than 640 pixels
    jobs: tuple[int, ...] = (1, 2, 4)
    batches: tuple[int, ...] = (8, 32)  # of the framework's own prediction, whose best counts
    seconds: float = 3.0  # that a limit, and a prediction over and over, take at least


FULL = Amounts(1024)
SMALL = Amounts(
    size=96, folds=2, few=4, many=6, held_out=2, epochs=2, predicted=4, jobs=(1, 2), batches=(2,), seconds=0.1
)


class Bench:
    """One run over all models; `results` says what is there already."""

    def __init__(self, results: Results, amounts: Amounts, device: str, budget: float, folder: Path) -> None:
        self.results, self.amounts, self.device, self.folder = results, amounts, device, folder
        self.ends = time.monotonic() + budget
        self.missing: list[str] = []

    def measure(self, row: str, part: str, work: Callable[[], dict[str, Any]]) -> None:
        """Call `work` and keep what it returns, unless it is there or the time is up."""
        if self.results.has(row, part):
            return
        if self.ends - time.monotonic() < LEAST:
            self.missing.append(f"{row}: {part}")
            return
        try:
            values = work()
        except subprocess.TimeoutExpired:
            self.missing.append(f"{row}: {part}")
            return
        except (RuntimeError, SystemExit) as error:  # one that fails stops no other
            values = {"failed": " ".join(str(error).split())[-300:]}
        if values:
            self.results.add(row, part, **values)

    def command(self, words: list[str]) -> str:
        """The output of a command; raises TimeoutExpired when the time is up, SystemExit when it fails."""
        done = subprocess.run(
            words,
            cwd=PROJECT,
            env=os.environ | ours.NO_DOWNLOAD,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(self.ends - time.monotonic(), 1),
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words[:4])}: {done.stderr}")
        return done.stdout

    def make_photos(self, kind: str, train: int, k: int) -> None:
        """The demo with so many photos, split into k folds; later plans are of this one."""
        os.environ["PIPELINE_HOME"] = str(self.folder / kind)
        root = home() / "data" / "demo"
        demo.generate(root, n_train=train, n_test=2, size=self.amounts.size, processes=usable_cpus())
        with contextlib.redirect_stdout(io.StringIO()):
            folds.main(["--competition", "demo", "--k", str(k)])

    def plan(self, model: str, epochs: int, fold: int = 0) -> Plan:
        return ours.plan_of(model, self.overrides(model, epochs), self.device, fold)

    def overrides(self, model: str, epochs: int) -> Overrides:
        """A mosaic in every epoch: a real training goes without it in its last ten only."""
        size, batch = (64, 2) if self.amounts is SMALL else SIZES.get(model, (None, None))
        is_yolo = find_model(model).backend == "ultralytics"
        return Overrides(epochs, size, batch, {"close_mosaic": 0} if is_yolo else {})

    def train(self, model: str, epochs: int, with_limit: bool) -> None:
        job = self.plan(model, epochs).job
        row = f"train {model}, {len(job.train.photos)} photos an epoch"
        self.measure(row, "ours", lambda: self.ours([job], epochs))
        self.measure(row, "theirs", lambda: self.theirs(job, epochs))
        self.measure(row, "limit", lambda: self.limit(job) if with_limit else self.known_limit(model))

    def ours(self, jobs: list[TrainJob], epochs: int) -> dict[str, Any]:
        """Trainings of ours that run side by side, beginning together."""
        readers = max(min(8, usable_cpus() // len(jobs) - 1), 1) if self.device != "cpu" else 0
        files = [self.folder / f"timeline{number}.json" for number in range(len(jobs))]
        with Busy() as busy, ExitStack() as stack:
            processes = []
            for job, file in zip(jobs, files, strict=True):
                words = [sys.executable, "-m", "benchmarks.gpu.timeline", str(file)]
                log = stack.enter_context(open(file.with_suffix(".log"), "w"))
                processes.append(
                    subprocess.Popen(
                        [*words, *ours.arguments(replace(job, workers=readers))],
                        cwd=PROJECT,
                        env=os.environ | ours.NO_DOWNLOAD,
                        stdout=log,
                        stderr=log,
                    )
                )
                stack.callback(processes[-1].kill)
            for process, file in zip(processes, files, strict=True):
                if process.wait(max(self.ends - time.monotonic(), 1)):
                    raise SystemExit(file.with_suffix(".log").read_text())
        lines = [Timeline.read(file) for file in files]
        began, ended = min(line.began for line in lines), max(line.ended for line in lines)
        photos = len(jobs[0].train.photos)
        return {
            "ours": together(lines, photos),
            **busy.between(began, ended),
            "validation": sum(line.validation() for line in lines) / len(lines),
            "outside": sum(line.outside() for line in lines) / len(lines),
            "step": lines[0].step(),
            "torch_gib": lines[0].memory / 2**30,
        }

    def theirs(self, job: TrainJob, epochs: int) -> dict[str, Any]:
        theirs.lay_out(job)
        words = theirs.training(job, self.folder)
        if words is None:
            return {}
        seconds = json.loads(self.command(words).splitlines()[-1])["seconds"]
        return {"theirs": epochs * len(job.train.photos) / seconds}

    def limit(self, job: TrainJob) -> dict[str, Any]:
        file = self.folder / "job.pickle"
        file.write_bytes(pickle.dumps(job))
        words = [sys.executable, "-m", "benchmarks.gpu.limit", str(file), str(self.amounts.seconds)]
        measured = json.loads(self.command(words).splitlines()[-1])
        return {"limit": measured["rate"], "limit_gib": measured["memory"]}

    def known_limit(self, model: str) -> dict[str, Any]:
        """A step's limit does not depend on how many photos an epoch has."""
        rows = self.results.rows().items()
        known = [row["limit"] for name, row in rows if name.startswith(f"train {model},") and "limit" in row]
        return {"limit": known[0]} if known else {}

    def jobs(self, model: str) -> None:
        epochs = self.amounts.epochs
        for count in self.amounts.jobs:
            jobs = [self.plan(model, epochs, fold).job for fold in range(count)]
            self.measure(f"{count} x train {model}", "ours", lambda jobs=jobs: self.ours(jobs, epochs))

    def predict(self, model: str) -> None:
        plan = self.plan(model, self.amounts.epochs)
        backend = find_model(model).backend
        wanted = [n for n in theirs.VIEWS if n != 3 or backend == "ultralytics"]
        rows = {views: f"predict {model}, {views} view{'s'[: views > 1]}" for views in wanted}
        parts = ("ours", "limit", "theirs")
        if all(self.results.has(row, part) for row in rows.values() for part in parts[:2]):
            return
        if not plan.run.is_trained:
            self.command([sys.executable, "-m", "pipeline.train", *ours.arguments(plan.job)])
        detector = load_detector(plan.run, self.device)
        count = self.amounts.predicted // (4 if detector.image_size > 640 else 1)
        job = replace(plan.job, train=ours.first(plan.job.train, count))
        theirs.lay_out(job)
        for views, row in rows.items():
            self.measure(row, "ours", lambda: self.predict_ours(job, detector, theirs.VIEWS[views]))  # noqa: B023
            self.measure(row, "limit", lambda: self.predict_limit(job, detector, theirs.VIEWS[views]))  # noqa: B023
            if views in theirs.OWN_VIEWS[backend]:
                self.measure(row, "theirs", lambda: self.predict_theirs(job, detector, views))  # noqa: B023

    def predict_ours(self, job: TrainJob, detector: Any, views: str) -> dict[str, Any]:
        run = ours.augmented(job.train, detector, views)
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        with Busy() as busy:
            rate, began = self.rate(run)
        values = {"ours": rate} | busy.between(began, time.monotonic())
        if self.device != "cpu":
            values["memory"] = torch.cuda.max_memory_allocated() / 2**30
        return values

    def predict_limit(self, job: TrainJob, detector: Any, views: str) -> dict[str, Any]:
        photos = job.train.photos[:64]
        return {"limit": prediction(detector, photos, parse_views(views.split(",")), self.amounts.seconds)}

    def predict_theirs(self, job: TrainJob, detector: Any, views: int) -> dict[str, Any]:
        rates = {
            batch: self.rate(theirs.augmented(job, detector, views, batch))[0]
            for batch in self.amounts.batches
        }
        best = max(rates, key=lambda batch: rates[batch])
        return {"theirs": rates[best], "batch": best}

    def rate(self, run: Callable[[], int]) -> tuple[float, float]:
        """Photos a second of the best round, and when the rounds after the first began."""
        best, began = 0.0, time.monotonic()
        count = run()
        first = time.monotonic() - began
        if first > WARM:
            best = count / first
        else:
            began = time.monotonic()
        while not best or time.monotonic() - began < self.amounts.seconds:
            start = time.monotonic()
            run()
            best = max(best, count / (time.monotonic() - start))
        return best, began


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_list(arguments, "--model", "--models", default=[])
    cli.add_list(arguments, "--bench", allowed=PARTS, default=list(PARTS))
    cli.add_whole(arguments, "--budget", default=480, help="seconds")
    arguments.add_argument("--small", action="store_true", help="tiny sizes, as always without a GPU")
    arguments.add_argument("--file", default="", help="of the results (default: runs/bench-gpu.jsonl)")
    options = arguments.parse_args(argv)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    amounts = SMALL if options.small or device == "cpu" else FULL
    models = options.model or list(SMALL_MODELS if amounts is SMALL else MODELS)
    for model in models:
        find_model(model)  # refuses a name that is none
    results = Results(Path(options.file) if options.file else home() / "runs" / "bench-gpu.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIPELINE_WEIGHTS"] = folder
        bench = Bench(results, amounts, device, options.budget, Path(folder))
        few = amounts.few * amounts.folds // (amounts.folds - 1)
        bench.make_photos("few", few, amounts.folds)
        for model in models:
            if "train" in options.bench:
                bench.train(model, amounts.epochs, True)
            if "predict" in options.bench:
                bench.predict(model)
        for model in models:
            if "jobs" in options.bench:
                bench.jobs(model)
        if "train-many" in options.bench:
            total = amounts.many + amounts.held_out
            bench.make_photos("many", total, total // amounts.held_out)
            for model in models:
                bench.train(model, 2, False)
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    print(f"\n{name}; rates in photos a second; lines in {results.path}")
    print(*results.table(), sep="\n")
    if bench.missing:
        print("not measured in the time: " + "; ".join(bench.missing) + "; the same command goes on")


if __name__ == "__main__":
    cli.run(main)
