"""Whether torch, cv2 and the backends work here: `python -m pipeline.training.probe NAME`.

`make doctor` runs each probe in a process of its own, because a broken installation may crash, and
because the frameworks print and change the environment when they are imported. The last line of
the output is json: `{"ok": true, ...}`, or `{"ok": false, "detail": "why"}`.
"""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.errors import PipelineError

SMALLEST = {"mmdet": "faster_rcnn_tiny", "ultralytics": "yolov5n"}  # backend -> its quickest config


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
    reason = ""
    # Drivers before 510 do not know compute_cap and refuse the whole question.
    for fields in ("name,driver_version,compute_cap", "name,driver_version"):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if answer.returncode == 0:
            return parse_nvidia_smi(answer.stdout)
        reason = (answer.stdout + answer.stderr).strip().partition("\n")[0]
    return reason or f"status {answer.returncode}"


def parse_nvidia_smi(text: str) -> list[dict[str, Any]]:
    gpus = []
    for line in text.strip().splitlines():
        name, driver, *rest = (part.strip() for part in line.split(","))
        match = re.fullmatch(r"(\d+)\.(\d+)", rest[0]) if rest else None
        capability = [int(match[1]), int(match[2])] if match else None
        gpus.append({"name": name, "driver": driver, "capability": capability})
    return gpus


def backend_works(name: str) -> dict[str, Any]:
    """Build the smallest of a backend's configs, and run it once on the CPU."""
    from pipeline.data.models import Overrides, find_model
    from pipeline.inference.cost import noise
    from pipeline.training.backend import load_backend

    backend, model = load_backend(name), find_model(SMALLEST[name])
    detector = backend.untrained(model, Overrides(image_size=64), 3, "cpu")
    detector.detect(noise(64))
    versions = ", ".join(f"{package} {version}" for package, version in backend.versions().items())
    return {"detail": f"{versions}; {model.name} runs on the CPU"}


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
    "cv2": cv2_works,
    **{name: partial(backend_works, name) for name in SMALLEST},
}


def main(argv: list[str] | None = None) -> None:
    (name,) = sys.argv[1:] if argv is None else argv
    try:
        facts = {"ok": True, **PROBES[name]()}
    except ModuleNotFoundError as error:
        facts = {"ok": False, "detail": f"{error.name or error} is not installed: make setup"}
    except PipelineError as error:
        facts = {"ok": False, "detail": str(error)}
    except Exception as error:  # whatever is wrong with an installation is an answer here
        facts = {"ok": False, "detail": " ".join(f"{type(error).__name__}: {error}".split())}
    print("\n" + json.dumps(facts))


if __name__ == "__main__":
    main()
