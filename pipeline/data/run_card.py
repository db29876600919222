"""What the folder of a trained run says of it: which training it is, and what came out of it."""

from typing import Annotated, Any

from pydantic import Field

from pipeline.data.records import Fold, Name, Record

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class JobDescription(Record):
    """job.json: what makes two trainings the same; compared when the same run is asked for again."""

    competition: str
    model: str
    backend: str
    fold: Fold
    seed: int
    image_digest: str
    folds_digest: str
    annotations_digest: str
    epochs: Positive
    image_size: Positive  # pixels, the longer side
    batch: Positive  # photos a step and device
    photo_side: Positive | None = None  # pixels, to which a cache reduced the longer side of photos
    recipe: str | None = None  # its name; the digest of the config is also of what it says
    config_digest: str
    gpus: Positive = 1
    findings: tuple[dict[str, Any], ...] = ()  # what the readers refused or repaired

    def first_difference(self, other: "JobDescription") -> str | None:
        """The first key in which another description is of another training, None for the same one."""
        names = [name for name in JobDescription.model_fields if name != "findings"]
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)


class RecipeNote(Record):
    """What a training has of its recipe, word by word."""

    name: str
    words: dict[str, Any]  # "unavailable" where the framework lacks it


class RecoveryNote(Record):
    """recovery.json: how a training departs from its config, after trouble of its own."""

    parts: Positive = 1  # that each batch is divided into; their gradients are added up
    lr_factor: Annotated[float, Field(gt=0, le=1)] = 1.0  # what the learning rate is multiplied with

    def photos_at_once(self, batch: int) -> int:
        return -(-batch // self.parts)


class DeviceSpeed(Record):
    """Photos a second on one device."""

    fps: float  # at batch 1
    fps_best: float  # at the best batch
    best_batch: Positive
    precision: str
    fps_by_batch: dict[str, float] = Field(default={})
    versions: dict[str, str] = Field(default={})


class ModelCost(Record):
    """What a model costs: parameters, and two operations for a multiply-add on one square photo."""

    parameters: Count
    flops: Count
    input_size: Positive  # pixels
    not_counted: tuple[str, ...] = ()  # operations without a formula
    speed: dict[str, DeviceSpeed] = Field(default={})  # by device


class DetectorStart(Record):
    """How a training began from a whole pretrained detector; weights by their names in the network."""

    file: str
    sha256: str
    filled: Count
    weights: Count  # of the network
    anew: tuple[str, ...]
    by_rows: tuple[str, ...]  # filled only in the rows of `classes`
    classes: tuple[str, ...]
    left_over: tuple[str, ...]  # what the file holds and the network lacks


class RunCard(JobDescription):
    """card.json, written last: where it is, the run is whole. Runs made earlier lack the later keys."""

    classes: tuple[str, ...]
    checkpoint: Name
    checkpoint_digest: str
    config: Name
    best_epoch: Count
    framework_map50: float | None  # None: not measured, as there are no held-out photos
    pretrained: str = ""
    start: DetectorStart | None = None
    device: str = ""
    recovery: RecoveryNote = RecoveryNote()
    recipe_words: dict[str, Any] = Field(default={})  # see RecipeNote
    trained_photos: Count = 0
    held_out_photos: Count = 0
    seconds: float = 0.0
    versions: dict[str, str | None] = Field(default={})
    cost: ModelCost | None = None
