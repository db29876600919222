"""What cards hold of a model's cost, the table of all models, and the stage that measures one."""

from pathlib import Path

import pytest
import tiny

from pipeline import cost as stage
from pipeline.data import costs
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.records import write_record
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


def test_the_table_of_models(home: Path, recycle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = load_dataset(load_profile("recycle"), "train")
    run = write_run("a", 0, cost=with_speed(laptop=CPU))
    write_run("a", 1, cost=with_speed(server=GPU))
    write_run("b", 0, image_size=1024)  # trained before costs were recorded
    table = tiny.table(train, tiny.guesses(train.images, 0), seconds=6.0)
    write_predictions(run / "oof" / "identity.parquet", table)
    scores = {"identity": {"map50": 0.4}, "fused": {"map50": 0.5}}
    write_record(home / "runs" / "recycle" / "a" / "metrics.json", {"scores": scores})
    found = costs.model_table("recycle")
    assert found["model"].tolist() == ["a", "a", "b"]
    assert found["device"].tolist() == ["laptop, float32", "server, float16", ""]
    assert found["FPS"].tolist()[:2] == [9.5, 95.0]
    assert found["GFLOPs"].tolist()[:2] == [7.7, 7.7]
    assert found["s/photo"].tolist()[:2] == [6.0 / 12] * 2
    assert found["OOF mAP50"].tolist()[:2] == [0.5, 0.5]
    assert found["input"].tolist() == ["640", "640", "1024"]
    assert found.iloc[2][["params M", "GFLOPs", "FPS", "s/photo", "OOF mAP50"]].isna().all()
    stage.main(["--competition", "recycle"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["model", "backend", "input"]
    assert len(lines) == 3 and "nan" not in "".join(lines).lower()


def test_a_damaged_card_is_named(home: Path) -> None:
    run = write_run("yolov5n", 0)
    (run / "card.json").write_text('{"model"')
    for arguments in ([], ["--model", "yolov5n", "--device", "cpu"]):
        with pytest.raises(PipelineError, match=r"yolov5n/fold0/card\.json: not JSON: .*; restore it, or tr"):
            stage.main(["--competition", "recycle", *arguments])


def test_no_trained_model_is_one_clear_line(home: Path) -> None:
    with pytest.raises(PipelineError, match=r"no trained model; make train COMP=recycle MODEL=\.\.\. FOLD=0"):
        stage.main(["--competition", "recycle"])


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
