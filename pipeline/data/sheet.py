"""A contact sheet: photos with their true boxes and the predicted ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.photos import Photo, load_photo
from pipeline.data.predictions import Predictions
from pipeline.paths import atomic

TRUTH = (255, 255, 255)
COLOURS = (
    (255, 99, 71),
    (65, 157, 255),
    (255, 196, 0),
    (64, 224, 128),
    (255, 105, 220),
    (0, 229, 229),
    (255, 140, 0),
    (170, 130, 255),
    (190, 255, 90),
    (230, 180, 140),
)
GAP, CAPTION = 6, 26


def _tag(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: tuple[int, int, int], width: int
) -> None:
    """A label at (x, y), moved left where it would leave a panel `width` pixels wide."""
    font = ImageFont.load_default(size=12)
    x = max(2.0, min(x, width - 4 - draw.textlength(text, font=font)))
    left, top, right, bottom = draw.textbbox((x, y), text, font=font)
    draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
    draw.text((x, y), text, fill=(0, 0, 0), font=font)


def _panel(photo: Photo, side: int) -> tuple[Image.Image, float]:
    """The photo, scaled to fit a square of `side` pixels, and the scale."""
    scale = side / max(photo.width, photo.height)
    size = (round(photo.width * scale), round(photo.height * scale))
    return Image.fromarray(load_photo(photo)).resize(size, Image.Resampling.BICUBIC), scale


def draw_sheet(
    path: Path,
    photos: Sequence[Photo],
    image_ids: Sequence[int],
    truth: pd.DataFrame,
    table: Predictions,
    classes: Sequence[str],
    *,
    min_score: float,
    columns: int = 4,
    side: int = 320,
) -> None:
    """Write a PNG: true boxes white and thin, predictions from `min_score` coloured by class."""
    rows = -(-len(photos) // columns)
    size = (columns * (side + GAP) + GAP, rows * (side + GAP) + GAP + CAPTION)
    sheet = Image.new("RGB", size, (24, 24, 28))
    caption = f"white: truth    coloured: fused prediction with score >= {min_score:g}"
    ImageDraw.Draw(sheet).text((GAP + 2, 6), caption, fill=TRUTH, font=ImageFont.load_default(size=15))
    for place, (photo, image_id) in enumerate(zip(photos, image_ids, strict=True)):
        panel, scale = _panel(photo, side)
        draw = ImageDraw.Draw(panel)
        for box in truth.loc[truth["image_id"] == image_id, ["x1", "y1", "x2", "y2"]].to_numpy():
            draw.rectangle(tuple(box * scale), outline=TRUTH, width=1)
        shown = np.flatnonzero((table.image_id == image_id) & (table.scores >= min_score))
        for row in shown[::-1]:  # best on top
            label, box = int(table.labels[row]), table.boxes_xyxy[row] * scale
            colour = COLOURS[label % len(COLOURS)]
            draw.rectangle(tuple(box.tolist()), outline=colour, width=3)
            _tag(
                draw,
                box[0] + 4,
                max(box[1] - 8, 2),
                f"{classes[label]} {table.scores[row]:.2f}",
                colour,
                panel.width,
            )
        x = GAP + place % columns * (side + GAP)
        y = CAPTION + GAP + place // columns * (side + GAP)
        sheet.paste(panel, (x + (side - panel.width) // 2, y + (side - panel.height) // 2))
    with atomic(path) as temporary:
        sheet.save(temporary, optimize=True)
