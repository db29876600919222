"""The card of an ensemble, card.json beside its tables: what it is made of, and its out-of-fold score."""

from typing import Annotated, Any

from pydantic import Field

from pipeline.data.records import Fold, Record, read_record, write_record
from pipeline.errors import PipelineError
from pipeline.paths import CARD, ensemble_dir, shown

Positive = Annotated[float, Field(gt=0)]


class Score(Record):
    """A metric's value with its 95 % interval over resampled images."""

    metric: str = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    resamples: int = 0
    seed: int = 0


class OofScores(Record):
    """COCO's numbers of out-of-fold boxes, and the competition's own metric."""

    map50: float | None = None
    map50_95: float | None = None
    ap50: dict[str, float | None] = Field(default={})  # by class
    images: int = 0
    truths: int = 0
    boxes: int = 0
    competition: Score | None = None

    @property
    def own(self) -> Score:
        """The competition's metric; mAP50 on cards made before it was recorded."""
        return self.competition or Score(metric="map50", value=self.map50)


class NestedScore(Score):
    """Each part of the images scored with what was chosen without it."""

    value: float
    partitions: tuple[float, ...]
    optimism: float
    plain: Score
    rescored: Score | None = None
    rescoring_chosen: int
    parts: int


class CardMember(Record):
    """One trained fold of a model in an ensemble, or its model on all photos."""

    model: str
    fold: Fold
    views: tuple[str, ...]
    weight: Positive


class SourceTable(Record):
    """A prediction table that boxes came from."""

    model: str = ""
    view: str = ""
    file: str = ""
    digest: str = ""


class Ingredients(Record):
    """What an ensemble is made of and its score, as its own card and those of its submissions say it."""

    ensemble: str = ""
    competition: str = ""
    models: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()
    fusion: dict[str, Any] = Field(default={})
    across_folds: dict[str, Any] = Field(default={})
    tuned: str | None = None  # digest of tuned.json
    cut: tuple[float, ...] | None = None  # the lowest score of each class that is submitted
    min_scores: Any = None  # of earlier versions
    folds_digest: str = ""
    oof_table_digest: str = ""
    test_table_digest: str = ""
    image_digests: dict[str, str] = Field(default={})
    oof: OofScores = OofScores()
    note: str = ""
    members: tuple[CardMember, ...] = ()
    unmeasured: tuple[CardMember, ...] = ()  # trained on all photos: in the test boxes, and in no score
    tables: tuple[SourceTable, ...] = ()
    nested: NestedScore | None = None
    recipe: dict[str, Any] | None = None  # the tuned ensemble without its maps and trees


class EnsembleCard(Ingredients):
    ensemble: str
    competition: str
    models: tuple[str, ...]
    folds: tuple[Fold, ...]
    fusion: dict[str, Any]
    test_table_digest: str
    oof: OofScores
    members: tuple[CardMember, ...]


def read_ensemble_card(competition: str, name: str) -> EnsembleCard:
    """Raises PipelineError when the ensemble is not made yet or its card is damaged."""
    folder = ensemble_dir(competition, name)
    command = f"make ensemble COMP={competition} ENSEMBLE={name}"
    if not (folder / CARD).is_file():
        raise PipelineError(f"{shown(folder)}: no ensemble yet; {command}")
    return read_record(folder / CARD, EnsembleCard, f"{command} again")


def write_ensemble_card(card: EnsembleCard) -> None:
    write_record(ensemble_dir(card.competition, card.ensemble) / CARD, card)
