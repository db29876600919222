"""CSV files in a folder: annotations, lists of test images, sizes, names of classes."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.columns import Columns, describe, is_sizes, pick
from pipeline.data.discover.listing import Listing, part_of
from pipeline.data.discover.submission import is_sample
from pipeline.data.text import read_table, same_text
from pipeline.errors import PipelineError

CLASS_IDS = "classid labelid categoryid class label category"


@dataclass(frozen=True)
class CsvFile:
    path: str
    part: str
    table: pd.DataFrame
    columns: Columns

    @property
    def rank(self) -> tuple[int, int]:
        return self.columns.boxes, len(self.columns.images)


def read_tables(listing: Listing) -> dict[str, pd.DataFrame]:
    """All CSV files that can be read as a table with a header, by path."""
    tables = {}
    for path in listing.with_suffix(".csv"):
        try:
            tables[path] = read_table(listing.root / path)
        except PipelineError as error:
            listing.unreadable.append(str(error))
    return tables


def find_csv(listing: Listing, tables: dict[str, pd.DataFrame], has_sample: bool) -> list[Candidate]:
    """The CSVs with boxes as one candidate; none where no CSV holds boxes.

    has_sample: a sample submission names the test images, so that no list of sizes is taken for it.
    """
    files = []
    for path, table in tables.items():
        if not is_sample(path, table) and (columns := describe(table, path, listing)) is not None:
            files.append(CsvFile(path, part_of(path), table, columns))
    with_boxes = [file for file in files if file.columns.boxes]
    train = _best(with_boxes, "train") or _best(with_boxes, "") or _best(with_boxes, "val", "test")
    if train is None:
        return []
    rest = [file for file in files if file is not train]
    lists = [file for file in rest if not (has_sample and is_sizes(file.table))]
    test = _best(lists, "test")
    as_test = test or _best([file for file in rest if file.columns.boxes], "val")
    sizes = sizes_files(tables)
    found = Candidate("csv", f"CSV {train.path}", train.columns.boxes, _split(train, sizes))
    _name_classes(found, train, tables)
    found.comments |= {f"train.{key}": text for key, text in train.columns.comments.items()}
    if as_test is not None:
        found.test = _split(as_test, sizes)
        found.comments |= {f"test.{key}": text for key, text in as_test.columns.comments.items()}
        if as_test.columns.boxes:
            found.test["truth"] = as_test.path
    if as_test is not None and test is None:
        found.comments["test"] = VALIDATION
    unused = [file for file in rest if file is not as_test and file.path not in sizes]
    found.notes += [
        f"CSV {file.path}: {len(file.columns.images)} images, {file.columns.boxes} boxes" for file in unused
    ]
    return [found]


def _best(files: list[CsvFile], *parts: str) -> CsvFile | None:
    return max((file for file in files if file.part in parts), key=lambda file: file.rank, default=None)


def sizes_files(tables: dict[str, pd.DataFrame]) -> dict[str, set[str]]:
    """The CSVs that hold nothing but sizes of photos -> the images that they name."""
    return {path: set(table.iloc[:, 0]) for path, table in tables.items() if is_sizes(table)}


def add_sizes(columns: dict[str, Any], ids: list[str], sizes: dict[str, set[str]]) -> None:
    """Name the CSV that holds the sizes of these images, where one does and the columns do not."""
    known = [path for path, names in sizes.items() if names & set(ids)]
    if known and "width" not in columns:
        columns["sizes"] = known[0]


def _split(file: CsvFile, sizes: dict[str, set[str]]) -> dict[str, Any]:
    """The values of SplitSpec for a CSV."""
    add_sizes(file.columns.spec, file.columns.images, {p: s for p, s in sizes.items() if p != file.path})
    photos = {} if file.columns.photos == "." else {"photos": file.columns.photos}
    return {"annotations": file.path, **photos, "columns": file.columns.spec}


def _name_classes(found: Candidate, train: CsvFile, tables: dict[str, pd.DataFrame]) -> None:
    """The classes: as a file of names orders them, by the number beside each name, or by count."""
    counts, label = train.columns.labels, train.columns.spec.get("label")
    if label is None:
        found.classes = ["object"]
        found.comments["classes"] = "assumed: no column names classes"
        return
    for path in tables:
        if _is_names(rows := _without_header(tables[path]), counts):
            found.options["classes_file"] = path
            found.classes = [name for _, name in rows]
            return
    ids = _ids_of(train.table, label, counts)
    if ids is not None:
        column, numbers = ids
        found.classes = sorted(counts, key=lambda name: numbers[name])
        if sorted(numbers.values()) != list(range(len(numbers))):  # a submission names classes by number
            found.train["columns"]["label"] = column
            found.options["labels"] = [str(numbers[name]) for name in found.classes]
            none = found.train["columns"].pop("no_label", None)
            if none is not None:
                cells = train.table.loc[train.table[label].map(same_text) == none, column]
                found.train["columns"]["no_label"] = cells.iloc[0]
    elif all(name.isascii() and name.isdigit() for name in counts):
        labels = sorted(counts, key=int)
        found.classes = [f"class {number}" for number in labels]
        found.options["labels"] = labels
        found.comments["classes"] = "the file has numbers only: give names, in the order of `labels`"
    else:
        found.sort_by_count(counts)


def _without_header(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The rows of a CSV without a header, of which the first was taken for one."""
    return [tuple(map(str, table.columns)), *table.itertuples(index=False, name=None)]


def _is_names(rows: list[tuple[str, ...]], counts: Counter[str]) -> bool:
    """Whether rows are label,name for the labels of most boxes."""
    known = sum(counts[label] for label, *_ in rows)
    return len(rows[0]) == 2 and 2 * known > counts.total()


def _ids_of(table: pd.DataFrame, label: str, counts: Counter[str]) -> tuple[str, dict[str, int]] | None:
    """A column that has a whole number of its own for each class, and class -> number."""
    names = table[label].map(same_text)
    for column in pick(table, CLASS_IDS):
        cells = table.loc[names.isin(list(counts)), column]
        if column == label or not cells.str.fullmatch(r"\d+", na=False).all():
            continue
        pairs = set(zip(names[cells.index], map(int, cells), strict=True))
        if len(pairs) == len(counts) == len({number for _, number in pairs}):
            return column, dict(pairs)
    return None
