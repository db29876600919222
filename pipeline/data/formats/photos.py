"""A folder of photos without annotations, as the list of test images."""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path

from pipeline.data.findings import Findings
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record
from pipeline.data.text import photo_suffix
from pipeline.errors import PipelineError


def list_photos(folder: Path, suffix_of: Callable[[str], str] = photo_suffix) -> list[str]:
    """Names of all photos in a folder and below, relative to it, with forward slashes, sorted.

    `suffix_of` gives "" for the name of a file that is none. Linked folders are looked into, each folder
    once; hidden files and folders are not.
    """
    found: list[str] = []
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        links = {name: os.path.realpath(os.path.join(place, name)) for name in folders}
        folders[:] = sorted(n for n, target in links.items() if not n.startswith(".") and target not in seen)
        seen.update(links.values())
        prefix = Path(place).relative_to(folder).as_posix()
        photos = (name for name in names if suffix_of(name) and not name.startswith("."))
        found += [posixpath.normpath(f"{prefix}/{name}") for name in photos]
    return sorted(found)


def name_below(path: Path, folder: Path) -> str:
    """What a path is called relative to a folder, with forward slashes. Raises PipelineError outside."""
    for start in (folder, folder.resolve()):
        name = os.path.relpath(path, start).replace(os.sep, "/")
        if name != ".." and not name.startswith("../"):
            return name
    raise PipelineError(
        f"{path} lies outside of the photos' folder {folder}; ROOT=<folder> and photos: say where they are"
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
        raise PipelineError(profile.missing("photo below", folder))
    prefix = name_below(folder, profile.path(spec.photos))
    images: list[Record] = [
        {"id": None, "file_name": posixpath.normpath(f"{prefix}/{name}"), "width": None, "height": None}
        for name in names
    ]
    return Raw(images, [], ())
