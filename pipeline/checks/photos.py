"""Checks of photos: each is decoded once for its faults, its hash and its statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from pipeline.data.duplicates import Hashes, hash_image
from pipeline.data.photos import Photo, PhotoError, fault_of, load_photo, over_photos

STATISTICS = (
    "width",
    "height",
    "bytes a pixel",
    "brightness",
    "contrast",
    "darkest",
    "brightest",
    "red",
    "green",
    "blue",
    "spread of red",
    "spread of green",
    "spread of blue",
    "saturation",
    "sharpness",
)
_SIDE = 256  # pixels; statistics are those of the photo scaled to this square
_LEVELS = np.arange(256) / 255
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=2, offset=128)
# What stops a training -> what would help.
FATAL = {
    "missing": "restore the photo, or take its image out of the annotations",
    "unreadable": "restore the photo, or take its image out of the annotations",
    "truncated": "restore the photo, or take its image out of the annotations",
    "too large": "cut it into tiles or scale it, and its boxes with it",
    "another shape": "restore the photo, or correct the size that the annotations state",
}


@dataclass(frozen=True)
class PhotoCheck:
    """What was found in a photo: a fatal fault (a key of `FATAL`) with its message, or the rest.

    repair: what decoding puts right, None for a plain photo. statistics: (len(STATISTICS),).
    """

    fault: str | None = None
    message: str = ""
    repair: str | None = None
    hash: Hashes | None = None
    statistics: NDArray[np.float64] | None = None


def check_photo(photo: Photo) -> PhotoCheck:
    """Decode a photo; nothing about it raises."""
    try:
        repair = fault_of(photo)
        pixels = load_photo(photo)
    except PhotoError as error:
        return PhotoCheck(error.kind, str(error))
    image = Image.fromarray(pixels)
    size = photo.path.stat().st_size
    return PhotoCheck(None, "", repair[0] if repair else None, hash_image(image), statistics(image, size))


def check_photos(photos: Sequence[Photo], label: str) -> list[PhotoCheck]:
    """Check photos on all cores."""
    return over_photos(check_photo, photos, label)


def statistics(image: Image.Image, file_size: int) -> NDArray[np.float64]:
    """(len(STATISTICS),) numbers that tell how a photo was taken rather than what it shows.

    Pixels in 0..1 of the photo scaled to a square; sharpness is the standard deviation of the
    Laplacian; `darkest` and `brightest` are the 2nd and 98th percentile of the grey values.
    """
    width, height = image.size
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    red, green, blue = small.split()
    grey = small.convert("L")
    saturation = ImageChops.subtract(
        ImageChops.lighter(ImageChops.lighter(red, green), blue),
        ImageChops.darker(ImageChops.darker(red, green), blue),
    )
    bands = np.array([_mean_and_spread(band) for band in (grey, red, green, blue)])
    below = np.cumsum(grey.histogram()) / _SIDE**2
    low, high = (float(np.searchsorted(below, share)) / 255 for share in (0.02, 0.98))
    edges = grey.filter(_LAPLACIAN).crop((1, 1, _SIDE - 1, _SIDE - 1))  # the border is left unfiltered
    return np.array(
        [
            width,
            height,
            file_size / (width * height),
            *bands[0],
            low,
            high,
            *bands[1:, 0],
            *bands[1:, 1],
            _mean_and_spread(saturation)[0],
            2 * _mean_and_spread(edges)[1],
        ]
    )


def _mean_and_spread(band: Image.Image) -> tuple[float, float]:
    """Mean and standard deviation of a band in 0..1, from its histogram: Pillow counts without the GIL."""
    share = np.array(band.histogram(), float) / (band.width * band.height)
    mean = float(share @ _LEVELS)
    return mean, math.sqrt(max(float(share @ _LEVELS**2) - mean**2, 0.0))
