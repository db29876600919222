"""What models cost, as their runs' cards hold it, and the table of all models of a competition.

What is counted and timed is said in `pipeline/inference/cost.py` and `speed.py`; reading needs no torch.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pydantic import Field

from pipeline.data.predictions import SPLITS, read_predictions
from pipeline.data.records import Record, read_record
from pipeline.data.run_card import DeviceSpeed, ModelCost
from pipeline.data.runs import Run, find_runs
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import CARD, runs_dir, shown

FORMATS = {
    "params M": "{:.2f}",
    "GFLOPs": "{:.1f}",
    "FPS": "{:.1f}",
    "best FPS": "{:.1f}",
    "at batch": "{:.0f}",
    "s/photo": "{:.3f}",
    "OOF mAP50": "{:.3f}",
}


class _ViewScores(Record, extra="ignore"):
    map50: float | None = None


class _Metrics(Record, extra="ignore"):
    """What the table of models takes of a model's metrics.json."""

    scores: dict[str, _ViewScores] = Field(default={})


def record_cost(run: Run, cost: Mapping[str, Any], speed: Mapping[str, Any] | None = None) -> None:
    """Put the cost into the run's card beside what is there; `speed` adds one device to the measured."""
    measured = {device: DeviceSpeed.model_validate(values) for device, values in (speed or {}).items()}
    with locked(run.folder / CARD):
        card = run.card()
        speeds = (card.cost.speed if card.cost else {}) | measured
        whole = ModelCost.model_validate(dict(cost) | {"speed": speeds}, strict=False)
        run.write_card(card.model_copy(update={"cost": whole}))


def cost_lines(cost: ModelCost | Mapping[str, Any] | None) -> list[str]:
    """A card's cost in words: one line, and one more for each device; none where nothing is known."""
    if cost is None:
        return []
    if not isinstance(cost, ModelCost):
        cost = ModelCost.model_validate(cost, strict=False)
    side = cost.input_size
    lines = [f"{cost.parameters / 1e6:.2f} M parameters, {cost.flops / 1e9:.1f} GFLOPs at {side}x{side}"]
    if cost.not_counted:
        lines[0] += f" without {', '.join(cost.not_counted)}, which it has no formula for"
    for device, speed in cost.speed.items():
        best = f"{speed.fps_best:.1f} at batch {speed.best_batch}" if speed.best_batch > 1 else "the best"
        lines.append(f"{speed.fps:.1f} FPS at batch 1, {best} ({device}, {speed.precision})")
    return lines


def model_cost(runs: list[Run]) -> ModelCost | None:
    """The cost of a model from its trained folds' cards, which differ in the devices measured at most.

    None where no card holds any. Folds of other input sizes than the first one's are left out.
    """
    costs = [cost for run in runs if (cost := run.card().cost)]
    if not costs:
        return None
    same = [cost for cost in costs if cost.input_size == costs[0].input_size]
    speeds = {device: speed for cost in same for device, speed in cost.speed.items()}
    return costs[0].model_copy(update={"speed": speeds})


def _seconds_a_photo(runs: list[Run]) -> float | None:
    """Of the newest prediction table, whatever its view: all of predict but decoding."""
    paths = [path for run in runs for split in SPLITS for path in run.tables(split).values()]
    if not paths:
        return None
    meta = read_predictions(max(paths, key=lambda path: path.stat().st_mtime_ns)).meta
    return meta.made["seconds"] / len(meta.image_ids) if "seconds" in meta.made else None


def _oof_map50(competition: str, model: str) -> float | None:
    """From the model's metrics.json: its views fused, or its one view."""
    path = runs_dir(competition) / model / "metrics.json"
    if not path.is_file():
        return None
    scores = read_record(path, _Metrics, f"make evaluate COMP={competition} MODEL={model} again").scores
    values = [scores[view].map50 for view in ("fused", "identity", *scores) if view in scores]
    return next((value for value in values if value is not None), None)


def model_table(competition: str) -> pd.DataFrame:
    """All trained models of a competition: a row for each, and one for each further device measured.

    What is not known is NaN or "". Columns: model, backend, input, params M, GFLOPs, FPS, best FPS, at
    batch, device, s/photo (newest prediction), OOF mAP50 (metrics.json).
    """
    rows = []
    runs = find_runs(competition)
    for model in dict.fromkeys(run.model for run in runs):
        folds = [run for run in runs if run.model == model]
        card, cost = folds[0].card(), model_cost(folds)
        speeds: Mapping[str, DeviceSpeed | None] = (cost.speed if cost else {}) or {"": None}
        for device, speed in speeds.items():
            rows.append(
                {
                    "model": model,
                    "backend": card.backend,
                    "input": str(cost.input_size if cost else card.image_size),
                    "params M": cost.parameters / 1e6 if cost else None,
                    "GFLOPs": cost.flops / 1e9 if cost else None,
                    "FPS": speed.fps if speed else None,
                    "best FPS": speed.fps_best if speed else None,
                    "at batch": speed.best_batch if speed else None,
                    "device": f"{device}, {speed.precision}" if speed else "",
                    "s/photo": _seconds_a_photo(folds),
                    "OOF mAP50": _oof_map50(competition, model),
                }
            )
    if not rows:
        raise PipelineError(
            f"{shown(runs_dir(competition))}: no trained model; "
            f"make train COMP={competition} MODEL=... FOLD=0"
        )
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(FORMATS, float))
