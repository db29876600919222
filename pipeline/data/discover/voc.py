"""Folders of Pascal VOC xml, and the image sets that go with them."""

from collections import Counter
from dataclasses import dataclass, field
from os.path import basename, dirname, splitext

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.folders import LabelFolder, of_parts
from pipeline.data.discover.listing import Listing, shared_parts
from pipeline.data.formats.voc import parse_xml
from pipeline.data.text import same_text
from pipeline.errors import PipelineError

WHAT = "Pascal VOC xml files in {}"
SETS = ("trainval", "train", "val", "valid", "validation", "test", "default", "all")


@dataclass
class VocFolder(LabelFolder):
    sets: dict[str, str] = field(default_factory=dict)  # name -> file


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
    for folder in folders:
        folder.find_photos(listing)
    for path in listing.with_suffix(".txt"):
        name = splitext(basename(path))[0].lower()
        if name in SETS and folders:
            near = max(folders, key=lambda folder: shared_parts(folder.path, path))
            near.sets.setdefault(name, path)
    with_sets = [_with_sets(folder) for folder in folders if folder.sets]
    made = of_parts("voc", WHAT, [folder for folder in folders if not folder.sets])
    if made is None:
        return with_sets
    found, taken = made
    found.sort_by_count(sum((folder.counts for folder in taken), Counter()))
    return [*with_sets, found]


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
    return VocFolder(place, [splitext(basename(path))[0] for path in paths], counts)


def _with_sets(folder: VocFolder) -> Candidate:
    sets = folder.sets
    val = [sets[name] for name in ("val", "valid", "validation") if name in sets][:1]
    train = [sets[name] for name in ("train",) if name in sets]
    if "test" in sets or not val:  # else val is the test set
        train = [sets["trainval"]] if "trainval" in sets else train + val or [*sets.values()][:1]
        val = []
    elif not train:
        train, val = val, []
    found = Candidate("voc", WHAT.format(folder.path), folder.boxes, folder.split())
    found.sort_by_count(folder.counts)
    found.train["image_sets"] = train
    found.what += f" with image sets {', '.join(map(basename, sets.values()))}"
    test = [sets["test"]] if "test" in sets else val
    if test and test != train:
        found.test = found.train | {"image_sets": test, "truth": folder.path}
    if val:
        found.comments["test"] = VALIDATION
    return found
