"""Photos: how they are decoded, and what is wrong with them. The only reader of pixels.

Boxes are in pixels of the photo as the annotations state its size, so a photo is decoded to that
size: an EXIF rotation is undone when that gives the stated size, a photo that was only resized is
scaled to it, and one of another shape is refused. Frameworks that read files themselves get links
to photos that need nothing of this, and repaired copies of the others (`stage_photos`).
"""

import contextlib
import functools
import io
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os.path import getsize, isfile  # False for names that no file can have, where pathlib raises
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pipeline.cpus import usable_cpus
from pipeline.data.dicom import decode_dicom, dicom_size, is_dicom
from pipeline.data.findings import Findings
from pipeline.data.locate import locate_photos
from pipeline.data.muted import muted
from pipeline.data.profile import Profile
from pipeline.data.specs import SplitSpec
from pipeline.errors import PipelineError, reason
from pipeline.paths import shown

EXIF_ORIENTATION = 0x0112
ASPECT_TOLERANCE = 0.02  # a resized photo keeps its aspect within this, rounding included
# What turns a photo upright, by its EXIF orientation (EXIF 2.3, tag 0x0112).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # the last bytes of a whole file
# A marker in a JPEG's coded data, where 0xff is followed by 0 or by a restart's number.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
FILLERS = (0x00, 0x24, 0x49, 0x5A, 0x92, 0xC6, 0xDB)  # continuations of a JPEG that differ early
PLAIN_MODES = ("RGB", "L")  # frameworks that read these themselves see the same colours as we do
# Formats that frameworks read themselves, and the suffix by which they know one.
FORMATS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
DEEP_MODES = ("I", "F")  # how the modes of more than 8 bits begin: I;16, I;16B, I, F
Answer = TypeVar("Answer")


class PhotoError(PipelineError):
    """A photo that cannot be used; `kind`: missing, unreadable, truncated or another shape."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Photo:
    """A photo file and the size that the annotations state for it, in pixels.

    A stretched one may have been resized to another shape, as X-rays made square. `file_name`: as in
    the annotations.
    """

    path: Path
    width: int
    height: int
    stretched: bool = False
    file_name: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What the annotations call the photo, with the folder that tells it from others."""
        return self.file_name or self.path.name


def photos_of(profile: Profile, split: str, images: pd.DataFrame, others: Iterable[str] = ()) -> list[Photo]:
    """The photos of an image table's rows; `others`: file names of images that are not among them."""
    spec = profile.train if split == "train" or profile.holds_out else profile.test
    paths = locate_photos(profile, spec, images["file_name"].tolist(), others)
    rows = zip(
        paths, images["width"].tolist(), images["height"].tolist(), images["file_name"].tolist(), strict=True
    )
    return [Photo(path, width, height, spec.stretched, name) for path, width, height, name in rows]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around everything that reads a photo's file: whatever a decoder raises becomes a PhotoError.

    Decoders raise what they like for damaged bytes: OSError, SyntaxError, struct.error, KeyError ...
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise OSError("no file, but a folder, a pipe or a device")
        with muted():
            yield
    except PipelineError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise PhotoError("missing", f"{shown(path)}: no such photo; restore it") from None
    except Image.DecompressionBombError as error:
        pixels = (int(number) for number in re.findall(r"\d+", str(error))[:1])
        raise _too_large(path, f"has {next(pixels):,} pixels", "cut it into tiles or scale it") from None
    except Exception as error:
        size = getsize(path) if isfile(path) else 0
        why = f"{size} bytes, {reason(error)}" if size else "zero bytes" if isfile(path) else reason(error)
        raise PhotoError(
            "truncated" if size and _has_header(path) else "unreadable",
            f"{shown(path)}: not a readable photo ({why}); restore it or take its image out of the "
            "annotations",
        ) from None


def _has_header(path: Path) -> bool:
    with contextlib.suppress(Exception), Image.open(path):
        return True
    return False


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels from a photo's header, upright. Raises PipelineError."""
    with _reading(path):
        if is_dicom(path):
            return dicom_size(path)
        with Image.open(path) as image:
            return _exif_size(image)


def are_sizes(sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) which widths and heights can be those of a photo."""
    good: NDArray[np.bool_] = np.logical_and.reduce((sizes >= 1) & (sizes < 2**31), axis=1)
    return good


def complete_sizes(
    profile: Profile,
    spec: SplitSpec,
    file_names: Sequence[str],
    sizes: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, 2) widths and heights; those that are no size (0, NaN) are read from the photos where they can be.

    A size that is still none afterwards is NaN. Photos that were stretched do not say their size.
    """
    good = are_sizes(sizes)
    sizes = np.where(good[:, None], sizes, np.nan)
    rows = np.flatnonzero(~good)
    if not len(rows) or spec.stretched:
        return sizes
    paths = locate_photos(profile, spec, file_names)

    def size(row: int) -> tuple[float, float]:
        try:
            return photo_size(paths[row])
        except PhotoError:
            return np.nan, np.nan

    with ThreadPoolExecutor(max_workers=8) as pool:
        sizes[rows] = np.array(list(pool.map(size, rows.tolist())), np.float64)
    return sizes


def over_photos(work: Callable[[Photo], Answer], photos: Sequence[Photo], label: str) -> list[Answer]:
    """`work` of every photo, in order, on all cores and with a progress bar.

    On threads: decoding and scaling release the GIL. An exception of `work` ends it.
    """
    with ThreadPoolExecutor(usable_cpus()) as pool:
        answers = pool.map(work, photos)
        return list(tqdm(answers, total=len(photos), desc=label, unit="photo", disable=None))


def load_photo(photo: Photo) -> NDArray[np.uint8]:
    """(height, width, 3) RGB pixels in the stated size.

    Raises PhotoError for a photo that is missing, unreadable, truncated or of another shape.
    """
    with _reading(photo.path):
        if is_dicom(photo.path):
            return np.asarray(_upright(decode_dicom(photo.path), 1, photo).convert("RGB"))
        with Image.open(photo.path) as image:
            if (pixels := _plain_jpeg(image, photo)) is not None:
                return pixels
            whole = _decoded(image, photo.path)
            orientation = _orientation(whole)
            if whole.mode.startswith(DEEP_MODES):
                whole = _to_8_bits(whole)
            return np.asarray(_upright(whole, orientation, photo).convert("RGB"))


@functools.cache
def _opencv() -> Any:
    """OpenCV, or None: stages without torch do without it."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _plain_jpeg(image: Image.Image, photo: Photo) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG that needs nothing but decoding. OpenCV gives the same as Pillow, and is faster.

    None for any other photo. OpenCV also gives pixels of JPEGs that Pillow refuses: what is cut off, or holds
    a marker in its coded data, is left to Pillow.
    """
    if image.format != "JPEG" or image.mode not in PLAIN_MODES or image.size != (photo.width, photo.height):
        return None
    file: Any = getattr(image, "fp", None)
    coded = file.tell() if file else 0  # Pillow has read the header, and no pixel
    if "progressive" in image.info or _orientation(image) != 1 or (opencv := _opencv()) is None:
        return None
    data = photo.path.read_bytes()
    marker = MARKER.search(data, coded)
    if marker is None or data[marker.start() :] != END_MARKERS["JPEG"]:
        return None
    flags = opencv.IMREAD_COLOR_RGB | opencv.IMREAD_IGNORE_ORIENTATION
    pixels: NDArray[np.uint8] | None = opencv.imdecode(np.frombuffer(data, np.uint8), flags)
    return pixels


def _too_large(path: Path, what: str, remedy: str) -> PhotoError:
    """A small file may unpack to fill the memory, and so may a small photo that is said to be large."""
    limit = f"the limit is {_most_pixels():,}"
    return PhotoError("too large", f"{shown(path)}: {what}, {limit}; {remedy}, and its boxes with it")


def _most_pixels() -> int:
    """Of a photo: Pillow decodes no more."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 1 << 27)


def _decoded(image: Image.Image, path: Path) -> Image.Image:
    """The image with its pixels; of a JPEG that lacks its end marker too, when no pixel is missing.

    Pillow calls such a file truncated. Whatever it is continued with, the pixels stay the same only
    where nothing was left to be decoded.
    """
    try:
        if image.format == "TIFF":
            setattr(image, "filename", "")  # noqa: B010  Pillow maps the file, and a turned one in a wrong shape
        image.load()
    except OSError:
        data, end = path.read_bytes(), END_MARKERS["JPEG"]
        if image.format != "JPEG" or data.endswith(end):
            raise
        data = data.rstrip(b"\xff")
        tries = [Image.open(io.BytesIO(data + bytes([filler] * 64) + end)) for filler in FILLERS]
        if len({attempt.tobytes() for attempt in tries}) > 1:
            raise
        return tries[0]
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 16 bits, 32 bits or floats, spread from the lowest to the highest over 0..255."""
    values = np.asarray(image).astype(np.float64)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    values = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    grey = (values - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray(np.round(grey).astype(np.uint8))


def _upright(image: Image.Image, orientation: int, photo: Photo) -> Image.Image:
    """The image in the stated size: rotated as its EXIF says, or resized, or refused."""
    stated = (photo.width, photo.height)
    turned = image.transpose(TURNS[orientation]) if orientation in TURNS else image
    if turned.size == stated:
        return turned
    if image.size == stated:
        return image
    _check_shape(turned.size, photo)
    return turned.resize(stated, Image.Resampling.BILINEAR)


def _check_shape(size: tuple[int, int], photo: Photo) -> None:
    """Raise PhotoError unless a photo of a size can be scaled to the stated one: it has its shape, or is
    stretched."""
    stated = f"the annotations say {photo.width} x {photo.height}"
    if photo.width * photo.height > _most_pixels():
        what = f"is {size[0]} x {size[1]} pixels, {stated}"
        raise _too_large(photo.path, what, "correct that size")
    if photo.stretched:
        return
    if abs((size[0] / size[1]) / (photo.width / photo.height) - 1) > ASPECT_TOLERANCE:
        raise PhotoError(
            "another shape",
            f"{shown(photo.path)}: is {size[0]} x {size[1]} pixels, {stated}, another shape; restore the "
            "photo or correct its size",
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image; 1, upright, where it states none of those there are."""
    with contextlib.suppress(Exception):  # of the EXIF alone: the pixels may be good
        orientation = image.getexif().get(EXIF_ORIENTATION)
        return orientation if orientation in TURNS else 1
    return 1


def _exif_size(image: Image.Image) -> tuple[int, int]:
    """The size of an image that is not decoded yet, upright. Pillow states that of a TIFF upright."""
    width, height = image.size
    turned = image.format != "TIFF" and _orientation(image) >= 5
    return (height, width) if turned else (width, height)


def fault_of(photo: Photo) -> tuple[str, str] | None:
    """(kind, name) of what decoding will repair, None for a plain photo; raises for a bad one.

    Reads the header and the file's last bytes; pixels are decoded only where these are not as they
    should be, or where the format has no end marker.
    """
    with _reading(photo.path):
        if is_dicom(photo.path):
            if dicom_size(photo.path) != (photo.width, photo.height):
                load_photo(photo)
            return "DICOM photos decoded to 8 bits of grey", photo.name
        with Image.open(photo.path) as image:
            kind = _repair(image, photo)
            marker = END_MARKERS.get(image.format or "")
        if marker is None or not _ends_with(photo.path, marker):
            load_photo(photo)  # raises when the pixels are cut off too
            if marker is not None and kind is None:
                kind = "photos without an end marker, read as they are"
    return (kind, photo.name) if kind else None


def _ends_with(path: Path, marker: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - len(marker), 0))
        return file.read() == marker


def _repair(image: Image.Image, photo: Photo) -> str | None:
    """What is unlike a plain photo of the stated size; raises PipelineError for another shape."""
    stated = (photo.width, photo.height)
    if _exif_size(image) == stated:
        if _orientation(image) != 1:
            return "photos with an EXIF rotation turned upright"
    elif image.size == stated:
        return "photos whose EXIF rotation contradicts the stated size, left unturned"
    else:
        _check_shape(_exif_size(image), photo)
        return "photos of another size than stated, scaled to it"
    if image.mode.startswith(DEEP_MODES):
        return "photos of more than 8 bits of grey, spread from darkest to brightest over 8 bits"
    if image.format not in FORMATS:
        return "photos of a format that frameworks do not read, converted"
    return None if image.mode in PLAIN_MODES else "photos whose colours are not RGB or grey, converted"


def check_photos(photos: Iterable[Photo], findings: Findings) -> set[Path]:
    """Check headers of all photos; returns those that need repair when decoded, listed in findings.

    Raises PipelineError that names the first bad photo and counts the others.
    """
    photos = list(photos)

    def probe(photo: Photo) -> tuple[str, str] | PipelineError | None:
        try:
            return fault_of(photo)
        except PipelineError as error:
            return error

    with ThreadPoolExecutor(max_workers=8) as pool:
        results = list(pool.map(probe, photos))
    errors = [result for result in results if isinstance(result, PipelineError)]
    if errors:
        more = f" (and {len(errors) - 1} more photos)" if len(errors) > 1 else ""
        raise PipelineError(f"{errors[0]}{more}")
    repaired = set()
    for photo, result in zip(photos, results, strict=True):
        if isinstance(result, tuple):
            findings.add(*result)
            repaired.add(photo.path)
    return repaired


def stage_photos(photos: Sequence[Photo], targets: Sequence[Path], repaired: Collection[Path]) -> None:
    """Lay each photo where its target says: a link to a plain one, a repaired copy (PNG) of another."""
    for photo, target in zip(photos, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        if photo.path in repaired:
            Image.fromarray(load_photo(photo)).save(target)
        elif target.resolve() != photo.path.resolve():  # not there yet, or of data that has moved
            target.unlink(missing_ok=True)
            target.symlink_to(photo.path.resolve())


def staged_suffix(photo: Photo, repaired: Collection[Path]) -> str:
    """The suffix of a staged photo: one that frameworks take, by what the file holds where its own is not."""
    suffix = ".png" if photo.path in repaired else photo.path.suffix.lower()
    if suffix not in (*FORMATS.values(), ".jpeg", ".tiff"):
        with Image.open(photo.path) as image:
            suffix = FORMATS[str(image.format)]
    return suffix


def refuse_small(photos: Sequence[Photo], side: int, framework: str) -> None:
    """Raise PipelineError that names the photos with a side under `side` pixels, which a framework drops."""
    small = [photo for photo in photos if min(photo.width, photo.height) < side]
    if small:
        names = ", ".join(f"{photo.name} ({photo.width} x {photo.height})" for photo in small[:3])
        more = f" and {len(small) - 3} more" if len(small) > 3 else ""
        raise PipelineError(
            f"{framework} takes no photo with a side under {side} pixels: {names}{more}; take them out of "
            "the annotations, enlarge them with their boxes, or train a model of another framework"
        )
