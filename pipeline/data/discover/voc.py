"""Folders of Pascal VOC xml, and the image sets that go with them."""

from collections import Counter
from dataclasses import dataclass, field
from os.path import basename, dirname, splitext
from typing import Any

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.listing import Listing, part_of, shared_parts
from pipeline.data.formats.voc import parse_xml
from pipeline.data.text import same_text
from pipeline.errors import PipelineError

SETS = ("trainval", "train", "val", "valid", "validation", "test", "default", "all")


@dataclass
class VocFolder:
    path: str
    part: str
    stems: list[str]
    counts: Counter[str]
    sets: dict[str, str] = field(default_factory=dict)  # name -> file

    @property
    def boxes(self) -> int:
        return self.counts.total()


def find_voc(listing: Listing) -> list[Candidate]:
    """Each folder of xml files as a candidate; folders called train and test go together as one."""
    by_folder: dict[str, list[str]] = {}
    for path in listing.with_suffix(".xml"):
        by_folder.setdefault(dirname(path) or ".", []).append(path)
    folders = [
        folder
        for place, paths in by_folder.items()
        if (folder := _look(listing, place, paths)) is not None and folder.boxes
    ]
    for path in listing.with_suffix(".txt"):
        name = splitext(basename(path))[0].lower()
        if name in SETS and folders:
            near = max(folders, key=lambda folder: shared_parts(folder.path, path))
            near.sets.setdefault(name, path)
    if any(folder.sets for folder in folders):
        return [_with_sets(listing, folder) for folder in folders if folder.sets] + [
            _alone(listing, folder) for folder in folders if not folder.sets
        ]
    return _by_part(listing, folders)


def _look(listing: Listing, place: str, paths: list[str]) -> VocFolder | None:
    """The classes of a folder's xml files; None where they are something else."""
    counts: Counter[str] = Counter()
    for path in paths:
        try:
            root = parse_xml(listing.root / path)
        except PipelineError as error:
            listing.unreadable.append(str(error))
            continue
        if root.tag != "annotation":
            return None
        counts.update(same_text(item.findtext("name", "").strip()) for item in root.iter("object"))
    return VocFolder(place, part_of(place), [splitext(basename(path))[0] for path in paths], counts)


def _with_sets(listing: Listing, folder: VocFolder) -> Candidate:
    sets = folder.sets
    val = [sets[name] for name in ("val", "valid", "validation") if name in sets][:1]
    train = [sets[name] for name in ("train",) if name in sets]
    if "test" in sets or not val:  # else val is the test set
        train = [sets["trainval"]] if "trainval" in sets else train + val or [*sets.values()][:1]
        val = []
    elif not train:
        train, val = val, []
    found = _alone(listing, folder)
    found.train["image_sets"] = train
    found.what += f" with image sets {', '.join(map(basename, sets.values()))}"
    test = [sets["test"]] if "test" in sets else val
    if test and test != train:
        found.test = found.train | {"image_sets": test, "truth": folder.path}
    if val:
        found.comments["test"] = VALIDATION
    return found


def _alone(listing: Listing, folder: VocFolder) -> Candidate:
    what = f"Pascal VOC: {len(folder.stems)} xml files in {folder.path}"
    found = Candidate("voc", what, folder.boxes, _split(listing, folder))
    found.sort_by_count(folder.counts)
    return found


def _by_part(listing: Listing, folders: list[VocFolder]) -> list[Candidate]:
    """Folders without image sets: train, and test or else valid, as their names say."""
    part = {name: [f for f in folders if f.part == name] for name in ("train", "val", "test", "")}
    largest = {
        name: max(several, key=lambda folder: folder.boxes) for name, several in part.items() if several
    }
    train = largest.get("train")
    if train is None:
        return [_alone(listing, folder) for folder in folders]
    found = _alone(listing, train)
    test = largest.get("test") or largest.get("val")
    if test is not None:
        found.test = _split(listing, test) | {"truth": test.path}
        found.sort_by_count(train.counts + test.counts)
    if test is not None and "test" not in largest:
        found.comments["test"] = VALIDATION
    rest = [folder for folder in folders if folder not in (train, test)]
    found.notes += [f"Pascal VOC: {len(folder.stems)} xml files in {folder.path}" for folder in rest]
    return [found]


def _split(listing: Listing, folder: VocFolder) -> dict[str, Any]:
    photos, found, _ = listing.photos_folder(folder.stems, folder.part, folder.path)
    return {"annotations": folder.path, "photos": photos if found else folder.path}
