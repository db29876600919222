"""The list of models: configs/models.yaml, the page made from it, and what `make models` shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import list_models as stage
from pipeline.data import model_facts, model_table
from pipeline.data.model_facts import CLASSES, FACTS, read_facts, write_facts
from pipeline.data.model_table import PAGE, Speeds, all_rows, page_text, read_speeds
from pipeline.data.models import Overrides, find_model, list_models
from pipeline.data.records import write_record
from pipeline.data.run_card import DeviceSpeed
from pipeline.inference import speed
from pipeline.paths import speeds_json
from pipeline.training.backend import load_backend


def test_every_config_has_its_line() -> None:
    lacking = sorted(set(list_models()) - set(read_facts()))
    assert not lacking, f"add a line to configs/models.yaml for {', '.join(lacking)}; its head says how"


def test_the_table_is_as_it_would_be_written(tmp_path: Path) -> None:
    copy = tmp_path / "models.yaml"
    copy.write_bytes(FACTS.read_bytes())
    write_facts(read_facts(copy), copy)
    assert copy.read_text(encoding="utf-8") == FACTS.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_text(text) == text, "run `make models-measure MODEL=<name>`, or `model_table.write_page()`"


QUICK = ["faster_rcnn_tiny", "tv_ssdlite320", "yolov5n"]


@pytest.mark.parametrize("name", QUICK)
def test_the_parameters_are_those_of_the_network(name: str) -> None:
    model = find_model(name)
    detector = load_backend(model.backend).untrained(model, Overrides(), CLASSES, "cpu")
    facts = read_facts()[name]
    assert (facts.parameters, facts.size) == (detector.parameters, detector.image_size)


def test_the_list_shows_what_was_measured_and_scored_here(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(home / "weights"))
    (home / "weights").mkdir()
    (home / "weights" / "yolov5nu.pt").touch()
    (home / "weights" / "mobilenet_v3_large-8738ca79.pth").touch()
    monkeypatch.setattr(stage, "devices_here", lambda: ["GPU", "CPU"])
    slow, fast = (
        DeviceSpeed(fps=1.0, fps_best=rate, best_batch=4, precision="float32") for rate in (9.5, 95.0)
    )
    devices = {"CPU, 2 threads": {"yolov5n": slow, "tv_fcos": slow}, "GPU": {"yolov5n": fast}}
    write_record(speeds_json(), Speeds(devices=devices | {"elsewhere": {"yolov5s": fast}}))
    scored = {"split": "oof", "competition": {"value": 0.5, "low": 0.4, "high": 0.625}}
    test = {"split": "test", "competition": {"value": 0.9, "low": 0.9, "high": 0.9}}
    folder = home / "runs" / "recycle" / "yolov5n"
    write_record(folder / "metrics.json", {"scores": {"fused": test, "identity": scored}})
    rows = {row["model"]: row for row in all_rows("recycle", ["GPU", "CPU"])}
    assert sorted(rows) == sorted(list_models())
    found = rows["yolov5n"]
    assert found["photos/s here"] == "95.0" and found["OOF"] == "0.500 [0.400, 0.625]"
    assert (found["M params"], found["GFLOPs"], found["at"]) == ("2.7", "7.7", "640")
    assert [rows[name]["photos/s here"] for name in ("tv_fcos", "yolov5s")] == ["9.5", ""]
    names = ("yolov5n", "tv_ssdlite320", "yolov5s", "faster_rcnn_tiny")
    assert [rows[name]["weights here"] for name in names] == ["yes", "backbone", "no", ""]
    stage.main(["--competition", "recycle"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["model", "family", "paper"] and len(lines) == len(rows) + 2


def test_the_list_imports_no_torch_and_no_framework(home: Path) -> None:
    code = (
        "import sys, pipeline.list_models as stage; stage.main([]); "
        "print({'torch', 'mmdet', 'ultralytics', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_config_without_a_line_is_listed_and_not_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {name: facts for name, facts in read_facts().items() if name != "yolov5s"}
    for module in (model_table, stage):
        monkeypatch.setattr(module, "read_facts", lambda: lines)
    (row,) = [row for row in model_table.constant_rows() if row["model"] == "yolov5s"]
    assert {column: value for column, value in row.items() if value} == {
        "model": "yolov5s",
        "backend": "ultralytics",
    }
    assert "`yolov5s`" not in model_table.page_table() and "`yolov5n`" in model_table.page_table()
    monkeypatch.setattr(stage, "write_page", lambda: None)
    assert stage.main(["measure", "--model", "yolov5s", "--device", "cpu"]) == 1
    assert "yolov5s: not measured: configs/models.yaml: no line for yolov5s; " in capsys.readouterr().out


def test_measuring_fills_the_line_the_page_and_the_speeds(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts, page = tmp_path / "models.yaml", tmp_path / "models.md"
    bare = read_facts()
    bare["yolov5n"] = bare["yolov5n"].model_copy(update=dict.fromkeys(("size", "parameters", "gflops")))
    facts.write_bytes(FACTS.read_bytes())
    write_facts(bare, facts)
    page.write_bytes(PAGE.read_bytes())
    for module, name, path in ((model_facts, "FACTS", facts), (stage, "FACTS", facts)):
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(model_table, "PAGE", page)
    monkeypatch.setattr(speed, "ROUND_SECONDS", 0.0)
    monkeypatch.setitem(speed.LARGEST_BATCH, "cpu", 1)
    assert stage.main(["measure", "--model", "yolov5n", "--device", "cpu"]) == 0
    assert "yolov5n: 2.65 M parameters, 7.72 GFLOPs at 640, " in capsys.readouterr().out
    assert facts.read_text(encoding="utf-8") == FACTS.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    (measured,) = read_speeds().devices.values()
    assert measured["yolov5n"].fps_best > 0
