"""The parts of a competition profile: the files of a split, their columns, the submission, the site."""

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.data.records import STRICT
from pipeline.errors import PipelineError

CORNER_FIELDS = ("x1", "y1", "x2", "y2")
SIZE_FIELDS = ("x", "y", "w", "h")
BOX_FIELDS = ("label", "score", *CORNER_FIELDS, *SIZE_FIELDS)
KEY_FIELD = re.compile(r"\{(file_name|stem|(image_id|position)(:0?[0-9]{1,2}d?)?)\}")
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class ColumnSpec:
    """Format `csv`: the columns of a file with one row a box, or one row an image.

    An image whose box cells are empty has no box. Sizes in pixels come from `width` and `height`
    (columns), else from `size`, else from the CSV `sizes`, else from the headers of the photos.
    """

    image: str  # the image's id
    file: str  # its file name made of columns, as "video_{video_id}/{video_frame}.jpg"
    suffix: str = ""  # what ids end with; rows without it name no image (siim: _image)
    box: tuple[str, ...] = ()  # four columns, or one that holds [x, y, w, h] or a list of such mappings
    xyxy: bool = False  # box is left, top, right, bottom; else left, top, width, height
    normalized: bool = False  # box is a share of the photo's width and height
    label: str = ""  # column of the class: its name, or what `labels` calls it; "": the only class
    no_label: str = ""  # what the label of an image without a box is
    crowd: str = ""  # column that is 1 for a box around a group
    width: str = ""
    height: str = ""
    size: tuple[int, int] | None = None  # width, height
    sizes: str = ""  # CSV of image, width, height (or image_id, dim1, dim0) beside the annotations


@dataclass(frozen=True, config=STRICT)
class SplitSpec:
    """Where one split (train or test) lies, relative to the competition's root."""

    annotations: str  # a file, or the folder of many: docs/competitions.md, "Formats"
    format: str = ""  # where it is not the profile's: a CSV as the list of test images beside COCO boxes
    photos: str = "."  # folder that file names are relative to
    columns: ColumnSpec | None = None  # CSV: what its columns are
    stretched: bool = False  # photos may have been resized to another shape (squared X-rays)
    image_sets: tuple[str, ...] = ()  # VOC: lists of stems (none: every xml); YOLO: splits of the data.yaml
    truth: str | None = None  # test only: boxes that are known but kept apart, for evaluation
    holdout: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # test only: share of train held back when `annotations` is not there
    )


@dataclass(frozen=True, config=STRICT)
class Losses:
    """How many boxes and images of an annotation file may be left out, which is more than a reader may."""

    why: str
    boxes: Count = 0
    images: Count = 0  # of the train set; a test set must be whole
    outlines: Count = 0  # for models with masks: objects that are learned as rectangles


@dataclass(frozen=True, config=STRICT)
class SubmissionSpec:
    """Format of the submission CSV: one row an image, its boxes in one string."""

    header: tuple[str, ...] = ("PredictionString", "image_id")
    image_column: str = "image_id"
    boxes_column: str = "PredictionString"
    image: str = "{file_name}"  # also {stem}, {image_id} and {position}
    box: str = "{label} {score} {x1} {y1} {x2} {y2}"
    normalized: bool = False  # coordinates as a share of the photo's width and height
    empty: str = ""  # what an image without a box gets
    ordered: bool = True  # rows in the order of the test file; false where the site goes by the id
    sample: str = ""  # the site's sample submission, for the header and the rows that name no image
    others: str = ""  # CSV like the sample, with better rows for those than the sample's
    other_labels: tuple[str, ...] = ()  # labels that these rows may have besides the classes
    max_boxes: Count = 0  # of one image; 0: no limit known
    max_megabytes: Annotated[float, Field(ge=0)] = 0.0  # of the file; 0: no limit known

    def __post_init__(self) -> None:
        if {self.image_column, self.boxes_column} - set(self.header):
            raise PipelineError(
                f"submission.header {list(self.header)} lacks '{self.image_column}' or '{self.boxes_column}'"
            )
        box_fields(self)
        if set("{}") & set(KEY_FIELD.sub("", self.image)):
            raise PipelineError(
                f"submission.image '{self.image}': expected {{file_name}}, {{stem}}, {{image_id}} or "
                "{position}, a number with leading zeros as {position:06d}"
            )


@dataclass(frozen=True, config=STRICT)
class SiteSpec:
    """Where submissions go. Without `api` they are uploaded by hand."""

    api: Literal["", "kaggle"] = ""
    competition: str = ""  # the competition's name in its address
    code: bool = False  # a code competition: a notebook's version is submitted, not a file
    per_day: Count = 0  # submissions a day; 0: not known here

    def __post_init__(self) -> None:
        if self.api and not self.competition:
            raise PipelineError(f"site: api {self.api}: expected competition: <its name> beside it")


def box_fields(spec: SubmissionSpec) -> list[str]:
    """The fields of the box string in order; raises PipelineError unless they describe a box."""
    tokens = spec.box.split()
    names = [match[1] if (match := re.fullmatch(r"\{(\w+)\}", token)) else token for token in tokens]
    whole = "score" in names and any(set(sides) <= set(names) for sides in (CORNER_FIELDS, SIZE_FIELDS))
    if not whole or not set(names) <= set(BOX_FIELDS) or len(set(names)) < len(names):
        raise PipelineError(
            f"submission.box '{spec.box}': expected {{label}} {{score}} {{x1}} {{y1}} {{x2}} {{y2}}, or "
            "{x} {y} {w} {h} for the corners, in any order, separated by spaces; {label} may be left out"
        )
    return names
