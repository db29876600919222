"""Decoded photos that a training keeps: in memory (CACHE=ram) or on the disk (CACHE=disk).

A cache is one file with a slot for each photo: its pixels and their CRC-32. In memory the file has no name,
and goes when the last process that reads it ends, however it ends. On the disk all trainings share it whose
photos, sizes and framework are the same. Whoever decodes a photo first writes its slot; several may do so at
once, since they write the same bytes. A slot without the right checksum, as an empty, half-written or damaged
one, is written again. What cannot be kept, as on a full disk, is decoded each time.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from pipeline.data.photos import Photo
from pipeline.errors import one_line
from pipeline.inference.pixels import resize_to
from pipeline.paths import text_digest
from pipeline.processes import free_memory
from pipeline.training.job import CachePlan, TrainJob
from pipeline.training.staging import staged_paths

VERSION = 1  # of what lies in a slot
CHECKSUM = 4  # bytes behind the pixels
PAGE = 4096  # bytes to which slots are aligned
SHARE = 0.5  # of the memory or the disk that is free when a training starts
Pixels = NDArray[np.uint8]


class Slot(NamedTuple):
    """Where the pixels of a photo lie; offset -1: there is no room for them."""

    offset: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Bytes."""
        return 3 * self.height * self.width

    @property
    def size(self) -> int:
        """Bytes that it takes in the file."""
        return -(-(self.pixels + CHECKSUM) // PAGE) * PAGE


class PhotoCache:
    """The photos of one training. It travels to other processes of the machine, which open the file anew."""

    def __init__(self, file: str | None, slots: Mapping[str, Slot]) -> None:
        """slots: by the path of a photo, and by the name of its staged file."""
        self.file, self.slots = file, slots
        self.handle: int | None = None
        self.verified: set[int] = set()  # offsets whose checksums were right in this process

    def __reduce__(self) -> Any:
        return PhotoCache, (self.file, self.slots)

    def read(self, name: str, decode: Callable[[], Pixels]) -> Pixels:
        """(height, width, 3) pixels of a photo, as `decode` gives them or in the smaller size that is kept.

        name: the photo's path, or the name of its staged file.
        """
        slot = self.slots[name]
        pixels = self._try(self._stored, slot)
        if pixels is None:
            pixels = resize_to(decode(), (slot.height, slot.width))
            self._try(self._store, slot, pixels)
        return pixels

    def count(self) -> tuple[int, int]:
        """How many photos it holds, and their bytes."""
        held = {slot.offset: slot.pixels for slot in self.slots.values() if self._try(self._is_filled, slot)}
        return len(held), sum(held.values())

    def _try(self, work: Callable[..., Any], slot: Slot, *arguments: Any) -> Any:
        """Do something with the file; None where there is none, or no longer any that works."""
        if self.file is None or slot.offset < 0:
            return None
        try:
            if self.handle is None:
                self.handle = os.open(self.file, os.O_RDWR)
            return work(self.handle, slot, *arguments)
        except OSError as error:
            reader = get_worker_info()
            if reader is None or reader.id == 0:  # one of them says it
                text = f"cache: {self.file}: {error.strerror}; photos are decoded each time"
                print(one_line(text), file=sys.stderr, flush=True)
            self.file = None
            return None

    def _is_filled(self, handle: int, slot: Slot) -> bool:
        return any(os.pread(handle, CHECKSUM, slot.offset + slot.pixels))

    def _stored(self, handle: int, slot: Slot) -> Pixels | None:
        is_verified = slot.offset in self.verified
        if not is_verified and not self._is_filled(handle, slot):
            return None
        data = np.empty(slot.pixels + CHECKSUM, np.uint8)
        if os.preadv(handle, [data.data], slot.offset) != len(data):
            return None
        pixels, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
        if not is_verified and _checksum(pixels) != checksum.tobytes():
            return None
        self.verified.add(slot.offset)
        return pixels.reshape(slot.height, slot.width, 3)

    def _store(self, handle: int, slot: Slot, pixels: Pixels) -> None:
        data = np.ascontiguousarray(pixels)
        assert data.shape == (slot.height, slot.width, 3) and data.dtype == np.uint8
        os.pwritev(handle, [data.data, _checksum(data)], slot.offset)


def _checksum(pixels: Pixels) -> bytes:
    return zlib.crc32(pixels.data).to_bytes(CHECKSUM, "little")


@contextlib.contextmanager
def photo_cache(job: TrainJob) -> Iterator[PhotoCache | None]:
    """The cache of a training whose photos are staged, None without one.

    Says how many photos and bytes it holds, at the beginning and at the end.
    """
    if (plan := job.cache_plan) is None:
        yield None
        return
    layout = _layout([*job.train.photos, *job.held_out.photos], plan.side)
    with _opened(plan, _digest(job, layout)) as (file, room):
        slots: dict[str, Slot] = {}
        for photo, staged in zip(job.train.photos, staged_paths(job), strict=True):
            slot = layout[photo]
            room -= slot.size
            slots[str(photo.path)] = slots[staged.name] = slot if room >= 0 else slot._replace(offset=-1)
        cache = PhotoCache(file, slots)
        _report(plan, job, cache, f", room for {len({slot.offset for slot in slots.values()} - {-1})}")
        yield cache
        _report(plan, job, cache)


def _report(plan: CachePlan, job: TrainJob, cache: PhotoCache, room: str = "") -> None:
    count, size = cache.count()
    reduced = f", reduced to {plan.side} pixels" if plan.side else ""
    print(
        f"CACHE={plan.place}: {count} of {len(job.train.photos)} photos in {size / 1e9:.2f} GB{reduced}{room}"
    )


def _layout(photos: Iterable[Photo], side: int | None) -> dict[Photo, Slot]:
    """The slot of each photo, in an order that is the same for all folds."""
    layout: dict[Photo, Slot] = {}
    offset = 0
    for photo in sorted(set(photos), key=lambda photo: (str(photo.path), photo.width, photo.height)):
        factor = min(side / max(photo.width, photo.height), 1.0) if side else 1.0
        height, width = (max(int(length * factor + 0.5), 1) for length in (photo.height, photo.width))
        layout[photo] = Slot(offset, height, width)
        offset += layout[photo].size
    return layout


def _digest(job: TrainJob, layout: Mapping[Photo, Slot]) -> str:
    """Of everything that decides the pixels in a file's slots."""
    photos = []
    for photo, slot in layout.items():
        found = photo.path.stat()
        photos.append([str(photo.path.resolve()), photo.stretched, found.st_size, found.st_mtime_ns, slot])
    made = [VERSION, job.model.backend, cv2.__version__, PIL.__version__]
    return text_digest(json.dumps([made, photos]))


@contextlib.contextmanager
def _opened(plan: CachePlan, digest: str) -> Iterator[tuple[str | None, int]]:
    """The file of a cache, and the bytes that may be kept; None and 0, with a line, where it cannot be."""
    file, room, handle = str(plan.folder / f"{digest}.photos"), 0, None
    try:
        if plan.place == "ram":
            if not hasattr(os, "memfd_create"):
                raise OSError(errno.ENOSYS, "only Linux has files in memory, take CACHE=disk")
            handle = os.memfd_create("photos")
            file = f"/proc/{os.getpid()}/fd/{handle}"  # by which other processes open it
            free = free_memory()
        else:
            plan.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            free = shutil.disk_usage(plan.folder).free
        room = int(SHARE * free) + os.fstat(handle).st_blocks * 512  # with what is there already
    except OSError as error:
        print(one_line(f"CACHE={plan.place}: {file}: {error.strerror}; photos are decoded each time"))
    try:
        yield (None if handle is None else file), room
    finally:
        if handle is not None:
            os.close(handle)
