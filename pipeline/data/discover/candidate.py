"""What a finder makes of a folder: one set of annotations, as the values of a profile."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

VALIDATION = "the validation set, because there is no other; its boxes are known"


@dataclass
class Candidate:
    """Annotations in one format. `train`, `test`, `options`: values of the profile's keys.

    what: names the files, for people. boxes: how many the train files hold. parts: whether the files
    say which images are for testing. in_order: whether the classes have an order of their own.
    comments: key of the profile, as train.photos, -> what to say beside it.
    """

    format: str
    what: str
    boxes: int
    train: dict[str, Any]
    test: dict[str, Any] | None = None
    classes: list[str] = field(default_factory=list)
    in_order: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def parts(self) -> bool:
        return self.test is not None

    def sort_by_count(self, counts: Counter[str]) -> None:
        """Order the classes by their boxes, most first, because no file gives them an order."""
        self.classes = sorted(counts, key=lambda name: (-counts[name], name))
        self.in_order = False
        self.comments["classes"] = "the format gives no order: by number of boxes, most first"
