"""Named ensembles (configs/ensembles/<name>.yaml): which members, fused within folds and then across.

Out-of-fold and test go through the same code. Within a fold all members and views are fused; OOF
joins the held-out parts of the folds; test fuses the folds' results once more, with nothing fitted.
"""

from collections.abc import Sequence
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
    check_belongs,
    join_predictions,
    read_predictions,
    source_digest,
    write_predictions,
)
from pipeline.data.profile import Profile
from pipeline.data.runs import Run, find_runs, need_runs
from pipeline.data.split import Split, read_split
from pipeline.ensembles.config import MemberChoice, read_ensemble
from pipeline.ensembles.fuse_tuned import fuse_tuned
from pipeline.ensembles.tables import (
    ACROSS_FOLDS,
    Fusion,
    check_members,
    describe,
    fuse_same_images,
)
from pipeline.ensembles.tuned import TUNED, TunedEnsemble, TuningRecord, describe_tuned, read_tuned
from pipeline.errors import PipelineError
from pipeline.paths import ensemble_dir, file_digest, shown
from pipeline.scoring import evaluate
from pipeline.scoring.bootstrap import summary
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth

LAST_STEP = (
    "oof is the score of one fold's ensemble on its held-out photos; the submission fuses the K folds' "
    "ensembles once more, and what that adds is not measured on oof"
)


@dataclass(frozen=True)
class Member:
    """One trained fold of a model, the views it takes part with, and the weight of each."""

    run: Run
    views: tuple[str, ...]
    weight: float


def choose_members(competition: str, choices: Sequence[MemberChoice] | None) -> list[Member]:
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
            chosen.append(Member(run, views, choice.weight))
    return chosen


def load_table(
    run: Run, view: str, profile: Profile, dataset: Dataset, split: str, folds: Split
) -> Predictions:
    """A run's boxes in a view, checked to be of this competition, image table and split of the photos."""
    table = run.table(split, view)
    check_belongs(table, profile.name, dataset.digest, len(profile.classes))
    if table.meta.split != split:
        raise PipelineError(f"{table.name}: split '{table.meta.split}', expected '{split}'")
    check_split(table, run, folds)
    return table


def fuse_fold(
    members: Sequence[Member],
    profile: Profile,
    dataset: Dataset,
    split: str,
    fusion: Fusion,
    name: str,
    folds: Split,
) -> Predictions:
    """Fuse all members and views of one fold on one split (oof or test), whose images `dataset` holds."""
    tables, weights = [], []
    for member in members:
        for view in member.views:
            tables.append(load_table(member.run, view, profile, dataset, split, folds))
            weights.append(member.weight)
    return fuse_same_images(tables, fusion, weights, name, release=True)


def fuse_tuned_fold(
    tuned: TunedEnsemble,
    members: Sequence[Member],
    profile: Profile,
    dataset: Dataset,
    split: str,
    name: str,
    folds: Split,
) -> Predictions:
    """Make one fold's boxes of a tuned ensemble, on held-out and test photos alike; before its cut."""
    runs = {member.run.model: member.run for member in members}
    tables = [load_table(runs[m.model], m.view, profile, dataset, split, folds) for m in tuned.members]
    check_members(tables)
    first = tables[0].meta
    sizes = dataset.images.set_index("image_id").loc[first.image_ids, ["width", "height"]]
    boxes = fuse_tuned(tuned, tables, sizes.to_numpy(np.float64), len(profile.classes))
    meta = replace(
        first, model=name, view="fused", made={"members": [source_digest(table) for table in tables]}
    )
    return Predictions(boxes.boxes_xyxy, boxes.scores, boxes.labels, boxes.offsets, meta)


def find_tuned(
    folder: Path, members: Sequence[Member], split: Split
) -> tuple[TunedEnsemble, TuningRecord] | None:
    """The tuned ensemble when it was tuned on these members and this split, else None.

    Raises PipelineError for a damaged one, and for nested boxes that it was not saved with.
    """
    if not (folder / TUNED).is_file():
        return None
    tuned, record = read_tuned(folder)
    digests = sorted(
        file_digest(member.run.folder / "oof" / f"{view}.parquet")
        for member in members
        for view in member.views
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


def check_split(table: Predictions, run: Run, folds: Split) -> None:
    """Raise PipelineError when a run, or a table of it, was made with another split than `folds`.

    Both state the digest of their fold file; an out-of-fold table must hold that fold's images too.
    """
    stated = (run.folds_digest, table.meta.made.get("folds_digest"))
    images = np.flatnonzero(folds.fold == run.fold)
    other = table.meta.split == "oof" and not np.array_equal(
        np.sort(table.meta.image_ids), np.sort(folds.image_id[images])
    )
    if other or any(digest not in (None, folds.digest) for digest in stated):
        raise PipelineError(
            f"{table.name}: made with another split than the fold file holds now; restore that "
            "split, or train and predict again"
        )


def oof_scores(profile: Profile, train: Dataset, oof: Predictions) -> OofScores:
    """COCO's numbers, and the competition's own metric with its interval."""
    ids = oof.meta.image_ids
    truth = group_truth(train.annotations, train.images, ids, len(profile.classes))
    own, _ = summary(score(oof, truth, profile.metric), profile.metric, len(ids), seed=0)
    return OofScores(**evaluate(oof, train.annotations, profile.classes), competition=Score(**own))


def make_ensemble(profile: Profile, name: str) -> EnsembleCard:
    """Write an ensemble's oof.parquet, test.parquet and card.json; returns the card."""
    config = read_ensemble(name)
    fusion, members = config.fusion, choose_members(profile.name, config.members)
    train, test = load_dataset(profile, "train"), load_dataset(profile, "test")
    split = read_split(profile.name, train)
    folds = sorted({member.run.fold for member in members})
    models = list(dict.fromkeys(member.run.model for member in members))
    for model in models:
        have = {m.run.fold for m in members if m.run.model == model}
        if missing := sorted(set(folds) - have):
            print(f"  note: {model} is not trained on fold {missing}; those folds are fused without it")
    if missing := sorted(set(range(split.n_folds)) - set(folds)):
        print(f"  note: no model is trained on fold {missing}; their photos have no out-of-fold boxes")
    folder = ensemble_dir(profile.name, name)
    tuned = find_tuned(folder / "tuned", members, split)
    if tuned is None:
        print(f"  not tuned: fused by {in_words(fusion)} of configs/ensembles/{name}.yaml")
    else:
        print(f"  tuned: by {shown(folder / 'tuned' / TUNED)}, nested {tuned[1].nested.value:.4f}")
    oof_parts, test_parts = [], []
    for fold in folds:
        mine = [member for member in members if member.run.fold == fold]
        if tuned is None:
            oof_parts.append(fuse_fold(mine, profile, train, "oof", fusion, name, split))
            test_parts.append(fuse_fold(mine, profile, test, "test", fusion, name, split))
        else:
            test_parts.append(fuse_tuned_fold(tuned[0], mine, profile, test, "test", name, split))
    for fold, part in zip(folds, test_parts, strict=True):
        part.meta.made["cut"] = None if tuned is None else tuned[0].cut
        write_predictions(folder / "test_folds" / f"fold{fold}.parquet", part)
    for path in (folder / "test_folds").glob("*.parquet"):
        if path.stem not in {f"fold{fold}" for fold in folds}:
            path.unlink()  # of an earlier ensemble of more folds
    listed = [entry for part in oof_parts + test_parts for entry in part.meta.made["members"]]
    result = fuse_same_images(test_parts, ACROSS_FOLDS, name=name, release=True)
    if tuned is None:
        oof = join_predictions(oof_parts)
        how: dict[str, Any] = {"fusion": describe(fusion)}
        oof.meta.made = how | {"members": listed}
        oof.meta.view = "fused"
    else:
        # Boxes by the tuned ensemble itself, which saw all truth, would score too well.
        oof = read_predictions(folder / "tuned" / "oof.parquet")
        how = {
            "fusion": describe(tuned[0].fusion),
            "tuned": file_digest(folder / "tuned" / TUNED),
            "cut": tuned[0].cut,
        }
        oof.meta.made |= {"tuned": how["tuned"]}
    result.meta.made |= how | {"members": listed}
    write_predictions(folder / "oof.parquet", oof)
    write_predictions(folder / "test.parquet", result)
    card = EnsembleCard(
        ensemble=name,
        competition=profile.name,
        models=tuple(models),
        folds=tuple(folds),
        **how,
        across_folds=describe(ACROSS_FOLDS),
        folds_digest=split.digest,
        oof_table_digest=file_digest(folder / "oof.parquet"),
        test_table_digest=file_digest(folder / "test.parquet"),
        image_digests={"train": train.digest, "test": test.digest},
        oof=oof_scores(profile, train, oof),
        note=LAST_STEP,
        members=tuple(
            CardMember(model=m.run.model, fold=m.run.fold, views=m.views, weight=m.weight) for m in members
        ),
        tables=tuple(SourceTable(**entry) for entry in listed),
        nested=tuned[1].nested if tuned else None,
        recipe=describe_tuned(tuned[0]) if tuned else None,
    )
    write_ensemble_card(card)
    return card


def in_words(fusion: Fusion) -> str:
    return " ".join(f"{key} {value}" for key, value in describe(fusion).items()).removeprefix("method ")
