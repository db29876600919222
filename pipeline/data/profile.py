"""Competition profiles: `configs/competitions/<name>.yaml`, one file a competition.

A profile says where the data lie, in which format the annotations are, the classes in order, the
metric and what a submission looks like. The keys are those of the classes below; an unknown or
missing key, or a value of another type, is an error that names it.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import PlainValidator
from pydantic.dataclasses import dataclass

from pipeline.data.metric import MetricSpec, parse_metric
from pipeline.data.records import STRICT, read_yaml_record
from pipeline.data.specs import Losses, SiteSpec, SplitSpec, SubmissionSpec, box_fields
from pipeline.errors import PipelineError, reason
from pipeline.names import check_name
from pipeline.paths import CONFIGS, home, regular, shown


@dataclass(frozen=True, config=STRICT)
class Profile:
    title: str
    format: str
    train: SplitSpec
    test: SplitSpec
    name: str = ""  # of the file
    root: Path = Path()  # folder of the data
    where: str = "the competition's data"  # where to get the data, for error messages
    metric: Annotated[MetricSpec, PlainValidator(parse_metric)] = MetricSpec("map50")
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # what the competition's files call the classes, where not by name
    classes_file: str = ""  # below root, a CSV of label,name: in place of both
    inclusive: bool = False  # VOC: xmax and ymax name the last pixel inside (the VOC devkit's way)
    xyxy: bool = False  # COCO: bbox holds corners, x1 y1 x2 y2
    accept_losses: Losses | None = None
    outside: bool = False  # names of photos may be absolute, or lead out of their folder by ..
    submission: SubmissionSpec = SubmissionSpec()
    site: SiteSpec = SiteSpec()

    def path(self, relative: str) -> Path:
        return self.root / relative

    def missing(self, what: str, path: Path) -> str:
        """The error for a file or folder of the data that is not there."""
        return f"no {what} {path}: put {self.where} into {self.root}, or say where it lies with ROOT=<folder>"

    @property
    def files(self) -> list[Path]:
        """The files and folders that the profile names; links may lead out of root."""
        names = [self.train.annotations, self.test.annotations, self.test.truth, self.classes_file]
        names += [self.submission.sample, self.submission.others]
        return [self.path(name) for name in names if name]

    @property
    def links(self) -> list[Path]:
        """The links among the folder of the data, and the files and folders of it, that lead out of it."""
        own = home() / "data" / self.name
        photos = [self.path(spec.photos) for spec in (self.train, self.test)]
        inside = [
            path for path in (*self.files, *photos) if not path.resolve().is_relative_to(self.root.resolve())
        ]
        return [*([own] if own.is_symlink() and own.resolve() == self.root else []), *dict.fromkeys(inside)]

    @property
    def holds_out(self) -> bool:
        """Whether a part of train serves as the test set, because the test set is not there."""
        return bool(self.test.holdout) and not self.path(self.test.annotations).exists()


def profile_names() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "competitions").glob("*.yaml"))


def profile_path(name: str) -> Path:
    return CONFIGS / "competitions" / f"{check_name('competition', name)}.yaml"


def load_profile(name: str, root: str | Path | None = None) -> Profile:
    """Read a profile; `root` overrides the folder that the profile names."""
    path = profile_path(name)
    if not path.is_file():
        raise PipelineError(
            f"no competition '{name}'; there are: {', '.join(profile_names())} "
            f"(make new COMP={name} ROOT=<folder> writes one for a folder of data)"
        )
    return complete_profile(read_yaml_record(path, Profile), name, root, shown(path))


def data_folder(name: str, root: str | Path | None = None, own: Path = Path()) -> Path:
    """Where a competition's data lie. `root` is the user's, relative to where he stands; `own`, which the
    profile names, and the folder in its absence are below home()."""
    folder = Path(root or (own if own.name else f"data/{name}"))
    try:
        return ((Path.cwd() if root else home()) / folder.expanduser()).resolve()
    except (RuntimeError, ValueError) as error:  # ~nobody; a null character
        raise PipelineError(f"root {str(folder)!r}: no folder ({reason(error)})") from None


def complete_profile(profile: Profile, name: str, root: str | Path | None, source: str) -> Profile:
    """A profile with its name, folder and classes; raises PipelineError for keys that do not fit together.

    root: as of `load_profile`. source: what messages call the profile.
    """
    if profile.name not in ("", name):
        raise PipelineError(f"{source}: name '{profile.name}': a profile has the name of its file")
    profile = replace(profile, name=name, root=data_folder(name, root, profile.root))
    if profile.classes_file:
        labels, classes = read_classes(profile.path(profile.classes_file), profile.where)
        profile = replace(profile, labels=labels, classes=classes)
    _check(profile, source)
    return profile


def _check(profile: Profile, source: str) -> None:
    """Raise PipelineError for keys of a profile that do not fit together."""
    if len(set(profile.classes)) != len(profile.classes) or not profile.classes:
        raise PipelineError(f"{source}: 'classes' must be a list of different names")
    if profile.labels and len(set(profile.labels)) != len(profile.classes):
        raise PipelineError(f"{source}: 'labels' must be a list of different names, one a class")
    if "label" not in box_fields(profile.submission) and len(profile.classes) > 1:
        box = profile.submission.box
        raise PipelineError(f"{source}: submission.box '{box}': lacks {{label}}, with more than one class")


def read_classes(path: Path, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a file of `label,name` rows calls the classes, and their names; Open Images V7 has a header."""
    try:
        with open(regular(path), encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except FileNotFoundError:
        raise PipelineError(
            f"no class file {path}: put {where} there, or say where it lies with ROOT=<folder>"
        ) from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({reason(error)})") from None
    rows = rows[1:] if rows[:1] == [["LabelName", "DisplayName"]] else rows
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise PipelineError(f"{shown(path)}: row {number}: {len(row)} columns, expected label,name")
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def with_box(profile: Profile, box: str) -> Profile:
    """The profile with another box string; raises PipelineError unless it describes a box."""
    return replace(profile, submission=replace(profile.submission, box=box))


def require_root(profile: Profile) -> None:
    """Raise PipelineError, saying where to put the data, when the root folder is not there."""
    if not profile.root.is_dir():
        raise PipelineError(
            f"no data folder {profile.root}: put {profile.where} there, or say where it lies with "
            "ROOT=<folder> on make (--root on a stage)"
        )
