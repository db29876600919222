"""The trained runs that take part in an ensemble, and their tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.predictions import Predictions, check_belongs
from pipeline.data.runs import Run, find_runs, need_runs
from pipeline.data.split import Split
from pipeline.ensembles.config import MemberChoice
from pipeline.errors import PipelineError
from pipeline.paths import shown


@dataclass(frozen=True)
class MemberRun:
    """One trained fold of a model, the views it takes part with, and the weight of each."""

    run: Run
    views: tuple[str, ...]
    weight: float


def choose_members(competition: str, choices: Sequence[MemberChoice] | None) -> list[MemberRun]:
    """The trained runs that an ensemble's members name (None: all of them); every one must be there."""
    if choices is None:
        runs = find_runs(competition)
        if not runs:
            raise PipelineError(
                f"no trained model of '{competition}'; make train COMP={competition} MODEL=... FOLD=0"
            )
        choices = [MemberChoice(model=model) for model in dict.fromkeys(run.model for run in runs)]
    chosen = []
    for choice in choices:
        for run in need_runs(competition, choice.model):
            views = tuple(choice.views or run.views("oof")) or ("identity",)
            for view in views:
                for split in ("oof", "test"):
                    if view not in run.views(split):
                        raise PipelineError(
                            f"{shown(run.folder)}: view '{view}' is not predicted on {split}; "
                            + run.command("predict", SPLIT=split, VIEWS=view)
                        )
            chosen.append(MemberRun(run, views, choice.weight))
    return chosen


def full_members(competition: str, members: Sequence[MemberRun]) -> list[MemberRun]:
    """The models of an ensemble trained on all photos, with its views and weights; [] unless all are there.

    members: its trained folds. Raises PipelineError for a view that one is not predicted in.
    """
    views = {(m.run.model, view): m.weight for m in members for view in m.views}
    runs = {model: Run(competition, model, "full") for model, _ in views}
    lacking = [model for model, run in runs.items() if not run.is_trained]
    if lacking and len(lacking) < len(runs):
        print(f"  note: the models on all photos are left out: {', '.join(lacking)} has none (FOLD=full)")
    if lacking:
        return []
    for model, view in views:
        if view not in (run := runs[model]).views("test"):
            raise PipelineError(
                f"{shown(run.folder)}: view '{view}' is not predicted on test; "
                + run.command("predict", SPLIT="test", VIEWS=view)
            )
    return [MemberRun(runs[model], (view,), weight) for (model, view), weight in views.items()]


def load_table(run: Run, view: str, dataset: Dataset, split: Split, n_classes: int) -> Predictions:
    """A run's boxes in a view, on the images of `dataset`.

    Raises PipelineError for a table of another competition, image table or split into folds.
    """
    wanted = "oof" if dataset.split == "train" else "test"
    table = run.table(wanted, view)
    check_belongs(table, run.competition, dataset.digest, n_classes)
    if table.meta.split != wanted:
        raise PipelineError(f"{table.name}: split '{table.meta.split}', expected '{wanted}'")
    _check_split(table, run, split)
    return table


def _check_split(table: Predictions, run: Run, split: Split) -> None:
    """Raise PipelineError when a run, or a table of it, was made with another split into folds.

    Both state the digest of their fold file; an out-of-fold table must hold that fold's images too.
    """
    stated = (run.folds_digest, table.meta.made.get("folds_digest"))
    images = np.flatnonzero(split.fold == run.fold)
    other_images = table.meta.split == "oof" and not np.array_equal(
        np.sort(table.meta.image_ids), np.sort(split.image_id[images])
    )
    if other_images or any(digest not in (None, split.digest) for digest in stated):
        raise PipelineError(
            f"{table.name}: made with another split than the fold file holds now; restore that "
            "split, or train and predict again"
        )
