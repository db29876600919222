"""Training one fold of a model: begun, gone on with, or left alone where runs/.../fold<k>/ is whole.

The fold may be "full": the one model on all photos, of which nothing is held out to measure it.
"""

import contextlib
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cpus import job_cpus
from pipeline.data.costs import record_cost
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.findings import Findings
from pipeline.data.models import ModelConfig, Overrides, config_digest
from pipeline.data.photos import check_photos, photos_of
from pipeline.data.profile import Profile
from pipeline.data.run_card import JobDescription, RecipeNote, RunCard
from pipeline.data.runs import Run, all_runs, full_epochs
from pipeline.data.split import Split, check_fold, read_split
from pipeline.errors import PipelineError
from pipeline.paths import CARD, cache_dir, file_digest, shown, text_digest
from pipeline.training.backend import Resolved, check_nodes_of, load_backend, load_detector, select_device
from pipeline.training.checkpoints import begun
from pipeline.training.fit import Trained, fit
from pipeline.training.job import NO_CACHE, CachePlan, CacheWish, PhotoSet, TrainJob


@dataclass(frozen=True)
class Devices:
    """What a training may use; None is decided by what the machine has."""

    device: str | None = None  # "cpu" or "cuda:<index>"
    gpus: int = 1
    nodes: int = 1  # machines that have these GPUs
    workers: int | None = None  # processes that read photos
    cache: CacheWish = NO_CACHE

    def readers(self, device: str) -> int:
        """Reading processes for each training one: none on a CPU, whose cores are busy with the network."""
        cores = job_cpus()
        default = 0 if device == "cpu" else min(8 * self.gpus, max(cores - self.gpus, self.gpus))
        return -(-(default if self.workers is None else self.workers) // self.gpus)


@dataclass(frozen=True)
class Plan:
    """A training that was checked: its job, its description for the run's folder, and where it goes."""

    run: Run
    job: TrainJob
    description: JobDescription
    recipe: RecipeNote | None = None


def photo_set(profile: Profile, train: Dataset, split: Split, fold: int | str, held_out: bool) -> PhotoSet:
    """The photos and boxes of one fold's train part or held-out part."""
    number = fold if isinstance(fold, int) else -1  # of full, none is held out
    chosen = (split.fold == number) == held_out
    images = train.images[chosen].reset_index(drop=True)
    boxes = train.annotations[train.annotations["image_id"].isin(images["image_id"])]
    if not held_out and boxes["iscrowd"].all():  # also when there is none
        crowds = f" but {len(boxes)} crowds (iscrowd)" if len(boxes) else ""
        raise PipelineError(f"fold {fold}: its train part has no box{crowds}; nothing to learn")
    photos = photos_of(profile, "train", images, train.images["file_name"])
    return PhotoSet(images, boxes.reset_index(drop=True), photos)


def plan_fold(
    profile: Profile,
    model: ModelConfig,
    fold: int | str,
    overrides: Overrides,
    devices: Devices,
    seed: int = 0,
) -> Plan:
    """Check everything that a training needs, and write nothing."""
    train = load_dataset(profile, "train")
    split = read_split(profile.name, train)
    check_fold(split, fold)
    check_nodes_of(model, devices.nodes)
    if fold == "full" and overrides.epochs is None:
        overrides = replace(overrides, epochs=full_epochs(profile.name, model.name, len(train.images)))
    resolved = load_backend(model.backend).resolve(model, overrides)
    if resolved.masks:
        train = load_dataset(profile, "train", masks=True)
    learned = photo_set(profile, train, split, fold, held_out=False)
    held_out = photo_set(profile, train, split, fold, held_out=True)
    findings = Findings("photos")
    repaired = frozenset(check_photos([*learned.photos, *held_out.photos], findings))
    train.findings.show()
    findings.show()
    device = select_device(devices.device, devices.gpus)
    cache = cache_plan(profile, train, resolved, devices)
    side = cache.side if cache else None
    stated = resolved.values.get("recipe")
    recipe = RecipeNote(**stated) if stated else None
    run = Run(profile.name, model.name, fold)
    description = JobDescription(
        competition=profile.name,
        model=model.name,
        backend=model.backend,
        fold=fold,
        seed=seed,
        image_digest=train.digest,
        folds_digest=split.digest,
        annotations_digest=text_digest(train.annotations.to_csv(index=False)),
        epochs=resolved.epochs,
        image_size=resolved.image_size,
        batch=resolved.batch,
        photo_side=side,
        recipe=recipe.name if recipe else None,
        config_digest=config_digest(resolved.values, side),
        gpus=devices.gpus,
        findings=(train.findings.as_json(), findings.as_json()),
    )
    job = TrainJob(
        model=model,
        run=run.folder,
        classes=profile.classes,
        train=learned,
        held_out=held_out,
        repaired=repaired,
        overrides=overrides,
        device=device,
        seed=seed,
        workers=devices.readers(device),
        gpus=devices.gpus,
        nodes=devices.nodes,
        cache_plan=cache,
    )
    return Plan(run, job, description, recipe)


def cache_plan(profile: Profile, train: Dataset, resolved: Resolved, devices: Devices) -> CachePlan | None:
    """Where a training is to keep decoded photos, and how large; None where it keeps none."""
    place = devices.cache.place
    if place == "off":
        return None
    if place == "ram" and (platform.system() != "Linux" or devices.nodes > 1):
        raise PipelineError("CACHE=ram: takes one machine with Linux; take CACHE=disk")
    side = devices.cache.side(train.images, resolved.largest_input)
    return CachePlan("ram" if place == "ram" else "disk", cache_dir(profile.name), side)


def check_same_job(run: Run, description: JobDescription) -> None:
    """Raise PipelineError when the run's folder holds another training than the one asked for."""
    before = run.job() if run.is_trained or begun(run.folder / "work") else None
    key = before.first_difference(description) if before else None  # else nothing could be lost
    if key:
        raise PipelineError(
            f"{shown(run.folder)} was trained with {key} {getattr(before, key)}, now asked for "
            f"{getattr(description, key)}: OVERWRITE=1 (--overwrite) trains anew, or give the "
            "model another name"
        )


def check_same_split(run: Run, folds_digest: str) -> None:
    """Raise PipelineError when another fold of the model was trained on another split."""
    for sibling in all_runs(run.competition, run.model):
        if sibling != run and sibling.folds_digest not in (None, folds_digest):
            raise PipelineError(
                f"{shown(sibling.folder)} was trained on another split than the fold file holds now, and "
                "folds of one model belong to one split: restore that split, or OVERWRITE=1 (--overwrite) "
                "trains fold after fold anew"
            )


def set_damaged_aside(run: Run) -> None:
    """Undo a whole run whose checkpoint is not the one that its card describes."""
    if not run.is_trained or run.is_whole():
        return
    checkpoint = run.checkpoint
    (run.folder / CARD).unlink(missing_ok=True)
    print(f"{shown(checkpoint)}: damaged or gone; trained again")
    if checkpoint.is_file():
        checkpoint.replace(checkpoint.with_name(f"damaged-{checkpoint.name}"))


def train_fold(plan: Plan, overwrite: bool = False) -> None:
    """Train, go on with a training that was cut off, or leave a whole run alone.

    overwrite: train anew. The run that is there comes back if that ends before its first checkpoint.
    """
    with _in_place_of(plan.run, overwrite):
        _train(plan, overwrite)


@contextlib.contextmanager
def _in_place_of(run: Run, overwrite: bool) -> Iterator[None]:
    """Keep the run that is overwritten aside until another one is whole."""
    aside = run.folder.with_name(f".{run.folder.name}.replaced")
    _bring_back(run, aside)  # of a command that was killed
    if overwrite and run.folder.is_dir():
        if run.is_trained or not aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
            run.folder.rename(aside)
        else:
            shutil.rmtree(run.folder)
    try:
        yield
    except BaseException:
        _bring_back(run, aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _bring_back(run: Run, aside: Path) -> None:
    if not aside.is_dir() or run.is_trained or begun(run.folder / "work"):
        return
    if (log := run.folder / "train.log").is_file():
        log.replace(aside / log.name)  # it says why
    shutil.rmtree(run.folder, ignore_errors=True)
    aside.rename(run.folder)
    print(f"{shown(run.folder)}: the run that was there before is back")


def _train(plan: Plan, overwrite: bool) -> None:
    run, job = plan.run, plan.job
    if not overwrite:
        check_same_split(run, plan.description.folds_digest)
    run.check_links()
    check_same_job(run, plan.description)
    set_damaged_aside(run)
    if run.is_trained:
        shutil.rmtree(job.work, ignore_errors=True)  # left when the run was killed at its very end
        if run.card().cost is None:  # killed before it was counted
            _count_cost(run)
        print(f"{shown(run.folder)} is trained already; nothing to do")
        return
    job.work.mkdir(parents=True, exist_ok=True)
    run.write_job(plan.description)
    began = time.monotonic()
    try:
        trained = fit(job)
    except PipelineError:
        raise
    except Exception:  # whatever a framework makes of a photo that turned unreadable on the way
        check_photos([*job.train.photos, *job.held_out.photos], Findings("photos"))  # names it
        raise
    run.write_card(_card(plan, trained, time.monotonic() - began))
    shutil.rmtree(job.work)
    _count_cost(run)  # after the card: whatever fails here costs no training
    if trained.best_map50 is None:
        which = f"epoch {trained.best_epoch}, the last, on all photos: not measured, as none is held out"
    else:
        which = f"best epoch {trained.best_epoch} of {plan.description.epochs}, "
        which += f"mAP50 {trained.best_map50:.3f} on its held-out photos"
    print(f"wrote {shown(trained.checkpoint)}: {which}")


def _card(plan: Plan, trained: Trained, seconds: float) -> RunCard:
    job = plan.job
    versions: dict[str, str | None] = dict(load_backend(job.model.backend).versions())
    versions["python"] = platform.python_version()
    return RunCard(
        **dict(plan.description),
        classes=job.classes,
        checkpoint=trained.checkpoint.name,
        checkpoint_digest=file_digest(trained.checkpoint),
        config=trained.config.name,
        best_epoch=trained.best_epoch,
        framework_map50=None if trained.best_map50 is None else round(trained.best_map50, 5),
        pretrained=trained.pretrained,
        start=trained.start,
        device=job.device,
        recovery=trained.recovery,
        recipe_words=plan.recipe.words if plan.recipe else {},
        trained_photos=len(job.train.photos),
        held_out_photos=len(job.held_out.photos),
        seconds=round(seconds, 1),
        versions=versions,
    )


def _count_cost(run: Run) -> None:
    """Put parameters and FLOPs into the card; photos a second are for `make cost`."""
    from pipeline.inference.cost import complexity

    record_cost(run, complexity(load_detector(run, "cpu")))
