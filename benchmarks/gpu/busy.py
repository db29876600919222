"""How busy a GPU is and how much of its memory is taken, as its driver says four times a second."""

import shutil
import subprocess
import threading
import time

QUERY = (
    "nvidia-smi",
    "--query-gpu=utilization.gpu,memory.used",
    "--format=csv,noheader,nounits",
    "-lms",
    "250",
)


class Busy:
    """Samples the first GPU as long as the block lasts; without a GPU there are none."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int]] = []  # time.monotonic(), percent, MiB
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Busy":
        if shutil.which(QUERY[0]):
            self.process = subprocess.Popen(
                [*QUERY, "-i", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            threading.Thread(target=self._read, args=[self.process.stdout], daemon=True).start()
        return self

    def _read(self, lines: object) -> None:
        for line in lines:  # type: ignore
            self.take(line, time.monotonic())

    def take(self, line: str, at: float) -> None:
        """Take note of a line `percent, MiB`; others, as where a driver does not say, are left out."""
        percent, _, memory = line.partition(",")
        if percent.strip().isdecimal() and memory.strip().isdecimal():
            self.samples.append((at, int(percent), int(memory)))

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()

    def between(self, began: float, ended: float) -> dict[str, float]:
        """The mean share of the time in which the GPU did something, 0 to 1, and the most GiB taken."""
        inside = [(percent, memory) for at, percent, memory in self.samples if began <= at <= ended]
        if not inside:
            return {}
        percents, memories = zip(*inside, strict=True)
        return {"busy": sum(percents) / len(percents) / 100, "memory": max(memories) / 1024}
