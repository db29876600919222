"""What ultralytics reads from the environment when it is imported; to be called before that."""

import os
import tempfile
from typing import Any

_settings_folder = tempfile.TemporaryDirectory(prefix="ultralytics-")  # gone when the process ends


def install() -> None:
    """No downloads of packages and fonts, no telemetry, no settings file that trainings share, no
    progress bars beside ours, and no code out of checkpoints."""
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_CONFIG_DIR", _settings_folder.name)


def secure(tasks: Any) -> None:
    """No code out of checkpoints, also where somebody else imported `ultralytics.nn.tasks` before us:
    it reads its switch once."""
    tasks.SAFE_LOAD = True


def keep_threads(torch_utils: Any, count: int) -> None:
    """As many threads on a CPU as torch was given; the framework takes one less than there are cores,
    whatever OMP_NUM_THREADS says."""
    torch_utils.NUM_THREADS = count
