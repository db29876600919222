"""What models cost, as their runs' cards hold it, and the table of all models of a competition.

A card's "cost" holds `parameters`, `flops` (two for a multiply-add, one square photo of `input_size`)
and, once it was measured, `speed`: for each device `fps` (batch 1), `fps_best`, `best_batch`,
`precision`. What is counted and timed is said in `pipeline/backends/cost.py` and `speed.py`; reading
needs no torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.predictions import SPLITS
from pipeline.data.runs import Run, find_runs
from pipeline.errors import PipelineError
from pipeline.paths import runs_dir, shown, write_json

CARD = "card.json"
FORMATS = {
    "params M": "{:.2f}",
    "GFLOPs": "{:.1f}",
    "FPS": "{:.1f}",
    "best FPS": "{:.1f}",
    "at batch": "{:.0f}",
    "s/photo": "{:.3f}",
    "OOF mAP50": "{:.3f}",
}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{shown(path)}: not readable ({error}); restore it or train again") from None
    if not isinstance(value, dict):
        raise PipelineError(f"{shown(path)}: expected a mapping; restore it or train again")
    return value


def read_card(run: Path) -> dict[str, Any]:
    """The card of a trained run; raises PipelineError when it is damaged."""
    return _read(run / CARD)


def record_cost(run: Path, cost: Mapping[str, Any], speed: Mapping[str, Any] | None = None) -> None:
    """Put the cost into the run's card beside what is there; `speed` adds one device to the measured."""
    card = read_card(run)
    speeds = card.get("cost", {}).get("speed", {}) | (speed or {})
    card["cost"] = dict(cost) | ({"speed": speeds} if speeds else {})
    write_json(run / CARD, card)


def cost_lines(cost: Mapping[str, Any]) -> list[str]:
    """A card's "cost" in words: one line, and one more for each device; none where nothing is known."""
    if not cost:
        return []
    side = cost["input_size"]
    lines = [
        f"{cost['parameters'] / 1e6:.2f} M parameters, {cost['flops'] / 1e9:.1f} GFLOPs at {side}x{side}"
    ]
    if left_out := cost.get("not_counted"):
        lines[0] += f" without {', '.join(left_out)}, which it has no formula for"
    for device, found in cost.get("speed", {}).items():
        best = (
            f"{found['fps_best']:.1f} at batch {found['best_batch']}"
            if found["best_batch"] > 1
            else "the best"
        )
        lines.append(f"{found['fps']:.1f} FPS at batch 1, {best} ({device}, {found['precision']})")
    return lines


def model_cost(runs: list[Run]) -> dict[str, Any]:
    """The cost of a model from its trained folds' cards, which differ in the devices measured at most.

    Empty where no card holds any. Folds of other input sizes than the first one's are left out.
    """
    cards = [read_card(run.folder).get("cost", {}) for run in runs]
    cards = [cost for cost in cards if cost]
    same = [cost for cost in cards if cost["input_size"] == cards[0]["input_size"]]
    speeds = {device: found for cost in same for device, found in cost.get("speed", {}).items()}
    return cards[0] | ({"speed": speeds} if speeds else {}) if cards else {}


def _seconds_a_photo(runs: list[Run]) -> float | None:
    """Of the newest prediction table, whatever its view: all of predict but decoding."""
    paths = [
        path for run in runs for path in run.folder.glob("*/[!.]*.parquet") if path.parent.name in SPLITS
    ]
    if not paths:
        return None
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns)
    (run,) = [run for run in runs if run.folder == newest.parent.parent]
    meta = run.table(newest.parent.name, newest.stem).meta
    return meta.made["seconds"] / len(meta.image_ids) if "seconds" in meta.made else None


def _oof_map50(competition: str, model: str) -> float | None:
    """From the model's metrics.json: its views fused, or its one view."""
    path = runs_dir(competition) / model / "metrics.json"
    scores = _read(path).get("scores", {}) if path.is_file() else {}
    for view in ("fused", "identity", *scores):
        if "map50" in scores.get(view, {}):
            return float(scores[view]["map50"])
    return None


def model_table(competition: str) -> pd.DataFrame:
    """All trained models of a competition: a row for each, and one for each further device measured.

    What is not known is NaN or "". Columns: model, backend, input, params M, GFLOPs, FPS, best FPS, at
    batch, device, s/photo (newest prediction), OOF mAP50 (metrics.json).
    """
    rows = []
    runs = find_runs(competition)
    for model in dict.fromkeys(run.model for run in runs):
        mine = [run for run in runs if run.model == model]
        card, cost = read_card(mine[0].folder), model_cost(mine)
        for device, found in (cost.get("speed") or {"": {}}).items():
            rows.append(
                {
                    "model": model,
                    "backend": card.get("backend", ""),
                    "input": str(cost.get("input_size", card.get("image_size", ""))),
                    "params M": cost["parameters"] / 1e6 if cost else None,
                    "GFLOPs": cost["flops"] / 1e9 if cost else None,
                    "FPS": found.get("fps"),
                    "best FPS": found.get("fps_best"),
                    "at batch": found.get("best_batch"),
                    "device": f"{device}, {found['precision']}" if device else "",
                    "s/photo": _seconds_a_photo(mine),
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
