"""The exceptions that a stage shows to its user as a single line, and what a line may hold."""

import re

LONGEST_LINE = 300  # characters
HEAD = 200  # of a line that is cut: its beginning names the file, its end says what to do
LONGEST_WORD = 60  # characters that a word keeps, its last ones, where the line is too long


def one_line(text: object) -> str:
    """A message as one line that a terminal can show, whatever names and values it quotes.

    Line ends and what else is not printable become escapes. In a line of more than LONGEST_LINE characters
    long words (paths, mostly) keep their ends only; where that is not enough, it loses its middle.
    """
    return _cut(printable(_cut(str(text))))  # cut first, since it may quote megabytes


def reason(error: BaseException | str, longest: int = 120) -> str:
    """What a library's exception says, on one line of at most `longest` characters, to quote in our own."""
    text = printable(" ".join(str(error).split()))
    if len(text) > longest:
        text = f"{text[: longest - 4]} ..."
    return text or type(error).__name__


def _cut(line: str) -> str:
    if len(line) > LONGEST_LINE:
        line = re.sub(rf"\S+(\S{{{LONGEST_WORD - 3}}})(?!\S)", r"...\1", line)
    tail = LONGEST_LINE - HEAD - len(" ... ")
    return line if len(line) <= LONGEST_LINE else f"{line[:HEAD]} ... {line[-tail:]}"


def printable(text: str) -> str:
    """A text on one line of a terminal: other characters than printable ones are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PipelineError(Exception):
    """A mistake in the user's input: one line that says file, row or id, what was expected, what to do."""

    status = 1  # of the stage that ends by it

    def __init__(self, text: object = "") -> None:
        super().__init__(one_line(text))


class LostProcessError(PipelineError):
    """A process was killed from outside or its node was lost; trying again may help."""

    status = 75  # EX_TEMPFAIL of sysexits.h


class NoMemoryError(LostProcessError):
    """A process ended because its node or GPU ran out of memory, perhaps by what others do there."""

    status = 76
