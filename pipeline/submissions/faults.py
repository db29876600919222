"""What a check found: faults by kind, each with the rows it was found in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import one_line

SHOWN = 20  # rows of a kind


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what is wrong, how often, and where first."""

    what: str
    count: int
    where: tuple[str, ...]

    def lines(self) -> list[str]:
        more = [f"    ... {self.count - len(self.where)} more"] if 0 < len(self.where) < self.count else []
        return [
            f"{self.what}: {self.count}" if self.where else self.what,
            *map("    {}".format, self.where),
            *more,
        ]


@dataclass
class Report:
    """All faults of a file. Errors are what the site would reject or score wrongly."""

    errors: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def error(self, what: str, places: Any = None, describe: Callable[[int], str] = str) -> None:
        self._add(self.errors, what, places, describe)

    def warn(self, what: str, places: Any = None, describe: Callable[[int], str] = str) -> None:
        self._add(self.warnings, what, places, describe)

    def _add(self, faults: list[Fault], what: str, places: Any, describe: Callable[[int], str]) -> None:
        """Add a fault found at `places` (indices, or a mask); None: one of the file as a whole."""
        if places is None:
            faults.append(Fault(what, 1, ()))
            return
        indices: Sequence[int] = places
        if isinstance(places, np.ndarray) and places.dtype == np.bool_:
            indices = np.flatnonzero(places).tolist()
        if len(indices):
            first = tuple(one_line(describe(int(place))) for place in indices[:SHOWN])
            faults.append(Fault(what, len(indices), first))

    def lines(self) -> list[str]:
        """Errors first, then warnings, then what is worth knowing."""
        kinds = (("ERROR", self.errors), ("warning", self.warnings))
        lines = []
        for word, faults in kinds:
            for fault in faults:
                head, *rest = fault.lines()
                lines += [one_line(f"{word}: {head}"), *rest]
        return lines + [one_line(f"note: {note}") for note in self.notes]
