"""Text that people and other tools write: files, CSV tables, names, ids and flags, compared by meaning.

UTF-8 with or without a byte order mark, names in either Unicode form and with either slash, numbers
written as text: what looks the same to the eye is the same here.
"""

import codecs
import csv
import json
import math
import mmap
import re
import unicodedata
from collections.abc import Container, Iterable
from os.path import basename, splitext  # pathlib takes ten times as long
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from pipeline.data.records import as_mapping
from pipeline.errors import PipelineError, reason
from pipeline.paths import regular, shown

# What ends the name of a photo; anything else behind a dot is a part of the name.
_SUFFIXES = (
    "jpg jpeg jpe jfif png bmp dib gif tif tiff webp avif heic heif jp2 j2k ppm pgm pbm pnm mpo dng ico tga "
    "npy dcm dicom"
)
PHOTO_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split(" "))
BLOCK = 1 << 26  # bytes; the longest row of a CSV
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # a JSON escape of half a character; two of them are one
# A quoted cell of a CSV; the group is missing where its quote is not closed, or text follows it.
QUOTED = re.compile(rb'(?:(?<![^,\r\n])|(?<=\A\xef\xbb\xbf))"[^"]*+(?:""[^"]*+)*+("(?![^,\r\n]))?')
FLAGS = {
    "1": True,
    "true": True,
    "yes": True,
    "0": False,
    "false": False,
    "no": False,
    "": False,
    "-1": False,
}  # Open Images writes -1 where it is not known
Corners = tuple[float, float, float, float]  # x1 y1 x2 y2, or what a file has in their place


def read_text(path: Path, missing: str = "") -> str:
    """A file in UTF-8 without its byte order mark. Raises PipelineError (`missing`: for no file)."""
    try:
        return regular(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise PipelineError(missing or f"{shown(path)}: no such file") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{shown(path)}: not text in UTF-8 ({reason(error)}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        raise PipelineError(
            f"{shown(path)}: not readable ({reason(error)}); mend its name or rights"
        ) from None


def read_json(path: Path, missing: str = "") -> Any:
    """The value of a json file. Raises PipelineError for a file that is none, and for doubled keys."""
    text = read_text(path, missing)
    try:
        value = json.loads(text, object_pairs_hook=as_mapping)
        if HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # raises for half characters
        return value
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or an integer of 4,301 digits
        raise PipelineError(
            f"{shown(path)}: not a whole json file ({reason(error)}); copy or download it again"
        ) from None


def read_table(path: Path, missing: str = "") -> pd.DataFrame:
    """The cells of a CSV as text; an empty cell is "", rows of empty cells are left out.

    Raises PipelineError for a file that is no CSV, and at a row that has not as many cells as the
    header: the file may be cut off, or its columns shifted. A comma that ends every row is left out.
    """
    try:
        with open(regular(path), encoding="utf-8-sig", newline="") as file:
            header = next((row for row in csv.reader(file) if row), [])
            _check_text(path)
            header_lines = 1 + sum(not line.strip() for line in _lines_until_text(path))
    except (FileNotFoundError, NotADirectoryError):
        raise PipelineError(missing or f"{shown(path)}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({reason(error)})") from None
    doubled = [name for name in header if name and header.count(name) > 1]
    if not header or doubled:
        what = f"column '{doubled[0]}' is there twice" if doubled else "it is empty"
        raise PipelineError(f"{shown(path)}: not a CSV file with a header: {what}")
    table, uneven = _parse(path, header, header_lines)
    if uneven and all(row.actual_columns == len(header) + 1 for row in uneven):
        wider, uneven_still = _parse(path, [*header, ""], header_lines)
        if not uneven_still and not (wider.iloc[:, -1] != "").any():
            table, uneven = wider.iloc[:, :-1], []
    if uneven:
        row = uneven[0]
        raise PipelineError(
            f"{shown(path)}: row {row.number} has {row.actual_columns} cells, the header {len(header)}; "
            f"is the file cut off, or does the row lack or hold a comma too many? It is {row.text[:60]!r}"
        )
    return table[(table != "").any(axis=1)].reset_index(drop=True)


def _lines_until_text(path: Path) -> Iterable[str]:
    """The blank lines that a file begins with."""
    with open(path, encoding="utf-8-sig", newline=None) as file:
        for line in file:
            if line.strip():
                return
            yield line


def _check_text(path: Path) -> None:
    """Raise csv.Error at a quote that is not closed, behind which pyarrow takes the rest for one cell.

    And UnicodeDecodeError, which pyarrow prints where it calls us back.
    """
    with open(path, "rb") as file:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while piece := file.read(1 << 24):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
        if not file.tell():
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for quoted in QUOTED.finditer(data):
                if quoted[1] is None:
                    line = (
                        data[: quoted.start()].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
                    )
                    raise csv.Error(f'line {line}: a quote (") that is not closed, or has text behind it')


def _parse(path: Path, names: list[str], skip: int) -> tuple[pd.DataFrame, list[Any]]:
    """The rows after the header, and those that have not as many cells as there are names."""
    uneven: list[Any] = []

    def note(row: Any) -> str:
        uneven.append(row)
        return "skip"

    columns = [str(i) for i in range(len(names))]
    try:
        table = arrow_csv.read_csv(
            path,
            arrow_csv.ReadOptions(use_threads=False, column_names=columns, skip_rows=skip, block_size=BLOCK),
            arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # a header and no row
            return pd.DataFrame(columns=names, dtype=str), uneven
        raise PipelineError(f"{shown(path)}: not a CSV file ({reason(error)})") from None
    frame = table.to_pandas()
    frame.columns = pd.Index(names)
    return frame, uneven


def same_text(text: str) -> str:
    """A text in the Unicode form (NFC) in which texts are compared; macOS decomposes the names of files."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def forward(name: str) -> str:
    """A name with the slashes of Windows turned forward."""
    return name.replace("\\", "/")


def leads_outside(name: str) -> bool:
    """Whether a name with forward slashes is absolute, here or on Windows, or holds a step up."""
    return name[:1] == "/" or name[1:3] == ":/" or (".." in name and ".." in name.split("/"))


def photo_suffix(name: str) -> str:
    """The suffix of a photo's name, as it is written; "" where the name has none."""
    suffix = splitext(name)[1]
    return suffix if suffix.lower() in PHOTO_SUFFIXES else ""


def photo_stem(name: str) -> str:
    """The name of a photo without folder and suffix; dots of its own stay."""
    return basename(name).removesuffix(photo_suffix(name))


def plain_numbers(cells: Any) -> list[float] | None:
    """A list's finite numbers, also where they are written as text, in the digits 0 to 9; None for others.

    float() takes true, other digits and 1_000 as well.
    """
    if not isinstance(cells, (list, tuple)):
        return None
    for cell in cells:
        if isinstance(cell, bool) or (isinstance(cell, str) and ("_" in cell or not cell.isascii())):
            return None
    try:
        numbers = list(map(float, cells))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def four_numbers(values: Any) -> Corners | None:
    """Four finite numbers as `plain_numbers` takes them; None for anything else."""
    numbers = plain_numbers(values)
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if numbers and len(numbers) == 4 else None


def find_key(value: Any, known: Container[Any]) -> Any:
    """The key of `known` that an id means (1, 1.0, "1" and "1.0" are one id), None where it means none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if value in known:
        return value
    text = str(value).strip().removesuffix(".0")
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        return None
    return next((key for key in (int(text), text) if key in known), None)


def as_flag(value: Any) -> bool | None:
    """Whether a flag is set: 1, 1.0, true and yes, as numbers or text; None for what is no flag."""
    if value is None or value != value:  # NaN, as pandas writes an empty cell
        return False
    text = str(value).strip().lower()
    return FLAGS.get(text.removesuffix(".0"))
