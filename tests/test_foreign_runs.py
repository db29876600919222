"""Runs and weights of somebody else: nothing in them runs code or leads out of their folder."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from every_backend import EXACT

from pipeline import cli, folds, predict
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model, parse_options
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.paths import file_digest, write_json
from pipeline.training.backend import load_backend
from pipeline.training.fold import Devices, Plan, plan_fold, train_fold

MODELS = ("faster_rcnn_tiny", "yolov5n", "tv_ssdlite320")
MARKER = "went-off"


class Call:
    """Pickled as a call that makes the marker."""

    def __init__(self, by: str = "system") -> None:
        self.by = by

    def __reduce__(self) -> tuple[Any, ...]:
        if self.by == "eval":
            return eval, (f"open({MARKER!r}, 'w')",)
        return os.system, (f"touch {MARKER}",)


def write_zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"archive/{name}", content)


def write_tar(path: Path) -> None:
    """torch's format before 0.4."""
    with tarfile.open(path, "w") as file:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(Call())
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def held() -> dict[str, Any]:
    """A checkpoint as our own, but for its weights."""
    record = {"epoch": 1, "best": 0.5, "map50": 0.5}
    return {"session": record, "state_dict": {"weight": Call()}, "model": Call(), "ema": Call()}


FILES: dict[str, Callable[[Path], Any]] = {
    "zip": lambda path: torch.save(held(), path),
    "zip that evaluates": lambda path: torch.save({"model": Call("eval")}, path),
    "legacy": lambda path: torch.save(held(), path, _use_new_zipfile_serialization=False),
    "tar": write_tar,
    "TorchScript": lambda path: write_zip(
        path, **{"constants.pkl": pickle.dumps(()), "data.pkl": pickle.dumps(Call()), "version": b"3"}
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Call())),
    "numpy": lambda path: path.write_bytes(numpy_pickle()),
    "import": lambda path: path.write_bytes(b"cpkg\nNet\n."),
    "YAML": lambda path: path.write_bytes(b"!!python/object/apply:os.system ['touch went-off']"),
    "plain tensors of nothing": lambda path: torch.save({"weight": torch.zeros(1)}, path),
}


def numpy_pickle() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Call()], object), allow_pickle=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a tiny competition and its folds, and nothing trained."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_HOME", str(home))
        patch.setenv("PIPELINE_WEIGHTS", str(home / "weights"))
        patch.delenv("ROOT", raising=False)
        demo.generate(home / "data" / "demo", n_train=8, n_test=2, size=64)
        folds.main(["--competition", "demo", "--folds", "2"])
        yield home


@pytest.fixture(scope="module", params=MODELS)
def planned(data: Path, request: pytest.FixtureRequest) -> tuple[Plan, dict[str, Any]]:
    """A small training that was checked and not begun, and the config that it would save."""
    options = parse_options(EXACT[request.param][1:])
    overrides = Overrides(epochs=2, image_size=64, batch=4, options=options)
    made = plan_fold(load_profile("demo"), find_model(request.param), 0, overrides, Devices("cpu", workers=0))
    return made, load_backend(made.job.model.backend).saved_config(made.job)


@pytest.fixture
def plan(planned: tuple[Plan, dict[str, Any]]) -> Iterator[Plan]:
    """The training, with an empty folder for its run."""
    folder = planned[0].run.folder
    folder.mkdir(parents=True)
    write_json(folder / "config.json", planned[1])
    yield planned[0]
    shutil.rmtree(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a package that a pickle or a config might import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pkg").mkdir()
    for name in ("__init__", "registry"):
        (tmp_path / "pkg" / f"{name}.py").write_text(f"open({MARKER!r}, 'w')\nclass Net: pass\n")
    return tmp_path


def refused(call: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a stage ends, status 1, when it does this; nothing has run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(call)
    line = capsys.readouterr().err.rstrip("\n")
    assert ended.value.code == 1 and line.startswith("error: ")
    assert line.isprintable() and len(line) <= 307, line
    assert not Path(MARKER).exists()
    return line


def as_trained(plan: Plan, write: Callable[[Path], Any]) -> Run:
    """The plan's run as somebody hands it over: a whole card, our config, and his checkpoint."""
    backend = load_backend(plan.job.model.backend)
    checkpoint = plan.run.folder / f"best{backend.suffix}"
    write(checkpoint)
    described = dict(plan.description) | {"classes": plan.job.classes, "checkpoint": checkpoint.name}
    tiny.write_card(plan.run, **described, checkpoint_digest=file_digest(checkpoint))
    return plan.run


def predicting(run: Run) -> Callable[[], None]:
    arguments = ["--competition", "demo", "--model", run.model, "--split", "oof", "--device", "cpu"]
    return lambda: predict.main(arguments)


@pytest.mark.parametrize("kind", FILES)
def test_no_checkpoint_runs_code_when_it_predicts(
    kind: str, plan: Plan, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_trained(plan, FILES[kind])
    assert f"{run.model}/fold0" in refused(predicting(run), capsys)


@pytest.mark.parametrize("kind", FILES)
def test_no_checkpoint_runs_code_when_a_training_goes_on(
    kind: str, plan: Plan, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = load_backend(plan.job.model.backend).suffix
    made = here / "made"
    FILES[kind](made)
    last = plan.job.work / "checkpoints" / f"last-00001-{file_digest(made)}{suffix}"
    last.parent.mkdir(parents=True)
    made.replace(last)
    assert "checkpoint" in refused(lambda: train_fold(plan), capsys)


WANTED: dict[str, dict[str, Any]] = {
    "faster_rcnn_tiny": {
        "model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "evil.pth", "_delete_": True}
    },
    "yolov5n": {"pretrained": "evil.pt"},
    "tv_ssdlite320": {"weights": "evil.pth"},
}


@pytest.mark.parametrize("kind", [kind for kind in FILES if not kind.startswith("plain")])
def test_no_pretrained_weights_run_code(
    kind: str, plan: Plan, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = WANTED[plan.run.model]
    suffix = load_backend(plan.job.model.backend).suffix
    weights = Path(os.environ["PIPELINE_WEIGHTS"], f"evil{suffix}")
    weights.parent.mkdir(exist_ok=True)
    FILES[kind](weights)
    overrides = replace(plan.job.overrides, options=dict(plan.job.overrides.options) | wanted)
    job = replace(plan.job, overrides=overrides)
    assert "weights/evil.pt" in refused(lambda: train_fold(replace(plan, job=job)), capsys)


CONFIGS: dict[str, Callable[[Path], Any]] = {
    "YAML tag": lambda path: path.write_text("!!python/object/apply:os.system ['touch went-off']"),
    "statements": lambda path: path.write_text(f"open({MARKER!r}, 'w')\n"),
    "a base elsewhere": lambda path: write_json(path, {"_base_": "../../../elsewhere.py"}),
    "custom imports": lambda path: write_json(path, {"custom_imports": {"imports": ["pkg"]}}),
}


@pytest.mark.parametrize("name", ["config.json", "config.py", "config.yaml"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_no_config_of_a_run_runs_code(
    kind: str, name: str, plan: Plan, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_trained(plan, lambda path: torch.save({"weight": torch.zeros(1)}, path))
    run.write_card(run.card().model_copy(update={"config": name}))
    CONFIGS[kind](run.folder / name)
    refused(predicting(run), capsys)


def test_a_card_names_no_file_of_another_folder(
    plan: Plan, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_trained(plan, FILES["plain tensors of nothing"])
    for key in ("config", "checkpoint"):
        for name in ("../../elsewhere.json", str(here / "elsewhere.py"), ".."):
            run.write_card(run.card())
            values = json.loads((run.folder / "card.json").read_text())
            values.pop("record_digest", None)
            (run.folder / "card.json").write_text(json.dumps(values | {key: name}))
            assert f"{key}: expected a name, not a path" in refused(predicting(run), capsys)
            as_trained(plan, FILES["plain tensors of nothing"])


@pytest.mark.parametrize("tag", ["object/apply:os.system ['touch went-off']", "name:os.system"])
def test_a_tag_in_an_option_is_refused(tag: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "option 'lr=!!python" in refused(lambda: parse_options([f"lr=!!python/{tag}"]), capsys)


LINKS = ("card.json", "best", "config.json", "job.json", "oof", "oof/identity.parquet", "work", "train.log")


@pytest.mark.parametrize("name", LINKS)
def test_no_link_leads_out_of_a_run(
    name: str, plan: Plan, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_trained(plan, FILES["plain tensors of nothing"])
    run.write_job(plan.description)
    name = run.card().checkpoint if name == "best" else name
    path, outside = run.folder / name, here / "outside"
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.replace(outside)
    elif "." in name:
        outside.write_text("theirs")
    else:
        outside.mkdir()
    path.symlink_to(outside)
    uses: dict[str, Callable[[], Any]] = {
        "job.json": lambda: train_fold(plan),
        "work": lambda: train_fold(plan),
        "train.log": lambda: train_fold(plan),
        "oof": lambda: run.tables("oof"),
        "oof/identity.parquet": lambda: run.table("oof", "identity"),
    }
    line = refused(uses.get(name, predicting(run)), capsys)
    assert "leads out of the run's folder" in line and f"fold0/{name}" in line


def test_a_runs_folder_itself_may_lie_elsewhere(plan: Plan, here: Path) -> None:
    """As when runs/ is a link to a larger disk; and links inside a run stay good."""
    run = as_trained(plan, FILES["plain tensors of nothing"])
    moved = run.folder.rename(here / "elsewhere")
    run.folder.symlink_to(moved)
    (moved / "config.json").replace(moved / "real.json")
    (moved / "config.json").symlink_to("real.json")
    assert run.config() and run.is_whole()
    run.folder.unlink()
    moved.rename(run.folder)
