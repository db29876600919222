"""Competition profiles: `configs/competitions/<name>.yaml`, one file a competition.

A profile says where the data lie, in which format the annotations are, the classes in order, the
metric and what a submission looks like. The keys are those of the dataclasses below; an unknown or
missing key is an error that names it.
"""

import csv
import os
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from pipeline.data.metric import MetricSpec, parse_metric
from pipeline.data.specs import SITES, ColumnSpec, SiteSpec, SplitSpec, SubmissionSpec, box_fields
from pipeline.errors import PipelineError
from pipeline.paths import CONFIGS, home, shown


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
    labels: tuple[str, ...] = ()  # what the competition's files call the classes, where not by name
    inclusive: bool = False  # VOC: xmax and ymax name the last pixel inside (the VOC devkit's way)
    submission: SubmissionSpec = field(default_factory=SubmissionSpec)
    site: SiteSpec = field(default_factory=SiteSpec)

    def path(self, relative: str) -> Path:
        return self.root / relative

    @property
    def holds_out(self) -> bool:
        """Whether a part of train serves as the test set, because the test set is not there."""
        return bool(self.test.holdout) and not self.path(self.test.annotations).exists()


PARTS = {"train": SplitSpec, "test": SplitSpec, "submission": SubmissionSpec, "site": SiteSpec}


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
            item_type, what = get_args(known[key].type)[0], "names"
            if item_type is int:
                what = "whole numbers"
            if not isinstance(value, list) or not all(type(item) is item_type for item in value):
                raise PipelineError(f"{shown(path)}: '{section}': '{key}' must be a list of {what}")
            made[key] = tuple(value)
    for key, item in known.items():
        if key not in made and item.default is MISSING and item.default_factory is MISSING:
            raise PipelineError(f"{shown(path)}: '{section}': missing key '{key}'")
    return kind(**made)


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
    for split in ("train", "test"):
        if isinstance(values.get(split), dict) and "columns" in values[split]:
            values[split]["columns"] = _build(ColumnSpec, values[split]["columns"], path, f"{split}.columns")
    for key, kind in PARTS.items():
        if key in values:
            values[key] = _build(kind, values[key], path, key)
    folder = root or os.environ.get("ROOT") or values.get("root") or f"data/{name}"
    # A relative --root is the user's, relative to where he stands; the profile's is below home().
    base = Path.cwd() if root or os.environ.get("ROOT") else home()
    values |= {"name": name, "root": (base / Path(folder).expanduser()).resolve()}
    if "classes_file" in values:
        classes = values["root"] / values.pop("classes_file")
        values["labels"], values["classes"] = read_classes(classes, str(values.get("where", "the data")))
    try:
        values["metric"] = parse_metric(values.get("metric", "map50"))
    except PipelineError as error:
        raise PipelineError(f"{shown(path)}: {error}") from None
    profile: Profile = _build(Profile, values, path, "profile")
    if len(set(profile.classes)) != len(profile.classes) or not profile.classes:
        raise PipelineError(f"{shown(path)}: 'classes' must be a list of different names")
    if profile.labels and len(set(profile.labels)) != len(profile.classes):
        raise PipelineError(f"{shown(path)}: 'labels' must be a list of different names, one a class")
    if profile.site.api not in SITES or (profile.site.api and not profile.site.competition):
        raise PipelineError(
            f"{shown(path)}: 'site': expected api: kaggle and competition: <its name>, or no api"
        )
    spec = profile.submission
    if {spec.image_column, spec.boxes_column} - set(spec.header):
        raise PipelineError(
            f"{shown(path)}: submission.header {list(spec.header)} lacks "
            f"'{spec.image_column}' or '{spec.boxes_column}'"
        )
    try:
        spec.image.format(file_name="", stem="", image_id=0, position=0)
        if "label" not in box_fields(spec) and len(profile.classes) > 1:
            raise PipelineError(f"submission.box '{spec.box}': lacks {{label}}, with more than one class")
    except PipelineError as error:
        raise PipelineError(f"{shown(path)}: {error}") from None
    except (KeyError, ValueError, IndexError):
        raise PipelineError(
            f"{shown(path)}: submission.image '{spec.image}': expected {{file_name}}, {{stem}}, "
            "{image_id} or {position}"
        ) from None
    return profile


def read_classes(path: Path, where: str) -> tuple[list[str], list[str]]:
    """What a file of `label,name` rows (without a header) calls the classes, and their names."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise PipelineError(
            f"no class file {path}: put {where} there, or say where it lies with ROOT=<folder>"
        ) from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({error})") from None
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise PipelineError(f"{shown(path)}: row {number}: {len(row)} columns, expected label,name")
    return [row[0] for row in rows], [row[1] for row in rows]


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
