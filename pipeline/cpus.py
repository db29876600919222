"""The processor's name, and how many CPUs a process may use: of the machine, and of its job."""

import contextlib
import os
import platform
import re
from pathlib import Path


def usable_cpus() -> int:
    """CPUs that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The name of the processor as Linux has it; elsewhere Python's, which is vaguer."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(FileNotFoundError):
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        name = match[1].strip() if match else name
    return name


def job_cpus() -> int:
    """CPUs that this process's job was given (`processes.thread_limits`), else all usable ones."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cpus(), int(limit)) if re.fullmatch("[1-9][0-9]*", limit) else usable_cpus()
