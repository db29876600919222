"""The pictures of the findings: some examples of each with its boxes marked, and the near-duplicates."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checks.findings import CheckedData, Finding
from pipeline.data.contact import Panel, draw_pairs, draw_panels
from pipeline.data.dataset import CORNERS
from pipeline.data.findings import Findings
from pipeline.data.formats import find_reader
from pipeline.data.photos import Photo
from pipeline.data.profile import Profile
from pipeline.data.raw import as_list

EXAMPLES = 5  # of each finding
Place = tuple[str, NDArray[np.float64]]  # file name of the image, corners of a box


def _fault_panels(data: CheckedData, findings: Sequence[Finding]) -> list[Panel]:
    """Up to `EXAMPLES` panels per finding: the photo, or the box's photo; pairs have a sheet of their own."""
    panels: list[Panel] = []
    places = _places(data.profile) if any(data.photo_checks.values()) else {}
    by_image = {
        split: dict(zip(data.datasets[split].images["file_name"], photos, strict=True))
        for split, photos in data.photos.items()
    }
    by_name = {split: {photo.name: photo for photo in photos} for split, photos in data.photos.items()}
    for finding in findings:
        if data.photo_checks.get(finding.split):
            panels += islice(_panels(finding, by_name[finding.split], by_image, places), EXAMPLES)
    return panels


def _panels(
    finding: Finding,
    by_name: dict[str, Photo],
    by_image: dict[str, dict[str, Photo]],
    places: dict[Any, Place],
) -> Iterator[Panel]:
    for item in finding.where:
        if item in by_name:
            yield Panel(by_name[item], (finding.what, f"{finding.split} {item}"))
        elif item in places:
            file_name, corners = places[item]
            for split in by_image:
                if photo := by_image[split].get(file_name):
                    caption = (finding.what, f"{split} {photo.name}", f"box {item}")
                    yield Panel(photo, caption, [corners])


def _places(profile: Profile) -> dict[Any, Place]:
    """Box id -> its image and corners, for kept boxes and for those that the reader refuses."""
    raw = find_reader(profile, profile.train)(profile, profile.train, Findings(""))
    places: dict[Any, Place] = {}
    images = as_list(raw.images)
    for box in as_list(raw.boxes):
        corners = np.array([box[name] for name in CORNERS], np.float64)
        places[box["id"]] = (str(images[box["image"]]["file_name"]), corners)
    return places


def draw_findings(folder: Path, data: CheckedData, findings: Sequence[Finding]) -> list[Path]:
    """Draw the faults and the near-duplicates; returns what was written, and removes what is outdated."""
    written = []
    for outdated in (folder / "sheet.png", *folder.glob("pairs-*.png")):
        outdated.unlink(missing_ok=True)
    if panels := _fault_panels(data, findings):
        written.append(draw_panels(folder / "sheet.png", f"{data.profile.title}: what was found", panels))
    for name, pairs in data.pairs.items():
        a, _, b = name.partition("-")
        path, title = folder / f"pairs-{name}.png", f"near-duplicates in {name}"
        photos = (data.photos[a], data.photos[b or a])
        written.append(draw_pairs(path, *photos, pairs[:, :2], pairs[:, 2], title=title))
    return written
