"""Configs as JSON data: tuples and infinite numbers, which JSON has not, come back as they were."""

import math
from typing import Any

from pipeline.errors import PipelineError

TUPLE, NUMBER = "__tuple__", "__number__"


def to_data(value: Any) -> Any:
    """JSON data from which `from_data` makes the same config again, its tuples included."""
    if isinstance(value, dict):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {TUPLE: [to_data(item) for item in value]}
    if isinstance(value, list):
        return [to_data(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {NUMBER: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise PipelineError(f"config value {value!r}: expected numbers, texts, lists and mappings")


def from_data(value: Any) -> Any:
    """See `to_data`."""
    if isinstance(value, dict):
        if set(value) == {TUPLE}:
            return tuple(from_data(item) for item in value[TUPLE])
        if set(value) == {NUMBER}:
            return float(value[NUMBER])
        return {key: from_data(item) for key, item in value.items()}
    return [from_data(item) for item in value] if isinstance(value, list) else value
