"""Checkpoints of a training under way: written whole, named by their epoch and digest, checked when read.

The name carries the digest, so one rename brings the file and what it must be into place: a killed
process leaves the checkpoints that were there. The newest two of a kind are kept; one that does not
match its name is set aside and the one before it is used. A thread writes them while training goes on.
"""

import contextlib
import copy
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

from pipeline.paths import file_digest, shown, sync_folder

KEPT = 2
LAST, BEST = "last", "best"
_NAME = re.compile(r"(?P<kind>[a-z]+)-(?P<epoch>[0-9]{5})-(?P<digest>[0-9a-f]{16})")


class Checkpoints:
    """The checkpoints in one folder, e.g. `last-00003-1f6b….pth` of the third epoch."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp*"):  # of a process that was killed while it wrote
            leftover.unlink()

    @contextlib.contextmanager
    def write(self, kind: str, epoch: int) -> Iterator[Path]:
        """Yield a temporary path; what is written there becomes the newest checkpoint of its kind.

        `epoch` counts from 1. Nothing changes when the block raises.
        """
        temporary = self.folder / f".{kind}.{os.getpid()}.tmp{self.suffix}"
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            name = f"{kind}-{epoch:05d}-{file_digest(temporary)}{self.suffix}"
            os.replace(temporary, self.folder / name)
            sync_folder(self.folder)
        finally:
            temporary.unlink(missing_ok=True)
        # What was read as newest goes first: after a step back an older epoch is written again.
        old = [path for path in self._of(kind) if path.name != name]
        for path in old[KEPT - 1 :]:
            path.unlink()

    def newest(self, kind: str) -> Path | None:
        """The newest whole checkpoint of a kind; damaged ones are set aside and one line says so."""
        for path in self._of(kind):
            if file_digest(path) == _parts(path)["digest"]:
                return path
            aside = path.with_name(f"damaged-{path.name}")
            os.replace(path, aside)
            print(f"{shown(path)}: damaged, its digest differs; set aside as {aside.name}")
        return None

    def epoch(self, kind: str) -> int:
        """Epochs that the newest whole checkpoint of a kind has behind it; 0 when there is none."""
        path = self.newest(kind)
        return int(_parts(path)["epoch"]) if path else 0

    def _of(self, kind: str) -> list[Path]:
        """The checkpoints of a kind, newest epoch first."""
        found = [path for path in self.folder.glob(f"{kind}-*{self.suffix}") if _NAME.fullmatch(path.stem)]
        return sorted(
            found, key=lambda path: (path.stem.split("-")[1], path.stat().st_mtime_ns), reverse=True
        )


class BackgroundWriter:
    """Writes the checkpoints of one epoch at a time on a thread."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.under_way: Future[None] | None = None

    def write(self, epoch: int, states: Mapping[str, Any]) -> None:
        """Begin to write an epoch's checkpoints by kind, in this order; nothing may change them any more."""
        self.wait()
        self.under_way = self.pool.submit(self._write, epoch, states)

    def _write(self, epoch: int, states: Mapping[str, Any]) -> None:
        for kind, state in states.items():
            with self.checkpoints.write(kind, epoch) as path:
                save_tensors(state, path)

    def check(self) -> None:
        """Raise what went wrong so far, e.g. OSError where the disk is full; waits for nothing."""
        if self.under_way is not None and self.under_way.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all is written; raises what went wrong."""
        under_way, self.under_way = self.under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Wait for the thread to end, whatever became of its work."""
        self.pool.shutdown()


def host_copy(state: Any) -> Any:
    """A copy of a checkpoint's mappings, lists and tensors in host memory; other objects stay what they are.

    Mappings keep what they carry besides their entries, as a state dict its version.
    """
    import torch

    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)
        copied.update({key: host_copy(value) for key, value in state.items()})
        return copied
    if type(state) in (list, tuple):
        return type(state)(map(host_copy, state))
    return state


def _parts(path: Path) -> dict[str, str]:
    match = _NAME.fullmatch(path.stem)
    assert match is not None, path
    return match.groupdict()


class _Writer:
    """A file that remembers why it could not be written: torch reports a position of its zip instead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115  closed by save_tensors

    def write(self, data: bytes) -> int:
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view):  # an unbuffered file takes what there is room for
                done += self.file.write(view[done:]) or 0
        except OSError as error:
            error.filename = str(self.path)
            self.error = error
            raise
        return done

    def flush(self) -> None:
        self.file.flush()


def save_tensors(state: Any, path: Path) -> None:
    """torch.save; raises OSError where the disk is full or the file too large."""
    import torch

    writer = _Writer(path)
    try:
        torch.save(state, cast(IO[bytes], writer))
    except RuntimeError:
        if writer.error is not None:
            raise writer.error from None
        raise
    finally:
        writer.file.close()


def begun(work: Path) -> bool:
    """Whether a run's scratch folder holds a checkpoint, so that something could be lost."""
    return any(_NAME.fullmatch(path.stem) for path in work.rglob(f"{LAST}-*.pt*"))
