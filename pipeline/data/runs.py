"""Prediction tables of trained runs, found by their place below runs/<competition>/."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.predictions import Predictions, read_predictions
from pipeline.errors import PipelineError
from pipeline.paths import runs_dir, shown


@dataclass(frozen=True)
class Run:
    """One trained fold of one model."""

    model: str
    fold: int
    folder: Path

    def views(self, split: str) -> list[str]:
        """Names of the views that were predicted on a split; identity first."""
        names = sorted(path.stem for path in (self.folder / split).glob("[!.]*.parquet"))
        return sorted(names, key=lambda name: name != "identity")

    def table(self, split: str, view: str) -> Predictions:
        return read_predictions(self.folder / split / f"{view}.parquet")


def find_runs(competition: str, model: str | None = None) -> list[Run]:
    """The trained runs of a competition, by model and fold."""
    runs = []
    for card in runs_dir(competition).glob("*/fold*/card.json"):
        match = re.fullmatch(r"fold(\d+)", card.parent.name)
        if match and (model is None or card.parent.parent.name == model):
            runs.append(Run(card.parent.parent.name, int(match[1]), card.parent))
    return sorted(runs, key=lambda run: (run.model, run.fold))


def need_runs(competition: str, model: str) -> list[Run]:
    """The trained runs of one model; raises PipelineError that says what to make."""
    runs = find_runs(competition, model)
    if not runs:
        raise PipelineError(
            f"{shown(runs_dir(competition) / model)}: no trained fold; "
            f"make train COMP={competition} MODEL={model} FOLD=0"
        )
    return runs


def folds_digest_of(run: Path) -> str | None:
    """Digest of the fold file that a run, finished or begun, was trained on; None where it is not said."""
    for name in ("card.json", "job.json"):
        if (run / name).is_file():
            stated = json.loads((run / name).read_text(encoding="utf-8")).get("folds_digest")
            return None if stated is None else str(stated)
    return None


def trained_on(competition: str, folds_digest: str) -> list[Path]:
    """Folders of the runs, finished or begun, that were trained on the split with this digest."""
    runs = sorted(runs_dir(competition).glob("*/fold*"))
    return [run for run in runs if folds_digest_of(run) == folds_digest]
