"""Read a submission CSV as it is: every row, key and number. What is wrong with them is for others to say."""

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.profile import Profile
from pipeline.data.specs import box_fields
from pipeline.errors import PipelineError
from pipeline.paths import regular, shown

DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Rows:
    """The rows of a CSV below its header; blank ones are left out.

    Parallel over the rows: `row_numbers` in the file (the header is row 1), `widths` (cells per row), and
    the `keys` and `cells` of the image's and the box string's column, both "" where the width is not
    the header's. The values of row r are offsets[r]..offsets[r+1] of `texts`, `are_names` and `numbers`.
    """

    path: Path
    header: tuple[str, ...]
    complete: bool  # the last row ends with a line end
    row_numbers: NDArray[np.int64]
    widths: NDArray[np.int64]
    keys: list[str]
    cells: list[str]
    empty: NDArray[np.bool_]  # has the box string of an image without a box
    offsets: NDArray[np.int64]
    texts: Any  # pyarrow strings
    are_names: NDArray[np.bool_]  # the text is the name of a label
    numbers: NDArray[np.float64]  # NaN: no finite number; of a name its place in `label_names`, or -1

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Values per row."""
        return np.diff(self.offsets)

    def locate(self, value: int) -> tuple[int, int]:
        """(row, position in the row's box string) of a value."""
        row = int(np.searchsorted(self.offsets, value, side="right")) - 1
        return row, value - int(self.offsets[row])


def label_names(profile: Profile) -> tuple[str, ...]:
    """The labels that a submission may name, where they are names; else nothing."""
    spec = profile.submission
    if not profile.labels:
        return ()
    none = spec.empty.split()[:1] if spec.empty else []
    return (*profile.labels, *none, *spec.other_labels)


def none_label(profile: Profile) -> float:
    """The label of the box that says that there is none, as `Rows.numbers` has it; NaN without one."""
    empty = profile.submission.empty.split()
    if not empty:
        return float("nan")
    return float(len(profile.labels) if profile.labels else empty[0])


def read_csv(path: Path) -> tuple[list[list[str]], bool]:
    """The rows as Python's csv module reads them ([] for a blank line), and whether the last one ends.

    Raises PipelineError when the file is no text in UTF-8 or its quotes are broken.
    """
    try:
        text = regular(path).read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds null bytes")
        complete = text.endswith(("\n", "\r"))
        if '"' in text:
            csv.field_size_limit(2**31 - 1)
            return list(csv.reader(io.StringIO(text, newline=""), strict=True)), complete
    except FileNotFoundError:
        raise PipelineError(f"{shown(path)}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({error})") from None
    # Without quotes a row is a line: a fifth of the csv module's time.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.split(",") if line else [] for line in lines], complete


def read_rows(path: Path, profile: Profile) -> Rows:
    """Read a CSV. Raises PipelineError when it is no CSV, or its header lacks one of the two columns."""
    spec, fields, names = profile.submission, box_fields(profile.submission), label_names(profile)
    all_rows, complete = read_csv(path)
    header = tuple(all_rows[0]) if all_rows else ()
    if not {spec.image_column, spec.boxes_column} <= set(header):
        raise PipelineError(f"{shown(path)}: header {list(header)}, expected {list(spec.header)}")
    row_numbers = [number for number, row in enumerate(all_rows, start=1) if row and number > 1]
    rows = [all_rows[number - 1] for number in row_numbers]
    keys, cells = (
        [row[header.index(column)] if len(row) == len(header) else "" for row in rows]
        for column in (spec.image_column, spec.boxes_column)
    )
    offsets, texts = _split(cells)
    is_name = np.zeros(len(texts), np.bool_)
    if names and "label" in fields:
        position = np.arange(len(texts)) - np.repeat(offsets[:-1], np.diff(offsets))
        is_name = position % len(fields) == fields.index("label")
    empty = spec.empty.split()
    is_empty = np.diff(offsets) == len(empty)
    for row in np.flatnonzero(is_empty).tolist() if empty else ():
        is_empty[row] = texts.slice(offsets[row], len(empty)).to_pylist() == empty
    return Rows(
        path,
        header,
        complete,
        np.array(row_numbers, np.int64),
        np.array([len(row) for row in rows], np.int64),
        keys,
        cells,
        is_empty,
        offsets,
        texts,
        is_name,
        _numbers(texts, is_name, names),
    )


def _split(cells: list[str]) -> tuple[NDArray[np.int64], Any]:
    """The texts of all cells, split at blanks and tabs, and where those of each cell begin (len + 1,)."""
    trimmed = pc.ascii_trim_whitespace(pa.array(cells, pa.string()))
    lists = pc.ascii_split_whitespace(pc.if_else(pc.equal(trimmed, ""), None, trimmed))
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return np.append(0, np.cumsum(counts, dtype=np.int64)), lists.flatten()


def _numbers(texts: Any, is_name: NDArray[np.bool_], names: tuple[str, ...]) -> NDArray[np.float64]:
    """The texts as numbers, NaN where they are not finite; of names the place in `names`, or -1."""
    if is_name.any():
        values = np.empty(len(texts))
        known = pa.array(names, pa.string())
        values[is_name] = pc.fill_null(pc.index_in(texts.filter(is_name), known), -1).to_numpy()
        values[~is_name] = _numbers(texts.filter(~is_name), np.zeros(0, np.bool_), ())
        return values
    try:
        numbers = pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        numbers = pc.cast(
            pc.if_else(pc.match_substring_regex(texts, DECIMAL), texts, None), pa.float64()
        ).fill_null(np.nan)
    values = np.array(numbers)
    values[np.isinf(values)] = np.nan
    return values
