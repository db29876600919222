"""What a reader refused or repaired: counted by kind, listed by id, never silent."""

from dataclasses import dataclass, field
from typing import Any

SHOWN_IDS = 8


@dataclass
class Findings:
    """Kind of fault (what was wrong, what was done) -> the ids or names that it was found at."""

    source: str
    kinds: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, *where: Any) -> None:
        if where:
            self.kinds.setdefault(kind, []).extend(
                item.item() if hasattr(item, "item") else item for item in where
            )

    def as_json(self) -> dict[str, Any]:
        """Everything, for a card: every kind with all its ids, and the notes."""
        return {"source": self.source, "kinds": self.kinds, "notes": self.notes}

    def lines(self) -> list[str]:
        """One line a kind: source, count, what was done, the first ids."""
        result = [f"{self.source}: {note}" for note in self.notes]
        for kind, where in self.kinds.items():
            names = ", ".join(str(item) for item in where[:SHOWN_IDS])
            more = f", ... {len(where) - SHOWN_IDS} more" if len(where) > SHOWN_IDS else ""
            result.append(f"{self.source}: {len(where)} {kind}: {names}{more}")
        return result

    def show(self) -> None:
        for line in self.lines():
            print(f"  note: {line}")
