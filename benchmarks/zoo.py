"""Whether every model trains and predicts: `make test-zoo`, up to an hour on two cores.

Each of configs/ takes two steps from scratch at its smallest input, on photos of the demo, and predicts: its
losses are finite, every part that may learn has a gradient, its boxes lie in the photos. Its parameters are
compared with published figures (published.tsv, and the YAML files of ultralytics). A process per framework
has several models in it. What passed is kept in runs/zoo, and the same command goes on with the others; a
model that is named (MODEL=) is tried again if it has passed.
"""

import contextlib
import multiprocessing
import os
import re
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from pipeline import cli, folds
from pipeline.data import demo
from pipeline.data.models import BACKENDS, ModelConfig, Overrides, find_model, list_models, read_layers
from pipeline.data.predictions import Predictions, read_predictions
from pipeline.data.run_card import RecoveryNote
from pipeline.data.runs import Run
from pipeline.errors import PipelineError, reason
from pipeline.paths import home

SIDE = 128  # pixels of the photos
# The smallest image sizes that models take, in pixels of the longer side; all others take 64.
LEAST = {
    "dino": 208,
    "dino_swin_l": 101,
    "rtdetr_l": 128,
    "rtdetr_x": 128,
    "ssd300": 257,
    "ssd512": 257,
    "tv_ssd300_vgg16": 268,
}
CLASSES = 80  # of COCO, with which parameters are counted
ROW = "{:28} {:>12} {:>22} {:>8}  {}"
HEADER = ROW.format("model", "parameters", "published", "seconds", "verdict")


@contextlib.contextmanager
def scratch_home(folder: Path) -> Iterator[None]:
    """A home with eight train photos of the demo in two folds, without pretrained weights or downloads."""
    from pipeline.training.backend import load_backend

    with contextlib.ExitStack() as ending:
        places = {"PIPELINE_HOME": str(folder), "PIPELINE_WEIGHTS": str(folder / "none")}
        ending.enter_context(mock.patch.dict(os.environ, places))
        for name in BACKENDS:
            offline = mock.patch.object(
                type(load_backend(name)), "download", side_effect=OSError("no connection")
            )
            ending.enter_context(offline)
        is_new = demo.generate(folder / "data" / "demo", n_train=8, n_test=2, size=SIDE)
        if is_new or not (folder / "folds").is_dir():
            folds.main(["--competition", "demo", "--folds", "2"])
        yield


def two_steps(model: str, options: Sequence[str] = ()) -> Run:
    """Train a model for two steps at its smallest size, in a home of `scratch_home`.

    Raises PipelineError where a loss is not finite or a part that may learn has no gradient.
    """
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from pipeline import train

    has_gradient: dict[int, bool] = {}

    def look(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    before = has_gradient.get(id(parameter), False)
                    has_gradient[id(parameter)] = before or parameter.grad is not None

    hook = register_optimizer_step_pre_hook(look)
    try:
        sizes = ["--image-size", str(LEAST.get(model, 64)), "--batch", "2", "--epochs", "1", "--workers", "0"]
        train.main([*_run_of(model), *sizes, *(["--set", *options] if options else [])])
    finally:
        hook.remove()
    without = sum(not has for has in has_gradient.values())
    if without or len(has_gradient) < 30:
        raise PipelineError(f"{without} of {len(has_gradient)} parameters without a gradient")
    run = Run("demo", model, 0)
    if run.card().recovery != RecoveryNote():
        raise PipelineError("a loss that is not finite")
    return run


def prediction(run: Run) -> Predictions:
    """The mirrored boxes of a run's test photos; raises PipelineError for one that is not in its photo."""
    from pipeline import predict

    predict.main([*_run_of(run.model), "--split", "test", "--views", "identity,hflip"])
    table = read_predictions(run.table_path("test", "hflip"))
    boxes = table.boxes_xyxy
    if not (np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= SIDE).all()):
        raise PipelineError("boxes outside the photos")
    return table


def _run_of(model: str) -> list[str]:
    return ["--competition", "demo", "--model", model, "--fold", "0", "--device", "cpu"]


def published(model: ModelConfig) -> dict[str, str]:
    """Published parameters by number of classes, or "fused": whole, or in millions with a point."""
    table = pd.read_csv(Path(__file__).with_name("published.tsv"), sep="\t", comment="#", dtype=str)
    rows = table[table["model"] == model.name].drop(columns="model").to_dict("records")
    found = {key: value for row in rows for key, value in row.items() if isinstance(value, str)}
    if model.backend == "ultralytics":
        found |= _of_ultralytics(read_layers(model.path)[0][1]["model"])
    return found


def _of_ultralytics(name: str) -> dict[str, str]:
    """What its YAML file says of a model: behind its scale, or at the top where it has one of its own."""
    import ultralytics

    files = {
        path.name: path for path in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")
    }
    scale = re.match(r"\D+\d+([nsmlx])", name)
    text = (files.get(name) or files[re.sub(r"(\d+)[nsmlx]", r"\1", name)]).read_text(encoding="utf-8")
    line = re.search(rf"^(#|  {scale[1] if scale else '#'}:).* ([\d,]+) parameters", text, re.M)
    return {str(CLASSES): line[2].replace(",", "")} if line else {}


def count(model: ModelConfig) -> tuple[int, str]:
    """A model's parameters with 80 classes and its published figure; raises PipelineError if they differ."""
    figures = published(model)
    built = _untrained(model, CLASSES).parameters
    for key, figure in figures.items():
        if key == "fused":
            found = _fused(model)
        else:
            found = built if key == str(CLASSES) else _untrained(model, int(key)).parameters
        if not agrees(found, figure):
            raise PipelineError(f"{found:,} parameters ({key}), published: {figure}")
    shown = [_shown(figure, key) for key, figure in figures.items()]
    return built, next(iter(shown), "-")


def _shown(figure: str, key: str) -> str:
    number = f"{figure} M" if "." in figure else f"{int(figure):,}"
    return (
        number if key == str(CLASSES) else f"{number} fused" if key == "fused" else f"{number}, {key} classes"
    )


def agrees(found: int, figure: str) -> bool:
    """Whether a number of parameters is a published figure: itself, or millions to 0.1 % or as rounded."""
    if "." not in figure:
        return found == int(figure)
    rounding = 0.5 * 10.0 ** -len(figure.partition(".")[2])
    return abs(found / 1e6 - float(figure)) <= max(rounding, 1e-3 * float(figure))


def _untrained(model: ModelConfig, classes: int, **options: Any) -> Any:
    from pipeline.training.backend import load_backend

    return load_backend(model.backend).untrained(model, Overrides(options=options), classes, "cpu")


def _fused(model: ModelConfig) -> int:
    """Parameters of the network that predicts, norms fused into convolutions, by the head without NMS."""
    network = _untrained(model, CLASSES, nms=False).network.backend.model
    return sum(parameter.numel() for parameter in network.parameters())


def _try(name: str, folder: Path) -> tuple[str, bool]:
    """A model's row, and whether it passed; what it printed stands in its log if not."""
    import torch

    torch.set_num_threads(1)  # tiny inputs are quickest on one
    began, log = time.monotonic(), folder / f"{name}.log"
    parameters, figure, verdict = 0, "", "passed"
    with contextlib.ExitStack() as ending:
        file = ending.enter_context(open(log, "w", encoding="utf-8"))
        for redirected in (contextlib.redirect_stdout(file), contextlib.redirect_stderr(file)):
            ending.enter_context(redirected)
        ending.enter_context(scratch_home(folder / "home"))
        run = Run("demo", name, 0)
        shutil.rmtree(run.folder, ignore_errors=True)  # of a try that was cut off
        try:
            parameters, figure = count(find_model(name))
            prediction(two_steps(name))
        except Exception as error:
            verdict = f"failed: {reason(error)}, see {log.name}"
            traceback.print_exc()
        shutil.rmtree(run.folder, ignore_errors=True)  # gigabytes
    if verdict == "passed":
        log.unlink()
    row = ROW.format(name, f"{parameters:,}", figure, f"{time.monotonic() - began:.0f}", verdict)
    return row, verdict == "passed"


def _rows(names: list[str], folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(model, row, whether it passed) of models of one framework, tried in a process of their own."""
    while names:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            while names:
                name = names.pop(0)
                try:
                    yield name, *pool.submit(_try, name, folder).result()
                except BrokenProcessPool:
                    yield name, ROW.format(name, "", "", "", "failed: its process was killed"), False
                    break


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    models = list_models()
    cli.add_list(arguments, "--model", allowed=tuple(models))
    named = arguments.parse_args(argv).model
    folder = home() / "runs" / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    passed, failed = {path.stem: path.read_text("utf-8").strip() for path in folder.glob("*.txt")}, 0
    print(HEADER)
    for backend in BACKENDS:
        names = [name for name in named or models if models[name].backend == backend]
        for name in [] if named else sorted(passed.keys() & set(names)):
            print(passed[name])
        for name, row, good in _rows([n for n in names if named or n not in passed], folder):
            failed += not good
            if good:
                (folder / f"{name}.txt").write_text(f"{row}\n", encoding="utf-8")
            print(row, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    cli.run(main)
