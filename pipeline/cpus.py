"""How many CPUs a process may use: of the machine, and of what its job was given."""

import os
import re


def usable_cpus() -> int:
    """CPUs that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_cpus() -> int:
    """CPUs that this process's job was given (`processes.thread_limits`), else all usable ones."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cpus(), int(limit)) if re.fullmatch("[1-9][0-9]*", limit) else usable_cpus()
