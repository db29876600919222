"""Making a fold file: the split, its card and its picture."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.profile import Profile
from pipeline.data.runs import trained_on
from pipeline.data.split import COLUMNS
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import file_digest, folds_csv, shown, write_json, write_text
from pipeline.splits.balance_card import balance_card
from pipeline.splits.content import content_of, split_images
from pipeline.splits.groups import Links, join, split_bursts
from pipeline.splits.picture import draw_balance


@dataclass(frozen=True)
class SplitPlan:
    """How to split: a key of `STRATEGIES`, the number of folds, the seed, and which images stay together."""

    strategy: str
    n_folds: int
    seed: int
    links: tuple[Links, ...] = ()


def make_folds(
    profile: Profile, train: Dataset, plan: SplitPlan, name: str = "folds", overwrite: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Write a fold file, its card and its picture; returns the fold file's path and the card.

    Raises PipelineError when runs were trained on the split that is there, unless `overwrite`.
    """
    images, boxes = train.images, train.annotations[train.annotations["iscrowd"] == 0]
    ids = images["image_id"].to_numpy(np.int64)
    content = content_of(
        ids,
        boxes["image_id"].to_numpy(np.int64),
        boxes["label"].to_numpy(np.int64),
        boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64),
        len(profile.classes),
        join(ids, plan.links),
    )
    fold = split_images(content, plan.strategy, plan.n_folds, plan.seed)
    table = images[["image_id", "file_name"]].assign(fold=fold, group=content.group)
    text = io.StringIO()
    table[COLUMNS].to_csv(text, index=False, lineterminator="\n")
    path = folds_csv(profile.name).with_name(f"{name}.csv")
    card: dict[str, Any] = {
        "competition": profile.name,
        "strategy": plan.strategy,
        "seed": plan.seed,
        "image_digest": train.digest,
    }
    card |= balance_card(content, fold, plan.n_folds, profile.classes)
    card["groups"] |= {
        "by": [link.text for link in plan.links],
        "joined_pairs": [len(link.pairs) for link in plan.links],
    }
    card["bursts"] = split_bursts(train, fold)
    card["findings"] = train.findings.as_json()
    with locked(path):
        if not overwrite:
            check_unused(profile.name, path, text.getvalue())
        write_text(path, text.getvalue())
        write_json(path.with_suffix(".json"), card | {"digest": file_digest(path)})
        draw_balance(path.with_suffix(".png"), profile.title, card)
    return path, card


def check_unused(competition: str, path: Path, text: str) -> None:
    """Raise PipelineError when a run was trained on the split in `path` and `text` is another one."""
    if not path.is_file() or path.read_bytes() == text.encode():
        return
    if runs := trained_on(competition, file_digest(path)):
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        raise PipelineError(
            f"{shown(path)}: {shown(runs[0].folder)}{more} trained on this split, which another would "
            "replace; OVERWRITE=1 (--overwrite) replaces it, and those runs have to be trained again"
        )
