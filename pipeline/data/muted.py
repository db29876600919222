"""Decoders of photos in C print what they think of damaged ones to stderr, without a name."""

import contextlib
import ctypes
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

_inside: list[None] = []  # an entry per thread in the block


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Around decoders: what C code prints to stderr meanwhile is lost, what Python prints is not.

    libc's variable `stderr` is another file until the last thread leaves; nothing waits, so that a process
    may fork. Pillow's and pydicom's warnings and logs are dropped from here on.
    """
    _inside.append(None)
    _swap(0)
    try:
        yield
    finally:
        _inside.pop()
        if not _inside:
            _swap(1)


def _leave() -> None:
    """In a forked process, where the other threads are not."""
    _inside.clear()
    _swap(1)


def _swap(place: int) -> None:
    if (streams := _streams()) is not None:
        streams[0].value = streams[1][place]


@functools.cache
def _streams() -> Any:
    """libc's variable, and what it is in the block and outside; None where libc has none of this name."""
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\b")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # pydicom has one
    try:
        libc = ctypes.CDLL(None)
        variable = ctypes.c_void_p.in_dll(libc, "stderr")
    except (TypeError, ValueError, OSError):  # Windows, macOS
        return None
    libc.fopen.restype = ctypes.c_void_p
    os.register_at_fork(after_in_child=_leave)
    nowhere = libc.fopen(os.devnull.encode(), b"w")
    return (variable, (nowhere, variable.value)) if nowhere else None
