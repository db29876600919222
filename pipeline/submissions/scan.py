"""Read a submission CSV as it is: every row, key and number, with what is odd about each. Judges nothing."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.profile import Profile
from pipeline.data.specs import box_fields
from pipeline.errors import PipelineError
from pipeline.kernels.threads import chunks, over_chunks, thread_count
from pipeline.paths import shown
from pipeline.submissions import digits

MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Scan:
    """The rows of a CSV after its header that are not blank.

    number (rows,): of the row in the file, the header is 1. columns (rows,): how many cells it has.
    Where that is not the header's number the row has no key ("") and no tokens. Tokens of row r are
    offsets[r]..offsets[r+1]; values are NaN for what is no number, labels for those that are names
    the index in `label_names`, -1 for an unknown one. flags as in `digits`.
    """

    path: Path
    header: tuple[str, ...]
    number: NDArray[np.int64]
    columns: NDArray[np.int64]
    keys: list[str]
    trailing_space: NDArray[np.bool_]
    empty: NDArray[np.bool_]  # has the string of an image without a box
    offsets: NDArray[np.int64]
    values: NDArray[np.float64]
    flags: NDArray[np.uint8]
    whole: bool  # the last line ends with a newline
    data: NDArray[np.uint8]
    starts: NDArray[np.int64]  # of the box cells in `data`
    ends: NDArray[np.int64]

    def cell(self, row: int) -> str:
        """The box cell of a row."""
        return bytes(self.data[self.starts[row] : self.ends[row]]).decode(errors="replace")


def label_names(profile: Profile) -> tuple[str, ...]:
    """The labels that a submission may name, where they are names; else nothing."""
    spec = profile.submission
    if not profile.labels:
        return ()
    none = spec.empty.split()[:1] if spec.empty else []
    return (*profile.labels, *none, *spec.other_labels)


def scan_submission(path: Path, profile: Profile, threads: int | None = None) -> Scan:
    """Read a CSV. Raises PipelineError when it is no text, or its header lacks the two columns."""
    spec, fields, count = profile.submission, box_fields(profile.submission), thread_count(threads)
    raw = _read(path)
    data = np.frombuffer(raw, np.uint8)
    cuts = np.flatnonzero(data == digits.NEWLINE)
    starts = np.append(0, cuts + 1).astype(np.int64)
    ends = np.append(cuts, len(data)).astype(np.int64)
    returns = (ends > starts) & (data[np.maximum(ends - 1, 0)] == digits.RETURN) if len(data) else ends > 0
    ends = ends - returns
    header = tuple(raw[: ends[0]].decode().split(","))
    if not {spec.image_column, spec.boxes_column} <= set(header):
        raise PipelineError(f"{shown(path)}: header {list(header)}, expected {list(spec.header)}")
    number = np.flatnonzero(ends > starts)[1:]
    starts, ends = starts[number], ends[number]
    commas = np.full((len(number), len(header)), -1, np.int64)
    ranges = chunks(np.append(0, np.cumsum(ends - starts)), count)
    tokens = np.zeros_like(commas)
    split = partial(digits.split_rows, data, starts, ends, commas, tokens)
    over_chunks(lambda _, first, last: split(first, last), ranges, count)
    columns = commas[:, -1] + 1
    good = columns == len(header)
    begin, end = _cells(header.index(spec.image_column), starts, ends, commas, good)
    keys = [raw[a:b].decode() for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
    begin, end = _cells(header.index(spec.boxes_column), starts, ends, commas, good)
    counts = np.where(good, tokens[:, header.index(spec.boxes_column)], 0)
    offsets = np.append(0, np.cumsum(counts))
    values, flags = np.empty(offsets[-1]), np.empty(offsets[-1], np.uint8)
    names = label_names(profile)
    label_field = fields.index("label") if names and "label" in fields else -1
    hashes = np.zeros(offsets[-1] if label_field >= 0 else 0, np.uint64)
    parse = partial(
        digits.parse_tokens, data, begin, end, offsets, len(fields), label_field, values, flags, hashes
    )
    over_chunks(lambda _, first, last: parse(first, last), ranges, count)
    if label_field >= 0:
        _look_up(names, label_field, len(fields), offsets, values, hashes)
    spaced = (end > begin) & (data[np.maximum(end - 1, 0)] == digits.SPACE) if len(data) else end > begin
    scan = Scan(
        path,
        header,
        number + 1,
        columns,
        keys,
        spaced,
        _are_empty(spec.empty, data, begin, end, counts),
        offsets,
        values,
        flags,
        raw.endswith(b"\n"),
        data,
        begin,
        end,
    )
    _reread(scan)
    return scan


def _read(path: Path) -> bytes:
    """The file without byte order mark and without quotes."""
    try:
        raw = path.read_bytes().removeprefix(MARK)
        text = raw.decode() if not raw.isascii() else ""
    except (FileNotFoundError, IsADirectoryError):
        raise PipelineError(f"{shown(path)}: no such file") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({error})") from None
    if b"\0" in raw:
        raise PipelineError(f"{shown(path)}: not a CSV file (it holds null bytes)")
    if b'"' not in raw:
        return raw
    try:
        csv.field_size_limit(2**31 - 1)
        rows = list(csv.reader(io.StringIO(text or raw.decode(), newline="")))
    except csv.Error as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({error})") from None
    for number, row in enumerate(rows, start=1):
        if any(c in cell for cell in row for c in ",\n\r"):
            raise PipelineError(f"{shown(path)}: row {number}: a comma or a line end inside quotes")
    return ("\n".join(map(",".join, rows)) + "\n" * raw.endswith(b"\n")).encode()


def _cells(
    column: int,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    commas: NDArray[np.int64],
    good: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the cells of a column begin and end; of nothing in rows that are not good."""
    begin = starts if column == 0 else commas[:, column - 1] + 1
    end = ends if column == commas.shape[1] - 1 else commas[:, column]
    return np.where(good, begin, 0), np.where(good, end, 0)


def _look_up(
    names: Sequence[str],
    field: int,
    fields: int,
    offsets: NDArray[np.int64],
    values: NDArray[np.float64],
    hashes: NDArray[np.uint64],
) -> None:
    """Replace the label tokens' values by their index in `names`, -1 for none of them."""
    parts = [name.encode() for name in names]
    known = np.empty(len(names), np.uint64)
    digits.hash_tokens(np.frombuffer(b"".join(parts), np.uint8), np.cumsum([*map(len, parts)]), known)
    order = np.argsort(known)
    token = np.arange(len(values)) - np.repeat(offsets[:-1], np.diff(offsets))
    at = np.flatnonzero(token % fields == field)
    found = np.minimum(np.searchsorted(known[order], hashes[at]), len(names) - 1)
    values[at] = np.where(known[order][found] == hashes[at], order[found], -1)


def _are_empty(
    empty: str,
    data: NDArray[np.uint8],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which box cells are what an image without a box gets."""
    if not empty:
        return counts == 0
    found = np.zeros(len(counts), np.bool_)
    words = empty.split()
    for row in np.flatnonzero(counts == len(words)).tolist():
        found[row] = bytes(data[begin[row] : end[row]]).decode(errors="replace").split() == words
    return found


def _reread(scan: Scan) -> None:
    """Read by Python's float what the kernel left; what that cannot read stays NaN and UNREAD."""
    tokens = np.flatnonzero(scan.flags & digits.UNREAD)
    rows = np.searchsorted(scan.offsets, tokens, side="right") - 1
    words: list[bytes] = []
    last = -1
    for token, row in zip(tokens.tolist(), rows.tolist(), strict=True):
        if row != last:
            cell = bytes(scan.data[scan.starts[row] : scan.ends[row]])
            words, last = re.findall(rb"[^ \t\r]+", cell), row
        word = words[token - int(scan.offsets[row])]
        try:
            value = float(word) if b"_" not in word else np.nan
        except ValueError:
            value = np.nan
        if np.isfinite(value):
            scan.values[token] = value
            scan.flags[token] &= ~np.uint8(digits.UNREAD)
