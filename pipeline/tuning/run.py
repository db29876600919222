"""From tables to the tuned ensemble on disk."""

import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.ensemble_card import NestedScore, SourceTable
from pipeline.data.predictions import (
    Meta,
    Predictions,
    check_belongs,
    not_scored,
    source_digest,
    write_predictions,
)
from pipeline.data.profile import Profile
from pipeline.data.split import read_split
from pipeline.ensembles.config import read_ensemble
from pipeline.ensembles.member_runs import choose_members
from pipeline.ensembles.tuned import TUNED, MemberTables, TuningRecord, read_tuned, write_tuned
from pipeline.errors import PipelineError
from pipeline.kernels.stamp import stamp_of
from pipeline.locks import locked
from pipeline.paths import file_digest, folds_csv, text_digest, write_json
from pipeline.scoring.truth import Truth, check_images, group_truth, no_truth
from pipeline.scoring.validation import check_boxes
from pipeline.tuning.engine import Engine, Journal
from pipeline.tuning.members import Member, make_members
from pipeline.tuning.nested import TuningResult, conclude
from pipeline.tuning.parts import PARTS, Partition, by_folds, by_images
from pipeline.tuning.search import Budget, search
from pipeline.tuning.summary import make_report

MIN_FOLDS = 3  # two folds would leave each choice half of the images
FOLDER = Path(__file__).parent
SEARCH_SHARE = 0.45  # of the time; the rest is for rescoring and for the nested scores
EXTRA = 12  # random candidates per set of images, when no step gains any more


@dataclass
class TuneOptions:
    """The options of a tuning: seconds, candidates per set of images, partitions, seed."""

    seconds: float = 300.0
    trials: int | None = None
    partitions: int = 5
    seed: int = 0
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.seconds * SEARCH_SHARE, self.trials)


def members_of_ensemble(profile: Profile, name: str) -> list[Predictions]:
    """The out-of-fold tables of a named ensemble, without the weights in its file.

    A member has the name of its run, whatever the metadata of a table from elsewhere say. Raises
    PipelineError for a member that lacks a fold which others have.
    """
    members = choose_members(profile.name, read_ensemble(name).members)
    folds = {member.run.fold for member in members}
    has: dict[tuple[str, str], set[int | str]] = {}
    tables = []
    for member in members:
        for view in member.views:
            has.setdefault((member.run.model, view), set()).add(member.run.fold)
            table = member.run.table("oof", view)
            table.meta.model, table.meta.view = member.run.model, view
            tables.append(table)
    for (model, view), predicted in has.items():
        if missing := sorted(folds - predicted):
            raise PipelineError(
                f"{model}/{view}: no out-of-fold boxes of fold {', '.join(map(str, missing))}; tuning needs "
                f"each member on all folds: train and predict it there, or leave it out of "
                f"configs/ensembles/{name}.yaml"
            )
    return tables


def groups_of(competition: str, train: Dataset, image_ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """(m,) the group of each image in the competition's fold file; without one each is its own."""
    if not folds_csv(competition).is_file():
        return np.arange(len(image_ids))
    try:
        split = read_split(competition, train)
    except PipelineError as error:  # any tables can be tuned without the split that they were made with
        print(f"  note: {error}; until then images are assigned to parts one by one")
        return np.arange(len(image_ids))
    return split.group[np.searchsorted(split.image_id, image_ids)]


def choose_parts(train: Dataset, members: list[Member], options: TuneOptions) -> list[Partition]:
    """The competition's folds where the members have all of them, else random parts of the images.

    Groups of the fold file stay whole: photos of one scene on both sides would make the score too high.
    """
    meta = members[0].table.meta
    n_folds = len(np.unique(meta.folds))
    whole = len(meta.image_ids) == len(train.images) and bool((meta.folds >= 0).all())
    if whole and n_folds >= MIN_FOLDS:
        return [by_folds(meta.folds)]
    groups = groups_of(meta.competition, train, meta.image_ids)
    return by_images(groups, PARTS, options.partitions, options.seed)


def _header(
    members: list[Member], truth: Truth, metric: str, partitions: list[Partition], options: TuneOptions
) -> dict[str, Any]:
    """What a journal's values depend on: the data, the parts, and the code that makes the values."""
    rows = truth.rows
    truth_digest = sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in rows)).hexdigest()[:16]
    parts = sha256(b"".join(p.part.tobytes() for p in partitions)).hexdigest()[:16]
    boxes = [
        sha256(b"".join(a.tobytes() for a in (t.offsets, t.labels, t.scores, t.boxes_xyxy))).hexdigest()[:16]
        for t in (member.table for member in members)
    ]
    code = [stamp_of(FOLDER.with_name(name)) for name in ("tuning", "ensembles", "fusion", "scoring")]
    return {
        "code": code,
        "metric": metric,
        "truth": truth_digest,
        "parts": parts,
        "boxes": boxes,
        "seed": options.seed,
    }


def tune(profile: Profile, tables: list[Predictions], folder: Path, options: TuneOptions) -> dict[str, Any]:
    """Tune an ensemble of the given out-of-fold tables and write the results; returns the report.

    A search that was stopped does not replace what a whole one of the same boxes found: `kept`.
    """
    began = time.monotonic()
    train = load_dataset(profile, "train")
    train.findings.show()
    members, notes = make_members(tables)
    for table in tables:
        check_belongs(table, profile.name, train.digest, len(profile.classes))
        notes += not_scored(table, train.images)
    for note in notes:
        print(f"  note: {note}")
    truth = group_truth(
        train.annotations, train.images, members[0].table.meta.image_ids, len(profile.classes)
    )
    if truth.rows.crowd.all():
        raise PipelineError(no_truth(len(truth.image_ids), len(truth)))
    partitions = choose_parts(train, members, options)
    journal = Journal(
        folder / "search.jsonl", _header(members, truth, str(profile.metric), partitions, options)
    )
    with closing(journal):
        engine = Engine(members, truth, profile.metric, partitions, journal)
        tuned, report = _tune(engine, options)
    report["seconds"] = round(time.monotonic() - began, 1)
    report["search"] = text_digest(json.dumps(journal.header, sort_keys=True))
    with locked(folder):
        report["kept"] = report["stopped"] and _is_whole(folder, report["search"])
        if not report["kept"]:
            _write(folder, profile, members, tuned, report)
    return report


def _is_whole(folder: Path, search: str) -> bool:
    """Whether the folder holds the result of a search of the same boxes and parts that was not stopped."""
    if not (folder / TUNED).is_file():
        return False
    try:
        _, made = read_tuned(folder)
    except PipelineError:  # damaged: nothing to be kept
        return False
    return made.search == search and not made.stopped


def _tune(engine: Engine, options: TuneOptions) -> tuple[TuningResult, dict[str, Any]]:
    """Search, conclude, report."""
    members, truth, partitions = engine.members, engine.truth, engine.partitions
    for member, source in zip(members, engine.sources, strict=True):
        check_images(source, truth)
        check_boxes(source, truth, member.name)
    if engine.journal.resumed:
        print(f"  {engine.journal.resumed} candidates are scored already: the search goes on from there")
    print(
        f"{len(members)} members, {len(truth.image_ids)} images, {len(truth)} true boxes; "
        f"{engine.metric}; nested over {partitions[0].kind}"
        + (f", {len(partitions)} times" if len(partitions) > 1 else "")
    )
    states = search(engine, options.budget, options.seed, EXTRA)
    budget = options.budget
    at_rest = not budget.stop and time.monotonic() - budget.began < budget.seconds
    budget.seconds = options.seconds
    tuned = conclude(engine, states, partitions, options.budget, options.seed)
    report = make_report(engine, states, tuned, options.seed)
    report |= {"parts": partitions[0].kind, "stopped": budget.stop, "at_rest": at_rest, "seed": options.seed}
    return tuned, report


def _write(
    folder: Path, profile: Profile, members: list[Member], tuned: TuningResult, report: dict[str, Any]
) -> None:
    first = members[0].table.meta
    sources = tuple(
        MemberTables(
            member=member.name,
            tables=tuple(SourceTable(**source_digest(table)) for table in member.tables),
        )
        for member in members
    )
    boxes = tuned.nested[0].chosen
    meta = Meta(
        first.competition,
        first.split,
        first.image_digest,
        first.image_ids,
        first.folds,
        "tuned",
        "nested",
        {
            "nested": True,
            "seed": report["seed"],
            "members": [source.model_dump(exclude_unset=True) for source in sources],
        },
    )
    table = Predictions(boxes.boxes_xyxy, boxes.scores, boxes.labels, boxes.offsets, meta)
    write_predictions(folder / "oof.parquet", table)
    record = TuningRecord(
        competition=profile.name,
        metric=str(profile.metric),
        image_digest=first.image_digest,
        members=sources,
        nested=NestedScore.model_validate(report["nested"], strict=False),
        seed=report["seed"],
        search=report["search"],
        stopped=report["stopped"],
        folds_digests=tuple(
            sorted({str(t.meta.made.get("folds_digest", "")) for m in members for t in m.tables} - {""})
        ),
        oof_digest=file_digest(folder / "oof.parquet"),
    )
    write_tuned(folder, tuned.ensemble, record)
    write_json(folder / "report.json", report)
