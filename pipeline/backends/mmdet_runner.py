"""mmengine's runner as the pipeline runs it: our checkpoints, progress, random states and recovery."""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import utils as device_utils
from mmengine.dist import all_reduce_params, get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger
from mmengine.registry import FUNCTIONS, HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.checkpoint import CheckpointLoader, weights_to_cpu
from mmengine.utils import apply_to

from pipeline.backends.base import TrainTask
from pipeline.backends.checkpoints import BEST, LAST, Checkpoints, save_tensors
from pipeline.backends.progress import Progress
from pipeline.backends.recovery import LossNotFiniteError, Recovery, check_weights, scaled_lr
from pipeline.backends.seeds import reseed, seed_reader

FUNCTIONS.register_module(name="pipeline_seed_reader", module=seed_reader)
MAP50 = "coco/bbox_mAP_50"


def checkpoints(work: Path) -> Checkpoints:
    return Checkpoints(work / "checkpoints", ".pth")


class _Runner(Runner):
    """The runner, with its messages in the run's own log file instead of the terminal."""

    log_path: Path
    recovery: Recovery

    def build_logger(self, log_level: Any = "INFO", log_file: Any = None, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(log_level, str(Path(self._log_dir) / "scratch.log"), **kwargs)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        file = logging.FileHandler(self.log_path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        if get_rank() > 0:  # the first of several processes says it for all
            file.setLevel(logging.ERROR)
        logger.addHandler(file)
        return logger

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        if device_utils.get_device() == "cpu":
            model = model.to(memory_format=torch.channels_last)  # that of oneDNN's convolutions
        return super().wrap_model(model_wrapper_cfg, model)


@LOOPS.register_module(name="PipelineTrainLoop")
class TrainLoop(EpochBasedTrainLoop):
    """The epoch loop; a batch that does not fit the GPU's memory goes through in parts."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        recovery = self.runner.recovery
        if recovery == Recovery():
            super().run_iter(idx, data_batch)
            return
        hooks = {"batch_idx": idx, "data_batch": data_batch}
        self.runner.call_hook("before_train_iter", **hooks)
        with scaled_lr(self.runner.optim_wrapper.optimizer, recovery.lr_factor):
            outputs = step_in_parts(self.runner.model, self.runner.optim_wrapper, data_batch, recovery.parts)
        self.runner.call_hook("after_train_iter", **hooks, outputs=outputs)
        self._iter += 1


def step_in_parts(model: Any, wrapper: Any, batch: dict[str, Any], parts: int) -> dict[str, torch.Tensor]:
    """One optimizer step over a batch whose parts go through the network one after the other.

    The gradient is the mean over parts, weighted by their photos: what the whole batch gives, but for
    batch norm, which sees a part at a time. Returns the losses, weighted alike.
    """
    total = len(batch["data_samples"])
    size = -(-total // parts)
    module = getattr(model, "module", model)  # of a distributed model
    logs: dict[str, torch.Tensor] = {}
    for start in range(0, total, size):
        part = {key: value[start : start + size] for key, value in batch.items()}
        share = len(part["data_samples"]) / total
        last = start + size >= total
        with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
            with wrapper.optim_context(model):
                losses = model._run_forward(module.data_preprocessor(part, True), mode="loss")
            loss, part_logs = module.parse_losses(losses)
            wrapper.backward(wrapper.scale_loss(loss) * share)
        if not last:
            wrapper._inner_count -= 1  # it counts batches
        for key, value in part_logs.items():
            logs[key] = logs.get(key, 0) + value.detach() * share
    if wrapper.should_update():
        wrapper.step()
        wrapper.zero_grad()
    return logs


@HOOKS.register_module(name="PipelineAgreeHook")
class AgreeHook(Hook):
    """The mean over processes of what batch norms noted, of the weights' running average too if there is one.

    mmengine's SyncBuffersHook leaves that one out.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averages):
            all_reduce_params(model.buffers(), op="mean")


class _RunHook(Hook):
    """Progress, the best checkpoint by mAP50, and the checkpoint to go on from, each written whole."""

    priority = "VERY_LOW"  # after the hooks that step the schedule and average the weights

    def __init__(self, task: TrainTask, store: Checkpoints) -> None:
        self.task, self.store, self.terminal = task, store, sys.stdout
        self.leads = get_rank() == 0
        self.losses: list[float] = []
        self.best = -1.0

    def before_train(self, runner: Runner) -> None:
        steps = len(runner.train_dataloader)
        if self.leads:
            self.progress = Progress(
                self.task.run,
                self.task.label,
                runner.max_epochs,
                steps,
                runner.epoch,
                self.terminal,
                self.task.device,
            )
        if best := self.store.newest(BEST):  # it says itself how good it is
            self.best = CheckpointLoader.load_checkpoint(str(best), "cpu", logger="silent")["meta"]["map50"]

    def before_train_epoch(self, runner: Runner) -> None:
        reseed(self.task.seed, runner.epoch, get_rank())

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        loss = float(outputs["loss"].detach())
        if not np.isfinite(loss):
            raise LossNotFiniteError(
                f"{self.task.label}: loss is {loss} at epoch {runner.epoch + 1}, step {batch_idx + 1}"
            )
        self.losses.append(loss)
        if self.leads:
            self.progress.step(loss)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save an epoch that will not be validated; the others are saved when their score is known."""
        epoch = runner.epoch + 1  # the loop counts it after this hook
        if epoch % runner.train_loop.val_interval and epoch < runner.max_epochs:
            self._end_epoch(runner, {"epoch": epoch, "iter": runner.iter}, None)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        # Missing when not one box was found, -1 when the held-out part has no true box.
        map50 = max(float((metrics or {}).get(MAP50, 0.0)), 0.0)
        self._end_epoch(runner, {"epoch": runner.epoch, "iter": runner.iter, "map50": map50}, map50)

    def _end_epoch(self, runner: Runner, meta: dict[str, Any], map50: float | None) -> None:
        loss, self.losses = float(np.mean(self.losses)), []
        if not self.leads:
            return
        model = getattr(runner.model, "module", runner.model)
        check_weights(self.task.label, meta["epoch"], model.state_dict())
        self.progress.end_epoch(loss, map50)
        if map50 is not None and map50 > self.best:
            self._save(runner, BEST, meta, optimizer=False)
            self.best = map50
        self._save(runner, LAST, meta, optimizer=True)

    def _save(self, runner: Runner, kind: str, meta: dict[str, Any], optimizer: bool) -> None:
        with self.store.write(kind, meta["epoch"]) as path:
            save_tensors(_state(runner, meta, optimizer), path)


def _state(runner: Runner, meta: dict[str, Any], optimizer: bool) -> dict[str, Any]:
    """What the runner's own save_checkpoint writes, but for the config, which takes yapf a second."""
    model = getattr(runner.model, "module", runner.model)
    meta = meta | {"seed": runner.seed, "dataset_meta": runner.train_dataloader.dataset.metainfo}
    state = {
        "meta": meta,
        "state_dict": weights_to_cpu(model.state_dict()),
        "message_hub": _on_cpu(runner.message_hub.state_dict()),
    }
    if optimizer:
        state["optimizer"] = _on_cpu(runner.optim_wrapper.state_dict())
        state["param_schedulers"] = [scheduler.state_dict() for scheduler in runner.param_schedulers]
    runner.call_hook("before_save_checkpoint", checkpoint=state)
    return state


def _on_cpu(state: Any) -> Any:
    return apply_to(state, lambda value: hasattr(value, "cpu"), lambda value: value.cpu())


def run(cfg: Config, task: TrainTask, recovery: Recovery) -> None:
    """Train in this process to the last epoch, from the newest checkpoint if there is one."""
    store = checkpoints(task.work)
    last = store.newest(LAST)
    cfg.load_from, cfg.resume = (str(last), True) if last else (None, False)
    hook = _RunHook(task, store)
    _Runner.log_path, _Runner.recovery = task.run / "train.log", recovery
    with (
        use_device(task.device),
        open(_Runner.log_path, "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),  # pycocotools prints its tables
    ):
        runner = _Runner.from_cfg(cfg)
        runner.register_hook(hook)
        runner.train()
    if hook.leads:
        hook.progress.close()
    del runner
    gc.collect()


@contextlib.contextmanager
def use_device(device: str) -> Iterator[None]:
    """Make the runner, which takes the current GPU if there is any, use the asked device."""
    if device == "cpu":
        before, device_utils.DEVICE = device_utils.DEVICE, "cpu"
        try:
            yield
        finally:
            device_utils.DEVICE = before
    else:
        torch.cuda.set_device(torch.device(device))
        yield
