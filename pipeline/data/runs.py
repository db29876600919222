"""Trained runs: runs/<competition>/<model>/fold<k>/, or full/ for the one model trained on all photos."""

import contextlib
import os
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.predictions import Predictions, read_predictions
from pipeline.data.records import read_json, read_record, write_record
from pipeline.data.run_card import JobDescription, RunCard
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.names import is_name
from pipeline.paths import CARD, ENSEMBLES, check_inside, file_digest, run_dir, runs_dir, shown

JOB = "job.json"


@dataclass(frozen=True)
class Run:
    """The folder of one model trained on one fold (a number, or `full`), whole or not begun yet."""

    competition: str
    model: str
    fold: int | str

    @property
    def folder(self) -> Path:
        return run_dir(self.competition, self.model, self.fold)

    def inside(self, name: str) -> Path:
        """A file of the folder; raises PipelineError where a link leads out, as somebody else's might."""
        return check_inside(self.folder, self.folder / name)

    def check_links(self) -> None:
        """Raise PipelineError for a link that a training would write through, out of the folder.

        The staged photos, below work/data, are links of our own and are laid out anew.
        """
        for folder, folders, files in os.walk(self.folder):
            for name in [*folders, *files]:
                check_inside(self.folder, Path(folder, name))
            if Path(folder) == self.folder / "work":
                folders[:] = [name for name in folders if name != "data"]

    @property
    def is_trained(self) -> bool:
        """Whether the training is done: its card is written last."""
        return (self.folder / CARD).is_file()

    def command(self, stage: str = "train", **variables: Any) -> str:
        """The make command of a stage for this run, as `make train COMP=demo MODEL=yolov5n FOLD=0`."""
        names = {"COMP": self.competition, "MODEL": self.model, "FOLD": self.fold} | variables
        return " ".join([f"make {stage}", *(f"{key}={value}" for key, value in names.items())])

    @property
    def _remedy(self) -> str:
        return f"restore it, or train again: {self.command(OVERWRITE=1)}"

    def card(self) -> RunCard:
        """What the training came to; raises PipelineError when it is not done or its card is damaged."""
        if not self.is_trained:
            raise PipelineError(f"{shown(self.folder)}: not trained yet; {self.command()}")
        return read_record(self.inside(CARD), RunCard, self._remedy)

    def write_card(self, card: RunCard) -> None:
        write_record(self.folder / CARD, card)

    def job(self) -> JobDescription | None:
        """What the training was asked to be; None before it has begun."""
        path = self.inside(JOB)
        return read_record(path, JobDescription, self._remedy) if path.exists() else None

    def write_job(self, job: JobDescription) -> None:
        write_record(self.folder / JOB, job)

    @property
    def folds_digest(self) -> str | None:
        """Digest of the fold file that the run, finished or begun, was trained on; None before."""
        described = self.card() if self.is_trained else self.job()
        return described.folds_digest if described else None

    @property
    def checkpoint(self) -> Path:
        return self.inside(self.card().checkpoint)

    def is_whole(self) -> bool:
        """Whether the checkpoint is there and is the one that the card describes."""
        card = self.card()
        path = self.inside(card.checkpoint)
        return path.is_file() and file_digest(path) == card.checkpoint_digest

    def config(self) -> dict[str, Any]:
        """The resolved config, which is data. Raises PipelineError for a run that saved it as code."""
        path = self.inside(self.card().config)
        if path.suffix != ".json":
            raise PipelineError(
                f"{shown(path)}: trained before configs were saved as JSON; {self.command(OVERWRITE=1)}"
            )
        return read_json(path, self._remedy)

    def tables(self, split: str) -> dict[str, Path]:
        """The prediction tables of a split (oof or test) by the name of their view; identity first."""
        paths = sorted(self.inside(split).glob("[!.]*.parquet"), key=lambda path: path.stem)
        return {path.stem: path for path in sorted(paths, key=lambda path: path.stem != "identity")}

    def views(self, split: str) -> list[str]:
        """Names of the views that were predicted on a split; identity first."""
        return list(self.tables(split))

    def table_path(self, split: str, view: str) -> Path:
        """Where the prediction table of a view is, or will be."""
        return self.inside(f"{split}/{view}.parquet")

    def table(self, split: str, view: str) -> Predictions:
        """A view's boxes. Raises PipelineError for a damaged table, and as `check_made_by` does."""
        table = read_predictions(self.table_path(split, view))
        self.check_made_by(table)
        return table

    def check_made_by(self, table: Predictions) -> None:
        """Raise PipelineError for a table of another model, fold or checkpoint than the run's card states.

        A table that names no checkpoint was made elsewhere, and is taken for what its folder says.
        """
        checkpoint = table.meta.made.get("checkpoint_digest")
        if checkpoint is None or not self.is_trained:
            return
        card = self.card()
        folds = [card.fold] if card.fold == "full" else sorted(set(table.meta.folds.tolist()))
        for name, found, expected in (
            ("model", table.meta.model, card.model),
            ("fold", ",".join(map(str, folds)), str(card.fold)),
            ("checkpoint", checkpoint, card.checkpoint_digest),
        ):
            if found != expected:
                again = self.command("predict", SPLIT=table.meta.split, VIEWS=table.meta.view)
                raise PipelineError(
                    f"{table.name}: made by {name} {found}, but {CARD} of its run says {expected}; {again}"
                )


def run_of(folder: Path) -> Run | None:
    """The run that a folder below runs/<competition>/<model>/ is; None for another folder."""
    match = re.fullmatch(r"fold(0|[1-9][0-9]*)|full", folder.name)
    if match is None or folder.parent.name == ENSEMBLES or not is_name(folder.parent.name):
        return None
    return Run(folder.parent.parent.name, folder.parent.name, int(match[1]) if match[1] else "full")


def read_table(path: Path) -> Predictions:
    """A prediction table from anywhere; one in a run's folder is compared with the run's card."""
    table = read_predictions(path)
    folder = path.resolve().parent.parent
    run = run_of(folder)
    if run is not None and run.folder == folder:
        run.check_made_by(table)
    return table


def all_runs(competition: str, model: str | None = None) -> list[Run]:
    """The runs of a competition, finished or begun, by model and fold; `full` comes last."""
    folders = runs_dir(competition).glob("*/f*")
    runs = [run for folder in folders if (run := run_of(folder)) and model in (None, run.model)]
    return sorted(runs, key=lambda run: (run.model, run.fold == "full", run.fold))


def find_runs(competition: str, model: str | None = None) -> list[Run]:
    """The trained folds of a competition, by model and fold, without models trained on all photos."""
    return [run for run in all_runs(competition, model) if run.is_trained and run.fold != "full"]


def need_runs(competition: str, model: str) -> list[Run]:
    """The trained folds of one model; raises PipelineError that says what to make."""
    runs, first = find_runs(competition, model), Run(competition, model, 0)
    if not runs:
        raise PipelineError(f"{shown(first.folder.parent)}: no trained fold; {first.command()}")
    return runs


def full_epochs(competition: str, model: str, photos: int) -> int:
    """Epochs of the training on all `photos`: as many steps as the median of the trained folds' best epochs
    had, rounded to whole epochs. Raises PipelineError where no fold is trained.
    """
    cards = [run.card() for run in find_runs(competition, model)]
    if not cards:
        folds = Run(competition, model, "folds").command()
        raise PipelineError(
            f"FOLD=full: no fold of {model} is trained, which would tell how long; {folds}, or give EPOCHS="
        )
    learned = statistics.median(card.best_epoch * (card.trained_photos or photos) for card in cards)
    return max(round(learned / photos), 1)


def trained_on(competition: str, folds_digest: str) -> list[Run]:
    """The runs, finished or begun, that were trained on the split with this digest."""
    return [run for run in all_runs(competition) if run.folds_digest == folds_digest]


@contextlib.contextmanager
def only_one(folder: Path, wait: float = 0) -> Iterator[None]:
    """Hold a run's lock; raises PipelineError when another process still trains it after `wait` seconds."""
    with locked(folder, wait, "training"):
        yield
