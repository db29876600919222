"""mmengine's runner as the pipeline runs it: its config for a job, and our session in its hooks."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import utils as device_utils
from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import EMAHook, Hook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from pipeline.backends import mmdet_config, mmdet_data
from pipeline.backends.mmdet_detector import MMDetector
from pipeline.backends.mmdet_types import dicts
from pipeline.errors import PipelineError
from pipeline.paths import shown
from pipeline.training.job import TrainJob
from pipeline.training.pretrained import take_detector
from pipeline.training.sampling import RepeatingSampler, repeats_of
from pipeline.training.seeds import Places, take_places
from pipeline.training.session import Session
from pipeline.training.validation import validate

MAP50 = "coco/bbox_mAP_50"


def runner_config(job: TrainJob, last: Path | None = None) -> Config:
    """The whole runner config of one job that goes on from the checkpoint `last` if there is one."""
    processes = 1 if job.device == "cpu" else job.gpus
    cfg = mmdet_config.for_classes(job.model, job.overrides, len(job.classes), processes)
    source = shown(job.model.path)
    mmdet_config.set_weights(cfg, job.weights, last)
    cfg.train_dataloader = mmdet_data.train_loader(cfg, job, source)
    mmdet_data.check_evaluators(cfg, source)  # scored by our own kernel, which gives the same numbers
    for key in ("dataloader", "evaluator", "cfg"):
        cfg[f"val_{key}"] = cfg[f"test_{key}"] = None
    loop = dict(type="EpochBasedTrainLoop", val_interval=cfg.val_interval) | (cfg.get("train_cfg") or {})
    if loop["type"] != "EpochBasedTrainLoop":
        raise PipelineError(f"{source}: train_cfg {loop['type']}: expected EpochBasedTrainLoop")
    cfg.train_cfg = loop | dict(max_epochs=cfg.epochs)
    cfg.default_hooks.checkpoint = None
    cfg.work_dir, cfg.randomness = str(job.work / "train"), dict(seed=job.seed)
    steps = -(-len(job.train.photos) // (cfg.batch * job.gpus))
    if job.gpus > 1 and not cfg.get("auto_scale_lr", {}).get("enable"):
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=cfg.batch)
    _take_words(cfg, job, source)
    for part in dicts(cfg.param_scheduler):
        if not part.get("by_epoch", True):  # a warm-up takes at most a tenth of the training
            part["end"] = max(2, min(part["end"], cfg.epochs * steps // 10))  # one of 1 never warms up
    if job.device != "cpu" and cfg.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
    return cfg


def _take_words(cfg: Config, job: TrainJob, source: str) -> None:
    """Work a recipe's words at the top of a config into what the runner reads."""
    if decay := cfg.get("ema"):
        hooks = [*(cfg.get("custom_hooks") or [])]
        if any(hook["type"] == "EMAHook" for hook in hooks):
            raise PipelineError(f"{source}: ema {decay}: its custom_hooks have an EMAHook already")
        average = dict(ema_type="ExpMomentumEMA", momentum=1 - decay, update_buffers=True)
        cfg.custom_hooks = [*hooks, dict(type="EMAHook", **average)]
    if photos := cfg.get("nominal_batch"):
        batches = max(round(photos / (cfg.batch * job.gpus)), 1)
        cfg.optim_wrapper.setdefault("accumulative_counts", batches)
        if cfg.get("auto_scale_lr", {}).get("enable"):  # the learning rate follows the photos per step
            cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.accumulative_counts


class _Runner(Runner):
    """The runner, with its messages in the run's own log file instead of the terminal."""

    session: Session

    def build_logger(self, log_level: Any = "INFO", **_: Any) -> MMLogger:
        logger = MMLogger.get_instance(self._experiment_name, log_level=log_level)
        self.session.take_log(logger)
        logger.setLevel(log_level)
        return logger

    def build_dataloader(self, *loader: Any, **options: Any) -> Any:  # a static method there
        built, session = Runner.build_dataloader(*loader, **options), self.session
        job = session.job
        if repeats := repeats_of(job.train.boxes(), self.cfg.get("sampling", "plain")):
            self.logger.info(repeats)
            built.batch_sampler.sampler = RepeatingSampler(
                built.dataset, repeats, job.seed, session.rank, get_world_size()
            )
        return built

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        if self._resume:
            return super().load_checkpoint(filename, *args, **kwargs)
        model: Any = getattr(self.model, "module", self.model)
        with contextlib.redirect_stdout(self.session.terminal):
            take_detector(self.session.job, model)
        self.call_hook("after_load_checkpoint", checkpoint={"state_dict": model.state_dict()})
        return None

    def frozen(self) -> bool:
        """Whether the backbone is to stay as pretrained, where it is."""
        return bool(self.cfg.get("freeze")) and any(self.session.job.weights.values())

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        if self.session.job.device == "cpu":
            model = model.to(memory_format=torch.channels_last)  # that of oneDNN's convolutions
        if self.frozen():
            model.backbone.requires_grad_(False)
        for part in self.cfg.compiled:
            getattr(model, part).compile(dynamic=True)
        return super().wrap_model(model_wrapper_cfg, model)


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


class _SessionHook(Hook):
    """Tells the session what happens, and makes the checkpoints that it writes."""

    priority = "VERY_LOW"  # after the hooks that step the schedule and average the weights

    def __init__(self, session: Session) -> None:
        self.session = session

    def before_train(self, runner: Runner) -> None:
        parts = self.session.recovery.parts
        if parts > 1:  # a batch did not fit the GPU's memory
            runner.model.train_step = lambda data, optim_wrapper: step_in_parts(
                runner.model, optim_wrapper, data, parts
            )
        loader = runner.train_dataloader
        take_places(loader.dataset, self.session.job.seed)
        object.__setattr__(loader, "batch_sampler", Places(loader.batch_sampler, self.session.job.seed))
        loader.generator = torch.Generator()  # its own, or it draws from the training's
        model = getattr(runner.model, "module", runner.model)
        self.detector = MMDetector(runner.cfg, self.session.job.device, model)
        self.session.begin(runner.max_epochs, len(loader), runner.optim_wrapper.optimizer)

    def before_train_epoch(self, runner: Runner) -> None:
        loader, wrapper = runner.train_dataloader, runner.optim_wrapper
        loader.batch_sampler.epoch = runner.epoch
        if wrapper._accumulative_counts > 1:  # an epoch ends with a step: no gradient waits for the next one
            wrapper.initialize_count_status(runner.model, 0, len(loader))
        self.session.begin_epoch()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.frozen():
            getattr(runner.model, "module", runner.model).backbone.eval()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.session.step(outputs["loss"])

    def after_train_epoch(self, runner: Runner) -> None:
        """Validate, if it is the epoch's turn, and tell the session.

        Before that, processes average what their batch norms noted; SyncBuffersHook leaves EMAHook's out.
        """
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averages):
            all_reduce_params(model.buffers(), op="mean")
        epoch, map50 = runner.epoch + 1, None  # the loop counts it after this hook
        if epoch % runner.train_loop.val_interval == 0 or epoch == runner.max_epochs:
            hooks = [hook for hook in runner.hooks if not isinstance(hook, LoggerHook)]  # ours logs
            for hook in hooks:
                hook.before_val_epoch(runner)  # EMAHook puts the averaged weights in
            self.detector.model.eval()
            job = self.session.job
            map50 = validate(self.detector, job.held_out, len(job.classes))
            for hook in hooks:
                hook.after_val_epoch(runner, {MAP50: map50 or 0.0})
        meta = {"epoch": epoch, "iter": runner.iter, "map50": map50}
        state = functools.partial(_state, runner, meta)
        self.session.end_epoch(map50, [self.detector.model, *averages], state)
        runner.train_loop.stop_training = self.session.ends_early


def _state(runner: Runner, meta: dict[str, Any], whole: bool) -> dict[str, Any]:
    """What the runner's own save_checkpoint writes, but for the config, which takes yapf a second."""
    model = getattr(runner.model, "module", runner.model)
    meta = meta | {"seed": runner.seed, "dataset_meta": dict(runner.train_dataloader.dataset.metainfo)}
    state = {"meta": meta, "state_dict": model.state_dict(), "message_hub": runner.message_hub.state_dict()}
    if whole:
        state["optimizer"] = runner.optim_wrapper.state_dict()
        state["param_schedulers"] = [scheduler.state_dict() for scheduler in runner.param_schedulers]
    runner.call_hook("before_save_checkpoint", checkpoint=state)
    return state


def run(cfg: Config, session: Session) -> None:
    """Train in this process to the last epoch."""
    job = session.job
    if get_world_size() > 1:
        cfg.launcher = "pytorch"
        if job.device == "cpu":
            wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
            cfg.model_wrapper_cfg = wrapper
    _Runner.session = session
    device_utils.DEVICE = job.device.partition(":")[0]  # the runner would take a GPU where there is one
    if job.device != "cpu":
        torch.cuda.set_device(torch.device(job.device))
    with (
        open(session.log, "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),  # pycocotools prints its tables
    ):
        runner = _Runner.from_cfg(cfg)
        runner.register_hook(_SessionHook(session))
        runner.train()
