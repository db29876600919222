"""The members of an ensemble to be tuned: out-of-fold tables, a model's folds joined to one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.predictions import Predictions, join_predictions
from pipeline.ensembles.tables import check_members
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Member:
    """One model and view over all images. `tables`: as its files were; `seconds` per photo, or NaN."""

    model: str
    view: str
    table: Predictions
    tables: tuple[Predictions, ...]
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.model}/{self.view}"


def make_members(tables: Sequence[Predictions]) -> tuple[list[Member], list[str]]:
    """Members of the given tables, and notes on how they were put together.

    Tables of the same images are different members; tables of other images are other folds of the
    same members: paired by model and view where these say it, else in the order given. Raises
    PipelineError for tables that share some of their images, and for folds with other numbers of
    members.
    """
    check_members(tables)
    groups: dict[bytes, list[Predictions]] = defaultdict(list)
    for table in tables:
        if table.meta.split != "oof":
            raise PipelineError(f"{table.name}: split '{table.meta.split}'; tuning takes out-of-fold boxes")
        groups[table.meta.image_ids.tobytes()].append(table)
    folds = list(groups.values())
    for i, fold in enumerate(folds):
        for other in folds[i + 1 :]:
            shared = np.intersect1d(fold[0].meta.image_ids, other[0].meta.image_ids)
            if len(shared):
                raise PipelineError(
                    f"{fold[0].name} and {other[0].name} share {len(shared)} images; expected the same "
                    "images (other members) or none (other folds of the same members)"
                )
    counts = [len(fold) for fold in folds]
    if len(set(counts)) > 1:
        raise PipelineError(
            f"{max(counts)} tables for the images of {folds[counts.index(max(counts))][0].name}, "
            f"{min(counts)} for those of {folds[counts.index(min(counts))][0].name}: every member needs "
            "its boxes on all images; leave the odd ones out or predict the missing ones"
        )
    notes = []
    keys = [[(table.meta.model, table.meta.view) for table in fold] for fold in folds]
    by_name = all(len(set(row)) == len(row) and set(row) == set(keys[0]) for row in keys)
    if by_name:
        columns = [[fold[row.index(key)] for fold, row in zip(folds, keys, strict=True)] for key in keys[0]]
    else:
        columns = [list(column) for column in zip(*folds, strict=True)]
        if len(folds) > 1:
            notes = [
                "the tables' models and views do not say which belong together; joined in the order "
                "given: " + "; ".join(" + ".join(t.name for t in column) for column in columns)
            ]
    members: list[Member] = []
    for column in columns:
        first = column[0].meta
        name = (first.model, first.view)
        while any((m.model, m.view) == name for m in members):
            name = (f"{name[0]}'", name[1])
        joined = join_predictions(column) if len(column) > 1 else column[0]
        spent = [float(table.meta.made.get("seconds", np.nan)) for table in column]
        members.append(Member(*name, joined, tuple(column), sum(spent) / len(joined.meta.image_ids)))
    return members, notes


def copies(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Pairs of members with the same boxes."""
    pairs = []
    for i, member in enumerate(members):
        for other in members[i + 1 :]:
            a, b = member.table, other.table
            if (
                np.array_equal(a.offsets, b.offsets)
                and np.array_equal(a.labels, b.labels)
                and np.array_equal(a.scores, b.scores)
                and np.array_equal(a.boxes_xyxy, b.boxes_xyxy)
            ):
                pairs.append((member.name, other.name))
    return pairs
