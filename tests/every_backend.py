"""A small model of each backend, for the tests that run over all of them; see the fixture `every_backend`.

As a script: `pipeline.train` with the toy backend among the others, on a disk that takes its time to sync
checkpoints.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, train
from pipeline.data import models
from pipeline.data.run_card import RecoveryNote
from pipeline.paths import CONFIGS
from pipeline.training.fit import fit_here
from pipeline.training.job import TrainJob

SCRATCH = ["--set", "weights=null"]
# Options under which nothing but the checkpoint carries over from epoch to epoch: for ultralytics, see
# ultralytics_trainer, a step for every batch. No weights are looked for on the net.
EXACT = {
    "faster_rcnn_tiny": [],
    "yolov5n": ["--set", "pretrained=false", "nbs=4", "optimizer=AdamW", "lr0=0.002"],
    "tv_ssdlite320": [*SCRATCH, "backbone_weights=null"],
    "toy": SCRATCH,
}
MODELS = tuple(EXACT)
SYNC_SECONDS = 0.3
TOY = "{epochs: 2, image_size: 64, batch: 4, augment: {scale: [0.5, 1.5], photometric: 0.5}}"


def register(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put the toy backend and its config, kept in a folder, beside the others."""
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "toy.yaml").write_text(TOY)
    for backend in models.BACKENDS:
        (folder / backend).symlink_to(CONFIGS / backend)
    patch.setattr(models, "CONFIGS", folder)
    patch.setitem(models.BACKENDS, "toy", "toy_backend:Toy")


def fit_toy(job: TrainJob, note: RecoveryNote, rank: int) -> None:
    """`fit_here` in a process of its own, which does not know the toy backend yet."""
    models.BACKENDS["toy"] = "toy_backend:Toy"
    fit_here(job, note, rank)


def main(argv: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        register(Path(folder) / "configs", patch)
        sync = os.fsync

        def slowly(file: int) -> None:
            if threading.current_thread().name.startswith("checkpoints"):
                time.sleep(SYNC_SECONDS)
            sync(file)

        patch.setattr(os, "fsync", slowly)
        cli.run(lambda: train.main(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
