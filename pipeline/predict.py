"""Predict with one trained fold: one prediction table a view, beside the checkpoint.

`oof` predicts the fold's held-out train photos, `test` all test photos. A photo is decoded once for
all views. Tables that are there already and were made by the same checkpoint are left alone.
"""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import cli
from pipeline.backends import load_backend
from pipeline.backends.base import Detector, RawBoxes, Shrinking, enlarged, find_model, select_device
from pipeline.backends.streams import streams
from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.photos import Photo, check_photos, load_photo, photos_of
from pipeline.data.predictions import (
    SPLITS,
    Meta,
    make_predictions,
    read_predictions,
    write_predictions,
)
from pipeline.data.profile import Profile, load_profile
from pipeline.data.split import check_fold, read_split
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, run_dir, shown, table_path
from pipeline.views import View, parse_views

Image = NDArray[np.uint8]


@dataclass
class _Found:
    """Detections of one view so far: parallel lists, an entry a photo."""

    ids: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[RawBoxes] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Ready:
    """A photo that was read: its size, and for each scale its pixels with the factors of their size."""

    width: int
    height: int
    pixels: dict[float, tuple[Image, tuple[float, float]]]


def read_ahead(
    detector: Detector, photos: Sequence[Photo], scales: Sequence[float]
) -> Iterator[tuple[int, list[_Ready]]]:
    """Batches of decoded and resized photos with the index of their first; the next one is under way."""

    def ready(photo: Photo) -> _Ready:
        image = load_photo(photo)
        whole = (image, (1.0, 1.0))
        shrink = detector.shrink if isinstance(detector, Shrinking) else lambda *_: whole
        return _Ready(image.shape[1], image.shape[0], {scale: shrink(image, scale) for scale in scales})

    size = detector.batch
    with ThreadPoolExecutor(max_workers=4) as pool:
        ahead: list[Any] = []
        for start in range(0, len(photos), size):
            ahead.append((start, [pool.submit(ready, p) for p in photos[start : start + size]]))
            if len(ahead) > 1:
                first, futures = ahead.pop(0)
                yield first, [future.result() for future in futures]
        for first, futures in ahead:
            yield first, [future.result() for future in futures]


def detect_view(detector: Detector, batch: Sequence[_Ready], view: View) -> tuple[list[RawBoxes], float]:
    """Detections of one view in a batch of photos, in pixels of the photos, and the seconds they took."""
    began = time.monotonic()
    chosen = [ready.pixels[view.scale] for ready in batch]
    images = [view.apply(image) for image, _ in chosen]
    results = (
        detector.find(images) if isinstance(detector, Shrinking) else detector.predict(images, view.scale)
    )
    boxes = []
    for (image, factor), raw in zip(chosen, results, strict=True):
        upright = view.undo_boxes(raw.boxes_xyxy, image.shape[1], image.shape[0])
        boxes.append(enlarged(RawBoxes(upright, raw.scores, raw.labels), factor))
    return boxes, time.monotonic() - began


def predict_views(
    detector: Detector,
    photos: Sequence[Photo],
    image_ids: Sequence[int],
    views: Sequence[View],
    label: str = "predict",
) -> dict[str, _Found]:
    """Run all views over all photos; boxes come back in pixels of the photos, not clipped."""
    found = {view.name: _Found() for view in views}
    bar = tqdm(total=len(photos) * len(views), desc=label, unit="photo", disable=None)
    scales = list(dict.fromkeys(view.scale for view in views))
    # Photos of one shape follow each other: a batch goes through the network by shapes.
    order = sorted(range(len(photos)), key=lambda i: (photos[i].height, photos[i].width))
    under_way: deque[tuple[int, View, Future[Any]]] = deque()
    batches = -(-len(photos) // detector.batch)
    with bar, streams(detector, batches * len(views)) as side_by_side:

        def take() -> None:
            start, view, future = under_way.popleft()
            boxes, seconds = future.result()
            mine = found[view.name]
            for offset, raw in enumerate(boxes):
                mine.ids.append(np.full(len(raw.scores), image_ids[order[start + offset]], np.int64))
                mine.boxes.append(raw)
            mine.seconds += seconds / side_by_side.count
            bar.update(len(boxes))

        for start, batch in read_ahead(detector, [photos[i] for i in order], scales):
            for view in views:
                under_way.append((start, view, side_by_side.submit(detect_view, batch, view)))
                while len(under_way) >= 2 * side_by_side.count:
                    take()
        while under_way:
            take()
    return found


def up_to_date(path: Path, made: dict[str, Any], image_digest: str) -> bool:
    """Whether a table is there, whole, and made from the same checkpoint and images."""
    if not path.is_file():
        return False
    try:
        meta = read_predictions(path).meta
    except PipelineError as error:
        print(f"predicting again: {error}")
        return False
    return meta.image_digest == image_digest and all(meta.made.get(k) == v for k, v in made.items())


def predict_fold(
    profile: Profile,
    model_name: str,
    fold: int,
    split_name: str,
    views: Sequence[View],
    device: str | None,
) -> list[Path]:
    """Write the tables of one fold's model on one split; returns their paths."""
    model = find_model(model_name)
    train = load_dataset(profile, "train")
    split = read_split(profile.name, train)
    check_fold(split, fold)
    run = run_dir(profile.name, model.name, fold)
    card_path = run / "card.json"
    if not card_path.is_file():
        raise PipelineError(
            f"{shown(run)}: not trained yet; make train COMP={profile.name} MODEL={model.name} FOLD={fold}"
        )
    card = json.loads(card_path.read_text(encoding="utf-8"))
    if card["folds_digest"] != split.digest:
        raise PipelineError(
            f"{shown(run)}: trained on another split than {shown(split.path)} holds now; restore that "
            "split, or train again with OVERWRITE=1"
        )
    if split_name == "oof":
        dataset, part = train, "train"
        images = train.images[split.fold == fold].reset_index(drop=True)
    else:
        dataset, part = load_dataset(profile, "test"), "test"
        images = dataset.images
    made = {
        "checkpoint_digest": card["checkpoint_digest"],
        "config_digest": card["config_digest"],
        "folds_digest": split.digest,
    }
    paths = {view.name: table_path(run, split_name, view.name) for view in views}
    todo = [view for view in views if not up_to_date(paths[view.name], made, dataset.digest)]
    for view in views:
        if view not in todo:
            print(f"{shown(paths[view.name])} is up to date")
    if not todo:
        return list(paths.values())
    checkpoint = run / card["checkpoint"]
    if file_digest(checkpoint) != card["checkpoint_digest"]:
        raise PipelineError(
            f"{shown(checkpoint)}: digest differs from the one in {shown(card_path)}; train again with "
            "OVERWRITE=1"
        )
    photos = photos_of(profile, part, images)
    findings = Findings("photos")
    check_photos(photos, findings)
    findings.show()
    backend = load_backend(model.backend)
    device = select_device(device)
    detector = backend.load(checkpoint, run / card["config"], profile.classes, device)
    ids = images["image_id"].to_numpy(np.int32)
    label = f"{model.name} fold{fold} {split_name}"
    found = predict_views(detector, photos, ids.tolist(), todo, label)
    for view in todo:
        meta = Meta(
            profile.name,
            split_name,
            dataset.digest,
            ids,
            np.full(len(ids), fold, np.int32),
            model.name,
            view.name,
            made
            | {
                "device": device,
                "seconds": round(found[view.name].seconds, 2),
                "versions": backend.versions(),
            },
        )
        _write(paths[view.name], found[view.name], meta, dataset.images)
    return list(paths.values())


def _write(path: Path, found: _Found, meta: Meta, images: pd.DataFrame) -> None:
    raw = found.boxes
    table, counts = make_predictions(
        np.concatenate([*found.ids, np.empty(0)]),
        np.concatenate([*(b.labels for b in raw), np.empty(0)]),
        np.concatenate([*(b.scores for b in raw), np.empty(0)]).clip(0, 1),
        np.concatenate([*(b.boxes_xyxy for b in raw), np.empty((0, 4))]),
        meta,
        images,
    )
    meta.made["boxes"] = counts
    write_predictions(path, table)
    dropped = f", {counts['without area']} without area dropped" if counts["without area"] else ""
    print(
        f"wrote {shown(path)}: {len(table)} boxes on {len(meta.image_ids)} photos in "
        f"{meta.made['seconds']:.1f} s{dropped}"
    )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    cli.add_fold(arguments)
    arguments.add_argument("--split", nargs="+", choices=SPLITS, default=list(SPLITS))
    arguments.add_argument(
        "--views", default="identity", help="comma-separated: identity,hflip,rot90,scale1.25,hflip+scale1.25"
    )
    options = arguments.parse_args(argv)
    views = parse_views(options.views)
    if not views:
        raise PipelineError(f"views '{options.views}': expected at least one, as in identity,hflip")
    profile = load_profile(options.competition, options.root)
    for split in options.split:
        predict_fold(profile, options.model, options.fold, split, views, options.device)


if __name__ == "__main__":
    cli.run(main)
