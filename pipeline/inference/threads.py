"""Several threads that predict with one network on a CPU, each with a share of its cores.

Convolutions keep all cores busy; NMS, RoI align and Python one at a time. Where batches go through the
network side by side, one's convolutions run beside another's NMS.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import torch

from pipeline.inference.detector import Detector

WANTED = 4  # threads, with more cores than that; each holds the activations of a batch


class DetectorThreads:
    """Calls work(detector, ...) on threads of their own, never two at once with the same detector."""

    def __init__(self, detectors: list[Any]) -> None:
        self.count = len(detectors)
        self.free: SimpleQueue[Any] = SimpleQueue()
        for detector in detectors:
            self.free.put(detector)
        self.pool = ThreadPoolExecutor(self.count, thread_name_prefix="detector")

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin work(detector, *arguments); a single thread does it here and now."""
        if self.count > 1:
            return self.pool.submit(self._run, work, *arguments)
        done: Future[Any] = Future()
        done.set_result(self._run(work, *arguments))
        return done

    def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        detector = self.free.get()
        try:
            return work(detector, *arguments)
        finally:
            self.free.put(detector)


def shares(threads: int, most: int) -> tuple[int, int]:
    """(detectors, torch threads of each) that use about all threads; `most` have something to do."""
    each = max(round(threads / WANTED), 1)
    count = max(min(round(threads / each), most), 1)
    return count, max(round(threads / count), 1)


@contextlib.contextmanager
def detector_threads(detector: Detector, most: int) -> Iterator[DetectorThreads]:
    """Up to `most` threads with a detector each; on a GPU just the one."""
    threads = torch.get_num_threads()
    detectors: list[Any] = [detector]
    each = threads
    if detector.device == "cpu":
        count, each = shares(threads, most)
        detectors += [detector.clone() for _ in range(count - 1)]
    workers = DetectorThreads(detectors)
    try:
        torch.set_num_threads(each)  # of each thread that has none yet
        yield workers
    finally:
        workers.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def sharing_weights(network: Any, module: Any) -> Any:
    """A copy of a network that shares its torch module's weights, but not what it notes as it predicts."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(network, shared)
