"""The pictures of the findings: some examples of each with its boxes marked, and the near-duplicates."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checks.look import Look
from pipeline.checks.report import Pairs, Row
from pipeline.data.contact import Panel, draw_pairs, draw_panels
from pipeline.data.dataset import CORNERS, Dataset
from pipeline.data.findings import Findings
from pipeline.data.photos import Photo
from pipeline.data.profile import Profile
from pipeline.data.raw import as_list
from pipeline.data.readers import READERS

EXAMPLES = 5  # of each finding
Place = tuple[str, NDArray[np.float64]]  # file name of the image, corners of a box


def fault_panels(
    profile: Profile,
    data: dict[str, Dataset],
    photos: dict[str, list[Photo]],
    looks: dict[str, list[Look]],
    rows: Sequence[Row],
) -> list[Panel]:
    """Up to `EXAMPLES` panels a row: the photo, or the photo of the box; pairs have a sheet of their own."""
    panels = []
    places = _places(profile, data) if any(looks.values()) else {}
    by_name = {
        split: dict(zip(data[split].images["file_name"], photos[split], strict=True)) for split in looks
    }
    by_photo = {split: {photo.name: photo for photo in photos[split]} for split in looks}
    for row in rows:
        if looks.get(row.split):
            found = _panels(row, by_photo[row.split], by_name, places)
            panels += list(islice(found, EXAMPLES))
    return panels


def _panels(
    row: Row, by_photo: dict[str, Photo], by_name: dict[str, dict[str, Photo]], places: dict[Any, Place]
) -> Iterator[Panel]:
    for item in row.where:
        if item in by_photo:
            yield Panel(by_photo[item], (row.what, f"{row.split} {item}"))
        elif item in places:
            file_name, corners = places[item]
            for split in by_name:
                if photo := by_name[split].get(file_name):
                    yield Panel(photo, (row.what, f"{split} {photo.name}", f"box {item}"), [corners])


def _places(profile: Profile, data: dict[str, Dataset]) -> dict[Any, Place]:
    """Box id -> where it is, for kept boxes and for those that the reader refuses."""
    raw = READERS[profile.format](profile, profile.train, Findings(""))
    places: dict[Any, Place] = {}
    images = as_list(raw.images)
    for box in as_list(raw.boxes):
        corners = np.array([box[name] for name in CORNERS], np.float64)
        places[box["id"]] = (str(images[box["image"]]["file_name"]), corners)
    return places


def draw_findings(
    folder: Path,
    profile: Profile,
    data: dict[str, Dataset],
    photos: dict[str, list[Photo]],
    looks: dict[str, list[Look]],
    rows: Sequence[Row],
    pairs: dict[str, Pairs],
) -> list[Path]:
    """Draw the faults and the near-duplicates; returns what was written, and removes what is outdated."""
    written = []
    (folder / "sheet.png").unlink(missing_ok=True)
    for name in ("train", "test", "train-test"):
        (folder / f"pairs-{name}.png").unlink(missing_ok=True)
    if panels := fault_panels(profile, data, photos, looks, rows):
        written.append(draw_panels(folder / "sheet.png", f"{profile.title}: what was found", panels))
    for name, found in pairs.items():
        a, _, b = name.partition("-")
        path, title = folder / f"pairs-{name}.png", f"near-duplicates in {name}"
        written.append(draw_pairs(path, photos[a], photos[b or a], found[:, :2], found[:, 2], title=title))
    return written
