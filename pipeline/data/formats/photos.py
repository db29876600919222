"""A folder of photos without annotations, as the list of test images."""

import os
from pathlib import Path

from pipeline.data.findings import Findings
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record
from pipeline.data.text import photo_suffix
from pipeline.errors import PipelineError


def list_photos(folder: Path) -> list[str]:
    """Names of all photos in a folder and below, relative to it, with forward slashes, sorted."""
    return sorted(
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
        if photo_suffix(name) and not name.startswith(".")
    )


def read_photos(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """Each photo below the folder `annotations` is an image; sizes are read from the photos.

    Raises PipelineError where the folder is missing, holds no photo, or is to hold boxes.
    """
    folder = profile.path(spec.annotations)
    names = list_photos(folder)
    if with_boxes:
        raise PipelineError(f"competition '{profile.name}': format photos knows no boxes; it is for test")
    if not names:
        raise PipelineError(
            f"no photo below {folder}: put {profile.where} into {profile.root}, or say where it lies with "
            "ROOT=<folder>"
        )
    prefix = os.path.relpath(folder, profile.path(spec.photos)).replace(os.sep, "/")
    images: list[Record] = [
        {
            "id": None,
            "file_name": name if prefix == "." else f"{prefix}/{name}",
            "width": None,
            "height": None,
        }
        for name in names
    ]
    return Raw(images, [], ())
