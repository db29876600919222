"""Competition profiles: `configs/competitions/<name>.yaml`, one file a competition.

A profile says where the data lie, in which format the annotations are, the classes in order, the
metric and what a submission looks like. The keys are those of the dataclasses below; an unknown or
missing key is an error that names it.
"""

import os
import re
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin

import yaml

from pipeline.data.metric import MetricSpec, parse_metric
from pipeline.errors import PipelineError
from pipeline.paths import CONFIGS, home, shown

CORNER_FIELDS = ("x1", "y1", "x2", "y2")
SIZE_FIELDS = ("x", "y", "w", "h")
BOX_FIELDS = ("label", "score", *CORNER_FIELDS, *SIZE_FIELDS)


@dataclass(frozen=True)
class SplitSpec:
    """Where one split (train or test) lies, relative to the competition's root."""

    annotations: str  # COCO json, or the folder of VOC xml files
    photos: str = "."  # folder that file names are relative to
    image_sets: tuple[str, ...] = ()  # VOC: lists of file stems
    truth: str | None = None  # test only: boxes that are known but kept apart, for evaluation
    holdout: float = 0.0  # test only: share of train held back when `annotations` is not there


@dataclass(frozen=True)
class SubmissionSpec:
    """Format of the submission CSV: one row an image, its boxes in one string."""

    header: tuple[str, ...] = ("PredictionString", "image_id")
    image_column: str = "image_id"
    boxes_column: str = "PredictionString"
    image: str = "{file_name}"  # also {stem} and {image_id}
    box: str = "{label} {score} {x1} {y1} {x2} {y2}"
    empty: str = ""  # what an image without a box gets


@dataclass(frozen=True)
class Profile:
    name: str
    title: str
    format: str
    classes: tuple[str, ...]
    train: SplitSpec
    test: SplitSpec
    root: Path
    where: str = "the competition's data"  # where to get the data, for error messages
    metric: MetricSpec = field(default_factory=lambda: MetricSpec("map50"))
    inclusive: bool = False  # VOC: xmax and ymax name the last pixel inside (the VOC devkit's way)
    submission: SubmissionSpec = field(default_factory=SubmissionSpec)

    def path(self, relative: str) -> Path:
        return self.root / relative

    @property
    def holds_out(self) -> bool:
        """Whether a part of train serves as the test set, because the test set is not there."""
        return bool(self.test.holdout) and not self.path(self.test.annotations).exists()


def profile_names() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "competitions").glob("*.yaml"))


def _build(kind: type, values: Any, path: Path, section: str) -> Any:
    """Make a dataclass from a mapping of the YAML file; lists become tuples."""
    if not isinstance(values, dict):
        raise PipelineError(f"{shown(path)}: '{section}' must be a mapping of keys to values")
    known = {item.name: item for item in fields(kind)}
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise PipelineError(
                f"{shown(path)}: unknown key '{key}' in '{section}'; known: {', '.join(sorted(known))}"
            )
        made[key] = value
        if get_origin(known[key].type) is tuple:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise PipelineError(f"{shown(path)}: '{section}': '{key}' must be a list of names")
            made[key] = tuple(value)
    for key, item in known.items():
        if key not in made and item.default is MISSING and item.default_factory is MISSING:
            raise PipelineError(f"{shown(path)}: '{section}': missing key '{key}'")
    return kind(**made)


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


def load_profile(name: str, root: str | Path | None = None) -> Profile:
    """Read a profile; `root` overrides the folder that the profile (or `ROOT`) names."""
    path = CONFIGS / "competitions" / f"{name}.yaml"
    if not path.is_file():
        raise PipelineError(
            f"no competition '{name}'; there are: {', '.join(profile_names())} "
            f"(add {shown(path)} for a new one)"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PipelineError(f"{shown(path)}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise PipelineError(f"{shown(path)}: expected a mapping of keys to values")
    for key, kind in (("train", SplitSpec), ("test", SplitSpec), ("submission", SubmissionSpec)):
        if key in values:
            values[key] = _build(kind, values[key], path, key)
    folder = root or os.environ.get("ROOT") or values.get("root") or f"data/{name}"
    # A relative --root is the user's, relative to where he stands; the profile's is below home().
    base = Path.cwd() if root or os.environ.get("ROOT") else home()
    values |= {"name": name, "root": (base / Path(folder).expanduser()).resolve()}
    try:
        values["metric"] = parse_metric(values.get("metric", "map50"))
    except PipelineError as error:
        raise PipelineError(f"{shown(path)}: {error}") from None
    profile: Profile = _build(Profile, values, path, "profile")
    if len(set(profile.classes)) != len(profile.classes) or not profile.classes:
        raise PipelineError(f"{shown(path)}: 'classes' must be a list of different names")
    spec = profile.submission
    if {spec.image_column, spec.boxes_column} - set(spec.header):
        raise PipelineError(
            f"{shown(path)}: submission.header {list(spec.header)} lacks "
            f"'{spec.image_column}' or '{spec.boxes_column}'"
        )
    try:
        spec.image.format(file_name="", stem="", image_id=0)
        if "label" not in box_fields(spec) and len(profile.classes) > 1:
            raise PipelineError(f"submission.box '{spec.box}': lacks {{label}}, with more than one class")
    except PipelineError as error:
        raise PipelineError(f"{shown(path)}: {error}") from None
    except (KeyError, ValueError, IndexError):
        raise PipelineError(
            f"{shown(path)}: submission.image '{spec.image}': expected {{file_name}}, {{stem}} or "
            "{image_id}"
        ) from None
    return profile


def with_box(profile: Profile, box: str) -> Profile:
    """The profile with another box string; raises PipelineError unless it describes a box."""
    submission = replace(profile.submission, box=box)
    box_fields(submission)
    return replace(profile, submission=submission)


def require_root(profile: Profile) -> None:
    """Raise PipelineError, saying where to put the data, when the root folder is not there."""
    if not profile.root.is_dir():
        raise PipelineError(
            f"no data folder {profile.root}: put {profile.where} there, or say where it lies with "
            "ROOT=<folder> on make (--root on a stage)"
        )
