"""Contact sheets for looking at data: captioned photos with marked boxes, and pairs of photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.data.photos import Photo, PhotoError, load_photo, photo_size
from pipeline.paths import atomic

SIDE, PAIR_SIDE, GAP, CAPTION, COLUMNS = 240, 180, 8, 46, 5
BACK, INK, MARK = (24, 24, 28), (235, 235, 235), (255, 196, 0)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Panel:
    """A photo, up to three short lines about it, and the boxes in it to be looked at, xyxy in its pixels."""

    photo: Photo
    lines: tuple[str, ...]
    boxes_xyxy: list[NDArray[np.float64]] = field(default_factory=list)


def draw_panels(path: Path, title: str, panels: Sequence[Panel]) -> Path:
    """Write a PNG of the panels in rows; returns its path."""
    rows = -(-len(panels) // COLUMNS)

    def place(sheet: Image.Image) -> None:
        for i, panel in enumerate(panels):
            x, y = GAP + i % COLUMNS * (SIDE + GAP), CAPTION + i // COLUMNS * (SIDE + CAPTION + GAP)
            sheet.paste(_thumbnail(panel), (x, y))
            _write(sheet, x, y + SIDE + 2, panel.lines, SIDE)

    return _sheet(path, title, (GAP + COLUMNS * (SIDE + GAP), CAPTION + rows * (SIDE + CAPTION + GAP)), place)


def draw_pairs(
    path: Path,
    photos: Sequence[Photo],
    others: Sequence[Photo],
    pairs: Ints,
    distance: Ints,
    title: str = "near-duplicates",
    limit: int = 39,
) -> Path:
    """Write a PNG of pairs side by side, nearest first, with the distance of their hashes in bits.

    pairs (p, 2): rows of `photos` and of `others`. Of more than `limit` pairs every step is shown,
    the farthest among them: there the threshold can be judged.
    """
    order = np.argsort(distance, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(limit, len(order))).round().astype(int))]
    rows, wide = -(-len(shown) // 3), 2 * PAIR_SIDE + 4

    def place(sheet: Image.Image) -> None:
        for i, row in enumerate(shown):
            x, y = GAP + i % 3 * (wide + 2 * GAP), CAPTION + i // 3 * (PAIR_SIDE + CAPTION)
            names = []
            for side, photo in enumerate((photos[pairs[row, 0]], others[pairs[row, 1]])):
                panel = _thumbnail(Panel(photo, ()), PAIR_SIDE)
                sheet.paste(panel, (x + side * (PAIR_SIDE + 4), y))
                names.append(photo.name)
            _write(sheet, x, y + PAIR_SIDE + 2, (f"{distance[row]} of 256 bits", *names), wide)

    some = "" if len(shown) == len(order) else f", {len(shown)} of them"
    size = (3 * (wide + 2 * GAP), CAPTION + max(rows, 1) * (PAIR_SIDE + CAPTION))
    return _sheet(
        path, f"{len(order)} pair{'s' * (len(order) != 1)}: {title}{some}, nearest first", size, place
    )


def _sheet(path: Path, title: str, size: tuple[int, int], place: Callable[[Image.Image], None]) -> Path:
    sheet = Image.new("RGB", size, BACK)
    ImageDraw.Draw(sheet).text((GAP, 8), title, fill=INK, font=ImageFont.load_default(size=15))
    place(sheet)
    with atomic(path) as temporary:
        sheet.save(temporary, optimize=True)
    return path


def _write(sheet: Image.Image, x: int, y: int, lines: Sequence[str], width: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for i, line in enumerate(lines):
        while draw.textlength(line, font=font) > width:
            line = line[:-4] + "..."
        draw.text((x, y + 13 * i), line, fill=INK, font=font)


def _thumbnail(panel: Panel, side: int = SIDE) -> Image.Image:
    """The photo in a square, its boxes marked; a crossed square where it cannot be read."""
    square = Image.new("RGB", (side, side), (48, 48, 54))
    draw = ImageDraw.Draw(square)
    try:
        pixels = load_photo(panel.photo)
    except PhotoError as error:
        if error.kind == "another shape":  # readable, but boxes have no place on it
            path = panel.photo.path
            whole = Image.fromarray(load_photo(Photo(path, *photo_size(path))))
            image = ImageOps.contain(whole, (side, side))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            return square
        draw.line((0, 0, side, side), fill=MARK, width=2)
        draw.line((0, side, side, 0), fill=MARK, width=2)
        return square
    scale = side / max(panel.photo.width, panel.photo.height)
    size = (max(round(panel.photo.width * scale), 1), max(round(panel.photo.height * scale), 1))
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (left, top))
    for box in panel.boxes_xyxy:
        x1, y1, x2, y2 = (box * scale + (left, top, left, top)).tolist()
        draw.rectangle((x1 - 1, y1 - 1, max(x2, x1) + 1, max(y2, y1) + 1), outline=MARK, width=2)
        if max(x2 - x1, y2 - y1) < 12:  # a tiny box is found by a ring around it
            draw.ellipse((x1 - 12, y1 - 12, x2 + 12, y2 + 12), outline=MARK, width=2)
    return square
