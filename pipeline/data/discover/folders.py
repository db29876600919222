"""Folders with a label file per photo: which is for training, which for testing."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.discover.candidate import VALIDATION, Candidate
from pipeline.data.discover.listing import Listing, part_of


@dataclass
class LabelFolder:
    """A folder of label files; counts: boxes by class. `photos`: the folder of the photos."""

    path: str
    stems: list[str] = field(default_factory=list)
    counts: Counter[Any] = field(default_factory=Counter)
    photos: str = ""

    @property
    def part(self) -> str:
        return part_of(self.path)

    @property
    def boxes(self) -> int:
        return self.counts.total()

    def find_photos(self, listing: Listing) -> None:
        """Where the photos of these stems lie; beside the labels where none is found."""
        folder, found, _ = listing.photos_folder(self.stems, self.part, self.path)
        self.photos = folder if found else self.path

    def split(self) -> dict[str, Any]:
        """The values of SplitSpec."""
        return {"annotations": self.path, "photos": self.photos}


def of_parts(
    format: str, what: str, folders: list[LabelFolder]
) -> tuple[Candidate, list[LabelFolder]] | None:
    """The candidate of the largest folders of each part, and those that it takes; None without a folder.

    what: names a folder for people, as "YOLO labels in {}".
    """
    largest: dict[str, LabelFolder] = {}
    for folder in folders:
        if folder.part not in largest or folder.boxes > largest[folder.part].boxes:
            largest[folder.part] = folder
    train = next((largest[part] for part in ("train", "", "val", "test") if part in largest), None)
    if train is None:
        return None
    test = next((largest[part] for part in ("test", "val") if largest.get(part, train) is not train), None)
    found = Candidate(format, what.format(train.path), train.boxes, train.split())
    taken = [train]
    if test is not None:
        found.test = test.split() | {"truth": test.path}
        taken.append(test)
        if test.part == "val":
            found.comments["test"] = VALIDATION
    unused = [folder for folder in folders if folder not in taken]
    found.notes += [f"{what.format(folder.path)}: {folder.boxes} boxes" for folder in unused]
    return found, taken
