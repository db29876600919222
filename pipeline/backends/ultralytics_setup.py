"""What ultralytics reads from the environment when it is imported; to be imported before that."""

import contextlib
import os
import tempfile
from pathlib import Path

from pipeline.paths import scratch_folder

_open = contextlib.ExitStack()  # until the process ends
_settings_folder = _open.enter_context(scratch_folder(Path(tempfile.gettempdir(), "ultralytics")))


def install() -> None:
    """No downloads of packages and fonts, no telemetry, no settings file that trainings share, no progress
    bars beside ours, and no code out of checkpoints."""
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    own = {"OFFLINE": "true", "AUTOINSTALL": "false", "VERBOSE": "false", "CONFIG_DIR": str(_settings_folder)}
    for name, value in own.items():
        os.environ.setdefault(f"YOLO_{name}", value)
