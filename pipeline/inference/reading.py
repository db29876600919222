"""Photos read ahead, by as many threads as the job has CPUs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipeline.cpus import job_cpus
from pipeline.data.photos import Photo

AHEAD = 256 * 2**20  # bytes of photos that were read and not asked for yet
Read = TypeVar("Read")


def read_ahead(
    photos: Sequence[Photo], read: Callable[[Photo], Read], size: Callable[[Photo], int], count: int
) -> Iterator[Read]:
    """What `read` makes of each photo, in their order; up to `count` are under way, in `AHEAD` bytes.

    size: the bytes that a photo takes once it is read. An exception of `read` comes in its photo's place.
    """
    pool = ThreadPoolExecutor(job_cpus(), thread_name_prefix="reader")
    under_way: deque[tuple[int, Future[Read]]] = deque()
    held = 0
    try:
        for photo in photos:
            while under_way and (len(under_way) >= count or held + size(photo) > AHEAD):
                held -= under_way[0][0]
                yield under_way.popleft()[1].result()
            under_way.append((size(photo), pool.submit(read, photo)))
            held += size(photo)
        while under_way:
            yield under_way.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
