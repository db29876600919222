"""What MMDetection's configs wish for: honoured, or refused with the key's name; and no code from a run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import folds
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model
from pipeline.data.profile import load_profile
from pipeline.data.records import write_record
from pipeline.data.runs import Run
from pipeline.errors import PipelineError
from pipeline.paths import CONFIGS, PROJECT
from pipeline.training.backend import load_backend, load_detector
from pipeline.training.fold import Devices, plan_fold, train_fold
from pipeline.training.job import PhotoSet, TrainJob
from pipeline.training.staging import stage, staged_paths
from pipeline.training.weights import find_weights

TINY = f"_base_ = {str(CONFIGS / 'mmdet' / 'faster_rcnn_tiny.py')!r}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a tiny competition and its folds."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_HOME", str(home))
        patch.delenv("ROOT", raising=False)
        demo.generate(home / "data" / "demo", n_train=8, n_test=2, size=64)
        folds.main(["--competition", "demo", "--folds", "2"])
        yield home


@pytest.fixture
def write(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a model `own` of a config's text, in a home of its own that shares the data."""
    home = tmp_path / "home"
    home.mkdir()
    for part in ("data", "folds"):
        (home / part).symlink_to(data / part)
    monkeypatch.setenv("PIPELINE_HOME", str(home))
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("pipeline.data.models.CONFIGS", tmp_path / "configs")

    def write(text: str) -> None:
        path = tmp_path / "configs" / "mmdet" / "own.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def job_of(**overrides: Any) -> TrainJob:
    wanted = Overrides(**{"epochs": 1, "image_size": 64, "batch": 4} | overrides)
    devices = Devices("cpu", workers=0)
    return plan_fold(load_profile("demo"), find_model("own"), 0, wanted, devices).job


def runner_config(job: TrainJob) -> Any:
    from pipeline.backends import mmdet_runner

    return mmdet_runner.runner_config(job)


def trained(**overrides: Any) -> Run:
    wanted = Overrides(**{"epochs": 1, "image_size": 64, "batch": 4} | overrides)
    plan = plan_fold(load_profile("demo"), find_model("own"), 0, wanted, Devices("cpu", workers=0))
    train_fold(plan)
    return plan.run


MOSAIC = """
train_pipeline = [
    dict(type="Mosaic", img_scale=(1024, 1024), pad_val=114.0),
    dict(type="RandomAffine", scaling_ratio_range=(0.5, 1.5), border=(-512, -512)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
    dict(type="Pad", size=(1024, 1024), pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    sampler=dict(type="ClassAwareSampler"),
    dataset=dict(
        type="MultiImageMixDataset",
        pipeline=train_pipeline,
        dataset=dict(
            type="ClassBalancedDataset",
            oversample_thr=0.9,
            dataset=dict(
                type="CocoDataset",
                data_root="data/coco/",
                ann_file="annotations/instances_train2017.json",
                data_prefix=dict(img="train2017/"),
                pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)],
            ),
        ),
    ),
)
val_evaluator = dict(type="CocoMetric", metric=["bbox"], classwise=True)
"""


def test_a_configs_own_loader_and_evaluator_stay_and_it_trains(write: Any) -> None:
    """Mosaic over a class-balanced dataset with a sampler, over our files."""
    write(TINY + MOSAIC.replace("ClassAwareSampler", "DefaultSampler"))
    cfg = runner_config(job_of())
    outer = cfg.train_dataloader.dataset
    assert (outer.type, outer.dataset.type) == ("MultiImageMixDataset", "ClassBalancedDataset")
    assert outer.dataset.dataset.ann_file.endswith("work/data/train.json")
    assert "data_root" not in outer.dataset.dataset
    assert trained().is_trained
    write(TINY + MOSAIC)
    assert runner_config(job_of()).train_dataloader.sampler.type == "ClassAwareSampler"


def test_every_size_in_pixels_follows_the_image_size(write: Any) -> None:
    write(
        TINY
        + MOSAIC
        + """
model = dict(data_preprocessor=dict(batch_augments=[
    dict(type="BatchFixedSizePad", size=(1024, 1024)),
    dict(type="BatchSyncRandomResize", random_size_range=(512, 1024), size_divisor=32)]))
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
    dict(type="Pad", size=(1024, 1024), pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
extra = [
    dict(type="RandomChoiceResize", scales=[(480, 1024), (800, 1024)]),
    dict(type="RandomCrop", crop_size=(384, 600), crop_type="absolute_range"),
    dict(type="RandomCrop", crop_size=(0.3, 0.3), crop_type="relative_range"),
    dict(type="FixShapeResize", width=512, height=256),
]
train_pipeline = extra
"""
    )
    cfg = runner_config(job_of(image_size=512))
    mosaic, affine, _, resize, pad, *_ = cfg.train_dataloader.dataset.pipeline
    assert (mosaic.img_scale, affine.border) == ((512, 512), (-256, -256))
    assert (resize.scale, pad["size"]) == ((512, 512), (512, 512))
    choice, crop, relative, fixed = cfg.train_pipeline
    assert choice.scales == [(240, 512), (400, 512)]
    assert (crop.crop_size, relative.crop_size) == ((192, 300), (0.3, 0.3))
    assert (fixed.width, fixed.height) == (256, 128)
    fixed_size, synced = cfg.model.data_preprocessor.batch_augments
    assert (fixed_size["size"], synced.random_size_range) == ((512, 512), (256, 512))
    detector = load_backend("mmdet").untrained(find_model("own"), Overrides(image_size=512), 3, "cpu")
    assert detector.resized(100, 200, 1.0) == (256, 512) and detector.resized(100, 200, 0.5) == (128, 256)
    assert detector.padded(256, 512, 1.0) == (512, 512) and detector.pad_value == 114


def test_a_config_is_the_frameworks_model_our_defaults_and_what_it_states(write: Any) -> None:
    """The base is any config that the framework ships; its own data and schedule stay out."""
    write("_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'\nbatch = 2\n")
    values = load_backend("mmdet").resolve(find_model("own"), Overrides()).values
    assert (values["model"]["type"], values["image_size"], values["batch"]) == ("FCOS", 1024, 2)
    assert values["optim_wrapper"]["optimizer"]["type"] == "AdamW" and "val_dataloader" not in values
    assert values["train_pipeline"][2]["scale"] == [1024, 1024]


def test_a_part_is_replaced_at_every_level(write: Any, tmp_path: Path) -> None:
    swin = str(CONFIGS / "mmdet" / "cascade_swin.py")
    write(f"_base_ = {swin!r}\nmodel = dict(backbone=dict(_delete_=True, type='ResNet', depth=18))\n")
    values = load_backend("mmdet").resolve(find_model("own"), Overrides()).values
    assert values["model"]["backbone"] == {"type": "ResNet", "depth": 18}
    assert values["model"]["neck"]["in_channels"] == [96, 192, 384, 768]


FORMS = {
    "several": (
        "_base_ = ['mmdet::a.py', './b.py']",
        r"own\.py: _base_ \"\['mmdet::a\.py', .*expected one file",
    ),
    "module": ("_base_ = 'mmdet.configs.fcos'", r"expected one file"),
    "package": ("_base_ = 'mmcls::resnet/resnet50.py'", r"'mmcls::resnet/resnet50\.py': expected one file"),
    "missing": ("_base_ = './resnet50.py'", r"resnet50\.py: No such file"),
    "unknown": (
        "_base_ = 'mmdet::fcos/fcos_r50_caffe_fpn_gn-head_1x_coco.py'",
        r"own\.py: MMDetection .* ships no .*; is 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco\.py' meant",
    ),
    "circle": ("_base_ = './own.py'", r"own\.py: its _base_ leads back to itself"),
    "not Python": ("_base_ = './", r"own\.py: unterminated string literal"),
    "a name": ("epochs = years", r"own\.py: name 'years' is not defined"),
    "no model": ("epochs = 3", r"own\.py: expected 'model' with a type, or a _base_ that has one"),
    "a number": (
        f"{TINY}model = dict(neck=dict(num_outs=dict(a=1)))",
        r"own\.py: num_outs=.* cannot inherit",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_another_form_of_a_config_is_refused_with_a_line(form: str, write: Any) -> None:
    text, message = FORMS[form]
    write(f"{text}\n")
    with pytest.raises(PipelineError, match=message) as caught:
        load_backend("mmdet").resolve(find_model("own"), Overrides())
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


UNFROZEN = {
    "ResNeXt": ("depth=50, groups=32, frozen_stages=1", dict(frozen_stages=-1, norm_eval=False)),
    "Darknet": ("depth=53", dict(frozen_stages=-1, norm_eval=False)),
    "HRNet": ("extra=dict()", dict(norm_eval=False)),
    "EfficientNet": ("arch='b0', frozen_stages=2", dict(frozen_stages=0, norm_eval=False)),
    "SSDVGG": ("depth=16", {}),
}


@pytest.mark.parametrize("backbone", UNFROZEN)
def test_without_weights_all_of_a_backbone_learns(backbone: str, write: Any) -> None:
    """Also where freezing is the class's default, and no other key is made up for it."""
    stated, expected = UNFROZEN[backbone]
    init = "init_cfg=dict(type='Pretrained', checkpoint='https://host/none.pth')"
    write(f"{TINY}model = dict(backbone=dict(_delete_=True, type={backbone!r}, {stated}, {init}))\n")
    part = dict(runner_config(job_of()).model.backbone)
    assert part.pop("init_cfg") is None
    assert part == dict(eval(f"dict(type={backbone!r}, {stated})")) | expected


def test_a_whole_pretrained_detector_is_where_training_starts(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(TINY)
    first = trained().checkpoint
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "whole_coco.pth").write_bytes(first.read_bytes())
    write(TINY + "load_from = 'https://host/whole_coco.pth'\n")
    job = job_of()
    backend = load_backend("mmdet")
    found = find_weights(backend, "own", backend.wanted_weights(job))
    assert found == {"https://host/whole_coco.pth": str(weights / "whole_coco.pth")}
    cfg = runner_config(replace(job, weights=found))
    assert cfg.load_from == str(weights / "whole_coco.pth") and not cfg.resume


def test_photos_of_two_splits_with_one_id_stay_two_photos(write: Any) -> None:
    """As when confident test photos are trained on beside the train photos."""
    write(TINY)
    job = job_of()
    images, boxes = (
        job.train.images.assign(split="train"),
        job.train.annotations.assign(split="train"),
    )
    import pandas as pd

    both = PhotoSet(
        pd.concat([images, images.assign(split="test")], ignore_index=True),
        pd.concat([boxes, boxes.assign(split="test")], ignore_index=True),
        job.train.photos * 2,
    )
    job = replace(job, train=both)
    stage(job)
    load_backend("mmdet").stage(job)
    paths = staged_paths(job)
    assert len(set(paths)) == 2 * len(images) and all(path.is_file() for path in paths)
    content = json.loads((job.work / "data" / "train.json").read_text())
    assert len(content["annotations"]) == 2 * len(boxes)
    assert len({image["id"] for image in content["images"]}) == 2 * len(images)


NETWORK = """
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS

@MODELS.register_module(force=True)
class OwnResNet(ResNet):
    pass
"""


def test_what_a_config_imports_is_there_when_another_process_predicts(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's config names no module: the checkout's config of the same name does."""
    import pipeline.models

    own = tmp_path / "models"
    own.mkdir()
    (own / "own_network.py").write_text(NETWORK)
    monkeypatch.setattr(pipeline.models, "__path__", [*pipeline.models.__path__, str(own)])
    network = "model = dict(backbone=dict(type='pipeline.models.own_network.OwnResNet'))\n"
    write(f"{TINY}custom_imports = dict(imports=['pipeline.models.own_network'])\n{network}")
    assert trained().config()["model"]["backbone"]["type"] == "OwnResNet"
    code = (
        "import sys; from pathlib import Path\n"
        "import pipeline.models; from pipeline.data import models, runs\n"
        "from pipeline.training.backend import load_detector\n"
        "pipeline.models.__path__.append(sys.argv[1]); models.CONFIGS = Path(sys.argv[2])\n"
        "print(type(load_detector(runs.Run('demo', 'own', 0), 'cpu').model.backbone).__name__)"
    )
    command = [sys.executable, "-c", code, str(own), str(tmp_path / "configs")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["OwnResNet"], done.stderr


REFUSED = {
    "module": (
        "custom_imports = dict(imports=['os'])",
        r"custom_imports os: expected a module",
    ),
    "call": ("model = dict(backbone=dict(_delete_=True, type='os.system'))", r"type 'os\.system': no such"),
    "package": ("model = dict(backbone=dict(_delete_=True, type='pkg.Net'))", r"type 'pkg\.Net': no such"),
    "scope": ("model = dict(backbone=dict(_scope_='pkg'))", r"_scope_ 'pkg': expected mmdet or mmengine"),
    "default scope": ("default_scope = 'pkg'", r"default_scope 'pkg': expected mmdet or mmengine"),
    "suppression": (
        "model = dict(test_cfg=dict(rcnn=dict(nms=dict(type='__import__(\"os\")'))))",
        r"type '__import__",
    ),
    "dataset": (
        "train_dataloader = dict(dataset=dict(type='VOCDataset', pipeline=[]))",
        r"train_dataloader: dataset 'VOCDataset': expected CocoDataset",
    ),
    "evaluator": (
        "val_evaluator = dict(type='VOCMetric')",
        r"val_evaluator VOCMetric .*: expected CocoMetric",
    ),
    "loop": (
        "train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)",
        r"train_cfg IterBasedTrainLoop",
    ),
    "test step": (
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomFlip')]",
        r"test_pipeline: step RandomFlip: expected Resize",
    ),
    "misspelt": ("load_form = 'coco.pth'", r"'load_form' is no key of a config; is 'load_from' meant"),
    "size": ("image_size = 'large'", r"expected a whole number 'image_size' at the top"),
}


def prepare_everything() -> None:
    job = job_of()
    runner_config(job)
    load_backend("mmdet").untrained(job.model, job.overrides, 3, "cpu")


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_honoured_is_refused_by_its_name(
    case: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = REFUSED[case]
    write(f"{TINY}{text}\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    for name in ("__init__", "registry"):
        (tmp_path / "pkg" / f"{name}.py").write_text("open('imported', 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PipelineError, match=message) as caught:
        prepare_everything()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "imported").exists()


ATTACKS: dict[str, dict[str, Any]] = {
    "a call": {"type": "os.system", "command": "touch went-off"},
    "a package": {"type": "pkg.Net"},
    "a scope": {"_scope_": "pkg", "type": "ResNet"},
    "an expression": {"type": "__import__('os').system('touch went-off')"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_runs_config_runs_no_code(
    attack: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(TINY)
    run = trained()
    path = run.folder / "config.json"
    config = run.config()
    config["custom_imports"] = {"imports": ["pkg"]}
    config["model"]["backbone"] = ATTACKS[attack]
    write_record(path, config)  # with a digest that is right
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    for name in ("__init__", "registry"):
        (tmp_path / "pkg" / f"{name}.py").write_text("open('went-off', 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PipelineError, match=r"its config: (type|_scope_) '"):
        load_detector(run, "cpu")
    assert not (tmp_path / "went-off").exists()


def test_a_saved_config_builds_the_same_detector(write: Any) -> None:
    """Tuples come back as tuples, and all weights fit."""
    write(TINY)
    run = trained()
    detector: Any = load_detector(run, "cpu")
    assert detector.model.backbone.out_indices == (0, 1, 2, 3)
    weights = load_backend("mmdet").read_weights(run.checkpoint)
    loaded = detector.model.state_dict()
    assert all(torch.equal(weights[key], loaded[key]) for key in weights)


def test_weights_are_read_and_written_for_averaging(write: Any, tmp_path: Path) -> None:
    write(TINY)
    backend, checkpoint = load_backend("mmdet"), trained().checkpoint
    weights = backend.read_weights(checkpoint)
    halved = {key: value / 2 if value.is_floating_point() else value for key, value in weights.items()}
    backend.write_weights(checkpoint, halved, tmp_path / "half.pth")
    again = backend.read_weights(tmp_path / "half.pth")
    assert again.keys() == halved.keys() and all(torch.equal(again[key], halved[key]) for key in halved)
