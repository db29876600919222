"""Which views of which photos go through the network together, decided from sizes before any is read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.data.photos import Photo
from pipeline.inference.detector import Detector
from pipeline.views import View

WAITING = 4  # batches of photos that a photo's view waits for others of its shape
Size = tuple[int, int]  # height, width


class ViewedPhoto(NamedTuple):
    """A view of a photo as the network takes it."""

    photo: int  # position among the photos
    view: View
    resized: Size  # of the photo before the view turns it
    padded: Size  # with its border, as the view turned it
    margin: tuple[int, int]  # pixels above and left of it

    @property
    def viewed_size(self) -> Size:
        """Its size in the batch, without its border."""
        return self.resized[::-1] if self.view.is_turned else self.resized


@dataclass(frozen=True)
class Batch:
    """Views that have one size with their border, so that no view's boxes depend on the others'."""

    images: Sequence[ViewedPhoto]

    @property
    def size(self) -> Size:
        return self.images[0].padded

    def parts(self, count: int) -> list["Batch"]:
        """Batches of at most so many images."""
        return [Batch(self.images[i : i + count]) for i in range(0, len(self.images), count)]


def viewed(detector: Detector, position: int, photo: Photo, view: View) -> ViewedPhoto:
    resized = detector.resized(photo.height, photo.width, view.scale)
    shown = resized[::-1] if view.is_turned else resized
    padded = detector.padded(*shown, view.scale)
    top, left = (_margin(whole, side, detector) for whole, side in zip(padded, shown, strict=True))
    return ViewedPhoto(position, view, resized, padded, (top, left))


def _margin(whole: int, side: int, detector: Detector) -> int:
    """Pixels before an image of this side; a centred one is rounded as ultralytics' letterbox does."""
    return round((whole - side) / 2 - 0.1) if detector.pad_centred else 0


def batches_by_view(detector: Detector, photos: Sequence[Photo], views: Sequence[View]) -> list[Batch]:
    """For a CPU: so many photos at a time as the detector likes, and one view of them after the other."""
    order = sorted(range(len(photos)), key=lambda i: (photos[i].height, photos[i].width))
    batches: list[Batch] = []
    for start in range(0, len(order), detector.batch):
        for view in views:
            window = order[start : start + detector.batch]
            batches += _by_size(viewed(detector, i, photos[i], view) for i in window)
    return batches


def _by_size(images: Iterable[ViewedPhoto]) -> Iterator[Batch]:
    groups: dict[Size, list[ViewedPhoto]] = {}
    for image in images:
        groups.setdefault(image.padded, []).append(image)
    return map(Batch, groups.values())


def batches_by_size(detector: Detector, photos: Sequence[Photo], views: Sequence[View]) -> list[Batch]:
    """For a GPU: views of one size together, whichever they are, in batches of about the same pixels.

    A batch is full with the pixels of as many squares of the network's input as the detector likes at once,
    or twice as many smaller images. A view that has waited for `WAITING` batches of photos is no longer held
    up, nor is its photo's memory.
    """
    of_photo = [[viewed(detector, i, photo, view) for view in views] for i, photo in enumerate(photos)]
    order = sorted(range(len(photos)), key=lambda i: (of_photo[i][0].padded, of_photo[i][0].resized))
    batches: list[Batch] = []
    waiting: dict[Size, list[ViewedPhoto]] = {}
    since: dict[Size, int] = {}  # how many photos came before the first that waits
    for count, position in enumerate(order):
        for image in of_photo[position]:
            of_size = waiting.setdefault(image.padded, [])
            since.setdefault(image.padded, count)
            of_size.append(image)
            if len(of_size) >= full_at(detector, image.padded):
                batches.append(_of_kinds(waiting.pop(image.padded)))
                del since[image.padded]
        for size in [size for size in since if count - since[size] >= WAITING * detector.batch]:
            batches.append(_of_kinds(waiting.pop(size)))
            del since[size]
    return batches + [_of_kinds(images) for images in waiting.values()]


def _of_kinds(images: list[ViewedPhoto]) -> Batch:
    """A batch in which images that are resized and turned alike follow each other."""
    return Batch(sorted(images, key=lambda image: (image.view.name, image.resized)))


def full_at(detector: Detector, size: Size) -> int:
    """How many images of a size fill a batch on a GPU."""
    by_pixels = detector.batch * detector.image_size**2 / (size[0] * size[1])
    return max(1, min(round(by_pixels), 2 * detector.batch))
