"""Chunks of images over plain threads: the kernels release the GIL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.cpus import usable_cpus
from pipeline.errors import PipelineError

_CHUNKS_PER_THREAD = 8  # more than one, so that a thread that lost its core delays no other


def thread_count(threads: int | None) -> int:
    """`threads`, or as many as there are cores for this process."""
    if threads is None:
        return usable_cpus()
    if threads < 1:
        raise PipelineError(f"threads={threads}: expected 1 or more, or None for all cores")
    return threads


def chunks(offsets: NDArray[np.int64], threads: int) -> list[tuple[int, int]]:
    """Ranges of images with about equal numbers of rows; offsets (m+1,): the first row of each image."""
    images = len(offsets) - 1
    pieces = 1 if threads == 1 else min(images, threads * _CHUNKS_PER_THREAD)
    if pieces < 2:
        return [(0, images)] if images else []
    inner = np.arange(1, pieces) * (int(offsets[-1]) / pieces)
    cuts = np.unique(np.concatenate([[0], np.searchsorted(offsets, inner), [images]]))
    return list(pairwise(cuts.tolist()))


def run(jobs: list[Callable[[], None]], threads: int) -> None:
    """Call all jobs, on up to `threads` threads; an exception of any of them is raised here."""
    if threads == 1 or len(jobs) < 2:
        for job in jobs:
            job()
        return
    with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def over_chunks(work: Callable[[int, int, int], None], ranges: list[tuple[int, int]], threads: int) -> None:
    """Call work(k, first, last) for the k-th range of images."""
    run([partial(work, k, first, last) for k, (first, last) in enumerate(ranges)], threads)
