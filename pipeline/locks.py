"""One process at a time: locks for what is read, changed and written."""

import contextlib
import errno
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.paths import shown

SILENT = 1.0  # seconds of waiting before a line says what for


@contextlib.contextmanager
def locked(path: Path, wait: float = math.inf, doing: str = "writing") -> Iterator[None]:
    """Hold the lock of a file or folder, which other processes that call this wait for.

    path: need not be there yet. wait: seconds, after which PipelineError says what the other process is
    `doing`. The lock is the file `.<name>.lock` beside it, which the system releases when its process dies.
    Where nobody may write, as on a read-only disk, nothing is locked.
    """
    from filelock import FileLock, Timeout  # slow to import

    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        yield
        return
    busy = f"another process is {doing} {shown(path)}"
    # Others who share the folder may lock it too, whatever the umask of whoever came first.
    lock = FileLock(path.with_name(f".{path.name}.lock"), mode=0o666, poll_interval=0.02)
    try:
        try:
            lock.acquire(timeout=min(wait, SILENT))
        except Timeout:
            if wait > SILENT:
                print(f"waiting: {busy} (Ctrl-C stops waiting)", file=sys.stderr, flush=True)
            lock.acquire(timeout=-1 if wait == math.inf else max(wait - SILENT, 0))
    except Timeout:
        raise PipelineError(f"{busy}; wait for it or stop it") from None
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise PipelineError(
                f"{shown(path)}: its disk has no locks ({error.strerror}); mount it with them"
            ) from None
        raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)  # who got hold of it before sees that it has no name, and makes another
        lock.release()
