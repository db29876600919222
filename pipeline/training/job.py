"""One training: everything that a backend needs, and nothing that it must look up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.models import ModelConfig, Overrides
from pipeline.data.outlines import SEGMENTATION, Outline
from pipeline.data.photos import Photo

if TYPE_CHECKING:  # it needs torch
    from pipeline.training.cache import PhotoCache

# Environment of a training that has others beside it on its GPU: where memory runs out, it ends at once.
SHARED_GPU = "PIPELINE_SHARED_GPU"
CORNERS = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class PhotoBoxes:
    """The annotations of one photo: (n, 4) corners in its pixels, (n,) 0-based labels, (n,) crowd flags.

    outlines: of each object (see `data.outlines`), none where the model asks for none.
    """

    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    outlines: Sequence[Outline] = ()


@dataclass(frozen=True)
class PhotoSet:
    """Photos with their boxes: the train part or the held-out part of one fold.

    images and annotations are tables as in `data.dataset.Dataset`; photos run parallel to images. Where
    photos of several splits come together, both tables have a column `split`, and split and id together name
    an image.
    """

    images: pd.DataFrame
    annotations: pd.DataFrame
    photos: list[Photo]

    def keys(self) -> list[tuple[str, int]]:
        """(split, image_id) of each photo."""
        return _keys(self.images)

    def boxes(self) -> list[PhotoBoxes]:
        """The boxes of each photo, parallel to photos."""
        rows: dict[tuple[str, int], list[int]] = {key: [] for key in self.keys()}
        for row, key in enumerate(_keys(self.annotations)):
            rows[key].append(row)
        corners = self.annotations[CORNERS].to_numpy(np.float64)
        labels = self.annotations["label"].to_numpy(np.int64)
        crowd = self.annotations["iscrowd"].to_numpy() != 0
        outlines = [json.loads(text) for text in self.annotations.get(SEGMENTATION, ())]
        return [
            PhotoBoxes(corners[own], labels[own], crowd[own], outlines and [outlines[row] for row in own])
            for own in rows.values()
        ]


def _keys(table: pd.DataFrame) -> list[tuple[str, int]]:
    splits = table["split"] if "split" in table else ["train"] * len(table)
    return list(zip(splits, table["image_id"].tolist(), strict=True))


@dataclass(frozen=True)
class CacheWish:
    """Whether decoded photos are to be kept: "off", in "ram" or on "disk", and whether in full size.

    Without that they are kept no larger than the largest input that a config makes of one.
    """

    place: str = "off"
    full: bool = False

    def side(self, images: pd.DataFrame, largest_input: int) -> int | None:
        """Pixels to which longer sides are reduced; None where no photo becomes smaller by it."""
        if self.place == "off" or self.full or largest_input >= images[["width", "height"]].to_numpy().max():
            return None
        return largest_input


NO_CACHE = CacheWish()


@dataclass(frozen=True)
class CachePlan:
    """Where a training keeps decoded photos, and how large."""

    place: Literal["ram", "disk"]
    folder: Path  # of the competition's caches on the disk
    side: int | None = None  # pixels, to which longer sides are reduced; None keeps all as they are


@dataclass(frozen=True)
class TrainJob:
    """One training on one fold. Plain data: it travels to other processes."""

    model: ModelConfig
    run: Path  # where the results go; scratch is run/work
    classes: tuple[str, ...]
    train: PhotoSet
    held_out: PhotoSet
    repaired: frozenset[Path]  # photos that decoding repairs, see data.photos
    overrides: Overrides
    device: str  # "cpu" or "cuda:<index>"
    seed: int
    workers: int  # processes that read photos, for each that trains; 0 reads in that one
    gpus: int = 1  # processes that train, each on a GPU of its own (on the CPU, if `device` is that)
    nodes: int = 1  # machines that have these GPUs, as many each
    weights: Mapping[str, str | None] = field(default_factory=dict)  # see training.weights
    cache_plan: CachePlan | None = None
    cache: "PhotoCache | None" = None  # what became of it, see training.cache

    @property
    def work(self) -> Path:
        return self.run / "work"

    @property
    def label(self) -> str:
        """Names the run in messages."""
        return f"{self.model.name} {self.run.name}"
