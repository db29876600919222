"""Which jobs a command asks for, what each needs and does, and which are finished already."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster import GB
from pipeline.data.dataset import load_dataset
from pipeline.data.models import ModelConfig, Overrides, config_digest, find_model
from pipeline.data.predictions import read_predictions
from pipeline.data.profile import Profile
from pipeline.data.runs import Run, full_epochs
from pipeline.data.split import Split
from pipeline.errors import PipelineError
from pipeline.jobs.job import (
    NONE,
    PREDICTING,
    TRAINING,
    Command,
    Job,
    Resources,
    check_gpus,
    read_resources,
)
from pipeline.jobs.placement import Node, spread
from pipeline.paths import shown
from pipeline.training.backend import check_nodes_of, load_backend
from pipeline.training.job import NO_CACHE, SHARED_GPU, CacheWish

LOCK_PATIENCE = 300  # seconds that a job waits for a lost one, whose process may outlive its node
PROCESS = "PIPELINE_PROCESS"  # environment in which `training.processes` finds what each process reserves


@dataclass(frozen=True)
class JobOptions:
    """What a user asks for beyond models and folds."""

    overrides: Overrides
    seed: int = 0
    splits: tuple[str, ...] = ("oof", "test")
    views: str = "identity"
    device: str | None = None
    gpus: float | None = None  # instead of the config's
    share: bool = False  # whether as many jobs share a GPU as it has use for, see `sharing`
    nodes: int | None = None  # that may have them together; None takes as few as have them
    workers: int | None = None
    cache: CacheWish = NO_CACHE
    train_arguments: tuple[str, ...] = ()  # the overrides as the user typed them
    common_arguments: tuple[str, ...] = ()  # the competition and its root, as the stages take them


def plan(
    profile: Profile,
    split: Split,
    models: Sequence[str],
    folds: Sequence[int | str],
    options: JobOptions,
    nodes: Sequence[Node],
) -> tuple[list[Job], list[Job]]:
    """The jobs that are left to do, and those that are finished.

    Raises PipelineError for unknown models, folds and options, before anything starts.
    """
    todo: list[tuple[ModelConfig, int | str, Resources]] = []
    finished: list[Job] = []
    images = load_dataset(profile, "train").images
    for name in dict.fromkeys(models):
        model = find_model(name)
        resolved = load_backend(model.backend).resolve(model, options.overrides)
        if resolved.masks:
            load_dataset(profile, "train", masks=True)  # refuses too few outlines once, not in every job
        resources = read_resources(resolved.resources, shown(model.path))
        side = options.cache.side(images, resolved.largest_input)
        for fold in dict.fromkeys(folds):
            if fold == "full" and options.overrides.epochs is None:
                if any(other is model for other, *_ in todo):
                    raise PipelineError(
                        f"FOLD=full: how long {name} trains on all photos is told by its trained folds: run "
                        "FOLD=folds first, or give EPOCHS="
                    )
                length = replace(options.overrides, epochs=full_epochs(profile.name, name, len(images)))
                resolved = load_backend(model.backend).resolve(model, length)
            digests = config_digest(resolved.values, side), split.digest
            run = Run(profile.name, name, fold)
            if is_finished(run, digests, options):
                finished.append(make_job(model, fold, run.folder, resources, options))
            else:
                todo.append((model, fold, resources))
    fitted = fit_resources([resources for _, _, resources in todo], nodes, options)
    jobs = []
    for (model, fold, _), resources in zip(todo, fitted, strict=True):
        placed = choose_nodes(model, resources, nodes, options)
        jobs.append(make_job(model, fold, Run(profile.name, model.name, fold).folder, placed, options))
    return jobs, finished


def is_finished(run: Run, digests: tuple[str, str], options: JobOptions) -> bool:
    """Whether a run is trained as asked and all tables are there, made from its checkpoint.

    digests: of the resolved config and of the split.
    """
    if not run.is_trained:
        return False
    card = run.card()
    if (card.config_digest, card.folds_digest, card.seed) != (*digests, options.seed):
        return False
    splits = [split for split in options.splits if (run.fold, split) != ("full", "oof")]
    tables = [run.table_path(split, view) for split in splits for view in options.views.split(",")]
    return all(_made_from(table, card.checkpoint_digest) for table in tables)


def _made_from(table: Path, checkpoint_digest: str) -> bool:
    if not table.is_file():
        return False
    try:
        predictions = read_predictions(table)
    except PipelineError:  # damaged: the job says so and makes it again
        return False
    made_from = predictions.meta.made.get("checkpoint_digest")
    return predictions.is_checked and made_from == checkpoint_digest  # else `predict` writes it anew


def fit_resources(
    resources: Sequence[Resources], nodes: Sequence[Node], options: JobOptions
) -> list[Resources]:
    """Resources as the cluster can give them: without GPUs each job gets an equal share of the cores.

    On a CPU the config's memory, which is for all its CPUs, is asked for by share.
    """
    has_gpus = any(node.gpus for node in nodes) and options.device != "cpu"
    if has_gpus or options.gpus or (options.nodes or 1) > 1:
        return [replace(r, gpus=r.gpus if options.gpus is None else options.gpus) for r in resources]
    cores = sum(int(node.cpus) for node in nodes)
    share = max(cores // max(len(resources), 1), 1)
    return [
        replace(r, gpus=0, nodes=1, cpus=share, memory_gb=round(r.memory_gb * min(share / r.cpus, 1), 2))
        for r in resources
    ]


def choose_nodes(
    model: ModelConfig, resources: Resources, nodes: Sequence[Node], options: JobOptions
) -> Resources:
    """Resources with the number of nodes that may have them: as asked, as in the config, or as few as can."""
    if options.nodes is not None:
        resources = replace(resources, nodes=options.nodes)
    elif resources.nodes == 1 and load_backend(model.backend).several_nodes:
        resources = spread(resources, nodes)
    check_gpus(resources, model.name)
    check_nodes_of(model, resources.nodes)
    return resources


def make_job(
    model: ModelConfig, fold: int | str, run: Path, resources: Resources, options: JobOptions
) -> Job:
    """The stages as a user would type them: one process trains and predicts.

    But a training in several processes is started by a command that holds nothing: they reserve what they
    need, and would wait for ever for what it held. Then predicting is a command of its own, with one GPU.
    """
    device = options.device or ("cuda:0" if resources.gpus else "cpu")
    each, count = resources.each, resources.processes
    # Processes that read photos: the CPUs that each process has, but for the one that trains.
    workers = options.workers
    if workers is None and device != "cpu":
        workers = max(each.cpus - 1, 1) * count
    target = (*options.common_arguments, "--model", model.name, "--fold", str(fold), "--device", device)
    train = ["-m", "pipeline.train", *target]
    train += ["--seed", str(options.seed), "--wait", str(LOCK_PATIENCE), *options.train_arguments]
    if workers is not None:
        train += ["--workers", str(workers)]
    if count > 1:
        train += ["--gpus", str(count)]
    if resources.nodes > 1:
        train += ["--nodes", str(resources.nodes)]
    predict = ("--split", *options.splits, "--views", options.views)
    if count == 1:
        environment = {SHARED_GPU: "1"} if options.share else {}
        return Job(model.name, fold, run, resources, (Command(TRAINING, (*train, *predict)),), environment)
    training = Command(TRAINING, tuple(train), NONE)
    predicting = Command(PREDICTING, ("-m", "pipeline.predict", *target, *predict), each)
    reserved = {"CPU": each.cpus, "GPU": each.gpus, "memory": int(each.memory_gb * GB)}
    environment = {PROCESS: json.dumps({key: value for key, value in reserved.items() if value})}
    return Job(model.name, fold, run, resources, (training, predicting), environment)


def try_again(jobs: Sequence[Job], names: Sequence[str], variables: dict[str, Any]) -> str:
    """The make command that runs the named jobs again; those of them that are done it skips."""
    again = [job for job in jobs if job.name in names]
    models = ",".join(dict.fromkeys(job.model for job in again))
    folds = ",".join(sorted({str(job.fold) for job in again}, key=lambda fold: (len(fold), fold)))
    named = {"MODEL": models, "FOLD": folds} | variables
    return " ".join(["make train-all", *(f"{key}={shlex.quote(str(value))}" for key, value in named.items())])
