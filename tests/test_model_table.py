"""What cards hold of a model's cost, and the stage that measures one."""

from pathlib import Path

import pytest
import tiny

from pipeline import cost as stage
from pipeline.data import costs
from pipeline.data.run_card import DeviceSpeed, ModelCost
from pipeline.data.runs import Run
from pipeline.errors import PipelineError
from pipeline.inference import speed

CPU = {"fps": 9.5, "fps_best": 12.25, "best_batch": 4, "precision": "float32"}
GPU = {"fps": 95.0, "fps_best": 400.0, "best_batch": 64, "precision": "float16"}
COST = {"parameters": 2_500_000, "flops": 7_700_000_000, "input_size": 640}


def write_run(model: str, fold: int, **card: object) -> Path:
    return tiny.write_card(Run("recycle", model, fold), backend="ultralytics", **card)


def with_speed(**speed: dict[str, object]) -> ModelCost:
    speeds = {device: DeviceSpeed(**measured) for device, measured in speed.items()}
    return ModelCost(**COST, speed=speeds)


def test_a_card_keeps_what_it_held_and_every_device(home: Path) -> None:
    run = Run("recycle", "a", 0)
    folder = write_run("a", 0, seed=7)
    before = run.card()
    costs.record_cost(run, COST)
    costs.record_cost(run, COST, {"laptop": GPU})
    costs.record_cost(run, COST, {"server": GPU})
    costs.record_cost(run, COST, {"laptop": CPU})
    assert run.card() == before.model_copy(update={"cost": with_speed(laptop=CPU, server=GPU)})
    assert [path.name for path in folder.iterdir()] == ["card.json"]
    assert costs.cost_lines(run.card().cost) == [
        "2.50 M parameters, 7.7 GFLOPs at 640x640",
        "9.5 FPS at batch 1, 12.2 at batch 4 (laptop, float32)",
        "95.0 FPS at batch 1, 400.0 at batch 64 (server, float16)",
    ]


def test_a_damaged_card_is_named(home: Path) -> None:
    run = write_run("yolov5n", 0)
    (run / "card.json").write_text('{"model"')
    with pytest.raises(PipelineError, match=r"yolov5n/fold0/card\.json: not JSON: .*; restore it, or tr"):
        stage.main(["--competition", "recycle", "--model", "yolov5n", "--device", "cpu"])


def test_a_model_that_is_not_trained_is_measured_and_not_written(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "ROUND_SECONDS", 0.0)
    monkeypatch.setitem(speed.LARGEST_BATCH, "cpu", 2)
    for model in ("faster_rcnn_tiny", "yolov5n"):
        stage.main(["--competition", "recycle", "--model", model, "--device", "cpu", "--image-size", "64"])
        name, size, rates, note = capsys.readouterr().out.splitlines()
        assert name == f"{model} fold0:"
        assert "M parameters" in size and size.endswith("GFLOPs at 64x64")
        assert "FPS at batch 1" in rates and "float32" in rates
        assert note.strip() == "fold0 is not trained: random weights, timed on noise, nothing written"
    assert not (home / "runs").exists()
