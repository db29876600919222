"""DICOM photos: X-rays as they come from the hospital, brought to 8 bits of grey as people see them."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = (".dcm", ".dicom")


def is_dicom(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _read(path: Path, pixels: bool) -> Any:
    import pydicom  # imported here: few competitions need it

    data = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
    if "TransferSyntaxUID" not in data.file_meta:  # PS3.5 10.1: the default, as of files without a preamble
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    if "Rows" not in data or "Columns" not in data:
        raise OSError("not a DICOM file with an image")
    if pixels and "PixelData" not in data:
        raise OSError("a DICOM file without pixels")
    return data


def dicom_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header. Raises whatever pydicom does for a file that is no DICOM image."""
    header = _read(path, pixels=False)
    return int(header.Columns), int(header.Rows)


def decode_dicom(path: Path) -> Image.Image:
    """The photo as an 8 bit grey Pillow image, bright where the X-ray is dense.

    The rescale slope and the first window (or look-up table) of the file are applied, where they mean
    something, MONOCHROME1 is inverted, and the range that is left is spread over 0..255; pixels that
    have 8 bits and no window stay as they are (DICOM PS3.3 C.11, "Look Up Tables and Presentation
    States"). Raises whatever pydicom does for a file that cannot be decoded.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    data = _read(path, pixels=True)
    pixels, kind = data.pixel_array, str(data.PhotometricInterpretation)
    if pixels.ndim != 2 or not kind.startswith("MONOCHROME"):
        raise OSError(
            f"a DICOM image of shape {pixels.shape} ({kind}), expected one grey picture: save it as PNG "
            "under the same name"
        )
    window = "WindowWidth" in data or "VOILUTSequence" in data
    grey: NDArray[Any] = pixels
    if window or pixels.dtype != np.uint8:
        for apply in (apply_modality_lut, apply_voi_lut):
            with contextlib.suppress(
                AttributeError, ValueError, KeyError, TypeError, IndexError, NotImplementedError
            ):
                changed = np.asarray(apply(grey, data), np.float64)
                grey = changed if np.isfinite(changed).all() else grey
        grey = grey.astype(np.float64)
        low, high = float(grey.min()), float(grey.max())
        grey = (grey - low) * (255 / (high - low) if high > low else 0)
    if kind == "MONOCHROME1":
        grey = 255 - grey
    return Image.fromarray(np.round(grey).astype(np.uint8))
