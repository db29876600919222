"""Whether detectors learn: `make test-learn`, hours on two cores.

Each is trained from scratch on eight photos of the demo, without augmentation, and scored on the same photos:
mAP50 reaches 0.9, or of some the loss falls to a fifth, where network, losses, loop and boxes fit together.
Results are kept in runs/learning, and the same command goes on where it was stopped; a model that is named
(MODEL=) is trained again if it is done.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmarks.ours import NO_DOWNLOAD
from pipeline import cli, folds
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model, parse_options
from pipeline.data.profile import load_profile
from pipeline.paths import home
from pipeline.training.fit import fit
from pipeline.training.fold import Devices, plan_fold
from pipeline.training.progress import HISTORY

SIDE = 192  # pixels of photos and, where no other is said, of the network's input
MAP50 = 0.9  # at least
LOSS = 0.2  # of the first epoch's, at most


@dataclass(frozen=True)
class Plan:
    """How a model is to learn: epochs of one step of eight photos, its options, pixels of the longer side."""

    epochs: int
    options: Sequence[str] = ()
    side: int = SIDE
    loss: bool = False  # the loss decides, where a model needs hundreds of epochs for its boxes


# Of each framework: from scratch, without augmentation, at the learning rate that the config writes.
PLAIN = {
    "torchvision": (
        "weights=null backbone_weights=null train.nominal_batch=8 train.val_interval=20 augment.flip=0 "
        "augment.scale=[1,1] augment.photometric=0"
    ),
    "mmdet": (
        "load_from=null auto_scale_lr.base_batch_size=8 val_interval=20 "
        'train_pipeline=[{"type":"LoadImageFromFile"},{"type":"LoadAnnotations","with_bbox":true},'
        '{"type":"Resize","scale":[1024,1024],"keep_ratio":true},{"type":"PackDetInputs"}]'
    ),
    "ultralytics": (
        "pretrained=false nbs=8 optimizer=AdamW mosaic=0 fliplr=0 scale=0 translate=0 hsv_h=0 hsv_s=0 "
        "hsv_v=0 erasing=0 warmup_epochs=5"
    ),
}
# From scratch a network predicts only when its batch norms have forgotten their first statistics: with a
# momentum of 0.1 that takes 100 to 150 steps, with 0.03 (YOLO, YOLOX, SSDlite) 400.
PLANS = {
    "tv_ssdlite320": Plan(480, ["train.lr=0.002"]),
    "tv_faster_rcnn_mobile": Plan(120, ["train.lr=0.0005"]),
    "rtmdet_tiny": Plan(200, ["optim_wrapper.optimizer.lr=0.001"]),
    "yolox_s": Plan(480, ["optim_wrapper.optimizer.lr=0.001"]),
    "yolov5n": Plan(480, ["lr0=0.002"]),
    "yolo26n": Plan(480, ["lr0=0.002"]),
    "ssd300": Plan(160, side=300),
    "retinanet": Plan(160),
    "fcos": Plan(160),
    "faster_rcnn": Plan(160),
    "cascade_swin": Plan(160),
    "yolov3": Plan(160, ["optim_wrapper.optimizer.lr=0.001"]),
    "detr": Plan(160, loss=True),
    "sparse_rcnn": Plan(160, loss=True),
    "dino": Plan(160, side=224),
    "rtdetr_l": Plan(480, ["lr0=0.0002"]),
}


def learn(name: str, plan: Plan) -> str:
    """Train a model, or go on; returns the line that says how far it came."""
    model = find_model(name)
    options = parse_options([*PLAIN[model.backend].split(), *plan.options])
    overrides = Overrides(plan.epochs, plan.side, 8, options)
    job = plan_fold(load_profile("demo"), model, 0, overrides, Devices("cpu", workers=0)).job
    job = replace(job, held_out=job.train)
    job.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    map50 = fit(job).best_map50
    shutil.rmtree(job.work)
    losses = pd.read_csv(job.run / HISTORY)["loss"]
    first, last = losses.iloc[0], losses.iloc[-1]
    verdict = "learned" if (last <= LOSS * first if plan.loss else (map50 or 0) >= MAP50) else "NOT LEARNED"
    return (
        f"{name}: {verdict}: mAP50 {map50:.3f} on its photos, loss {first:.3g} -> {last:.3g} "
        f"({last / first:.2f}), {time.monotonic() - began:.0f} s"
    )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_list(arguments, "--model", allowed=tuple(PLANS))
    named = arguments.parse_args(argv).model
    folder = home() / "runs" / "learning"
    os.environ |= {"PIPELINE_HOME": str(folder / "home")} | NO_DOWNLOAD
    if not (folder / "home" / "folds").is_dir():
        demo.generate(folder / "home" / "data" / "demo", n_train=16, n_test=4, size=SIDE)
        folds.main(["--competition", "demo", "--folds", "2"])
    for name in named or PLANS:
        result = folder / f"{name}.txt"
        if named or not result.is_file():
            line = learn(name, PLANS[name])
            result.write_text(f"{line}\n", encoding="utf-8")
        print(result.read_text(encoding="utf-8").strip(), flush=True)


if __name__ == "__main__":
    cli.run(main)
