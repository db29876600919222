"""Whole pretrained detectors: what of them fills a network of other classes, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from pipeline.data.models import Overrides, find_model
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.training.backend import load_backend
from pipeline.training.fold import Devices, plan_fold
from pipeline.training.job import TrainJob
from pipeline.training.pretrained import take_detector

THEIRS = ("Glass", "person", "Paper", "kite")  # two of which the demo has
# model: the names of a weight whose rows are of classes, and the row of a class among so many
ROWS: dict[str, tuple[str, Any]] = {
    "faster_rcnn_tiny": ("roi_head.bbox_head.fc_cls.weight", lambda c, n: [c]),
    "yolov5n": ("model.24.cv3.0.2.weight", lambda c, n: [c]),
    "tv_ssdlite320": (
        "head.classification_head.module_list.0.1.weight",
        lambda c, n: [anchor * (n + 1) + c + 1 for anchor in range(6)],
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_demo(tmp_path_factory.mktemp("data"), 8, 64)


@pytest.fixture
def home(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part in ("data", "folds"):
        (tmp_path / part).symlink_to(data / part)
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PIPELINE_WEIGHTS", raising=False)
    return tmp_path


def job_of(name: str, path: Path) -> TrainJob:
    model = find_model(name)
    job = plan_fold(load_profile("demo"), model, 0, Overrides(image_size=64), Devices("cpu")).job
    job.work.mkdir(parents=True, exist_ok=True)
    return replace(job, weights={"whole": str(path)})


def network(name: str, classes: int) -> Any:
    model = find_model(name)
    detector: Any = load_backend(model.backend).untrained(model, Overrides(image_size=64), classes, "cpu")
    return detector.model if hasattr(detector, "model") else detector.module


def write(name: str, path: Path, module: Any) -> None:
    """A checkpoint in the framework's own format."""
    if name == "faster_rcnn_tiny":
        meta = {"dataset_meta": {"classes": THEIRS}, "epoch": 12}
        torch.save({"meta": meta, "state_dict": module.state_dict(), "message_hub": {}}, path)
    elif name == "yolov5n":
        module.names = dict(enumerate(THEIRS))
        torch.save({"model": module.half(), "ema": None, "epoch": -1, "train_args": {}}, path)
    else:
        torch.save({"state_dict": module.state_dict(), "classes": list(THEIRS)}, path)


@pytest.mark.parametrize("name", list(ROWS))
def test_rows_of_classes_with_the_same_name_are_copied_and_others_start_anew(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "weights" / "whole.pt"
    theirs = network(name, len(THEIRS))
    write(name, path, theirs)
    job = job_of(name, path)
    backend = type(load_backend(job.model.backend))
    monkeypatch.setattr(backend, "wanted_weights", lambda *_: type("W", (), {"detector": "whole"}))
    own = network(name, len(job.classes))
    before = {key: value.clone() for key, value in own.state_dict().items()}
    capsys.readouterr()
    take_detector(job, own)
    (line,) = capsys.readouterr().out.splitlines()
    assert "weights filled; rows of Paper, Glass copied" in line
    after, given = own.state_dict(), theirs.state_dict()
    key, rows = ROWS[name]
    for position, label in enumerate(job.classes):
        here = rows(position, len(job.classes))
        if label in THEIRS:
            expected = given[key][rows(THEIRS.index(label), len(THEIRS))].float()
        else:
            expected = before[key][here]
        assert torch.equal(after[key][here], expected), label
    same = [k for k, value in given.items() if value.shape == after[k].shape]
    assert len(same) > 0.9 * len(after) - 24
    assert all(torch.equal(after[k], given[k].to(after[k].dtype)) for k in same)


def test_another_size_another_framework_and_a_damaged_file_are_a_line_each(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load_backend("mmdet")
    monkeypatch.setattr(type(backend), "wanted_weights", lambda *_: type("W", (), {"detector": "whole"}))
    name, path = "faster_rcnn_tiny", home / "weights" / "whole.pth"
    own = network(name, 6)
    job = job_of(name, path)

    def refused(match: str) -> None:
        with pytest.raises(PipelineError, match=match) as caught:
            take_detector(job, own)
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300

    wide = {
        key: value.repeat(2, *[1] * (value.ndim - 1)) for key, value in own.state_dict().items() if value.ndim
    }
    torch.save({"state_dict": wide, "meta": {}}, path)
    refused(r"whole\.pth: .*weights of an architecture of another size")
    torch.save({"state_dict": network("tv_ssdlite320", 6).state_dict()}, path)
    refused(r"whole\.pth: 0 of the model's \d+ weights are in it: it is of another architecture or framework")
    write("yolov5n", path, network("yolov5n", 4))
    refused(r"whole\.pth: not a file of plain weights")
    path.write_bytes(path.read_bytes()[:5000])
    refused(r"whole\.pth: not a whole checkpoint")
