"""From a folder to a profile: chooses one set of annotations, completes it, and reads it to prove it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Dataset, load_dataset, load_truth
from pipeline.data.discover.candidate import Candidate
from pipeline.data.discover.coco import find_coco
from pipeline.data.discover.csv import add_sizes, find_csv, read_tables, sizes_files
from pipeline.data.discover.listing import Listing, list_folder, part_of
from pipeline.data.discover.shapes import find_cvat, find_labelme
from pipeline.data.discover.submission import Sample, describe_sample, find_sample
from pipeline.data.discover.voc import find_voc
from pipeline.data.discover.yolo import find_yolo
from pipeline.data.photos import photos_of
from pipeline.data.profile import Profile, complete_profile
from pipeline.data.records import as_record
from pipeline.errors import PipelineError
from pipeline.paths import shown

HELD_OUT = 0.2  # share of train that serves as the test set where there is none
FINDERS: tuple[Callable[[Listing], list[Candidate]], ...] = (
    find_coco,
    find_voc,
    find_yolo,
    find_labelme,
    find_cvat,
)


@dataclass
class Discovery:
    """What was found: the values of a profile, a comment for some of its keys, and lines for people."""

    values: dict[str, Any]
    comments: dict[str, str]
    chosen: Candidate
    others: list[str]
    train: Dataset | None = None  # None: it cannot be read yet, as `warnings` says
    test: Dataset | None = None
    photos: dict[str, tuple[int, int]] = field(default_factory=dict)  # split: photos there, images
    warnings: list[str] = field(default_factory=list)

    def summary(self, split: str) -> str:
        """Images, boxes, photos and sizes of a split in one line; "" where it cannot be read yet."""
        dataset = self.train if split == "train" else self.test
        if dataset is None or dataset.images.empty:
            return ""
        there, images = self.photos[split]
        sizes = dataset.images.value_counts(["width", "height"])
        width, height = sizes.index[0]
        boxes = f", {len(dataset.annotations)} boxes" if split == "train" else ""
        more = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
        return f"{images} images{boxes}; {there} photos are there; {width} x {height}{more}"

    def counts(self) -> dict[str, int]:
        """Boxes of the train images by class; empty where they cannot be read yet."""
        if self.train is None:
            return {}
        labels = np.bincount(self.train.annotations["label"], minlength=len(self.chosen.classes))
        return dict(zip(self.chosen.classes, labels.tolist(), strict=True))


def discover(root: Path, name: str) -> Discovery:
    """Look at a folder. Raises PipelineError where it holds no annotations that can be read."""
    if not root.is_dir():
        raise PipelineError(f"no folder {root}: put the data there, or say where they lie with ROOT=<folder>")
    listing = list_folder(root)
    tables = read_tables(listing)
    candidates = [found for find in FINDERS for found in find(listing)]
    sample = find_sample(tables)
    candidates += find_csv(listing, tables, sample is not None)
    if not candidates:
        raise _nothing_found(listing)
    candidates.sort(key=lambda found: (found.parts, found.boxes), reverse=True)
    chosen, *rest = candidates
    others = [
        f"{found.what}: {found.boxes} boxes{'' if found.parts else ', no test part'}" for found in rest
    ] + [note for found in candidates for note in found.notes]
    if chosen.test is None:
        _find_test(chosen, listing, sample, sizes_files(tables))
    made = Discovery(_values(chosen, name), chosen.comments, chosen, others, warnings=listing.unreadable)
    _read(made, name, root, bool(listing.photos))
    _describe_submission(made, sample)
    profile = _profile(made.values, name, root)
    for dataset in filter(None, (made.train, made.test)):
        photos = photos_of(profile, dataset.split, dataset.images)
        there = sum(photo.path.is_file() for photo in photos)
        made.photos[dataset.split] = there, len(photos)
        if there < len(photos):
            made.warnings.append(
                f"{len(photos) - there} of {len(photos)} {dataset.split} photos are not there"
            )
    return made


def _nothing_found(listing: Listing) -> PipelineError:
    reasons = [
        *listing.unreadable,
        f"it has {len(listing.photos)} photos and {len(listing.files)} other files",
    ]
    return PipelineError(
        f"{shown(listing.root)}: no annotations found ({reasons[0]}); expected COCO json, VOC xml, a CSV "
        "with boxes, YOLO labels, LabelMe json or CVAT xml"
    )


def _find_test(
    chosen: Candidate, listing: Listing, sample: Sample | None, sizes: dict[str, set[str]]
) -> None:
    """Name the test images where the annotations do not: a sample submission, a folder, a share of train."""
    used = chosen.train.get("photos", ".")
    folders = {path.rpartition("/")[0] for path in listing.photos}
    tests = sorted({folder for folder in folders if part_of(folder) == "test" and folder != used})
    if sample is not None:
        suffix = "_image" if all(key.endswith(("_image", "_study")) for key in sample.ids) else ""
        ids = [key.removesuffix(suffix) for key in sample.ids if key.endswith(suffix)]
        folder, found, _ = listing.photos_folder(ids, "test")
        columns: dict[str, Any] = {"image": sample.key, "file": "{id}" + listing.suffix_of(ids)}
        columns |= {"suffix": suffix} if suffix else {}
        add_sizes(columns, ids, sizes)
        chosen.test = {"annotations": sample.path, "columns": columns}
        if chosen.format != "csv":
            chosen.test["format"] = "csv"
        chosen.test |= {"photos": folder} if found else {"photos": tests[0]} if tests else {}
        chosen.comments["test"] = "the images of the sample submission"
    elif tests:
        top = min(tests, key=len)
        chosen.test = {"format": "photos", "annotations": top, "photos": top}
        chosen.comments["test"] = "the photos of this folder"
    else:
        chosen.test = {"annotations": "test.json", "holdout": HELD_OUT}
        chosen.comments["test"] = "assumed: no test set was found, so a share of train serves as one"


def _values(chosen: Candidate, name: str) -> dict[str, Any]:
    values: dict[str, Any] = {"title": name, "where": f"the files of {name}", "format": chosen.format}
    values |= {"train": chosen.train, "test": chosen.test, **chosen.options}
    if "classes_file" not in chosen.options:
        values["classes"] = chosen.classes
    return values | {"metric": "map50"}


def _profile(values: dict[str, Any], name: str, root: Path) -> Profile:
    source = f"the profile of {name}"
    return complete_profile(as_record(values, Profile, source, "say it in the profile"), name, root, source)


def _read(made: Discovery, name: str, root: Path, has_photos: bool) -> None:
    """Read both splits as every stage will, as the boxes' numbers fit the photos; adjusts the values."""
    try:
        train = load_dataset(_profile(made.values, name, root), "train", strict=False)
    except PipelineError as error:
        sizes_may_come = made.chosen.boxes and not has_photos  # with photos that are not there yet
        if not sizes_may_come:
            raise
        made.warnings.append(_reason(made, name, root, error))
        return
    if train.findings.refusals:
        other = copy.deepcopy(made.values)
        place, spec = (
            ("train.columns.xyxy", other["train"].get("columns"))
            if made.chosen.format == "csv"
            else ("xyxy", other)
        )
        spec["xyxy"] = True
        as_corners = load_dataset(_profile(other, name, root), "train", strict=False)
        if not as_corners.findings.refusals:
            made.values, train = other, as_corners
            made.comments[place] = "assumed: the boxes fit their photos only as corners"
    made.train = train
    made.warnings += [f"train: {text}" for text in train.findings.refusals]
    columns = made.values["test"].get("columns")
    try:
        made.test = load_dataset(_profile(made.values, name, root), "test", strict=False)
    except PipelineError as error:
        sizes = train.images[["width", "height"]].drop_duplicates().to_numpy().tolist()
        if columns is None or len(sizes) > 1 or {"width", "size", "sizes"} & set(columns):
            made.warnings.append(str(error))
            return
        columns["size"] = sizes[0]
        made.comments["test.columns.size"] = "assumed: that of all train photos, since no test photo is there"
        made.test = load_dataset(_profile(made.values, name, root), "test", strict=False)
    made.warnings += [f"test: {text}" for text in made.test.findings.refusals]
    try:
        load_truth(_profile(made.values, name, root), "test")
    except PipelineError:  # as labels that a public test set comes without
        made.values["test"].pop("truth", None)


def _reason(made: Discovery, name: str, root: Path, error: PipelineError) -> str:
    """Why train cannot be read: what every stage says, which may know more than `error`."""
    try:
        load_dataset(_profile(made.values, name, root), "train")
    except PipelineError as refusal:
        return str(refusal)
    return str(error)


def _describe_submission(made: Discovery, sample: Sample | None) -> None:
    """The keys of `submission`, from the sample where there is one."""
    comments: dict[str, str]
    if sample is None:
        label = "{label} " if len(made.chosen.classes) > 1 else ""
        values: dict[str, Any] = {
            "header": ["PredictionString", "image_id"],
            "image": "{file_name}",
            "box": f"{label}{{score}} {{x1}} {{y1}} {{x2}} {{y2}}",
        }
        comments = dict.fromkeys(values, "assumed")
    else:
        values, comments = describe_sample(
            sample, None if made.test is None else made.test.images, made.chosen.classes
        )
    if made.chosen.train.get("columns", {}).get("normalized"):
        values["normalized"], comments["normalized"] = True, "assumed: as the boxes of train"
    made.values["submission"] = values
    made.comments |= {f"submission.{key}": text for key, text in comments.items()}
    made.comments["metric"] = "assumed"
