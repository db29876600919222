"""Predicting with trained folds: one prediction table per view, beside each checkpoint."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.photos import check_photos, photos_of
from pipeline.data.predictions import Meta, make_predictions, read_predictions, write_predictions
from pipeline.data.profile import Profile
from pipeline.data.runs import Run
from pipeline.data.split import check_fold, read_split
from pipeline.errors import PipelineError
from pipeline.inference.boxes import PhotoBoxes
from pipeline.inference.detector import Detector
from pipeline.inference.memory import release_memory
from pipeline.inference.views import predict_views
from pipeline.paths import shown
from pipeline.views import View


def predict_runs(
    profile: Profile,
    runs: Sequence[Run],
    splits: Sequence[str],
    views: Sequence[View],
    load: Callable[[Run], Detector],
) -> None:
    """Write the tables of several trained folds, one after the other; see `predict_fold`.

    A run's detector is loaded once, and gone before the next one's. A run that cannot be predicted costs no
    other run: it is named at once, and PipelineError is raised when the others are done.
    """
    failed = []
    for run in runs:
        load_once = functools.cache(load)
        release_memory()  # of what was trained or predicted before
        try:
            for split_name in _of_run(run, splits):
                predict_fold(profile, run, split_name, views, load_once)
        except PipelineError as error:
            if len(runs) == 1:
                raise
            print(f"not predicted: {error}", flush=True)
            failed.append(shown(run.folder))
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(runs)} trained folds not predicted, each for the reason above: "
            f"{', '.join(failed)}"
        )


def _of_run(run: Run, splits: Sequence[str]) -> list[str]:
    """The splits that a run can predict; raises PipelineError when it is none."""
    if run.fold != "full":
        return list(splits)
    if "test" not in splits:
        raise PipelineError(f"{shown(run.folder)}: trained on all photos, none is held out; SPLIT=test")
    return ["test"]


def predict_fold(
    profile: Profile, run: Run, split_name: str, views: Sequence[View], load: Callable[[Run], Detector]
) -> list[Path]:
    """Write the tables of one fold's model on `oof` (its held-out train photos) or `test` (all test photos).

    Tables that are there already and were made by the same checkpoint are left alone; `load` gives the
    detector when there is something to do (`training.backend.load_detector`). Returns the tables' paths.
    """
    train = load_dataset(profile, "train")
    split = read_split(profile.name, train)
    check_fold(split, run.fold)
    card = run.card()
    if card.folds_digest != split.digest:
        raise PipelineError(
            f"{shown(run.folder)}: trained on another split than {shown(split.path)} holds now; restore that "
            "split, or train again with OVERWRITE=1"
        )
    dataset = train if split_name == "oof" else load_dataset(profile, "test")
    chosen = split.fold == run.fold if split_name == "oof" else np.full(len(dataset.images), True)
    images = dataset.images[chosen].reset_index(drop=True)
    made = {
        "checkpoint_digest": card.checkpoint_digest,
        "config_digest": card.config_digest,
        "folds_digest": split.digest,
    }
    paths = {view.name: run.table_path(split_name, view.name) for view in views}
    todo = [view for view in views if not up_to_date(paths[view.name], made, dataset.digest)]
    for view in views:
        if view not in todo:
            print(f"{shown(paths[view.name])} is up to date")
    if not todo:
        return list(paths.values())
    if not run.is_whole():
        raise PipelineError(
            f"{shown(run.checkpoint)}: digest differs from the one in the run's card; train again with "
            "OVERWRITE=1"
        )
    photos = photos_of(profile, dataset.split, images, dataset.images["file_name"])
    findings = Findings("photos")
    check_photos(photos, findings)
    findings.show()
    if card.classes != profile.classes:
        raise PipelineError(
            f"{shown(run.checkpoint)}: trained on classes {card.classes}, expected {profile.classes}"
        )
    detector = load(run)
    ids = images["image_id"].to_numpy(np.int32)
    label = f"{run.model} {run.folder.name} {split_name}"
    results = predict_views(detector, photos, todo, label)
    for view in todo:
        boxes = results[view.name]
        facts = {"device": detector.device, "seconds": round(boxes.seconds, 2), "versions": detector.versions}
        folds = np.full(len(ids), run.fold if isinstance(run.fold, int) else -1, np.int32)
        meta = Meta(profile.name, split_name, dataset.digest, ids, folds, run.model, view.name, made | facts)
        _write(paths[view.name], boxes, meta, dataset.images)
    return list(paths.values())


def up_to_date(path: Path, made: dict[str, Any], image_digest: str) -> bool:
    """Whether a table is there, whole, with a digest, and made from the same checkpoint and images."""
    if not path.is_file():
        return False
    try:
        table = read_predictions(path)
    except PipelineError as error:
        print(f"predicting again: {error}")
        return False
    meta = table.meta
    return (
        table.is_checked
        and meta.image_digest == image_digest
        and all(meta.made.get(key) == value for key, value in made.items())
    )


def _write(path: Path, boxes: PhotoBoxes, meta: Meta, images: pd.DataFrame) -> None:
    ids, scores = meta.image_ids[boxes.photo], boxes.scores.clip(0, 1)
    table, counts = make_predictions(ids, boxes.labels, scores, boxes.boxes_xyxy, meta, images)
    meta.made["boxes"] = counts
    write_predictions(path, table)
    dropped = f", {counts['without area']} without area dropped" if counts["without area"] else ""
    print(
        f"wrote {shown(path)}: {len(table)} boxes on {len(meta.image_ids)} photos in "
        f"{meta.made['seconds']:.1f} s{dropped}"
    )
