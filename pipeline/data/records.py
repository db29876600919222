"""Records: small files of named values, each of a pydantic model, with one reader and one writer.

A record that is damaged, or was written by something else, is one `PipelineError` line: file, key,
what was expected, what was found, what to do. Values are never converted: a text is no number and no
yes or no. Unknown and doubled keys are refused, and so are NaN and infinite numbers.

The last key of a JSON record is the digest of all bytes before it, so that any changed byte is an error.
Records without it, which earlier versions wrote, are read with a note. What people write carries none.
"""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, TypeAdapter, ValidationError

from pipeline.errors import LONGEST_LINE, PipelineError
from pipeline.names import is_name
from pipeline.paths import regular, shown, text_digest, write_text

MERGE = "tag:yaml.org,2002:merge"  # of the key <<
MOST_UNPACKED = 10  # times the values of a YAML text
LONGEST_SOURCE, LONGEST_VALUE = 130, 50  # characters
DIGEST = "record_digest"
DIGEST_KEY = f'\n  "{DIGEST}": '
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's names of faults
EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
    "finite_number": "a finite number",
}


STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Record(BaseModel):
    """Base of all records. Values do not change; `model_copy(update=...)` makes another record."""

    model_config = ConfigDict(**STRICT, frozen=True)


AnyRecord = TypeVar("AnyRecord")  # a Record, or one of pydantic's dataclasses with config STRICT


def _fold(value: Any) -> int | str:
    if value == "full" or (type(value) is int and value >= 0):
        return value
    raise ValueError("expected the number of a fold, from 0, or full")


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("expected a name, not a path")
    return value


Fold = Annotated[int | str, PlainValidator(_fold)]  # "full": one model trained on all photos
Name = Annotated[str, AfterValidator(_name)]  # of a file in the same folder, or what becomes one


def read_record(path: Path, model: type[AnyRecord], remedy: str) -> AnyRecord:
    """A JSON record. `remedy` says what to do about a damaged one, with the command that helps.

    Raises PipelineError, one line, for a file that cannot be read, was changed or is no record of this model.
    """
    value, is_checked = _read_json(path, remedy)
    record = as_record(value, model, shown(path), remedy)
    if not is_checked:
        note_unchecked(path)
    return record


def parse_record(raw: bytes | str, model: type[AnyRecord], source: str, remedy: str) -> AnyRecord:
    """A record from JSON text; `source` is what messages call it. Raises PipelineError as `read_record`."""
    return as_record(parse_json(raw, source, remedy), model, source, remedy)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON file that holds a mapping of another program's keys; raises PipelineError as `read_record`."""
    value, is_checked = _read_json(path, remedy)
    if not isinstance(value, dict):
        _refuse(shown(path), f"expected a mapping of keys to values, found {_found(value)}", remedy)
    if not is_checked:
        note_unchecked(path)
    return value


def parse_json(raw: bytes | str, source: str, remedy: str) -> Any:
    """The value of a JSON text without doubled keys and without NaN; raises PipelineError."""
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        return json.loads(
            text, object_pairs_hook=as_mapping, parse_constant=_no_number, parse_float=_finite_number
        )
    except UnicodeDecodeError as error:
        _refuse(source, f"not a text in UTF-8 (byte {error.start})", remedy)
    except RecursionError:
        _refuse(source, "not JSON: nested too deep", remedy)
    except ValueError as error:
        _refuse(source, f"not JSON: {error}", remedy)


def read_yaml_record(
    path: Path,
    model: type[AnyRecord],
    remedy: str = "correct it",
) -> AnyRecord:
    """A YAML record.

    Raises PipelineError as `read_record`, and for what JSON does not know: dates, keys that are no text.
    """
    return as_record(read_yaml(path, remedy), model, shown(path), remedy)


def read_yaml(path: Path, remedy: str = "correct it") -> dict[str, Any]:
    """The mapping that a YAML file holds; raises PipelineError as `read_record`."""
    values = parse_yaml(_read_bytes(path, remedy), shown(path), remedy)
    if not isinstance(values, dict | None):
        _refuse(shown(path), f"expected a mapping of keys to values, found {_found(values)}", remedy)
    return values or {}


def parse_yaml(raw: bytes | str, source: str, remedy: str) -> Any:
    """The value of a YAML text of plain values, without tags and doubled keys; raises PipelineError."""
    try:
        return yaml.load(raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw, _Loader)
    except UnicodeDecodeError as error:
        _refuse(source, f"not a text in UTF-8 (byte {error.start})", remedy)
    except RecursionError:
        _refuse(source, "not YAML: nested too deep", remedy)
    except (yaml.YAMLError, ValueError) as error:
        _refuse(source, f"not YAML: {' '.join(str(error).split())}", remedy)


def write_record(path: Path, record: Record | Mapping[str, Any]) -> None:
    """Write a record, or a mapping of JSON's values, with all its keys and a digest, atomically."""
    values = record.model_dump(mode="json") if isinstance(record, Record) else dict(record)
    text = json.dumps(values | {DIGEST: ""}, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, _with_digest(text))


def _with_digest(text: str) -> str:
    """The text of a record with the digest that belongs there."""
    before = text.rpartition(DIGEST_KEY)[0]
    return f'{before}{DIGEST_KEY}"{text_digest(before)}"\n}}\n'


def _read_json(path: Path, remedy: str) -> tuple[Any, bool]:
    """The value of a JSON file without its digest, and whether it has one. Raises PipelineError."""
    raw = _read_bytes(path, remedy)
    value = parse_json(raw, shown(path), remedy)
    if not isinstance(value, dict) or DIGEST not in value:
        return value, False
    if _with_digest(raw.decode()).encode() != raw:
        _refuse(shown(path), f"changed since it was written: {DIGEST} is of other bytes", remedy)
    del value[DIGEST]
    return value, True


@cache
def note_unchecked(path: Path, remedy: str = "") -> None:
    """Say once that a file without a digest was read."""
    print(f"  note: {shown(path)}: has no digest (earlier versions wrote none): damage goes unseen{remedy}")


def _read_bytes(path: Path, remedy: str) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        _refuse(shown(path), f"not readable ({error.strerror})", remedy, error)


def as_mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object. Raises ValueError for a doubled key, else the last would win in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is there twice")
    return values


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite_number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


class _Loader(yaml.SafeLoader):
    """YAML without doubled keys, of which the last would win in silence.

    Aliases are taken as long as they do not make much of little, as a few lines that unpack to fill the
    memory do.
    """

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        sizes: dict[int, float] = {}
        if node is not None and _unpacked(node, sizes) > 1000 + MOST_UNPACKED * len(sizes):
            raise _fault_at(node, "aliases (*) that repeat too much: write it out")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]
        with contextlib.suppress(TypeError):  # a key that is a list: said below
            for key, count in Counter(keys).items():
                if count > 1:
                    raise _fault_at(node, f"key '{key}' is there twice")
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        try:
            value.encode()
        except UnicodeEncodeError:  # half a character, as "\\ud83d"
            raise _fault_at(node, f"{value!r} is no text in Unicode") from None
        return value


def _unpacked(node: Any, sizes: dict[int, float]) -> float:
    """Values in a node, those of aliases as often as they are named; infinite for one that holds itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if pairs else node.value
        scalar = isinstance(node, yaml.ScalarNode)
        sizes[id(node)] = 1 + (0 if scalar else sum(_unpacked(part, sizes) for part in parts))
    return sizes[id(node)]


def _fault_at(node: Any, text: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def as_record(values: Any, model: type[AnyRecord], source: str, remedy: str) -> AnyRecord:
    """Plain values as a record; raises PipelineError as `read_record`.

    In pydantic's JSON mode, since its strict mode for Python takes no list for a tuple.
    """
    try:
        _check_plain(values)
        record: AnyRecord = _adapter(cast(Any, model)).validate_json(json.dumps(values))
        return record
    except ValidationError as error:
        _refuse(source, _fault(error, model), remedy)
    except RecursionError:
        _refuse(source, "nested too deep", remedy)
    except (ValueError, PipelineError) as error:
        _refuse(source, str(error), remedy)


@lru_cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _check_plain(value: Any) -> None:
    """Raise ValueError for what JSON does not know, or would turn into a text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"key {_found(key)}: expected a text; put it in quotes")
            _check_plain(item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item)
    elif isinstance(value, float):
        _finite_number(str(value))
    elif isinstance(value, str) and "\0" in value:
        raise ValueError(f"{_found(value)}: a text with a null character")
    elif value is not None and not isinstance(value, (str, int)):
        raise ValueError(f"{value} is a {type(value).__name__}: put it in quotes for a text")


def _fault(error: ValidationError, model: Any) -> str:
    """The first fault of a record in words, and how many more there are."""
    faults = error.errors(include_url=False)
    # A key that is misspelt is unknown and missing: its name tells more.
    first, *others = sorted(faults, key=lambda fault: fault["type"] not in UNKNOWN_KEY)
    kind, where = first["type"], ".".join(_cut(str(part)) for part in first["loc"])
    if kind == "missing":
        text = f"missing key '{where}'"
    elif kind in UNKNOWN_KEY:
        text = f"unknown key '{where}'; known: {', '.join(_known_keys(model, first['loc'][:-1]))}"
    elif kind == "json_invalid":
        text = f"not JSON: {first['ctx']['error']}"
    else:
        expected = f"expected {EXPECTED.get(kind) or first['msg'].removeprefix('Input should be ')}"
        text = f"{where}: " * bool(where) + str(first.get("ctx", {}).get("error") or expected)
        if kind != "value_error" or not isinstance(first["input"], (dict, list)):
            text += f", found {_found(first['input'])}"
        if kind == "string_type" and isinstance(first["input"], (bool, int, float)):
            text += ": on, off, yes, no and numbers are a text only in quotes"
    return text + (f" (and {len(others)} more)" if others else "")


def _known_keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys of the record at a place within another one."""
    for part in location:
        if part in model.__pydantic_fields__:
            model = _record_in(model.__pydantic_fields__[part].annotation) or model
    return sorted(model.__pydantic_fields__)


def _record_in(annotation: Any) -> Any:
    if hasattr(annotation, "__pydantic_fields__"):
        return annotation
    return next((record for part in get_args(annotation) if (record := _record_in(part))), None)


def _found(value: Any) -> str:
    """A value in a message: short, as JSON writes it."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str, length: int = LONGEST_VALUE) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _refuse(source: str, text: str, remedy: str, cause: BaseException | None = None) -> NoReturn:
    if len(source) > LONGEST_SOURCE:
        source = "..." + source[3 - LONGEST_SOURCE :]
    text = _cut(text, LONGEST_LINE - len(source) - len(remedy) - 4)
    raise PipelineError(f"{source}: {text}; {remedy}") from cause
