"""Whether boxes were read in the order and the unit that their file holds."""

import numpy as np
from numpy.typing import NDArray

MOSTLY = 0.5  # share of the boxes that look wrong as they were read
NEARLY_ALL = 0.9  # share of the boxes that look right when they are read the other way
LEAST = 4  # boxes; fewer tell nothing
SLACK = 0.5  # pixels that a corner may lie outside
Floats = NDArray[np.float64]


def doubts_of(boxes_xyxy: Floats, sizes: Floats) -> list[str]:
    """Why boxes must have been read wrongly, the first reason that there is; [] where nothing speaks for it.

    boxes_xyxy: (n, 4) pixels, before anything is clipped or dropped. sizes: (n, 2) width and height of
    each box's photo in pixels.
    """
    if len(boxes_xyxy) < LEAST:
        return []
    return [
        *inside_one_pixel(boxes_xyxy, sizes),
        *_other_order(boxes_xyxy, sizes),
        *_pixels(boxes_xyxy, sizes),
    ][:1]


def inside_one_pixel(boxes: Floats, sizes: Floats) -> list[str]:
    """Shares of the photo read as pixels; arguments as of `doubts_of`."""
    small = (boxes <= 1 + 1e-6).all() and (boxes >= -1e-6).all() and (sizes > 2).all()
    if len(boxes) < LEAST or not small:
        return []
    return [
        f"all {len(boxes)} boxes lie inside one pixel, so they are shares of the photo's width and height; "
        "expected pixels (normalized: true where the profile describes them)"
    ]


def _other_order(boxes: Floats, sizes: Floats) -> list[str]:
    """x y w h read as corners, or corners read as x y w h."""
    limit = sizes + SLACK
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    if flat.mean() > MOSTLY and (boxes[:, :2] + boxes[:, 2:] <= limit).all(axis=1).mean() > NEARLY_ALL:
        return [
            f"{flat.sum()} of {len(boxes)} boxes have corners out of order, and nearly all fit their photo "
            "as x y width height; change the order that the profile (xyxy, submission.box) or --box states"
        ]
    outside = (boxes[:, 2:] > limit).any(axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]  # the third and fourth number of the file, had it x y w h
    fits = (sides > boxes[:, :2]).all(axis=1) & (sides <= limit).all(axis=1)
    if outside.mean() > MOSTLY and fits.all():
        return [
            f"{outside.sum()} of {len(boxes)} boxes reach outside their photo as x y width height, and none "
            "does as x1 y1 x2 y2; if the file holds corners, say so: xyxy: true in the profile (of a CSV, in "
            "its columns), or submission.box and --box for predictions"
        ]
    return []


def _pixels(boxes: Floats, sizes: Floats) -> list[str]:
    """Pixels read as shares: far outside, and inside once divided by the photo's size."""
    shares = boxes / np.tile(sizes, 2)
    if (shares.max(axis=1) > 2).mean() > NEARLY_ALL and (shares <= np.tile(sizes, 2) + SLACK).all():
        return [
            f"nearly all of {len(boxes)} boxes lie far outside their photo and fit it as pixels; expected "
            "shares of its width and height (normalized: false where they are pixels)"
        ]
    return []
