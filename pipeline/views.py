"""Views of a photo for test-time augmentation: an action on the decoded image and its undoing on boxes.

A view's name is its recipe: `identity`, `hflip`, `vflip`, `rot90`, `rot180`, `rot270` (turns are
counter-clockwise), `scale<factor>` (multiplies the size of the network's input, the decoded image
stays), or several joined by `+` and applied from left to right: `hflip+rot90+scale1.25`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.names import check_name

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

Side = int | Boxes  # one for all boxes, or (n,)


def _hflip_boxes(b: Boxes, width: Side, height: Side) -> Boxes:
    return np.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], axis=1)


def _vflip_boxes(b: Boxes, width: Side, height: Side) -> Boxes:
    return np.stack([b[:, 0], height - b[:, 3], b[:, 2], height - b[:, 1]], axis=1)


def _turn_boxes(b: Boxes, width: Side, height: Side) -> Boxes:
    """A counter-clockwise turn: (x, y) in width x height goes to (y, width - x)."""
    return np.stack([b[:, 1], width - b[:, 2], b[:, 3], width - b[:, 0]], axis=1)


# A primitive action on the image, and the same on boxes given the size before it.
_PRIMITIVES: dict[str, tuple[Callable[[Image], Image], Callable[[Boxes, Side, Side], Boxes]]] = {
    "hflip": (lambda image: image[:, ::-1], _hflip_boxes),
    "vflip": (lambda image: image[::-1], _vflip_boxes),
    "turn": (np.rot90, _turn_boxes),
}
# Every named action as a chain of primitives, and the chain that undoes it.
ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "identity": ((), ()),
    "hflip": (("hflip",), ("hflip",)),
    "vflip": (("vflip",), ("vflip",)),
    "rot90": (("turn",), ("turn",) * 3),
    "rot180": (("turn",) * 2, ("turn",) * 2),
    "rot270": (("turn",) * 3, ("turn",)),
}
_SCALE = re.compile(r"scale([0-9]+(?:\.[0-9]+)?)")


def _chain_boxes(chain: tuple[str, ...], boxes: Boxes, width: Side, height: Side) -> Boxes:
    for step in chain:
        boxes = _PRIMITIVES[step][1](boxes, width, height)
        if step == "turn":
            width, height = height, width
    return boxes


@dataclass(frozen=True)
class View:
    """One way to show a photo to a detector."""

    name: str
    chain: tuple[str, ...]
    inverse: tuple[str, ...]
    scale: float = 1.0

    @property
    def is_turned(self) -> bool:
        """Whether width and height change places."""
        return self.chain.count("turn") % 2 == 1

    def apply(self, image: Image) -> Image:
        """(h, w, 3) decoded photo -> the viewed photo, contiguous. The scale is the network's job."""
        for step in self.chain:
            image = _PRIMITIVES[step][0](image)
        return np.ascontiguousarray(image)

    def undo_boxes(self, boxes_xyxy: Boxes, width: Side, height: Side) -> Boxes:
        """(n, 4) pixels of the viewed photo -> pixels of the photo, which is width x height.

        The photo's sides may be float32 arrays (n,), when boxes are of several photos.
        """
        if self.is_turned:
            width, height = height, width
        return _chain_boxes(self.inverse, boxes_xyxy, width, height)


def parse_view(name: str) -> View:
    """Read a view's name; raises PipelineError that lists the known actions."""
    chain: tuple[str, ...] = ()
    inverse: tuple[str, ...] = ()
    scale = 1.0
    for part in name.split("+"):
        if part in ACTIONS:
            chain += ACTIONS[part][0]
            inverse = ACTIONS[part][1] + inverse
        elif (match := _SCALE.fullmatch(part)) and 0.1 <= float(match[1]) <= 10:
            scale *= float(match[1])
        else:
            known = ", ".join(ACTIONS)
            raise PipelineError(
                f"view {name[:60]!r}: {part[:60]!r} is not an action; expected {known} or scale<0.1..10>, "
                "joined by '+'"
            )
    return View(check_name("view", name), chain, inverse, scale)


def parse_views(names: Iterable[str]) -> list[View]:
    """Read the names of views; each view once, in the given order."""
    return [parse_view(name) for name in dict.fromkeys(names)]
