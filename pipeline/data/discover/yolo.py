"""YOLO labels in a folder: by a data.yaml, or as text files beside or opposite the photos."""

from os.path import basename, dirname
from typing import Any

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.folders import LabelFolder, of_parts
from pipeline.data.discover.listing import Listing, shared_parts
from pipeline.data.formats.yolo import CLASS_LISTS, class_names, layout_of
from pipeline.data.profile import Profile
from pipeline.data.records import read_yaml
from pipeline.data.specs import SplitSpec
from pipeline.data.text import photo_stem, read_text, same_text
from pipeline.errors import PipelineError

LEAST = 5  # cells of a row: a class and four numbers


def find_yolo(listing: Listing) -> list[Candidate]:
    """Each data.yaml as a candidate; where there is none, the folders of label files as one."""
    folders = _label_folders(listing)
    boxes = sum(labels.counts.total() for labels in folders)
    files = listing.with_suffix(".yaml", ".yml")
    candidates = [found for path in files if (found := _of_yaml(listing, path, boxes)) is not None]
    return candidates or _of_folders(listing, folders)


def _of_yaml(listing: Listing, path: str, boxes: int) -> Candidate | None:
    """A data.yaml and those of its splits that are there."""
    try:
        data = read_yaml(listing.root / path, "correct it")
        if "names" not in data or not any(key in data for key in ("train", "val", "valid", "test")):
            return None
        names = sorted(class_names(data["names"], listing.root / path))
    except PipelineError as error:
        listing.unreadable.append(str(error))
        return None
    found = Candidate("yolo", f"YOLO labels of {path}", boxes, {"annotations": path})
    found.classes = [name for _, name in names]
    splits = [key for key in ("train", "val", "valid", "test") if _is_there(listing, found, key, data)]
    val = [key for key in splits if key in ("val", "valid")]
    train = [key for key in splits if key == "train"] + val * ("test" in splits)
    if not splits:
        return None
    found.train["image_sets"] = train or splits[:1]
    test = [key for key in splits if key not in found.train["image_sets"]]
    if test:
        found.test = {"annotations": path, "image_sets": test, "truth": path}
    if test == val and test:
        found.comments["test"] = VALIDATION
    return found


def _is_there(listing: Listing, found: Candidate, key: str, data: dict[Any, Any]) -> bool:
    """Whether a split of a data.yaml has photos."""
    spec = SplitSpec(found.train["annotations"], image_sets=(key,))
    profile = Profile("", "yolo", spec, spec, root=listing.root, classes=tuple(found.classes))
    try:
        sources = layout_of(profile, spec).sources if data.get(key) else []
    except PipelineError as error:
        listing.unreadable.append(str(error))
        return False
    return bool(sources)


def _label_folders(listing: Listing) -> list[LabelFolder]:
    """Folders of text files that are named as photos and hold rows of numbers."""
    folders: dict[str, LabelFolder] = {}
    for path in listing.with_suffix(".txt"):
        stem, place = same_text(photo_stem(basename(path)).removesuffix(".txt")), dirname(path) or "."
        if stem not in listing.photos_by_stem or basename(path) in CLASS_LISTS:
            continue
        try:
            rows = [line.split() for line in read_text(listing.root / path).split("\n") if line.strip()]
        except PipelineError:
            continue
        if all(len(row) >= LEAST and row[0].isascii() and row[0].isdigit() for row in rows):
            labels = folders.setdefault(place, LabelFolder(place))
            labels.stems.append(stem)
            labels.counts.update(int(row[0]) for row in rows)
    found = [labels for labels in folders.values() if labels.counts]
    for labels in found:
        labels.find_photos(listing)
    return found


def _of_folders(listing: Listing, folders: list[LabelFolder]) -> list[Candidate]:
    made = of_parts("yolo", "YOLO labels in {}", folders)
    if made is None:
        return []
    found, (train, *_) = made
    _name_classes(found, listing, train, folders)
    return [found]


def _name_classes(found: Candidate, listing: Listing, train: LabelFolder, folders: list[LabelFolder]) -> None:
    lists = [path for path in listing.files if basename(path) in CLASS_LISTS]
    if lists:
        path = max(lists, key=lambda path: shared_parts(path, train.path))
        found.classes = [
            name for line in read_text(listing.root / path).split("\n") if (name := line.strip())
        ]
        found.comments["classes"] = f"in the order of {path}"
    else:
        last = max(max(labels.counts) for labels in folders)
        found.classes = [f"class {number}" for number in range(last + 1)]
        found.comments["classes"] = "assumed: no file names them; give names, in this order"
