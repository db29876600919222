"""What a reader refused or repaired: counted by kind, listed by id, never silent."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError, one_line

SHOWN_IDS = 8
SHOWN_NAMES = 3  # in an error
MAY_LOSE = 0.1  # share of the boxes that a reader may leave out without being told to


@dataclass
class Findings:
    """Kind of fault (what was wrong, what was done) -> the ids or names that it was found at.

    `lost`: what was left out ("boxes" or "images") by the kinds that leave something out.
    """

    source: str
    kinds: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)  # why all stages but check_data refuse the file

    def add(self, kind: str, *where: Any) -> None:
        if where:
            self.kinds.setdefault(kind, []).extend(
                item.item() if hasattr(item, "item") else item for item in where
            )

    def lose(self, what: str, kind: str, *where: Any) -> None:
        """Add a kind whose boxes or images are left out."""
        self.lost[kind] = what
        self.add(kind, *where)

    def count_lost(self, what: str) -> int:
        return sum(len(self.kinds.get(kind, [])) for kind, lost in self.lost.items() if lost == what)

    def refuse_losses(self, what: str, total: int, allowed: int, remedy: str) -> None:
        """Refuse the file, with the reasons, where more than `allowed` of `total` would be left out."""
        if (count := self.count_lost(what)) <= allowed:
            return
        reasons = []
        for kind, lost in self.lost.items():
            if lost == what and (where := self.kinds.get(kind)):
                more = ", ..." if len(where) > SHOWN_NAMES else ""
                reasons.append(f"{len(where)} {kind}: {', '.join(map(str, where[:SHOWN_NAMES]))}{more}")
        self.refusals.append(f"{count} of {total} {what} would be left out: {'; '.join(reasons)}. {remedy}")

    def check(self) -> None:
        """Raise PipelineError for the first reason to refuse the file."""
        if self.refusals:
            raise PipelineError(f"{self.source}: {self.refusals[0]}")

    def as_json(self) -> dict[str, Any]:
        """Everything, for a card: every kind with all its ids, and the notes."""
        return {"source": self.source, "kinds": self.kinds, "notes": self.notes}

    def lines(self) -> list[str]:
        """One line a kind: source, count, what was done, the first ids."""
        warnings = [f"WARNING: {refusal}" for refusal in self.refusals]
        result = [f"{self.source}: {note}" for note in [*warnings, *self.notes]]
        for kind, where in self.kinds.items():
            names = ", ".join(str(item) for item in where[:SHOWN_IDS])
            more = f", ... {len(where) - SHOWN_IDS} more" if len(where) > SHOWN_IDS else ""
            result.append(f"{self.source}: {len(where)} {kind}: {names}{more}")
        return list(map(one_line, result))

    def show(self) -> None:
        for line in self.lines():
            print(f"  note: {line}")
