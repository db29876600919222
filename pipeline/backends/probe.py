"""Whether torch, mmdet, ultralytics and cv2 work here: `python -m pipeline.backends.probe NAME`.

`make doctor` runs each probe in a process of its own, because a broken installation may crash, and
because the frameworks print and change the environment when they are imported. The last line of
the output is json: `{"ok": true, ...}`, or `{"ok": false, "detail": "why"}`.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any


def torch_facts() -> dict[str, Any]:
    """What torch says of itself and of the GPUs it sees; `error` is why it sees none, or ""."""
    import torch

    facts: dict[str, Any] = {"detail": torch.__version__, "cuda": torch.version.cuda, "gpus": []}
    facts["nvidia_smi"] = ask_nvidia_smi()
    # torch.cuda.get_arch_list() is empty where no GPU works, which is when the list is wanted
    flags = torch._C._cuda_getArchFlags() if hasattr(torch._C, "_cuda_getArchFlags") else None
    facts["arch_list"], facts["error"] = (flags or "").split(), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say in many lines what `doctor` says in one
        try:
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                properties = torch.cuda.get_device_properties(index)
                facts["gpus"].append(
                    {
                        "name": properties.name,
                        "capability": [properties.major, properties.minor],
                        "memory": properties.total_memory,
                    }
                )
            if torch.version.cuda and not facts["gpus"]:
                torch.cuda.init()  # raises, with the driver's reason
        except (RuntimeError, AssertionError) as error:
            facts["error"] = str(error).strip().splitlines()[0]
    return facts


def ask_nvidia_smi() -> list[dict[str, Any]] | str | None:
    """Each GPU's name, driver and capability; why it failed; None where there is no nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return None
    said = ""
    # Drivers before 510 do not know compute_cap and refuse the whole question.
    for fields in ("name,driver_version,compute_cap", "name,driver_version"):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if answer.returncode == 0:
            return parse_nvidia_smi(answer.stdout)
        said = (answer.stdout + answer.stderr).strip().partition("\n")[0]
    return said or f"status {answer.returncode}"


def parse_nvidia_smi(text: str) -> list[dict[str, Any]]:
    gpus = []
    for line in text.strip().splitlines():
        name, driver, *rest = (part.strip() for part in line.split(","))
        match = re.fullmatch(r"(\d+)\.(\d+)", rest[0]) if rest else None
        capability = [int(match[1]), int(match[2])] if match else None
        gpus.append({"name": name, "driver": driver, "capability": capability})
    return gpus


def tiny_faster_rcnn(classes: int = 3) -> Any:
    """Faster R-CNN (ResNet-18, FPN) with an eighth of the channels and random weights.

    mmdet must not have been imported before, see `mmcv_ext.install`.
    """
    from pipeline.backends import mmcv_ext

    mmcv_ext.install()
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config

    register_all_modules()
    config = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py").model
    config.backbone.update(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None)
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    config.roi_head.bbox_roi_extractor.out_channels = 16
    config.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=classes)
    config.test_cfg.rcnn.score_thr = 0.0
    return MODELS.build(config)


def mmdet_works() -> dict[str, Any]:
    import torch

    model = tiny_faster_rcnn().eval()
    import mmdet
    from mmdet.structures import DetDataSample

    from pipeline.backends import mmcv_ext

    size = (64, 64)
    sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1, 1)})
    image = torch.zeros(3, *size, dtype=torch.uint8)
    with torch.no_grad():
        model.test_step({"inputs": [image], "data_samples": [sample]})
    kernels = {"compiled": "mmcv's own, compiled", "torchvision": "torchvision's"}
    version = f"mmdet {mmdet.__version__}, kernels: {kernels[mmcv_ext.install()]}"
    return {"detail": f"{version}; Faster R-CNN runs on the CPU"}


def ultralytics_works() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        # ultralytics reads these on import: no downloads, no pip, no settings in the user's home
        os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        os.environ["YOLO_CONFIG_DIR"] = folder
        import torch
        import ultralytics

        model: Any = ultralytics.YOLO("yolov5n.yaml", verbose=False).model
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, 64, 64))
        return {"detail": f"ultralytics {ultralytics.__version__}; YOLOv5n runs on the CPU"}


def cv2_works() -> dict[str, Any]:
    try:
        import cv2

        cv2.resize  # noqa: B018  an emptied folder still imports, as a namespace
    except (ImportError, AttributeError) as error:
        for name in ("opencv-python-headless", "opencv-python", "opencv-contrib-python"):
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            raise ImportError(
                f"{error}. OpenCV's wheels overwrite each other, and only the headless one needs "
                "no libGL: pip install --force-reinstall --no-deps "
                f"opencv-python-headless=={version}"
            ) from None
        raise
    return {"detail": f"OpenCV {cv2.__version__}"}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch_facts,
    "mmdet": mmdet_works,
    "ultralytics": ultralytics_works,
    "cv2": cv2_works,
}


def main(argv: list[str] | None = None) -> None:
    (name,) = sys.argv[1:] if argv is None else argv
    try:
        facts = {"ok": True, **PROBES[name]()}
    except ModuleNotFoundError as error:
        facts = {"ok": False, "detail": f"{error.name or error} is not installed: make setup"}
    except Exception as error:  # whatever is wrong with an installation is an answer here
        facts = {"ok": False, "detail": " ".join(f"{type(error).__name__}: {error}".split())}
    print("\n" + json.dumps(facts))


if __name__ == "__main__":
    main()
