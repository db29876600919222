"""What ultralytics reads from the environment when it is imported; to be imported before that."""

import os
import tempfile

_settings_folder = tempfile.TemporaryDirectory(prefix="ultralytics-")  # gone when the process ends


def install() -> None:
    """No downloads of packages and fonts, no telemetry, no settings file that trainings share, no progress
    bars beside ours, and no code out of checkpoints."""
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    own = {"OFFLINE": "true", "AUTOINSTALL": "false", "VERBOSE": "false", "CONFIG_DIR": _settings_folder.name}
    for name, value in own.items():
        os.environ.setdefault(f"YOLO_{name}", value)
