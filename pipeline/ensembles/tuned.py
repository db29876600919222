"""A tuned ensemble: all that `tune` chose to do with its members' boxes.

It is kept as tuned.json, with LightGBM's trees as text beside it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import dataclasses as typed

from pipeline.data.ensemble_card import NestedScore, SourceTable
from pipeline.data.records import STRICT, Name, Record, read_record, write_record
from pipeline.ensembles.calibration import Calibration
from pipeline.ensembles.tables import Fusion, describe
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, shown, write_text

TUNED, RESCORING = "tuned.json", "rescoring.txt"


@typed.dataclass(frozen=True, config=STRICT)
class TunedMember:
    """What is done to a member's boxes before they are fused, and its weight; `nms` 0: none."""

    model: str
    view: str
    weight: float = 1.0
    floor: float = 0.001
    nms: float = 0.0
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        return f"{self.model}/{self.view}"


@dataclass(frozen=True)
class TunedEnsemble:
    """`output`: a map of the fused scores to the share of correct boxes, or `rescoring`: LightGBM's text,
    which gives it for each box. `cut`: per class, the lowest score that is submitted."""

    members: tuple[TunedMember, ...]
    fusion: Fusion
    output: Calibration | None = None
    rescoring: str | None = None
    cut: tuple[float, ...] | None = None


class MemberTables(Record):
    """A member and the out-of-fold tables that its boxes came from."""

    member: str
    tables: tuple[SourceTable, ...]


class TuningRecord(Record):
    """What an ensemble was tuned on, and its nested score."""

    competition: str
    metric: str
    image_digest: str
    members: tuple[MemberTables, ...]
    nested: NestedScore
    seed: int
    search: str  # digest of what the search's values depend on
    stopped: bool  # before it came to its end
    folds_digests: tuple[str, ...]
    oof_digest: str = ""  # of the nested boxes, oof.parquet

    @property
    def table_digests(self) -> list[str]:
        return sorted(table.digest for member in self.members for table in member.tables)


class _Trees(Record):
    file: Name
    digest: str


class _TunedFile(Record):
    """tuned.json."""

    format: Literal[1] = 1
    members: tuple[TunedMember, ...]
    fusion: Fusion
    rescoring: _Trees | None = None
    output: Calibration | None = None
    cut: tuple[float, ...] | None = None
    made: TuningRecord


def write_tuned(folder: Path, tuned: TunedEnsemble, made: TuningRecord) -> None:
    """Write tuned.json and the trees beside it."""
    trees = None
    if tuned.rescoring is not None:
        write_text(folder / RESCORING, tuned.rescoring)
        trees = _Trees(file=RESCORING, digest=file_digest(folder / RESCORING))
    values: dict[str, Any] = vars(tuned) | {"rescoring": trees, "made": made}
    write_record(folder / TUNED, _TunedFile(**values))
    if trees is None:
        (folder / RESCORING).unlink(missing_ok=True)


def read_tuned(folder: Path) -> tuple[TunedEnsemble, TuningRecord]:
    """The tuned ensemble of a folder, and what it was tuned on. Raises PipelineError when damaged."""
    path = folder / TUNED
    if not path.is_file():
        raise PipelineError(f"{shown(path)}: not tuned yet")
    saved = read_record(path, _TunedFile, "tune again")
    text = None
    if saved.rescoring is not None:
        trees = folder / saved.rescoring.file
        if not trees.is_file() or file_digest(trees) != saved.rescoring.digest:
            raise PipelineError(f"{shown(trees)}: not the trees that {path.name} was saved with; tune again")
        text = trees.read_text(encoding="utf-8")
    return TunedEnsemble(saved.members, saved.fusion, saved.output, text, saved.cut), saved.made


def describe_tuned(tuned: TunedEnsemble) -> dict[str, Any]:
    """A tuned ensemble for a report or a card, without the knots of its maps and the trees."""
    members = []
    for member in tuned.members:
        row: dict[str, Any] = {"member": member.name, "weight": member.weight, "floor": member.floor}
        if member.nms:
            row["nms"] = member.nms
        if member.calibration is not None:
            row["calibration"] = member.calibration.kind
        members.append(row)
    cut = None if tuned.cut is None else [round(value, 4) for value in tuned.cut]
    return {
        "members": members,
        "fusion": describe(tuned.fusion),
        "rescored": tuned.rescoring is not None,
        "cut": cut,
    }
