"""The fold file `folds/<competition>/folds.csv`: image_id,file_name,fold,group; one row an image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.text import read_table, same_text
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, folds_csv, shown

COLUMNS = ["image_id", "file_name", "fold", "group"]


@dataclass(frozen=True)
class Split:
    """fold, group: (n,) of each image in the order of the dataset's image table; digest of the file."""

    image_id: NDArray[np.int64]
    fold: NDArray[np.int32]
    group: NDArray[np.int64]
    n_folds: int
    digest: str
    path: Path


def are_whole(numbers: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
    """Which numbers are whole, from 0 and below a limit; not those that are NaN or infinite."""
    return (numbers >= 0) & (numbers < limit) & (numbers == np.floor(numbers))


def read_split(competition: str, train: Dataset) -> Split:
    """Read and check the split of a competition against its train images."""
    path = folds_csv(competition)
    if not path.is_file():
        raise PipelineError(f"{shown(path)}: no split yet; make folds COMP={competition}")
    table = read_table(path)
    if list(table.columns) != COLUMNS:
        raise PipelineError(f"{shown(path)}: header {list(table.columns)}, expected {COLUMNS}")
    for name in ("image_id", "fold"):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        limit = len(table) if name == "fold" else 2**31
        if not are_whole(numbers, limit).all():
            raise PipelineError(f"{shown(path)}: column {name}: expected whole numbers from 0 to {limit - 1}")
        table[name] = numbers.astype(np.int64)
    table = table.sort_values("image_id").reset_index(drop=True)
    same = len(table) == len(train.images) and bool(
        (table["image_id"].to_numpy() == train.images["image_id"].to_numpy()).all()
        and (table["file_name"].map(same_text) == train.images["file_name"].map(same_text)).all()
    )
    if not same:
        raise PipelineError(
            f"{shown(path)}: its {len(table)} images are not the {len(train.images)} of the train set; "
            f"point ROOT at the data it was made with, or make folds COMP={competition} again"
        )
    fold = table["fold"].to_numpy()
    n_folds = int(fold.max()) + 1
    for k in range(n_folds):
        if not (fold == k).any():
            raise PipelineError(f"{shown(path)}: fold {k} has no image; make folds again")
    alone = "image " + table["image_id"].astype(str)  # no group is stated
    group = pd.factorize(table["group"].where(table["group"] != "", alone))[0].astype(np.int64)
    return Split(
        table["image_id"].to_numpy(np.int64), fold.astype(np.int32), group, n_folds, file_digest(path), path
    )


def check_fold(split: Split, fold: int | str) -> None:
    """Raise PipelineError for a number that is no fold's; "full" is none and always there."""
    if isinstance(fold, int) and not 0 <= fold < split.n_folds:
        raise PipelineError(
            f"fold {fold} is out of range: {shown(split.path)} has folds 0 to {split.n_folds - 1}"
        )
