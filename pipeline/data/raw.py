"""What a reader of annotations yields, before `dataset.py` checks it."""

from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from pipeline.data.findings import Findings
from pipeline.data.profile import Profile, SplitSpec

Record = dict[str, Any]
Records = list[Record] | pd.DataFrame  # a table of the same columns where there may be millions


@dataclass(frozen=True)
class Raw:
    """Records as `formats/__init__.py` describes them, and the file's own id of each class, in class order.

    No category ids: a test set's file that names no classes.
    """

    images: Records
    boxes: Records
    category_ids: tuple[Any, ...]


def as_list(records: Records) -> list[Record]:
    """Records one by one, whatever a reader yields."""
    if isinstance(records, pd.DataFrame):
        return [{str(key): v for key, v in row.items()} for row in records.to_dict(orient="records")]
    return records


class Reader(Protocol):
    """Reads a split's file; boxes only where they are wanted, which those of a test set are not."""

    def __call__(
        self, profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True
    ) -> Raw: ...
