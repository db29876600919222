"""The waste objects of the embedded competition, drawn upright, each on a canvas of its own.

Every class takes its colours from one palette, so that only shape and structure tell a can from a
carton. A new class is one function and one entry of `OBJECTS` and of `FREQUENCIES`.

Coordinates are -1..1 with y downwards, colours are RGB in 0..255.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

PALETTE = np.array(
    [
        (238, 236, 230),
        (222, 205, 170),
        (205, 48, 44),
        (233, 126, 42),
        (240, 203, 66),
        (84, 158, 70),
        (38, 142, 136),
        (104, 182, 226),
        (44, 88, 178),
        (122, 78, 168),
        (230, 132, 168),
        (126, 84, 56),
        (62, 64, 72),
        (170, 176, 184),
    ],
    np.float32,
)
INK, WHITE, STEEL = (38.0, 38.0, 44.0), (250.0, 250.0, 248.0), (196.0, 200.0, 206.0)


def noise(rng: Generator, height: int, width: int, cells: tuple[int, int]) -> Floats:
    """Smooth noise, about -1..1, with `cells` (down, across) independent values."""
    coarse = rng.uniform(-1, 1, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def pick_colours(rng: Generator, avoid: Floats) -> tuple[Floats, Floats]:
    """Body and accent colour out of the palette, the body well apart from the ground `avoid`."""
    tinted = np.clip(PALETTE * rng.uniform(0.85, 1.1) + rng.normal(0, 10, 3), 15, 250)
    order = rng.permutation(len(tinted))
    far = [i for i in order if np.linalg.norm(tinted[i] - avoid) > 75]
    body = tinted[far[0] if far else order[0]]
    accent = next(tinted[i] for i in order if np.linalg.norm(tinted[i] - body) > 120)
    return body.astype(np.float32), accent.astype(np.float32)


class Sprite:
    """A square canvas for one object, and the chance and colours to draw it with.

    `rgba` holds colours premultiplied by the opacity (0..1), so that turning and shrinking leave
    no fringe; `x` and `y` are the coordinates of its pixels.
    """

    def __init__(self, rng: Generator, side: int, body: Floats, accent: Floats) -> None:
        self.rng, self.side, self.body, self.accent = rng, side, body, accent
        self.rgba = np.zeros((side, side, 4), np.float32)
        axis = np.linspace(-1.1, 1.1, side, dtype=np.float32)
        self.x, self.y = np.meshgrid(axis, axis)

    def _pixels(self, points: ArrayLike) -> NDArray[np.int32]:
        unit = (np.asarray(points, np.float64) / 1.1 + 1) / 2 * (self.side - 1)
        return np.round(unit * 16).astype(np.int32).reshape(-1, 1, 2)

    def polygon(self, *outlines: ArrayLike) -> Floats:
        """Coverage 0..1 of closed outlines; an outline within another one is a hole."""
        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(mask, [self._pixels(o) for o in outlines], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / np.float32(255)

    def stroke(self, points: ArrayLike, width: float, closed: bool = False) -> Floats:
        """Coverage of a line of `width` canvas units through the points."""
        mask = np.zeros((self.side, self.side), np.uint8)
        thickness = max(1, round(width * self.side / 2.2))
        cv2.polylines(mask, [self._pixels(points)], closed, 255, thickness, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / np.float32(255)

    def paint(self, mask: Floats, colour: ArrayLike, opacity: float = 1.0) -> None:
        """Lay a colour over what is there."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            return
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        cover = mask[part][..., None] * np.float32(opacity)
        self.rgba[part] *= 1 - cover
        self.rgba[part] += cover * np.append(colour, 1).astype(np.float32)

    def shade(self, factor: Floats) -> None:
        """Brighten or darken what is painted, pixel by pixel."""
        rgb, alpha = self.rgba[..., :3], self.rgba[..., 3:]
        rgb *= np.maximum(factor, 0).astype(np.float32)[..., None]
        np.minimum(rgb, alpha * 255, out=rgb)

    def noise(self, down: int, across: int) -> Floats:
        return noise(self.rng, self.side, self.side, (down, across))


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 1) -> Floats:
    """Points of an ellipse, or of its part between two fractions of a turn."""
    t = 2 * np.pi * np.linspace(start, end, 40)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1).astype(np.float32)


def _down(points: Floats, y: float) -> Floats:
    return points + np.array((0, y), np.float32)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> ArrayLike:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def contrast(colour: Floats) -> tuple[float, float, float]:
    """Ink that can be read on the colour."""
    return INK if colour.mean() > 110 else WHITE


def paper(s: Sprite) -> None:
    """A crumpled sheet: ragged outline, flat facets between creases, lines of text."""
    rng = s.rng
    half = rng.uniform(0.62, 0.8)
    t = np.linspace(-1, 1, 5)[:-1]
    sides = [(t, -1 + 0 * t), (1 + 0 * t, t), (-t, 1 + 0 * t), (-1 + 0 * t, -t)]
    outline = np.concatenate([np.stack(side, 1) for side in sides]) * (half, 0.9)
    sheet = s.polygon(outline + rng.uniform(-0.09, 0.09, outline.shape))
    pale = s.body * 0.65 + 75
    s.paint(sheet, pale)
    ink = contrast(pale)
    step = rng.uniform(0.2, 0.26)
    for y in np.arange(-0.66, 0.72, step):
        x1 = rng.uniform(0.1, 0.8) if rng.random() < 0.3 else 0.8
        wave = [(x * half, y + rng.uniform(-0.02, 0.02)) for x in np.linspace(-0.78, x1, 5)]
        s.paint(s.stroke(wave, 0.065) * sheet, ink, 0.75)
    facets = np.ones_like(s.x)
    for _ in range(int(rng.integers(4, 7))):
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.45, 0.45)
        distance = float(np.cos(angle)) * s.x + float(np.sin(angle)) * s.y - offset
        facets += rng.uniform(0.06, 0.12) * np.sign(distance) * np.exp(-np.abs(distance))
        facets -= 0.22 * np.exp(-((distance / 0.025) ** 2))
    s.shade(facets)


def paper_pack(s: Sprite) -> None:
    """A carton in oblique view: a gabled milk carton, or a drink box with its straw."""
    rng = s.rng
    gable, side = rng.random() < 0.6, rng.uniform(0.26, 0.36)
    left, right, bottom = -0.56, 0.3, 0.9
    top = -0.36 if gable else -0.5
    front = s.polygon(rectangle(left, top, right, bottom))
    flank = [(right, top), (right + side, top - 0.12), (right + side, bottom - 0.14)]
    s.paint(front, s.body)
    s.paint(s.polygon([*flank, (right, bottom)]), s.body * 0.62)
    ridge = top - 0.4
    if gable:
        roof = [(left, top), (right, top), (right - 0.02, ridge), (left + 0.12, ridge)]
        s.paint(s.polygon(roof), s.body * 0.86 + 22)
        s.paint(s.polygon([(right, top), flank[1], (right - 0.02, ridge)]), s.body * 0.5)
        fin = rectangle(left + 0.1, ridge - 0.2, right, ridge + 0.01)
        s.paint(s.polygon(fin), np.minimum(s.body * 1.1 + 25, 255))
        s.paint(s.stroke([(left, top), (right, top)], 0.03), INK, 0.5)
    else:
        lid = [(left, top), (left + side, top - 0.12), flank[1], (right, top)]
        s.paint(s.polygon(lid), np.minimum(s.body * 1.1 + 30, 255))
        hole = (0.0, top - 0.06)
        straw = [hole, (0.08, top - 0.34), (0.34, top - 0.44)]
        s.paint(s.stroke(straw, 0.1), contrast(s.body))
        s.paint(s.stroke(straw, 0.05), WHITE)
    band = rng.uniform(0.1, 0.25)
    s.paint(s.polygon(rectangle(left, band - 0.24, right, band + 0.4)), s.accent)
    s.paint(s.polygon(ellipse(-0.13, band + 0.08, 0.22, 0.22)), WHITE)
    s.paint(s.polygon(ellipse(-0.13, band + 0.08, 0.12, 0.12)), s.body * 0.8)
    s.paint(s.polygon(rectangle(left, bottom - 0.16, right, bottom - 0.09)), contrast(s.body), 0.8)
    s.shade(1 + 0.1 * s.y * -1 + 0.04 * s.noise(3, 3))


def metal(s: Sprite) -> None:
    """A can: a cylinder with specular stripes, rims, a lid with its tab, often a dent."""
    rng = s.rng
    half, cap = rng.uniform(0.5, 0.62), rng.uniform(0.16, 0.24)
    top, bottom = -0.7, 0.72
    dent = rng.uniform(0, 0.16) * np.exp(-(np.linspace(-2, 2, 20) ** 2))
    y = np.linspace(top, bottom, 20)
    body = np.concatenate(
        [
            np.stack([half - dent, y], 1),
            ellipse(0, bottom, half, cap, 0, 0.5),
            np.stack([-half + dent * rng.uniform(-0.3, 1), y], 1)[::-1],
        ]
    )
    cylinder = s.polygon(body)
    s.paint(cylinder, STEEL)
    arc = ellipse(0, 0, half * 1.02, cap, 0, 0.5)
    label = np.concatenate([_down(arc, top + 0.2), _down(arc, bottom - 0.14)[::-1]])
    s.paint(s.polygon(label) * cylinder, s.body)
    middle = rng.uniform(-0.1, 0.15)
    for shift in (0.0, rng.uniform(0.2, 0.3)):
        s.paint(s.stroke(_down(arc, middle + shift), 0.13) * cylinder, s.accent)
    across = s.x / half
    gloss = 0.72 - 0.45 * across**2 + 0.75 * np.exp(-(((across + 0.42) / 0.13) ** 2))
    s.shade(gloss + 0.4 * np.exp(-(((across - 0.55) / 0.1) ** 2)))
    s.paint(s.stroke(_down(arc, bottom - 0.03), 0.04), INK, 0.35)
    s.paint(s.polygon(ellipse(0, top, half * 1.03, cap * 1.05)), (226, 229, 233))
    s.paint(s.polygon(ellipse(0, top, half * 0.88, cap * 0.84)), (138, 143, 150))
    s.paint(s.polygon(ellipse(0, top + 0.01, half * 0.8, cap * 0.72)), (184, 188, 194))
    s.paint(s.polygon(ellipse(0, top + cap * 0.3, half * 0.24, cap * 0.3)), (92, 96, 102))
    s.paint(s.stroke(ellipse(0, top - cap * 0.1, half * 0.2, cap * 0.26), 0.035), WHITE)


def glass(s: Sprite) -> None:
    """A translucent bottle: long neck, dark contour, bright streaks, sometimes a label."""
    rng = s.rng
    wide, neck = rng.uniform(0.36, 0.46), rng.uniform(0.12, 0.16)
    shoulder, throat = rng.uniform(-0.25, 0.0), rng.uniform(-0.5, -0.42)
    y = np.linspace(-0.98, 0.95, 60)
    bend = np.clip((y - throat) / (shoulder - throat), 0, 1)
    x = neck + (wide - neck) * (3 * bend**2 - 2 * bend**3)
    x[y > 0.85] -= 0.06 * ((y[y > 0.85] - 0.85) / 0.1) ** 2
    outline = np.concatenate([np.stack([x, y], 1), np.stack([-x, y], 1)[::-1]])
    bottle = s.polygon(outline)
    s.paint(bottle, s.body * 0.85, 0.6)
    s.paint(s.stroke(outline, 0.1, closed=True) * bottle, s.body * 0.4, 0.8)
    s.paint(s.polygon(ellipse(0, 0.86, wide * 0.72, 0.06)), s.body * 0.4, 0.6)
    if rng.random() < 0.5:
        label = s.polygon(rectangle(-wide, 0.2, wide, 0.62))
        s.paint(label * bottle, s.accent, 0.95)
        s.paint(s.stroke([(-wide * 0.6, 0.34), (wide * 0.6, 0.34)], 0.07), contrast(s.accent))
        s.paint(s.stroke([(-wide * 0.6, 0.48), (wide * 0.3, 0.48)], 0.05), contrast(s.accent))
    streak = [(-wide * 0.55, 0.75), (-wide * 0.55, shoulder + 0.1), (-neck * 0.4, throat - 0.05)]
    s.paint(s.stroke([*streak, (-neck * 0.4, -0.85)], 0.07), WHITE, 0.85)
    s.paint(s.stroke([(wide * 0.6, 0.7), (wide * 0.6, shoulder + 0.25)], 0.04), WHITE, 0.6)
    ring = neck * 1.3
    s.paint(s.polygon(rectangle(-ring, -0.86, ring, -0.78)), s.body * 0.5, 0.9)
    if rng.random() < 0.5:
        s.paint(s.polygon(rectangle(-ring, -1.02, ring, -0.87)), s.accent)
    s.shade(1 + 0.1 * s.x)


def plastic_bag(s: Sprite) -> None:
    """A carrier bag: a bulging body, two loops as handles, wrinkles that run to its neck."""
    rng = s.rng
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = np.array((2, 3, 5, 7))[:, None]
    bulge = 1 + (rng.uniform(-0.06, 0.06, (4, 1)) * np.cos(waves * turn + waves)).sum(0)
    body = np.stack([0.86 * np.cos(turn), 0.34 + 0.6 * np.sin(turn)], 1) * bulge[:, None]
    pinch = np.clip((0.15 - body[:, 1]) / 0.6, 0, 1)
    body[:, 0] *= 1 - 0.45 * pinch
    mask = s.polygon(body)
    spread, lean = rng.uniform(0.3, 0.4), rng.uniform(-0.08, 0.08)
    for side in (-1, 1):
        loop = ellipse(side * spread + lean, -0.42, 0.23, rng.uniform(0.42, 0.52))
        mask = np.maximum(mask, s.stroke(loop, 0.17, closed=True))
    s.paint(mask, s.body, 0.9)
    knot = np.arctan2(s.x - lean, s.y + 0.35)
    radius = np.hypot(s.x - lean, s.y + 0.35)
    folds = np.sin(knot * int(rng.integers(9, 14)) + 2.2 * s.noise(4, 4)) * np.clip(1.5 - radius, 0.3, 1)
    crumple = s.noise(9, 9)
    s.shade(1 + 0.2 * folds + 0.16 * crumple - 0.18 * s.y)
    s.paint(np.clip(folds + crumple - 0.95, 0, 1) * mask, WHITE, 0.8)
    if rng.random() < 0.5:
        s.paint(s.polygon(ellipse(lean, 0.5, 0.3, 0.2)) * mask, s.accent, 0.85)
    s.paint(s.stroke(body, 0.03, closed=True) * mask, s.body * 0.35, 0.5)


def clothing(s: Sprite) -> None:
    """A T-shirt laid flat: sleeves, a neck opening, and stripes or a print."""
    rng = s.rng
    chest, hem, sleeve = rng.uniform(0.48, 0.56), rng.uniform(0.8, 0.95), rng.uniform(-0.1, 0.1)
    half = [
        (0.2, -0.82),
        (0.5, -0.72),
        (0.98, sleeve - 0.2),
        (0.76, sleeve + 0.06),
        (chest, -0.28),
        (chest - 0.02, 0.3),
        (chest + 0.03, hem),
    ]
    right = np.array(half) + rng.uniform(-0.03, 0.03, (len(half), 2))
    left = (np.array(half) + rng.uniform(-0.03, 0.03, (len(half), 2))) * (-1, 1)
    neckline = ellipse(0, -0.82, 0.2, 0.22, 0, 0.5)
    outline = np.concatenate([right, left[::-1], neckline[::-1]])
    shirt = s.polygon(outline)
    s.paint(shirt, s.body)
    if rng.random() < 0.5:
        for y in np.arange(-0.4, 1, rng.uniform(0.22, 0.3)):
            s.paint(s.polygon(rectangle(-1, y, 1, y + 0.1)) * shirt, s.accent)
    else:
        s.paint(s.polygon(ellipse(0, 0.05, 0.3, 0.3)) * shirt, s.accent)
        s.paint(s.stroke([(-0.14, 0.05), (0.14, 0.05)], 0.08) * shirt, contrast(s.accent))
    s.paint(s.stroke(ellipse(0, -0.82, 0.22, 0.25, 0, 0.5), 0.08) * shirt, s.accent * 0.8)
    for side, arm in ((1, right), (-1, left)):
        seam = [(side * 0.47, -0.7), tuple(arm[4])]
        s.paint(s.stroke(seam, 0.035) * shirt, INK, 0.5)
    s.paint(s.stroke(outline, 0.035, closed=True) * shirt, s.body * 0.4, 0.7)
    s.shade(1 + 0.14 * np.sin(5 * s.x + 4 * s.noise(3, 3)) + 0.1 * s.noise(5, 5))


OBJECTS: dict[str, Callable[[Sprite], None]] = {
    "Paper": paper,
    "Paper pack": paper_pack,
    "Metal": metal,
    "Glass": glass,
    "Plastic bag": plastic_bag,
    "Clothing": clothing,
}
FREQUENCIES = {
    "Paper": 4.0,
    "Paper pack": 2.7,
    "Metal": 2.4,
    "Glass": 2.3,
    "Plastic bag": 3.0,
    "Clothing": 1.0,
}
