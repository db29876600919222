"""Train one model on one fold: writes runs/<competition>/<model>/fold<k>/.

The folder ends up with the best checkpoint by the fold's own mAP50, the resolved config, train.log,
history.csv (a row an epoch) and card.json, which is written last: where it is, the run is whole. The
same command goes on where a killed training stopped, and does nothing when the run is whole.
"""

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from pipeline import cli
from pipeline.backends import check_nodes_of, load_backend
from pipeline.backends.base import (
    ModelConfig,
    PhotoSet,
    Settings,
    TrainJob,
    config_digest,
    find_model,
    parse_options,
    select_device,
)
from pipeline.backends.checkpoints import begun
from pipeline.data.costs import record_cost
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.findings import Findings
from pipeline.data.photos import check_photos, photos_of
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import folds_digest_of
from pipeline.data.split import Split, check_fold, read_split
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, run_dir, shown, text_digest, write_json

CARD, JOB = "card.json", "job.json"


def photo_set(profile: Profile, train: Dataset, split: Split, fold: int, held_out: bool) -> PhotoSet:
    """The photos and boxes of one fold's train part or held-out part."""
    chosen = (split.fold == fold) == held_out
    images = train.images[chosen].reset_index(drop=True)
    boxes = train.annotations[train.annotations["image_id"].isin(images["image_id"])]
    if not held_out and boxes.empty:
        raise PipelineError(f"fold {fold}: its train part has no box; nothing to learn")
    return PhotoSet(images, boxes.reset_index(drop=True), photos_of(profile, "train", images))


def job_description(
    model: ModelConfig,
    resolved: dict[str, Any],
    profile: Profile,
    train: Dataset,
    split: Split,
    fold: int,
    seed: int,
) -> dict[str, Any]:
    """What makes two trainings the same; compared when the same run is asked for again."""
    return {
        "competition": profile.name,
        "model": model.name,
        "backend": model.backend,
        "fold": fold,
        "seed": seed,
        "image_digest": train.digest,
        "folds_digest": split.digest,
        "annotations_digest": text_digest(train.annotations.to_csv(index=False)),
        "epochs": resolved["epochs"],
        "image_size": resolved["image_size"],
        "batch": resolved["batch"],
        "config_digest": config_digest(resolved),
    }


def check_same_job(run: Path, job: dict[str, Any]) -> None:
    """Raise PipelineError when the run's folder holds another training than the one asked for."""
    path = run / JOB
    if not ((run / CARD).is_file() or begun(run / "work")) or not path.is_file():
        return  # nothing that could be lost
    before = {"gpus": 1} | json.loads(path.read_text(encoding="utf-8"))
    for key, value in job.items():
        if key != "findings" and before.get(key) != value:
            raise PipelineError(
                f"{shown(run)} was trained with {key} {before.get(key)}, now asked for {value}: "
                "OVERWRITE=1 (--overwrite) trains anew, or give the model another name"
            )


def check_same_split(run: Path, folds_digest: str) -> None:
    """Raise PipelineError when another fold of the model was trained on another split."""
    for sibling in sorted(run.parent.glob("fold*")):
        stated = folds_digest_of(sibling)
        if sibling != run and stated not in (None, folds_digest):
            raise PipelineError(
                f"{shown(sibling)} was trained on another split than the fold file holds now, and folds of "
                "one model belong to one split: restore that split, or OVERWRITE=1 (--overwrite) trains "
                "fold after fold anew"
            )


def set_damaged_aside(run: Path) -> None:
    """Undo a whole run whose checkpoint is not the one that its card describes."""
    if not (run / CARD).is_file():
        return
    card = json.loads((run / CARD).read_text(encoding="utf-8"))
    checkpoint = run / card["checkpoint"]
    if checkpoint.is_file() and file_digest(checkpoint) == card["checkpoint_digest"]:
        return
    (run / CARD).unlink()
    print(f"{shown(checkpoint)}: damaged or gone; trained again")
    if checkpoint.is_file():
        checkpoint.replace(checkpoint.with_name(f"damaged-{checkpoint.name}"))


@contextlib.contextmanager
def only_one(run: Path, wait: float = 0) -> Iterator[None]:
    """Hold the run's lock; raises PipelineError when another process still trains it after `wait` seconds."""
    lock = run.parent / f".{run.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(lock, timeout=wait):
            yield
    except filelock.Timeout:
        raise PipelineError(f"{shown(run)}: another process is training it; wait for it or stop it") from None


def prepare(
    profile: Profile,
    model: ModelConfig,
    fold: int,
    settings: Settings,
    *,
    seed: int,
    device: str | None,
    workers: int | None,
    gpus: int = 1,
    nodes: int = 1,
) -> tuple[TrainJob, dict[str, Any]]:
    """Check everything that a training needs, and write nothing.

    Returns the job and its description, which holds what the readers refused or repaired.
    """
    train = load_dataset(profile, "train")
    split = read_split(profile.name, train)
    check_fold(split, fold)
    resolved = load_backend(model.backend).resolve(model, settings)
    learned = photo_set(profile, train, split, fold, held_out=False)
    held_out = photo_set(profile, train, split, fold, held_out=True)
    findings = Findings("photos")
    repaired = check_photos([*learned.photos, *held_out.photos], findings)
    train.findings.show()
    findings.show()
    device = select_device(device, gpus // nodes)
    if workers is None:  # on a CPU the cores are busy with the network
        workers = 0 if device == "cpu" else min(8 * gpus, max((os.cpu_count() or 2) - gpus, gpus))
    description = job_description(model, resolved, profile, train, split, fold, seed)
    description["gpus"] = gpus
    description["findings"] = [train.findings.as_json(), findings.as_json()]
    run = run_dir(profile.name, model.name, fold)
    job = TrainJob(
        model,
        run,
        profile.classes,
        learned,
        held_out,
        repaired,
        settings,
        device,
        seed,
        -(-workers // gpus),
        gpus,
        nodes,
    )
    return job, description


def train_fold(job: TrainJob, description: dict[str, Any], overwrite: bool) -> None:
    """Train, go on with a training that was cut off, or leave a whole run alone."""
    if overwrite:
        (job.run / CARD).unlink(missing_ok=True)  # first, so that half a folder is no whole run
        shutil.rmtree(job.run, ignore_errors=True)
    else:
        check_same_split(job.run, description["folds_digest"])
    check_same_job(job.run, description)
    set_damaged_aside(job.run)
    if (job.run / CARD).is_file():
        shutil.rmtree(job.work, ignore_errors=True)  # left when the run was killed at its very end
        print(f"{shown(job.run)} is trained already; nothing to do")
        return
    job.work.mkdir(parents=True, exist_ok=True)
    for leftover in job.run.glob(".*.tmp*"):  # of a process that was killed while it wrote
        leftover.unlink()
    write_json(job.run / JOB, description)
    backend = load_backend(job.model.backend)
    began = time.monotonic()
    try:
        trained = backend.train(job)
    except PipelineError:
        raise
    except Exception:  # whatever a framework makes of a photo that turned unreadable on the way
        check_photos([*job.train.photos, *job.held_out.photos], Findings("photos"))  # names it
        raise
    card = description | {
        "classes": list(job.classes),
        "checkpoint": trained.checkpoint.name,
        "checkpoint_digest": file_digest(trained.checkpoint),
        "config": trained.config.name,
        "best_epoch": trained.best_epoch,
        "framework_map50": round(trained.best_map50, 5),
        "pretrained": trained.pretrained,
        "device": job.device,
        "recovery": trained.recovery,
        "trained_photos": len(job.train.images),
        "held_out_photos": len(job.held_out.images),
        "seconds": round(time.monotonic() - began, 1),
        "versions": backend.versions() | {"python": platform.python_version()},
    }
    write_json(job.run / CARD, card)
    shutil.rmtree(job.work)
    _count_cost(job, card)  # after the card: whatever fails here costs no training
    print(
        f"wrote {shown(job.run)}/{trained.checkpoint.name}: best epoch {trained.best_epoch} of "
        f"{trained.resolved['epochs']}, mAP50 {trained.best_map50:.3f} by the framework's own counting"
    )


def _count_cost(job: TrainJob, card: dict[str, Any]) -> None:
    """Put parameters and FLOPs into the card; photos a second are for `make cost`."""
    from pipeline.backends.cost import complexity

    backend = load_backend(job.model.backend)
    files = job.run / card["checkpoint"], job.run / card["config"]
    record_cost(job.run, complexity(backend.load(*files, job.classes, "cpu")))


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    cli.add_fold(arguments)
    cli.add_settings(arguments)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--gpus", type=int, default=1, help="GPUs that train it together")
    arguments.add_argument(
        "--nodes", type=int, default=1, help="machines that have them; train-all starts the others"
    )
    arguments.add_argument("--workers", type=int, default=None, help="processes that read photos")
    arguments.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="S",
        help="seconds to wait for another process that trains it",
    )
    arguments.add_argument("--overwrite", action="store_true", help="train anew over an old run")
    options = arguments.parse_args(argv)
    for key in ("epochs", "image_size", "batch", "gpus", "nodes"):
        if (value := getattr(options, key)) is not None and value < 1:
            raise PipelineError(f"{key} {value}: expected at least 1")
    if options.gpus % options.nodes:
        raise PipelineError(f"gpus {options.gpus}: expected a multiple of nodes {options.nodes}")
    model = find_model(options.model)
    check_nodes_of(model.name, model.backend, options.nodes)
    profile = load_profile(options.competition, options.root)
    settings = Settings(options.epochs, options.image_size, options.batch, parse_options(options.set))
    job, description = prepare(
        profile,
        model,
        options.fold,
        settings,
        seed=options.seed,
        device=options.device,
        workers=options.workers,
        gpus=options.gpus,
        nodes=options.nodes,
    )
    with only_one(job.run, options.wait):
        train_fold(job, description, options.overwrite)


if __name__ == "__main__":
    cli.run(main)
