"""The decorators of all compiled functions, with a disk cache that is quick and never stale.

Numba stamps a cached function with the time and size of its own source file only. The kernels call
helpers that live in other files, so an edit of `overlap.py` would leave old machine code in the
cache of `driver.py`. `kernel` therefore stamps with a digest of all sources of the function's folder
and of this one (a kernel calls helpers from nowhere else; a test checks it), which a fresh checkout
does not change either. The functions release the GIL and run on plain Python threads: no threading
layer has to be loaded, a fork is harmless, and the machine code is the same for one thread and for
many.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit

from pipeline.kernels.stamp import stamp_of

_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called from Python; keep the machine code on disk."""
    dispatcher = njit(cache=True, **_COMMON)(function)
    cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if not (hasattr(cache_file, "_source_stamp") and hasattr(cache_file, "_version")):
        # This Numba keeps its stamp elsewhere: compiling anew beats running stale code.
        return njit(**_COMMON)(function)
    stamp = stamp_of(Path(function.__code__.co_filename).parent)
    cache_file._source_stamp = stamp
    # Numba compares the version before it loads the index, whose classes other code may lack.
    cache_file._version = f"{numba.__version__} {stamp}"
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` as a part of the kernels that call it; it has no cache of its own."""
    wrappers: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(forceinline=True, **wrappers, **_COMMON)(function)
