"""What lies in a folder of data: files by suffix, photos by name, and which part of a set a name says."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from os.path import basename, commonpath, dirname
from pathlib import Path

from pipeline.data.text import forward, photo_stem, photo_suffix, same_text

PARTS = {
    "train": ("train", "training", "trainval", "traintest"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SAMPLED = 500  # names that are looked for among the photos


def part_of(path: str) -> str:
    """Which part of a set a path names: train, val, test or "". The name counts before its folders."""
    for name in reversed(path.split("/")):
        words = re.split(r"[^a-z]+", name.lower())
        for part, known in PARTS.items():
            if set(words) & set(known):
                return part
    return ""


def shared_parts(a: str, b: str) -> int:
    """How many leading folders two paths share."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(a.split("/"), b.split("/"), strict=False))
    return len(list(pairs))


@dataclass(frozen=True)
class Listing:
    """All files below a folder, as paths relative to it with forward slashes, in order."""

    root: Path
    files: tuple[str, ...]
    photos: tuple[str, ...]
    unreadable: list[str] = field(default_factory=list)  # lines on files that could not be read

    def with_suffix(self, *suffixes: str) -> list[str]:
        return [path for path in self.files if path.lower().endswith(suffixes)]

    @cached_property
    def photos_by_name(self) -> dict[str, list[str]]:
        return _grouped(self.photos, lambda path: same_text(basename(path)))

    @cached_property
    def photos_by_stem(self) -> dict[str, list[str]]:
        return _grouped(self.photos, lambda path: same_text(photo_stem(path)))

    def photos_folder(self, names: Sequence[str], part: str = "", beside: str = "") -> tuple[str, int, int]:
        """The folder that file names (or stems) are relative to: (folder, names found, names looked for).

        Of several folders that hold as many, the one of the same part, then the nearest to the folder
        `beside` wins. "." where no photo is found.
        """
        step = max(1, len(names) // SAMPLED)
        sample = [same_text(forward(name)) for name in names[::step]]
        votes: Counter[str] = Counter()
        matched: list[str] = []
        for name in sample:
            paths = self.photos_by_name.get(basename(name)) or self.photos_by_stem.get(photo_stem(name), [])
            folders = {folder for path in paths if (folder := _prefix(path, name)) is not None}
            votes.update(folders)
            matched += [sorted(folders)[0]] if folders else []
        if not votes:
            return ".", 0, len(sample)
        best = max(votes, key=lambda f: (votes[f], part_of(f) == part, shared_parts(f, beside), -len(f), f))
        if votes[best] * 2 < len(matched):  # each in a folder of its own, as X-rays in those of a study
            best = commonpath(matched) or "."
        return best, len(matched), len(sample)

    def suffix_of(self, names: Sequence[str]) -> str:
        """What must be added to names to make those of photos; .jpg where no such photo is there."""
        bare = [same_text(name) for name in names[:SAMPLED] if not photo_suffix(name)]
        found = [photo_suffix(self.photos_by_stem[name][0]) for name in bare if name in self.photos_by_stem]
        return max(dict.fromkeys(found), key=found.count) if found else ".jpg" * bool(bare)


def list_folder(root: Path) -> Listing:
    """Walk a folder, links included; hidden files and what macOS adds to archives are left out."""
    files: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(place).relative_to(root).as_posix()
        files += [_joined(below, name) for name in sorted(names) if not name.startswith(".")]
    return Listing(
        root,
        tuple(path for path in files if not photo_suffix(path)),
        tuple(path for path in files if photo_suffix(path)),
    )


def _grouped(paths: Iterable[str], key) -> dict[str, list[str]]:  # type: ignore[no-untyped-def]
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _prefix(path: str, name: str) -> str | None:
    """The folder that `name` is relative to where it means the photo at `path`, suffixes aside."""
    folder, wanted = dirname(same_text(path)), dirname(name)
    if not wanted:
        return dirname(path) or "."
    if folder == wanted:
        return "."
    return dirname(path)[: -len(wanted) - 1] if folder.endswith(f"/{wanted}") else None


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"
