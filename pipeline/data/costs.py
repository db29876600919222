"""What models cost, as their runs' cards hold it.

What is counted and timed is said in `pipeline/inference/cost.py` and `speed.py`; reading needs no torch.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.data.run_card import DeviceSpeed, ModelCost
from pipeline.data.runs import Run
from pipeline.locks import locked
from pipeline.paths import CARD


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
