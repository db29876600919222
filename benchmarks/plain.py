"""The frameworks as their users run them: `python -m benchmarks.plain mmdet|ultralytics FILE cpu|cuda`.

Trains what FILE says and prints the seconds from the first step to the last validated epoch, by the clock.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any


def mmdet(path: Path, device: str) -> float:
    """What mmdet's tools/train.py does with a config, its checkpoints and best epoch included."""
    from pipeline.backends import mmcv_ext

    mmcv_ext.install()
    import mmdet.datasets
    import mmdet.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.device import utils
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    class Clock(Hook):
        priority = "LOWEST"
        began = ended = 0.0

        def before_train(self, runner: Any) -> None:
            self.began = time.monotonic()

        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            self.ended = time.monotonic()

    utils.DEVICE = device  # it would take a GPU where there is one
    runner, clock = Runner.from_cfg(Config.fromfile(path)), Clock()
    runner.register_hook(clock)
    runner.train()
    return clock.ended - clock.began


def ultralytics(path: Path, device: str) -> float:
    """`yolo detect train` with the arguments in the file, the device among them; it keeps the time of each
    epoch itself."""
    from pipeline.backends import ultralytics_setup

    ultralytics_setup.install()
    from ultralytics import YOLO

    arguments = json.loads(path.read_text())
    model = YOLO(arguments.pop("model"))
    model.train(**arguments)
    rows = (Path(arguments["save_dir"]) / "results.csv").read_text().splitlines()
    return float(rows[-1].split(",")[rows[0].split(",").index("time")])


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        train = {"mmdet": mmdet, "ultralytics": ultralytics}[sys.argv[1]]
        seconds = train(Path(sys.argv[2]), sys.argv[3])
    print(json.dumps({"seconds": seconds}))
