"""The decorator of every compiled function in this package, with a disk cache that never goes stale.

Numba stamps a cached function with the time and size of its own source file only. The kernels here
call helpers that live in other files, so an edit of `overlap.py` would leave old machine code in the
cache of `driver.py`. `kernel` therefore stamps with all source files of the package. The functions
release the GIL and are started over plain Python threads: no threading layer has to be loaded, a
fork is harmless, and the machine code is the same for one thread and for many.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
PACKAGE_STAMP = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _SOURCES)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called from Python; keep the machine code on disk."""
    dispatcher = njit(cache=True, nogil=True, error_model="numpy")(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = PACKAGE_STAMP
        return dispatcher
    # This Numba keeps its stamp elsewhere: compiling anew beats running stale code.
    return njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a part of the kernels that call it; it has no cache of its own."""
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
