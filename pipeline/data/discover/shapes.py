"""LabelMe's json files and CVAT's xml in a folder."""

from collections import Counter
from os.path import basename, dirname, splitext

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.folders import LabelFolder, of_parts
from pipeline.data.discover.listing import PARTS, Listing, part_of
from pipeline.data.formats.cvat import AREAS
from pipeline.data.formats.voc import parse_xml
from pipeline.data.text import read_json, same_text
from pipeline.errors import PipelineError
from pipeline.paths import regular


def find_labelme(listing: Listing) -> list[Candidate]:
    """Folders of LabelMe's json files, as their names say for training or testing."""
    by_folder: dict[str, list[str]] = {}
    for path in listing.with_suffix(".json"):
        by_folder.setdefault(dirname(path) or ".", []).append(path)
    folders = [
        folder for place, paths in by_folder.items() if (folder := _labelme_folder(listing, place, paths))
    ]
    for folder in folders:
        folder.find_photos(listing)
    made = of_parts("labelme", "LabelMe json files in {}", [folder for folder in folders if folder.boxes])
    if made is None:
        return []
    found, taken = made
    found.sort_by_count(sum((folder.counts for folder in taken), Counter()))
    return [found]


def _labelme_folder(listing: Listing, place: str, paths: list[str]) -> LabelFolder | None:
    """The labels of a folder's json files; None where they are something else."""
    folder = LabelFolder(place)
    for path in paths:
        try:
            data = read_json(listing.root / path)
        except PipelineError:
            continue  # the finder of COCO files says so
        shapes = data.get("shapes") if isinstance(data, dict) else None
        if not isinstance(shapes, list) or "imagePath" not in data:
            return None
        labels = [item.get("label") for item in shapes if isinstance(item, dict)]
        folder.counts.update(same_text(str(label).strip()) for label in labels)
        folder.stems.append(splitext(basename(path))[0])
    return folder


def find_cvat(listing: Listing) -> list[Candidate]:
    """Each file of "CVAT for images"; the subsets of a project are its parts."""
    return [found for path in listing.with_suffix(".xml") if (found := _cvat_file(listing, path)) is not None]


def _cvat_file(listing: Listing, path: str) -> Candidate | None:
    with open(regular(listing.root / path), "rb") as file:
        if b"<annotations" not in file.read(2000):  # there may be thousands of VOC's
            return None
    try:
        root = parse_xml(listing.root / path)
    except PipelineError as error:
        listing.unreadable.append(str(error))
        return None
    images = root.findall("image")
    counts = Counter(
        same_text(item.get("label", "").strip()) for image in images for item in image if item.tag in AREAS
    )
    if root.find("track") is not None:
        listing.unreadable.append(f"{path}: tracks of a video; export it as 'CVAT for images 1.1'")
    if not counts or root.find("track") is not None:
        return None
    folder = listing.photos_folder([image.get("name", "") for image in images], "", dirname(path))[0]
    found = Candidate("cvat", f"CVAT xml {path}", counts.total(), {"annotations": path, "photos": folder})
    named = [same_text((node.text or "").strip()) for node in root.iterfind("meta//label/name")]
    found.classes = list(dict.fromkeys(named))
    if not set(counts) <= set(found.classes):
        found.sort_by_count(counts)
    subsets = list(dict.fromkeys(image.get("subset", "") for image in images))
    of_part = {part: [name for name in subsets if part_of(name) == part] for part in PARTS}
    test = of_part["test"] or of_part["val"]
    train = [name for name in subsets if name not in test]
    if test and train:
        found.test = found.train | {"image_sets": test, "truth": path}
        found.train = found.train | {"image_sets": train}
        if not of_part["test"]:
            found.comments["test"] = VALIDATION
    return found
