"""Seeded workloads: for fusion ten prediction sets over 4,871 made-up photos, about 4.9 M boxes; for
scoring one out-of-fold set of 488,300 boxes on 4,883 photos with 23,144 true ones.

The recipe of `shared/workload/gen_workload.py`, drawn for all photos of a set at once instead of
photo by photo (2 s instead of 10), and kept in the temporary folder for the next run. Two
architectures x five folds see 5 to 30 objects a photo in ten classes of the frequencies of Recycle
Trash. Of about 100 boxes a photo and set most are noise of low score; the rest are the objects
themselves, boxes of a wrong class at the same place, and shifted duplicates.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASS_COUNTS = np.array([3966, 6352, 897, 936, 982, 2943, 1263, 5178, 159, 468], float)
FREQUENCIES = CLASS_COUNTS / CLASS_COUNTS.sum()
N_CLASSES = len(CLASS_COUNTS)
N_IMAGES, N_SOURCES, SIDE = 4871, 10, 1024
SEED = 20261122
_RECIPE = 2  # count up when the recipe changes, so that no old file is read

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Workload:
    """What `pipeline.fusion.pack` takes: rows by image, then source, then score; and the truth."""

    boxes_xyxy: NDArray[np.float32]  # (n, 4) pixels
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    source: NDArray[np.int16]
    offsets: Ints  # (images + 1,)
    truth_image: Ints  # (t,)
    truth_xyxy: Floats
    truth_labels: NDArray[np.int16]


def fusion_workload(n_images: int = N_IMAGES, n_sources: int = N_SOURCES, seed: int = SEED) -> Workload:
    """The workload, from the temporary folder if it was made before."""
    name = f"fusion-workload-{_RECIPE}-{seed}-{n_images}-{n_sources}.npz"
    path = Path(tempfile.gettempdir()) / name
    if path.exists():
        with np.load(path) as saved:
            return Workload(**saved)
    made = _generate(n_images, n_sources, np.random.default_rng(seed))
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez(file, **vars(made))  # type: ignore[arg-type]
    Path(file.name).replace(path)
    return made


@dataclass(frozen=True)
class Scoring:
    """True boxes and one set of found ones, in pixels; rows by image, found ones then by score."""

    truth_image: Ints
    truth_xyxy: Floats
    truth_labels: NDArray[np.int16]
    image: NDArray[np.int32]
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    n_images: int


def scoring_workload(n_images: int = 4883, n_truths: int = 23144, seed: int = SEED) -> Scoring:
    """100 boxes a photo, of the same kind as the sets of the fusion workload; 1 to about 30 truths."""
    rng = np.random.default_rng(seed)
    confusion = _confusions(rng)
    share = rng.gamma(1.0, 1.0, n_images)
    n_objects = 1 + rng.multinomial(n_truths - n_images, share / share.sum())
    image = np.repeat(np.arange(n_images), n_objects)
    objects = _random_boxes(rng, n_truths)
    labels = rng.choice(N_CLASSES, n_truths, p=FREQUENCIES)
    visibility = rng.beta(3, 1.5, n_truths)
    wanted = np.full(n_images, 100)
    found = _detect(rng, image, objects, labels, visibility, confusion, n_images, wanted)
    return Scoring(
        image,
        _corners(objects) * SIDE,
        labels.astype(np.int16),
        found[0].astype(np.int32),
        (found[1] * SIDE).astype(np.float32),
        found[2].astype(np.float32),
        found[3].astype(np.int16),
        n_images,
    )


def _generate(n_images: int, n_sources: int, rng: np.random.Generator) -> Workload:
    confusion = _confusions(rng)
    n_objects = np.clip(np.round(5 + rng.gamma(2, 4, n_images)), 5, 30).astype(int)
    image = np.repeat(np.arange(n_images), n_objects)
    objects = _random_boxes(rng, len(image))
    labels = rng.choice(N_CLASSES, len(image), p=FREQUENCIES)
    visibility = rng.beta(3, 1.5, len(image))
    sets = [_detect(rng, image, objects, labels, visibility, confusion, n_images) for _ in range(n_sources)]
    columns = [np.concatenate(column) for column in zip(*sets, strict=True)]
    source = np.repeat(np.arange(n_sources), [len(s[0]) for s in sets])
    order = np.argsort(columns[0], kind="stable")
    per_image = np.bincount(columns[0], minlength=n_images)
    return Workload(
        (columns[1][order] * SIDE).astype(np.float32),
        columns[2][order].astype(np.float32),
        columns[3][order].astype(np.int16),
        source[order].astype(np.int16),
        np.concatenate([[0], np.cumsum(per_image)]),
        image,
        _corners(objects) * SIDE,
        labels.astype(np.int16),
    )


def _confusions(rng: np.random.Generator) -> Ints:
    """64 wrong classes for every class, by frequency."""
    rows = []
    for label in range(N_CLASSES):
        p = FREQUENCIES.copy()
        p[label] = 0
        rows.append(rng.choice(N_CLASSES, 64, p=p / p.sum()))
    return np.stack(rows)


def _random_boxes(rng: np.random.Generator, n: int) -> Floats:
    """Boxes (n, 4) as cx cy w h, in parts of the side."""
    centre = rng.uniform(0.1, 0.9, (n, 2))
    size = np.exp(rng.normal(np.log(0.16), 0.55, n)).clip(0.01, 0.8)
    aspect = np.exp(rng.normal(0, 0.4, n))
    return np.column_stack([centre, size * np.sqrt(aspect), size / np.sqrt(aspect)])


def _jittered(rng: np.random.Generator, boxes_cxcywh: Floats, amount: float) -> Floats:
    out = boxes_cxcywh.copy()
    out[:, :2] += rng.normal(0, amount, (len(out), 2)) * out[:, 2:]
    out[:, 2:] *= np.exp(rng.normal(0, amount, (len(out), 2)))
    return out


def _corners(boxes_cxcywh: Floats) -> Floats:
    """Corners clipped to the photo, with an area."""
    half = boxes_cxcywh[:, 2:] / 2
    low = (boxes_cxcywh[:, :2] - half).clip(0.004, 0.996)
    high = (boxes_cxcywh[:, :2] + half).clip(0.004, 0.996)
    return np.concatenate([low, np.maximum(high, low + 1e-3)], 1)


def _detect(
    rng: np.random.Generator,
    image: Ints,
    objects: Floats,
    labels: Ints,
    visibility: Floats,
    confusion: Ints,
    n_images: int,
    wanted: Ints | None = None,
) -> tuple[Ints, Floats, Floats, Ints]:
    """One set: (image, corners, score, label) of its boxes, sorted by image, then score."""
    n = len(image)
    if wanted is None:
        wanted = np.clip(np.round(rng.normal(100, 15, n_images)), 60, 150).astype(int)
    hit = np.flatnonzero(rng.random(n) < 0.60 + 0.38 * visibility)
    sure = (rng.beta(6, 2, n) * visibility**0.5).clip(0.001, 0.999)
    wrong = np.repeat(np.arange(n), rng.poisson(0.9, n))
    again = np.repeat(np.arange(n), rng.poisson(0.9, n))
    seen = np.concatenate([hit, wrong, again])
    missing = np.maximum(wanted - np.bincount(image[seen], minlength=n_images), 0)
    noise = int(missing.sum())
    images = np.concatenate([image[seen], np.repeat(np.arange(n_images), missing)])
    boxes = _corners(
        np.concatenate(
            [
                _jittered(rng, objects[hit], 0.035),
                _jittered(rng, objects[wrong], 0.05),
                _jittered(rng, objects[again], 0.18),
                _random_boxes(rng, noise),
            ]
        )
    )
    found = np.concatenate(
        [
            labels[hit],
            confusion[labels[wrong], rng.integers(0, confusion.shape[1], len(wrong))],
            labels[again],
            rng.choice(N_CLASSES, noise, p=FREQUENCIES),
        ]
    )
    scores = np.concatenate(
        [
            sure[hit],
            sure[wrong] * rng.beta(1.2, 6, len(wrong)),
            sure[again] * rng.beta(1.5, 4, len(again)),
            np.exp(rng.uniform(np.log(0.001), np.log(0.05), noise)),
        ]
    ).clip(0.001, 0.999)
    order = np.lexsort((-scores, images))
    place = np.arange(len(order)) - np.searchsorted(images[order], images[order])
    order = order[place < wanted[images[order]]]
    return images[order], boxes[order], scores[order], found[order]
