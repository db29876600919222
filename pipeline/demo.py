"""The whole pipeline on the embedded competition: data, folds, two models, two views, ensemble, CSV.

Runs the same commands that a user runs, two trainings side by side, and ends with a table of scores
and a picture. Run again, it goes on where it stopped, or finds everything done.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline import cli
from pipeline.cpus import usable_cpus
from pipeline.data import demo as generator
from pipeline.data.dataset import Dataset, load_dataset, load_truth
from pipeline.data.ensemble_card import read_ensemble_card
from pipeline.data.photos import photos_of
from pipeline.data.predictions import read_predictions
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import need_runs
from pipeline.data.sheet import draw_sheet
from pipeline.ensembles.results import model_table
from pipeline.errors import PipelineError
from pipeline.paths import PROJECT, ensemble_dir, run_dir, runs_dir, shown, submission_csv
from pipeline.scoring import evaluate
from pipeline.scoring.bootstrap import interval, resampled
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth

NAME = "demo"
FOLDS = 2
VIEWS = "identity,hflip"
# Settings that learn most on two cores in the time: small inputs, a step for every eight photos, no
# mosaic, which takes longer to pay off than these trainings last, and no score before the last epoch.
TRAININGS: dict[str, list[str]] = {
    "faster_rcnn_tiny": ["--epochs", "14", "--image-size", "160", "--set", "val_interval=14"],
    "yolov5n": [
        "--epochs",
        "28",
        "--image-size",
        "160",
        "--batch",
        "8",
        "--set",
        "pretrained=false",
        "val=false",
        "nbs=8",
        "optimizer=AdamW",
        "lr0=0.002",
        "warmup_epochs=1",
        "mosaic=0",
        "flipud=0.5",
        "scale=0.3",
        "hsv_h=0.1",
    ],
}
TUNING = ["--trials", "80", "--partitions", "1", "--budget", "150"]
SHEET_PHOTOS = 8
SHEET_SCORE = 0.2
EPOCH = re.compile(r"epoch (\d+)/(\d+)")


class _Child:
    """A stage in a process of its own; its lines are passed on, but for most epochs."""

    def __init__(self, stage: str, arguments: Sequence[str], threads: int) -> None:
        self.name = f"{stage} {' '.join(arguments)}"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{stage}", *arguments],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors: list[str] = []
        self.threads = [threading.Thread(target=self._pass_on), threading.Thread(target=self._collect)]
        for thread in self.threads:
            thread.start()

    def _pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            match = EPOCH.search(line)
            if match is None or int(match[1]) % 4 == 1 or match[1] == match[2]:
                print(f"  {line.rstrip()}", flush=True)

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self.errors += self.process.stderr.readlines()

    def wait(self) -> None:
        """Wait for the end; raises PipelineError with the stage's own line when it failed."""
        status = self.process.wait()
        for thread in self.threads:
            thread.join()
        if status:
            errors = [line.removeprefix("error: ").strip() for line in self.errors if line.strip()]
            raise PipelineError(f"{self.name}: {errors[-1] if errors else f'ended with status {status}'}")


def run_side_by_side(stage: str, commands: Sequence[Sequence[str]]) -> None:
    """Run a stage once for each list of arguments, all at the same time on a share of the cores."""
    children = [_Child(stage, command, max(usable_cpus() // len(commands), 1)) for command in commands]
    try:
        for child in children:
            child.wait()
    except BaseException:
        for child in children:
            child.process.terminate()
        raise


def say(step: int, text: str, command: str = "") -> None:
    print(f"\n[{step}/7] {text}" + (f"\n      $ {command}" if command else ""), flush=True)


def make_everything(overwrite: bool) -> float:
    """Data to submission; returns the seconds that training and prediction took."""
    home_data = load_profile(NAME).root
    say(1, f"render the competition into {shown(home_data)}")
    written = generator.generate(home_data, processes=usable_cpus())
    print("  240 train and 80 test photos" + ("" if written else " are there already"))
    say(2, "split the train photos", f"make folds COMP={NAME} K={FOLDS}")
    again = ["--overwrite"] if overwrite else []
    run_side_by_side("folds", [["--competition", NAME, "--k", str(FOLDS), *again]])
    began = time.monotonic()
    for step, (model, settings) in enumerate(TRAININGS.items(), start=3):
        say(
            step,
            f"train {model}, both folds side by side, and predict held-out and test photos in two views",
            f"make train COMP={NAME} MODEL={model} FOLD=folds VIEWS={VIEWS}",
        )
        target = ["--competition", NAME, "--model", model, "--views", VIEWS]
        run_side_by_side("train", [[*target, "--fold", str(k), *settings, *again] for k in range(FOLDS)])
    seconds = time.monotonic() - began
    say(5, "tune the ensemble on the held-out photos", f"make tune COMP={NAME}")
    run_side_by_side("tune", [["--competition", NAME, "--ensemble", "final", *TUNING]])
    say(6, "fuse models, views and folds, write the submission", f"make ensemble COMP={NAME}")
    run_side_by_side("ensemble", [["--competition", NAME, "--ensemble", "final"]])
    run_side_by_side("submission", [["--competition", NAME, "--ensemble", "final"]])
    return seconds


def score_table(profile: Profile, train: Dataset, truth: Dataset) -> pd.DataFrame:
    """mAP50 of each model and of the ensemble, out-of-fold and on the hidden test truth."""
    folder = ensemble_dir(profile.name, "final")
    tables = {}
    for model in TRAININGS:
        runs = need_runs(profile.name, model)
        tables[model] = (model_table(runs, "oof"), model_table(runs, "test"))
    tables["ensemble"] = (read_predictions(folder / "oof.parquet"), read_predictions(folder / "test.parquet"))
    rows = {
        name: [
            evaluate(oof, train.annotations, profile.classes)["map50"],
            evaluate(test, truth.annotations, profile.classes)["map50"],
        ]
        for name, (oof, test) in tables.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["OOF mAP50", "hidden test mAP50"])


def estimate_and_test_score(profile: Profile, truth: Dataset) -> str:
    """The out-of-fold score, and the score on the test photos that it estimates, each with its interval."""
    folder = ensemble_dir(profile.name, "final")
    promised = read_ensemble_card(profile.name, "final").oof.own
    paths = [*sorted((folder / "test_folds").glob("fold*.parquet")), folder / "test.parquet"]
    tables = [read_predictions(path) for path in paths]
    ids = tables[0].meta.image_ids
    grouped = group_truth(truth.annotations, truth.images, ids, len(profile.classes))
    scored = [score(table, grouped, profile.metric) for table in tables]
    mean = np.mean([resampled(one, len(ids)) for one in scored[:-1]], axis=0)  # the same draws for each
    seen = interval(float(np.mean([one.value() for one in scored[:-1]])), mean)
    return (
        "promised by the held-out photos (nested): {value:.3f} [{low:.3f}, {high:.3f}]\n".format(
            **dict(promised)
        )
        + f"one fold's ensemble on the hidden test:   {seen.value:.3f} [{seen.low:.3f}, {seen.high:.3f}]; "
        f"fused across the folds {scored[-1].value():.3f}"
    )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--data-only", action="store_true", help="only render the photos")
    arguments.add_argument("--overwrite", action="store_true", help="train anew over old runs")
    options = arguments.parse_args(argv)
    profile = load_profile(NAME)
    if options.data_only:
        generator.generate(profile.root)
        print(f"{shown(profile.root)} is there")
        return
    began = time.monotonic()
    training = make_everything(options.overwrite)
    train, truth = load_dataset(profile, "train"), load_truth(profile, "test")
    if truth is None:
        raise PipelineError(f"{profile.root}: no hidden test truth; remove the folder and make demo again")
    say(7, "score")
    print(score_table(profile, train, truth).to_string(float_format="{:.3f}".format))
    print("\n" + estimate_and_test_score(profile, truth))
    path = runs_dir(NAME) / "sheet.png"
    images = truth.images.head(SHEET_PHOTOS)
    table = read_predictions(ensemble_dir(NAME, "final") / "test.parquet")
    draw_sheet(
        path,
        photos_of(profile, "test", images),
        images["image_id"].tolist(),
        truth.annotations,
        table,
        profile.classes,
        min_score=SHEET_SCORE,
    )
    print(
        f"\nsubmission: {shown(submission_csv(NAME, 'final'))}\n"
        f"picture:    {shown(path)}\n"
        f"runs:       {shown(run_dir(NAME, 'yolov5n', 0).parent.parent)}/\n"
        f"time:       {time.monotonic() - began:.0f} s, of which training and prediction {training:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
