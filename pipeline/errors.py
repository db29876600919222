"""The exceptions that a stage shows to its user as a single line."""


def printable(text: str) -> str:
    """A text on one line of a terminal: other characters than printable ones are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PipelineError(Exception):
    """A mistake in the user's input: one line that says file, row or id, what was expected, what to do."""

    status = 1  # of the stage that ends by it


class LostProcessError(PipelineError):
    """A process was killed from outside or its node was lost; trying again may help."""

    status = 75  # EX_TEMPFAIL of sysexits.h


class NoMemoryError(LostProcessError):
    """A process was killed because its node ran out of memory, perhaps by what others do there."""

    status = 76
