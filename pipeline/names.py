"""Names and numbers as people type them: a name is no path, and digits are 0 to 9.

Python's own `int` and `float` also take the digits of every other script, and underscores.
"""

import math
import re

from pipeline.errors import PipelineError

LONGEST = 100  # characters; a file's name may have 255 bytes, of which suffixes and a temporary's are some


def is_name(text: str) -> bool:
    """Whether a text can be the name of one file or folder, and nothing else: no path, not hidden."""
    return (
        0 < len(text) <= LONGEST
        and len(text.encode(errors="surrogateescape")) <= 2 * LONGEST
        and not text.startswith(".")
        and not set(text) & {"/", "\\"}
        and text.isprintable()
    )


def check_name(what: str, text: str) -> str:
    """The text, which is to become a part of a path; raises PipelineError where it is no name."""
    if is_name(text):
        return text
    raise PipelineError(
        f"{what} {text[:LONGEST]!r}: expected a name of at most {LONGEST} characters without slashes, "
        "not a path"
    )


def whole_number(text: str) -> int:
    """A whole number; raises ValueError for any other text."""
    if not re.fullmatch("[+-]?[0-9]{1,18}", text):
        raise ValueError(f"{text!r}: expected a whole number")
    return int(text)


def number(text: str) -> float:
    """A finite number; raises ValueError for any other text."""
    value = float(text)
    if not math.isfinite(value) or not re.fullmatch("[ 0-9eE.+-]+", text):
        raise ValueError(f"{text!r}: expected a number")
    return value
