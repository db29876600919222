"""Making an ensemble of configs/ensembles/<name>.yaml: load, check, fuse, score, write.

Out-of-fold and test go through the same code. Within a fold all members and views are fused; OOF
joins the held-out parts of the folds; test fuses the folds' results once more, with nothing fitted.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.ensemble_card import (
    CardMember,
    EnsembleCard,
    OofScores,
    Score,
    SourceTable,
    write_ensemble_card,
)
from pipeline.data.predictions import (
    Predictions,
    join_predictions,
    read_predictions,
    source_digest,
    write_predictions,
)
from pipeline.data.profile import Profile
from pipeline.data.split import Split, read_split
from pipeline.ensembles.config import read_ensemble
from pipeline.ensembles.fuse_tuned import fuse_tuned
from pipeline.ensembles.member_runs import MemberRun, choose_members, full_members, load_table
from pipeline.ensembles.tables import ACROSS_FOLDS, Fusion, check_members, describe, fuse_same_images
from pipeline.ensembles.tuned import TUNED, TunedEnsemble, TuningRecord, describe_tuned, read_tuned
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import ensemble_dir, file_digest, fold_name, shown
from pipeline.scoring import evaluate
from pipeline.scoring.bootstrap import summary
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth

LAST_STEP = (
    "oof is the score of one fold's ensemble on its held-out photos; the submission fuses the K folds' "
    "ensembles once more, and what that adds is not measured on oof"
)

UNMEASURED = "the models on all photos (full) are one more fold of it, and no score has seen them"


@dataclass(frozen=True)
class Inputs:
    """An ensemble's members, how they are fused, and the data that their tables belong to.

    tuned, tuning: what `tune` found for these very members, or None.
    """

    name: str
    profile: Profile
    fusion: Fusion
    members: list[MemberRun]
    full: list[MemberRun]  # the same models trained on all photos: on test only, one more fold
    train: Dataset
    test: Dataset
    split: Split
    tuned: TunedEnsemble | None
    tuning: TuningRecord | None

    @property
    def folder(self) -> Path:
        return ensemble_dir(self.profile.name, self.name)

    @property
    def folds(self) -> list[Any]:
        return sorted({member.run.fold for member in self.members})

    @property
    def test_folds(self) -> list[Any]:
        return [*self.folds, *(["full"] if self.full else [])]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(member.run.model for member in self.members))


@dataclass(frozen=True)
class Result:
    """The fused boxes out-of-fold and on test, and how the members' `tables` were fused (`method`)."""

    oof: Predictions
    test: Predictions
    tables: list[dict[str, str]]
    method: dict[str, Any]


def make_ensemble(profile: Profile, name: str) -> EnsembleCard:
    """Write an ensemble's oof.parquet, test.parquet and card.json; returns the card."""
    folder = ensemble_dir(profile.name, name)
    tuned = folder / "tuned"
    with locked(folder), locked(tuned) if tuned.is_dir() else nullcontext():
        inputs = load_inputs(profile, name)
        print_notes(inputs)
        oof_folds = [] if inputs.tuned else [fuse_fold(inputs, fold, inputs.train) for fold in inputs.folds]
        test_folds = [fuse_fold(inputs, fold, inputs.test) for fold in inputs.test_folds]
        write_test_folds(inputs, test_folds)
        result = combine_folds(inputs, oof_folds, test_folds)
        return write_result(inputs, result, oof_scores(inputs, result.oof))


def load_inputs(profile: Profile, name: str) -> Inputs:
    """Read an ensemble's file, find its members and what `tune` found for them, and load the data."""
    config = read_ensemble(name)
    members = choose_members(profile.name, config.members)
    train, test = load_dataset(profile, "train"), load_dataset(profile, "test")
    split = read_split(profile.name, train)
    tuned = find_tuned(ensemble_dir(profile.name, name) / "tuned", members, split) or (None, None)
    full = full_members(profile.name, members)
    return Inputs(name, profile, config.fusion, members, full, train, test, split, *tuned)


def find_tuned(
    folder: Path, members: list[MemberRun], split: Split
) -> tuple[TunedEnsemble, TuningRecord] | None:
    """The tuned ensemble when it was tuned on these members and this split, else None.

    Raises PipelineError for a damaged one, and for nested boxes that it was not saved with.
    """
    if not (folder / TUNED).is_file():
        return None
    tuned, record = read_tuned(folder)
    digests = sorted(
        file_digest(member.run.table_path("oof", view)) for member in members for view in member.views
    )
    other_boxes = digests != record.table_digests
    if other_boxes or record.folds_digests not in ((), (split.digest,)):
        why = "other members or boxes" if other_boxes else "another split"
        print(f"  note: {shown(folder / TUNED)} was tuned on {why}; make tune again to use it")
        return None
    oof = folder / "oof.parquet"
    if not oof.is_file() or file_digest(oof) != record.oof_digest:
        raise PipelineError(f"{shown(oof)}: not the boxes that {TUNED} was saved with; make tune again")
    return tuned, record


def print_notes(inputs: Inputs) -> None:
    """Print which folds lack a model, and how the members are fused."""
    folds = set(inputs.folds)
    for model in inputs.models:
        trained = {member.run.fold for member in inputs.members if member.run.model == model}
        if missing := sorted(folds - trained):
            print(f"  note: {model} is not trained on fold {missing}; those folds are fused without it")
    if missing := sorted(set(range(inputs.split.n_folds)) - folds):
        print(f"  note: no model is trained on fold {missing}; their photos have no out-of-fold boxes")
    if inputs.tuning is None:
        parameters = " ".join(f"{key} {value}" for key, value in describe(inputs.fusion).items())
        fusion = parameters.removeprefix("method ")
        print(f"  not tuned: fused by {fusion} of configs/ensembles/{inputs.name}.yaml")
    else:
        nested = inputs.tuning.nested.value
        print(f"  tuned: by {shown(inputs.folder / 'tuned' / TUNED)}, nested {nested:.4f}")


def fuse_fold(inputs: Inputs, fold: int | str, dataset: Dataset) -> Predictions:
    """The fused boxes of one fold's members on the photos of `dataset`; before a tuned cut.

    Of a tuned ensemble calibration and rescoring are the same for all folds, and for "full": one fit on the
    held-out boxes of all folds.
    """
    n_classes = len(inputs.profile.classes)
    members = [member for member in (*inputs.members, *inputs.full) if member.run.fold == fold]
    if inputs.tuned is None:
        views = [(member, view) for member in members for view in member.views]
        tables = [load_table(member.run, view, dataset, inputs.split, n_classes) for member, view in views]
        weights = [member.weight for member, _ in views]
        return fuse_same_images(tables, inputs.fusion, weights, inputs.name, release=True)
    runs = {member.run.model: member.run for member in members}
    tables = [
        load_table(runs[member.model], member.view, dataset, inputs.split, n_classes)
        for member in inputs.tuned.members
    ]
    check_members(tables)
    first = tables[0].meta
    sizes = dataset.images.set_index("image_id").loc[first.image_ids, ["width", "height"]]
    boxes = fuse_tuned(inputs.tuned, tables, sizes.to_numpy(np.float64), n_classes)
    made = {"members": [source_digest(table) for table in tables]}
    meta = replace(first, model=inputs.name, view="fused", made=made)
    return Predictions(boxes.boxes_xyxy, boxes.scores, boxes.labels, boxes.offsets, meta)


def write_test_folds(inputs: Inputs, test_folds: list[Predictions]) -> None:
    """Write the fused boxes of each fold on the test photos, and remove those of other folds."""
    folder, names = inputs.folder / "test_folds", [fold_name(fold) for fold in inputs.test_folds]
    for name, table in zip(names, test_folds, strict=True):
        table.meta.made["cut"] = inputs.tuned.cut if inputs.tuned else None
        write_predictions(folder / f"{name}.parquet", table)
    for path in folder.glob("[!.]*.parquet"):
        if path.stem not in names:
            path.unlink(missing_ok=True)  # of an earlier ensemble of more folds


def combine_folds(inputs: Inputs, oof_folds: list[Predictions], test_folds: list[Predictions]) -> Result:
    """Join the folds out-of-fold, and fuse those on test once more; the latter give up their boxes."""
    tables = [entry for part in oof_folds + test_folds for entry in part.meta.made["members"]]
    if inputs.tuned is None:
        oof = join_predictions(oof_folds)
        method: dict[str, Any] = {"fusion": describe(inputs.fusion)}
        oof.meta.made = method | {"members": tables}
        oof.meta.view = "fused"
    else:
        # Boxes by the tuned ensemble itself, which saw all truth, would score too well.
        oof = read_predictions(inputs.folder / "tuned" / "oof.parquet")
        digest = file_digest(inputs.folder / "tuned" / TUNED)
        method = {"fusion": describe(inputs.tuned.fusion), "tuned": digest, "cut": inputs.tuned.cut}
        oof.meta.made |= {"tuned": digest}
    test = fuse_same_images(test_folds, ACROSS_FOLDS, name=inputs.name, release=True)
    test.meta.made |= method | {"members": tables}
    return Result(oof, test, tables, method)


def oof_scores(inputs: Inputs, oof: Predictions) -> OofScores:
    """COCO's numbers, and the competition's own metric with its interval."""
    profile, train, ids = inputs.profile, inputs.train, oof.meta.image_ids
    truth = group_truth(train.annotations, train.images, ids, len(profile.classes))
    own, _ = summary(score(oof, truth, profile.metric), profile.metric, len(ids), seed=0)
    return OofScores(**evaluate(oof, train.annotations, profile.classes), competition=Score(**own))


def _card_members(members: Iterable[MemberRun]) -> tuple[CardMember, ...]:
    return tuple(
        CardMember(model=m.run.model, fold=m.run.fold, views=m.views, weight=m.weight) for m in members
    )


def write_result(inputs: Inputs, result: Result, scores: OofScores) -> EnsembleCard:
    """Write both tables and the card; returns the card."""
    folder, tuned, tuning = inputs.folder, inputs.tuned, inputs.tuning
    write_predictions(folder / "oof.parquet", result.oof)
    write_predictions(folder / "test.parquet", result.test)
    card = EnsembleCard(
        ensemble=inputs.name,
        competition=inputs.profile.name,
        models=tuple(inputs.models),
        folds=tuple(inputs.folds),
        **result.method,
        across_folds=describe(ACROSS_FOLDS),
        folds_digest=inputs.split.digest,
        oof_table_digest=file_digest(folder / "oof.parquet"),
        test_table_digest=file_digest(folder / "test.parquet"),
        image_digests={"train": inputs.train.digest, "test": inputs.test.digest},
        oof=scores,
        note=LAST_STEP + (f"; {UNMEASURED}" if inputs.full else ""),
        members=_card_members(inputs.members),
        unmeasured=_card_members(inputs.full),
        tables=tuple(SourceTable(**entry) for entry in result.tables),
        nested=tuning.nested if tuning else None,
        recipe=describe_tuned(tuned) if tuned else None,
    )
    write_ensemble_card(card)
    return card
