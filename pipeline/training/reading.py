"""Photos with their boxes as our own loop reads them: in which order, how resized, how augmented.

What is drawn for a photo depends on the seed, the epoch and the photo alone, so it does not matter which
process reads it, or whether the training was cut off before.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.data.photos import load_photo
from pipeline.inference.pixels import resize_to
from pipeline.training.cache import PhotoCache
from pipeline.training.job import PhotoSet
from pipeline.training.options import AugmentOptions
from pipeline.training.sampling import Repeats, epoch_order, share_of
from pipeline.training.seeds import Place, drawing

GREY = 114  # of what is added around a photo that was made smaller
Resized = Callable[[int, int, float], tuple[int, int]]  # height, width, scale; see `Detector.resized`


class Sample(NamedTuple):
    """A photo for training: (3, height, width) uint8 RGB, resized; (n, 4) float32 corners in its pixels;
    (n,) int64 0-based labels."""

    image: Tensor
    boxes_xyxy: Tensor
    labels: Tensor


class TrainPhotos(Dataset[Sample]):
    """Photos by (epoch, index), see `sampling`. Crowd boxes are left out: they are not single objects."""

    def __init__(
        self,
        photos: PhotoSet,
        resized: Resized,
        augment: AugmentOptions,
        seed: int,
        cache: PhotoCache | None = None,
    ) -> None:
        self.photos, self.boxes = photos.photos, photos.boxes()
        self.resized, self.augment, self.seed, self.cache = resized, augment, seed, cache

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = place
        with drawing(self.seed, epoch, index):
            return self._sample(index % len(self))

    def _sample(self, position: int) -> Sample:
        photo = self.photos[position]
        height, width = photo.height, photo.width
        decode = functools.partial(load_photo, photo)
        image = self.cache.read(str(photo.path), decode) if self.cache else decode()
        whole = self.resized(height, width, 1.0)
        scale = float(torch.empty(1).uniform_(*self.augment.scale))
        size = self.resized(height, width, scale)
        pixels = np.require(resize_to(image, size), requirements="W")  # as torch wants it
        boxes = self.boxes[position]
        factor = np.array([size[1] / width, size[0] / height] * 2)
        corners = torch.from_numpy(boxes.boxes_xyxy[~boxes.crowd] * factor).float()
        sample = {
            "image": tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            "boxes": tv_tensors.BoundingBoxes(corners.reshape(-1, 4), format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(boxes.labels[~boxes.crowd]),
        }
        sample = self._steps(whole)(sample)
        return Sample(*(sample[key].as_subclass(Tensor) for key in ("image", "boxes", "labels")))

    def _steps(self, size: tuple[int, int]) -> v2.Transform:
        """Photometric changes, flip, crop or pad to the size (height, width); boxes without area go."""
        return v2.Compose(
            [
                v2.RandomApply([v2.RandomPhotometricDistort()], p=self.augment.photometric),
                v2.RandomHorizontalFlip(self.augment.flip),
                v2.RandomCrop(size, pad_if_needed=True, fill=GREY),
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(min_size=1),
            ]
        )


class EpochBatches(Sampler[list[Place]]):
    """The batches of one process in the epoch `epoch`, as places; all processes have as many photos each."""

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        repeats: Repeats | None = None,
    ) -> None:
        self.count, self.batch, self.seed, self.epoch = count, batch, seed, 0
        self.rank, self.processes, self.repeats = rank, processes, repeats
        self.photos = -(-(len(repeats) if repeats else count) // processes)  # of this process

    def __len__(self) -> int:
        return -(-self.photos // self.batch)

    def __iter__(self) -> Iterator[list[Place]]:
        order = epoch_order(self.count, self.repeats, self.seed, self.epoch)
        own = share_of(order, self.rank, self.processes)
        for start in range(0, len(own), self.batch):
            yield [(self.epoch, index) for index in own[start : start + self.batch]]


def loader_of(photos: TrainPhotos, batches: EpochBatches, workers: int, device: str) -> DataLoader[Sample]:
    """A loader of lists of samples; its reading processes live through all epochs."""
    return DataLoader(
        photos,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
        collate_fn=list,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # its own, or it draws from the training's
    )


@contextlib.contextmanager
def ending_readers() -> Iterator[None]:
    """End the processes that read photos for the block when it ends, before anything that they hold goes.

    Where frameworks leave them to the garbage collector, in reference cycles, it closes their pipes first:
    threads of multiprocessing then fail with a traceback, and each reader is waited for 5 s and killed.
    """
    try:
        yield
    finally:
        for found in gc.get_objects():
            if issubclass(type(found), _MultiProcessingDataLoaderIter):
                found._shutdown_workers()


def _one_thread(worker_id: int) -> None:
    cv2.setNumThreads(0)


def stacked(samples: Sequence[Sample]) -> Tensor:
    """(n, 3, height, width) uint8: the images, with a grey border right and below up to the largest."""
    height, width = (max(sample.image.shape[side] for sample in samples) for side in (1, 2))
    images = samples[0].image.new_full((len(samples), 3, height, width), GREY)
    for image, sample in zip(images, samples, strict=True):
        image[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
    return images


def in_parts(samples: Sequence[Sample], parts: int) -> list[Sequence[Sample]]:
    """A batch in at most so many parts of about the same size."""
    size = -(-len(samples) // parts)
    return [samples[start : start + size] for start in range(0, len(samples), size)]
