"""The photos of the embedded competition: seeded scenes of waste on the ground, with their boxes.

An object is drawn larger than it will be, then turned, bent and shrunk onto the photo, which is
what smooths its edges. All classes share one distribution of sizes. A new ground or a new kind of
clutter is one function and one entry of `GROUNDS` or `CLUTTER`.

Colours are RGB in 0..255, angles are radians, and coordinates are pixels unless stated.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from pipeline.data.demo_objects import (
    FREQUENCIES,
    OBJECTS,
    PALETTE,
    Floats,
    Sprite,
    ellipse,
    noise,
    pick_colours,
)

Photo = NDArray[np.uint8]

MAX_OBJECTS = 7
MEAN_SIDE, MAX_SIDE = (0.19, 0.44), 0.62  # of an object's box, as parts of the photo's longer side
MIN_VISIBLE, MIN_INSIDE = 0.4, 0.5  # of the silhouette's area; below it an object is not placed
SILHOUETTE = 0.25  # opacity from which a pixel belongs to the object; glass is translucent
OUTLINE_ERROR = 1.0  # pixels by which an outline may leave its silhouette's edge


@dataclass(frozen=True)
class Box:
    """One true box: the class name and x, y, width, height in whole pixels of the photo.

    outline: the silhouette as polygons x, y, x, y ... of the photo; holes are filled.
    """

    name: str
    xywh: tuple[int, int, int, int]
    outline: list[list[int]]


# --- grounds: RGB floats of the photo's size ---------------------------------------------------


def _grid(rng: Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Pixel coordinates in a randomly turned frame."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32) + 1000
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return u.astype(np.float32), v.astype(np.float32)


def _tint(rng: Generator, brightness: Floats, *colours: tuple[int, int, int]) -> Floats:
    """The brightness field (around 1) in one of the colours, slightly varied."""
    colour = np.array(colours[rng.integers(len(colours))]) * rng.normal(1, 0.06)
    colour += rng.normal(0, 2.5, 3)
    return (brightness[..., None] * colour).astype(np.float32)


def tiles(rng: Generator, height: int, width: int) -> Floats:
    u, v = _grid(rng, height, width)
    pitch, ratio = rng.uniform(0.2, 0.4) * max(height, width), rng.uniform(1, 2)
    column, row = u / pitch, v / pitch * ratio
    column = column + 0.5 * (np.floor(row) % 2) * (ratio > 1.4)
    shade = rng.normal(1, 0.045, (64, 64))[np.floor(column).astype(int) % 64, np.floor(row).astype(int) % 64]
    grout = np.minimum(column % 1, (row % 1) / ratio) * pitch < 2.2
    field = shade + 0.06 * noise(rng, height, width, (6, 6)) - 0.22 * grout
    return _tint(rng, field, (168, 150, 138), (140, 146, 152), (176, 168, 150), (150, 110, 92))


def grass(rng: Generator, height: int, width: int) -> Floats:
    field = 1 + 0.14 * noise(rng, height, width, (7, 7))
    ground = _tint(rng, field, (92, 128, 58), (112, 134, 66), (128, 126, 72)).clip(0, 255)
    canvas = ground.astype(np.uint8)
    base = ground.mean((0, 1))
    start = rng.uniform((0, 0), (width, height), (height * width // 45, 2))
    blade = rng.normal(0, 1, start.shape) * (0.01, 0.025) * max(height, width)
    shades = rng.uniform(0.78, 1.25, len(start))
    lines = np.round(np.stack([start, start + blade], 1) * 16).astype(np.int32)
    for line, shade in zip(lines, shades, strict=True):
        cv2.line(canvas, line[0], line[1], (base * shade).tolist(), 1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32)


def concrete(rng: Generator, height: int, width: int) -> Floats:
    field = 1 + 0.09 * noise(rng, height, width, (5, 5)) + 0.06 * noise(rng, height, width, (20, 20))
    field += 0.05 * noise(rng, height, width, (height // 2, width // 2))
    ground = _tint(rng, field, (152, 150, 146), (128, 128, 130), (170, 164, 152))
    for _ in range(int(rng.integers(0, 3))):
        walk = np.cumsum(rng.normal(0, 0.03, (14, 2)) + rng.normal(0, 0.05, 2), 0)
        points = ((rng.uniform(0, 1, 2) + walk) * (width, height)).astype(np.int32)
        cv2.polylines(ground, [points], False, (ground.mean((0, 1)) * 0.62).tolist(), 1)
    return ground


def asphalt(rng: Generator, height: int, width: int) -> Floats:
    grain = noise(rng, height, width, (height // 2, width // 2))
    field = 1 + 0.07 * noise(rng, height, width, (4, 4)) + 0.16 * grain
    ground = _tint(rng, field, (92, 92, 96), (108, 106, 104), (80, 84, 92))
    if rng.random() < 0.35:
        u, _ = _grid(rng, height, width)
        middle = np.median(u) + rng.uniform(-0.3, 0.3) * width
        line = (np.abs(u - middle) < 0.035 * width) & (grain > -0.45)
        ground[line] = ground[line] * 0.35 + 135
    return ground


def wood(rng: Generator, height: int, width: int) -> Floats:
    u, v = _grid(rng, height, width)
    plank = rng.uniform(0.14, 0.26) * max(height, width)
    index = np.floor(v / plank).astype(int) % 64
    offset = rng.uniform(0, 50, 64)[index].astype(np.float32)
    waves = noise(rng, 128, 512, (60, 8))
    lines = cv2.remap(waves, (u * 0.8 + offset * 9) % 511, (v * 1.2 + offset) % 127, cv2.INTER_LINEAR)
    field = rng.normal(1, 0.07, 64)[index] + 0.12 * lines - 0.32 * ((v / plank) % 1 * plank < 2)
    return _tint(rng, field, (150, 112, 76), (172, 136, 98), (120, 92, 70), (150, 136, 120))


GROUNDS: tuple[Callable[[Generator, int, int], Floats], ...] = (
    tiles,
    grass,
    concrete,
    asphalt,
    wood,
)


# --- clutter: small things that are no class, drawn straight onto the photo --------------------


def _blob(centre: ArrayLike, shape: ArrayLike, angle: float) -> NDArray[np.int32]:
    """Outline points in 1/16 pixels, turned about the centre."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points: NDArray[np.float64] = np.asarray(shape) @ turn + np.asarray(centre)
    return np.round(points * 16).astype(np.int32)


def leaf(rng: Generator, photo: Photo, at: Floats, size: float) -> None:
    t = np.linspace(0, np.pi, 9)
    edge = np.stack([-np.cos(t), 0.42 * np.sin(t) ** 1.5], 1)
    shape = np.concatenate([edge, edge[::-1] * (1, -1)]) * size
    colours = np.array([(150, 96, 40), (96, 110, 44), (168, 132, 52), (124, 66, 40)])
    colour = colours[rng.integers(4)] * rng.uniform(0.8, 1.1)
    angle = rng.uniform(0, 2 * np.pi)
    cv2.fillPoly(photo, [_blob(at, shape, angle)], colour.tolist(), cv2.LINE_AA, 4)
    rib = np.array([(-1.3, 0), (0.9, 0)]) * size
    cv2.polylines(photo, [_blob(at, rib, angle)], False, (colour * 0.6).tolist(), 1, cv2.LINE_AA, 4)


def pebble(rng: Generator, photo: Photo, at: Floats, size: float) -> None:
    round_ = ellipse(0, 0, 0.6 * size, 0.45 * size) * rng.uniform(0.9, 1.1, (40, 1))
    grey, angle = rng.uniform(95, 185), rng.uniform(0, 2 * np.pi)
    for shift, scale, tone in ((1.2, 1.0, 0.45), (0, 1.0, 1.0), (-0.8, 0.5, 1.2)):
        colour = [min(255.0, grey * tone)] * 3
        outline = _blob(at + shift * size / 10, round_ * scale, angle)
        cv2.fillPoly(photo, [outline], colour, cv2.LINE_AA, 4)


def twig(rng: Generator, photo: Photo, at: Floats, size: float) -> None:
    bends = np.stack([np.linspace(-1.6, 1.6, 5), rng.normal(0, 0.12, 5)], 1) * size
    colour = np.array((92, 68, 48)) * rng.uniform(0.7, 1.3)
    angle = rng.uniform(0, 2 * np.pi)
    for line in (bends, bends[2] + np.array([(0, 0), (0.5, 0.6)]) * size):
        cv2.polylines(photo, [_blob(at, line, angle)], False, colour.tolist(), 2, cv2.LINE_AA, 4)


def scribble(rng: Generator, photo: Photo, at: Floats, size: float) -> None:
    t = np.linspace(0, rng.uniform(4, 12), 40)
    curve = np.stack([t / 4 - 1.2 + 0.5 * np.cos(2 * t), np.sin(2 * t + rng.uniform(0, 3))], 1)
    colour = PALETTE[rng.integers(len(PALETTE))].tolist()
    outline = _blob(at, curve * size * 0.8, rng.uniform(0, 2 * np.pi))
    cv2.polylines(photo, [outline], False, colour, 1, cv2.LINE_AA, 4)


CLUTTER: tuple[Callable[[Generator, Photo, Floats, float], None], ...] = (
    leaf,
    leaf,
    pebble,
    pebble,
    twig,
    scribble,
)


# --- the photo ---------------------------------------------------------------------------------


def _cut_out(rng: Generator, name: str, mean_side: float, max_side: float, ground: Floats) -> Floats:
    """A turned and bent object, RGBA (premultiplied), cropped to its silhouette.

    `mean_side` is the geometric mean of its box's sides, unless one would exceed `max_side`.
    """
    sprite = Sprite(rng, int(np.clip(3.2 * mean_side, 96, 400)), *pick_colours(rng, ground))
    OBJECTS[name](sprite)
    n = sprite.side
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * np.exp(rng.normal(0, 0.12, 2))
    corners = corners + rng.uniform(-0.1, 0.1, (4, 2))
    angle = rng.normal(0, 0.7)  # any angle may come, but most things are seen more or less upright
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = corners @ turn
    corners -= corners.min(0)
    corners *= 1.2 * n / corners.max()
    source = np.array([(0, 0), (n, 0), (n, n), (0, n)], np.float32)
    bend = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    turned = cv2.warpPerspective(sprite.rgba, bend, (int(1.2 * n) + 1, int(1.2 * n) + 1))
    x, y, w, h = cv2.boundingRect((turned[..., 3] > SILHOUETTE).astype(np.uint8))
    scale = min(mean_side / np.sqrt(w * h), max_side / max(w, h))
    small = (max(4, round(w * scale)), max(4, round(h * scale)))
    return np.asarray(cv2.resize(turned[y : y + h, x : x + w], small, None, 0, 0, cv2.INTER_AREA))


def _outline(mask: NDArray[np.bool_], corner: tuple[int, int]) -> list[list[int]]:
    """Polygons along the outer edges of a mask's pixels, which lies at a corner of the photo."""
    doubled = mask.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)  # every edge has points of its own
    contours = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    simple = [cv2.approxPolyDP(contour, 2 * OUTLINE_ERROR, True)[:, 0] for contour in contours]
    return [((points + 1) // 2 + corner).astype(int).ravel().tolist() for points in simple if len(points) > 2]


@dataclass
class Scene:
    """A photo while objects are laid onto it, the later ones over the earlier ones."""

    pixels: Floats
    shadow: Floats  # shift of a shadow as x, y in units of the object's mean side
    boxes: list[Box] = field(default_factory=list)
    silhouettes: list[NDArray[np.bool_]] = field(default_factory=list)
    visible: list[NDArray[np.bool_]] = field(default_factory=list)  # what is left of each

    def place(self, rng: Generator, name: str, rgba: Floats, min_visible: float) -> bool:
        """Lay an object at one random position, with its shadow.

        Args:
            rng: Gives the position.
            name: The object's class.
            rgba: The object as `_cut_out` returns it.
            min_visible: How much of every earlier silhouette must stay visible, 0..1.

        Returns:
            False, with nothing changed, when too much would be outside the photo or covered.
        """
        (height, width), (h, w) = self.pixels.shape[:2], rgba.shape[:2]
        x = int(rng.uniform(0.06, 0.94) * width - w / 2)
        y = int(rng.uniform(0.06, 0.94) * height - h / 2)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        part = rgba[y0 - y : y1 - y, x0 - x : x1 - x]
        solid = part[..., 3] > SILHOUETTE
        if solid.sum() < MIN_INSIDE * (rgba[..., 3] > SILHOUETTE).sum():
            return False
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = solid
        left = [seen & ~mask for seen in self.visible]
        pairs = zip(left, self.silhouettes, strict=True)
        if any(seen.sum() < min_visible * whole.sum() for seen, whole in pairs):
            return False
        alpha = np.zeros((height, width), np.float32)
        alpha[y0:y1, x0:x1] = part[..., 3]
        reach = np.sqrt(w * h)
        move = np.array([[1, 0, self.shadow[0] * reach], [0, 1, self.shadow[1] * reach]])
        shadow = cv2.warpAffine(alpha, move, (width, height))
        shadow = cv2.GaussianBlur(shadow, (0, 0), 1 + 0.03 * reach)
        self.pixels *= (1 - 0.5 * shadow)[..., None]
        region = self.pixels[y0:y1, x0:x1]
        region *= 1 - part[..., 3:]
        region += part[..., :3]
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        bx, by = int(columns[0]), int(rows[0])
        box = (bx, by, int(columns[-1]) + 1 - bx, int(rows[-1]) + 1 - by)
        outline = _outline(mask[by : by + box[3], bx : bx + box[2]], (bx, by))
        self.boxes.append(Box(name, box, outline))
        self.silhouettes.append(mask)
        self.visible = [*left, mask]
        return True


def _expose(rng: Generator, pixels: Floats) -> Photo:
    """Light, shade, blur and sensor noise of one shot."""
    height, width = pixels.shape[:2]
    x, y = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.98, 1.2) + rng.uniform(0, 0.22) * (x * np.cos(angle) + y * np.sin(angle))
    light -= rng.uniform(0, 0.1) * (x * x + y * y)
    if rng.random() < 0.3:  # the shade of a tree or a roof
        light *= 1 - 0.3 * np.clip(noise(rng, height, width, (3, 3)) * 4, 0, 1)
    balance = rng.uniform(0.96, 1.04, 3).astype(np.float32)
    shot = pixels * light.astype(np.float32)[..., None] * balance
    blur = rng.uniform(0, 0.9)
    if blur > 0.3:
        shot = cv2.GaussianBlur(shot, (0, 0), blur)
    shot += rng.uniform(1, 6) * rng.standard_normal((height, width, 1), np.float32)
    return np.asarray(shot).clip(0, 255).astype(np.uint8)


def render(rng: Generator, width: int, height: int, first: str | None = None) -> tuple[Photo, list[Box]]:
    """Render one photo.

    Args:
        rng: The only source of chance; the same state gives the same photo.
        width, height: Size in pixels.
        first: The class of one object that is certainly there; None leaves it to chance.

    Returns:
        The photo as uint8 RGB [height, width, 3], and its 1 to 7 boxes. A box is tight around the
        whole silhouette, what lies under other objects included, and clipped to the photo.
    """
    side = max(width, height)
    ground = GROUNDS[rng.integers(len(GROUNDS))](rng, height, width).clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(2, 9))):
        at = rng.uniform((0, 0), (width, height)).astype(np.float32)
        CLUTTER[rng.integers(len(CLUTTER))](rng, ground, at, rng.uniform(0.015, 0.035) * side)
    towards = rng.uniform(0, 2 * np.pi)
    shift = np.array([np.cos(towards), np.sin(towards)], np.float32) * rng.uniform(0.04, 0.1)
    scene = Scene(ground.astype(np.float32), shift)
    mean_colour = scene.pixels.mean((0, 1))
    weights = np.array([FREQUENCIES[name] for name in OBJECTS])
    wanted = min(1 + rng.binomial(6, 0.5), MAX_OBJECTS)
    for index in range(wanted):
        name = str(rng.choice(list(OBJECTS), p=weights / weights.sum()))
        if index == 0 and first is not None:
            name = first
        mean_side = np.exp(rng.uniform(*np.log(MEAN_SIDE))) * side
        rgba = _cut_out(rng, name, mean_side, MAX_SIDE * side, mean_colour)
        min_visible = max(MIN_VISIBLE, 1 - rng.exponential(0.2))
        for _ in range(20 if scene.boxes else 1000):
            if scene.place(rng, name, rgba, min_visible):
                break
    return _expose(rng, scene.pixels), scene.boxes
