"""COCO json files in a folder: which is for training, which for testing."""

from collections import Counter
from dataclasses import dataclass
from os.path import dirname
from typing import Any

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.listing import Listing, part_of
from pipeline.data.text import read_json
from pipeline.errors import PipelineError

MANY = 20  # json files in one folder: one per photo, in another format; a few are looked at
OTHER_KINDS = ("captions", "keypoints", "stuff", "panoptic")  # of COCO's own files, beside instances


@dataclass(frozen=True)
class CocoFile:
    path: str
    part: str
    names: list[str]  # of the photos
    boxes: int
    classes: list[str]  # in the order of the ids

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The best file of a part has the highest."""
        return not any(kind in self.path for kind in OTHER_KINDS), self.boxes, len(self.names)


def find_coco(listing: Listing) -> list[Candidate]:
    """The annotations of all COCO files as one candidate; none where no file holds boxes."""
    files = [file for path in _json_files(listing) if (file := _look(listing, path)) is not None]
    with_boxes = [file for file in files if file.boxes]
    if not with_boxes:
        return []
    train = _best([file for file in with_boxes if file.part == "train"])
    train = train or _best([file for file in with_boxes if not file.part]) or _best(with_boxes)
    assert train is not None
    rest = [file for file in files if file is not train]
    test = _best([file for file in rest if file.part == "test"])
    test = test or _best([file for file in rest if not file.boxes and file.part != "train"])
    as_test = test or _best([file for file in rest if file.part == "val"])
    found = Candidate("coco", f"COCO json {train.path}", train.boxes, _split(listing, train))
    found.classes = train.classes
    joined = _best([file for file in rest if file.part == "val"]) if test is not None else None
    if joined is not None and _are_beside_their_photos(listing, [train, joined]):
        found.train = {"annotations": ".", "image_sets": [train.path, joined.path]}
        found.what += f" and {joined.path}"
        found.boxes += joined.boxes
        rest.remove(joined)
    if as_test is not None:
        found.test = _split(listing, as_test)
        if as_test.boxes:
            found.test["truth"] = as_test.path
    if as_test is not None and test is None:
        found.comments["test"] = VALIDATION
    unused = [file for file in rest if file is not as_test]
    found.notes += [f"COCO json {file.path}: {len(file.names)} images, {file.boxes} boxes" for file in unused]
    return [found]


def _are_beside_their_photos(listing: Listing, files: list[CocoFile]) -> bool:
    """Whether files can be joined: of the same classes, each in the folder that its names are relative to."""
    same = all(file.classes == files[0].classes for file in files)
    return same and all(
        _split(listing, file).get("photos", ".") == (dirname(file.path) or ".") for file in files
    )


def _json_files(listing: Listing) -> list[str]:
    paths = listing.with_suffix(".json")
    folders = Counter(map(dirname, paths))
    taken: Counter[str] = Counter()
    chosen = []
    for path in paths:
        taken[dirname(path)] += 1
        if folders[dirname(path)] <= MANY or taken[dirname(path)] <= 2:
            chosen.append(path)
    return chosen


def _look(listing: Listing, path: str) -> CocoFile | None:
    """What a json file holds, if COCO annotations or a list of images."""
    try:
        value = read_json(listing.root / path)
    except PipelineError as error:
        listing.unreadable.append(str(error))
        return None
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        return None
    images = [image for image in value["images"] if isinstance(image, dict) and "file_name" in image]
    if not images:
        return None
    boxes = [item for item in _items(value.get("annotations")) if _has_box(item)]
    names = [str(image["file_name"]) for image in images]
    return CocoFile(path, part_of(path), names, len(boxes), _classes(value.get("categories"), boxes))


def _classes(categories: Any, boxes: list[dict[str, Any]]) -> list[str]:
    """Names in the order of the ids, without a category that only groups others, as Roboflow writes one."""
    known = [item for item in _items(categories) if isinstance(item, dict)]
    known.sort(key=lambda item: (not isinstance(item.get("id"), (int, float)), _order(item.get("id"))))
    used = {str(box.get("category_id")) for box in boxes}
    return [
        str(item.get("name"))
        for item in known
        if str(item.get("id")) in used
        or not any(other.get("supercategory") == item.get("name") for other in known if other is not item)
    ]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _order(identity: Any) -> Any:
    return identity if isinstance(identity, (int, float)) else str(identity)


def _has_box(item: Any) -> bool:
    return isinstance(item, dict) and bool(item.get("bbox") or item.get("segmentation"))


def _best(files: list[CocoFile]) -> CocoFile | None:
    return max(files, key=lambda file: file.rank, default=None)


def _split(listing: Listing, file: CocoFile) -> dict[str, Any]:
    folder, found, _ = listing.photos_folder(file.names, file.part, dirname(file.path))
    values: dict[str, Any] = {"annotations": file.path}
    return values | ({"photos": folder} if found and folder != "." else {})
