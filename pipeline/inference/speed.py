"""Photos a second on this device, timed alike for every backend.

A pass is what `predict` does with photos that are decoded, resized and on the device: uint8 to float,
normalise, forward, NMS at the export's score floor; in half precision where `predict` uses it.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from pipeline.cpus import processor_name
from pipeline.errors import PipelineError
from pipeline.inference.detector import Detector

WARM_UPS, ROUNDS, ROUND_SECONDS = 2, (3, 100), 2.0  # at least 3 rounds, then until 2 s or 100 rounds
LARGEST_BATCH = {"cpu": 8, "cuda": 256}  # a CPU that runs out of memory kills the process
GAIN = 1.02  # a larger batch must be faster by this, or it is no gain


def as_pixels(photos: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
    """(h, w, 3) RGB photos, stretched to the square, as (n, 3, side, side) uint8 RGB."""
    squares = [np.asarray(Pillow.fromarray(photo).resize((side, side))) for photo in photos]
    return torch.from_numpy(np.stack(squares).transpose(0, 3, 1, 2).copy())


def device_name(device: str) -> str:
    """The name of the GPU, or of the processor and the threads that torch uses."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _seconds(detector: Detector, batch: Tensor) -> float:
    """Median over rounds of one warm pass; the clock stops when the device is done."""

    def one_pass() -> float:
        began = time.perf_counter()
        detector.detect(batch)
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        return time.perf_counter() - began

    for _ in range(WARM_UPS):
        one_pass()
    rounds: list[float] = []
    least, most = ROUNDS
    while len(rounds) < least or (len(rounds) < most and sum(rounds) < ROUND_SECONDS):
        rounds.append(one_pass())
    return statistics.median(rounds)


def speed(detector: Detector, pixels: Tensor) -> dict[str, Any]:
    """Photos a second at batch 1 and at the best of 1, 2, 4, 8 ...; `pixels` as `detect` takes them.

    Batches are made of the photos in turn. Larger ones are tried until memory is out, two sizes in a
    row bring no gain, or the limit of the device is reached (LARGEST_BATCH). Raises PipelineError when
    not even one photo fits into the GPU's memory.
    """
    rates: dict[int, float] = {}
    size, misses = 1, 0
    while misses < 2 and size <= LARGEST_BATCH[pixels.device.type]:
        try:
            batch = pixels[torch.arange(size, device=pixels.device) % len(pixels)]
            rate = size / _seconds(detector, batch)
        except torch.OutOfMemoryError:
            if not rates:
                raise PipelineError("out of GPU memory with a single photo; lower IMAGE_SIZE=") from None
            break
        misses = 0 if rate > max(rates.values(), default=0.0) * GAIN else misses + 1
        rates[size] = rate
        size *= 2
    best = max(rates, key=lambda n: rates[n])
    return {
        "fps": round(rates[1], 3),
        "fps_best": round(rates[best], 3),
        "best_batch": best,
        "fps_by_batch": {str(n): round(rate, 3) for n, rate in rates.items()},
        "precision": "float16" if detector.half else "float32",
    }
