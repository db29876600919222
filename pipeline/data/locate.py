"""Where the photo of an image lies, when it does not lie where its name says."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from os.path import exists  # False for a name that is too long, where pathlib raises
from pathlib import Path, PurePosixPath

from pipeline.data.profile import Profile
from pipeline.data.specs import SplitSpec
from pipeline.data.text import photo_stem, photo_suffix, same_text

# The suffixes that a photo may have instead of its own, the first that is there.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".dcm", ".dicom", ".bmp", ".tif", ".tiff", ".webp", "")


def locate_photos(
    profile: Profile, spec: SplitSpec, file_names: Sequence[str], others: Iterable[str] = ()
) -> list[Path]:
    """Where the photos of these names lie, `others` being names of more images of the folder.

    A photo lies where its name says. Else a file stands in for it: of the same name in another Unicode
    form, or with another suffix (PNGs stand in for DICOMs), or, for a CSV, the only one of its name
    deeper down (folders of a study and a series). A file that is another image's own, or that would
    stand in for two, stands in for none. The path of a missing photo is that of its name.
    """
    folder = profile.path(spec.photos)
    paths = [folder / name for name in file_names]
    missing = [i for i, path in enumerate(paths) if not exists(path)]
    if not missing:
        return paths
    own = {path for path in [*paths, *(folder / name for name in others)] if exists(path)}
    listing = _Listing(folder, own)
    found = {i: listing.stand_in(file_names[i], deeper=spec.columns is not None) for i in missing}
    times = Counter(found.values())
    for i, path in found.items():
        if path is not None and times[path] == 1:
            paths[i] = path
    return paths


class _Listing:
    """The files below a folder: those that are no image's own by name and by stem, and all photos by stem."""

    def __init__(self, folder: Path, own: set[Path]) -> None:
        self.own = own
        self.by_name: dict[str, Path] = {}
        self.by_stem: dict[str, list[Path]] = {}
        self.deeper: dict[str, list[tuple[str, Path]]] = {}
        for root, folders, names in os.walk(folder):
            folders.sort()
            below = same_text(Path(root).relative_to(folder).as_posix())
            for name in sorted(names):
                path, stem = Path(root, name), same_text(photo_stem(name))
                is_photo = photo_suffix(name).lower() in SUFFIXES
                if is_photo:
                    self.deeper.setdefault(stem, []).append((below, path))
                if path not in own:
                    self.by_name[_joined(below, same_text(name))] = path
                    if is_photo:
                        self.by_stem.setdefault(_joined(below, stem), []).append(path)

    def stand_in(self, file_name: str, deeper: bool) -> Path | None:
        name = same_text(PurePosixPath(file_name).as_posix())
        if name in self.by_name:
            return self.by_name[name]
        below, stem = PurePosixPath(name).parent.as_posix(), photo_stem(name)
        if beside := self.by_stem.get(_joined(below, stem)):
            return min(beside, key=lambda path: SUFFIXES.index(photo_suffix(path.name).lower()))
        inside = [
            path
            for place, path in self.deeper.get(stem, [])
            if below == "." or f"{place}/".startswith(f"{below}/")
        ]
        return inside[0] if deeper and len(inside) == 1 and inside[0] not in self.own else None


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"
