"""Child processes that end with their parent, however that ends."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.paths import PROJECT

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; does nothing but on Linux."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command: Sequence[str], output: IO[Any] | None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to a file, or where ours goes; it is killed when the calling
    thread's process dies."""
    parent = os.getpid()

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in its workers
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _die_with_parent()
        if os.getppid() != parent:  # it died before the kernel knew
            os.kill(os.getpid(), signal.SIGKILL)

    posix: dict[str, Any] = {"preexec_fn": in_child} if os.name == "posix" else {}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **posix, **options
    )


def finish(process: subprocess.Popen[bytes], patience: float = 20.0) -> int:
    """Wait for a process and return its status; Ctrl-C meanwhile stops it first, as Ctrl-C would.

    It polls: Ray interrupts the main thread without a signal that would end a wait.
    """
    try:
        while process.poll() is None:
            time.sleep(0.1)
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    return process.returncode


def free_memory() -> int:
    """Bytes of memory that processes can still take here, and at most what their container may use."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    available = int(found[1]) * 1024 if found else 0
    return min(available, memory_limit() or available)


def memory_limit() -> int | None:
    """Bytes that this process's container may use, None where nothing limits it."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return int(text) if text.isdigit() else None


def thread_limits(threads: int) -> Mapping[str, str]:
    """Environment that keeps the numeric libraries of a process to so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def python_path() -> Mapping[str, str]:
    """Environment in which a process finds the pipeline, and what it found before."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))}
