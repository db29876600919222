"""Which jobs a command asks for, what each needs and does, and which are finished already."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.data.models import ModelConfig, Overrides, config_digest, find_model
from pipeline.data.predictions import read_predictions
from pipeline.data.profile import Profile
from pipeline.data.split import Split
from pipeline.errors import PipelineError
from pipeline.jobs.fit import Node, spread
from pipeline.jobs.job import Command, Job, Needs, check_nodes, read_needs
from pipeline.paths import run_dir, shown, table_path
from pipeline.training.backend import check_nodes_of, load_backend

LOCK_PATIENCE = 300  # seconds that a job waits for a lost one, whose process may outlive its node


@dataclass(frozen=True)
class Asked:
    """What a user asked for beyond models and folds."""

    settings: Overrides
    seed: int = 0
    splits: tuple[str, ...] = ("oof", "test")
    views: str = "identity"
    device: str | None = None
    gpus: float | None = None  # instead of the config's
    nodes: int | None = None  # to share them; None takes as few as have them
    workers: int | None = None
    train_arguments: tuple[str, ...] = ()  # as the user typed the settings
    common: tuple[str, ...] = ()  # the competition and its root, as the stages take them
    environment: tuple[tuple[str, str], ...] = ()


def plan(
    profile: Profile,
    split: Split,
    models: Sequence[str],
    folds: Sequence[int],
    asked: Asked,
    nodes: Sequence[Node],
) -> tuple[list[Job], list[str]]:
    """The jobs that are left to do, and the names of those that are finished.

    Raises PipelineError for unknown models, folds and options, before anything starts.
    """
    todo: list[tuple[ModelConfig, int, Needs]] = []
    finished: list[str] = []
    for name in dict.fromkeys(models):
        model = find_model(name)
        resolved = load_backend(model.backend).resolve(model, asked.settings)
        needs = read_needs(resolved.resources, shown(model.path))
        for fold in dict.fromkeys(folds):
            run = run_dir(profile.name, name, fold)
            if is_finished(run, config_digest(dict(resolved.values)), split.digest, asked):
                finished.append(f"{name}-fold{fold}")
            else:
                todo.append((model, fold, needs))
    fitted = fit_needs([needs for _, _, needs in todo], nodes, asked)
    jobs = []
    for (model, fold, _), needs in zip(todo, fitted, strict=True):
        placed = place(model, needs, nodes, asked)
        jobs.append(make_job(model, fold, run_dir(profile.name, model.name, fold), placed, asked))
    return jobs, finished


def is_finished(run: Path, digest: str, folds_digest: str, asked: Asked) -> bool:
    """Whether a run is trained as asked and all tables are there, made from its checkpoint."""
    path = run / "card.json"
    if not path.is_file():
        return False
    card = json.loads(path.read_text(encoding="utf-8"))
    same = (card["config_digest"], card["folds_digest"], card["seed"]) == (digest, folds_digest, asked.seed)
    tables = [table_path(run, split, view) for split in asked.splits for view in asked.views.split(",")]
    return same and all(_made_from(table, card["checkpoint_digest"]) for table in tables)


def _made_from(table: Path, checkpoint_digest: str) -> bool:
    if not table.is_file():
        return False
    try:
        return read_predictions(table).meta.made.get("checkpoint_digest") == checkpoint_digest
    except PipelineError:  # damaged: the job says so and makes it again
        return False


def fit_needs(needs: Sequence[Needs], nodes: Sequence[Node], asked: Asked) -> list[Needs]:
    """Needs as the cluster can take them: without GPUs each job gets an equal share of the cores.

    On a CPU the config's memory, which is for all its CPUs, is asked for by share.
    """
    has_gpus = any(node.gpus for node in nodes) and asked.device != "cpu"
    if has_gpus or asked.gpus or (asked.nodes or 1) > 1:
        return [replace(n, gpus=n.gpus if asked.gpus is None else asked.gpus) for n in needs]
    cores = sum(int(node.cpus) for node in nodes)
    share = max(cores // max(len(needs), 1), 1)
    return [
        replace(n, gpus=0, nodes=1, cpus=share, memory_gb=round(n.memory_gb * min(share / n.cpus, 1), 2))
        for n in needs
    ]


def place(model: ModelConfig, needs: Needs, nodes: Sequence[Node], asked: Asked) -> Needs:
    """Needs with the number of nodes that share them: as asked, as the config says, or as few as can."""
    if asked.nodes is not None:
        needs = replace(needs, nodes=asked.nodes)
    elif needs.nodes == 1 and load_backend(model.backend).several_nodes:
        needs = spread(needs, nodes)
    check_nodes(needs, model.name)
    check_nodes_of(model, needs.nodes)
    return needs


def make_job(model: ModelConfig, fold: int, run: Path, needs: Needs, asked: Asked) -> Job:
    device = asked.device or ("cuda:0" if needs.gpus else "cpu")
    # Processes that read photos: the CPUs that the job has, but for the one that trains.
    workers = asked.workers if asked.workers is not None or device == "cpu" else max(needs.cpus - 1, 1)
    target = (*asked.common, "--model", model.name, "--fold", str(fold), "--device", device)
    train = [
        "-m",
        "pipeline.train",
        *target,
        "--seed",
        str(asked.seed),
        "--wait",
        str(LOCK_PATIENCE),
        *asked.train_arguments,
    ]
    if workers is not None:
        train += ["--workers", str(workers)]
    if needs.gpus > 1:
        train += ["--gpus", f"{needs.gpus:g}"]
    if needs.nodes > 1:
        train += ["--nodes", str(needs.nodes)]
    predict = ["-m", "pipeline.predict", *target, "--split", *asked.splits, "--views", asked.views]
    commands = (Command("training", tuple(train)), Command("predicting", tuple(predict)))
    return Job(model.name, fold, run, needs, commands, dict(asked.environment))


def try_again(jobs: Sequence[Job], names: Sequence[str], variables: dict[str, Any]) -> str:
    """The make command that runs the named jobs again; those of them that are done it skips."""
    again = [job for job in jobs if job.name in names]
    models = ",".join(dict.fromkeys(job.model for job in again))
    folds = ",".join(str(fold) for fold in sorted({job.fold for job in again}))
    named = {"MODEL": models, "FOLD": folds} | variables
    return " ".join(["make train-all", *(f"{key}={shlex.quote(str(value))}" for key, value in named.items())])
