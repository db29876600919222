"""Our own training loop, for frameworks that bring a network and its losses, see `training.network`.

Per step: the losses of `nominal_batch` photos, in as many batches and parts as memory asks for, their
gradients added up as the mean over photos; clipped; AdamW or SGD at a learning rate that the step alone
decides (warm-up, then a cosine); the weights' running average, which is what validates and predicts.
An epoch ends with a step, even of fewer photos. A training that goes on from a checkpoint is the undisturbed
one, bit for bit on a CPU.
"""

import contextlib
import copy
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.training.job import TrainJob
from pipeline.training.options import NetworkConfig, TrainOptions
from pipeline.training.reading import EpochBatches, Sample, TrainPhotos, in_parts, loader_of
from pipeline.training.safe_load import load_tensors
from pipeline.training.sampling import repeats_of
from pipeline.training.session import Session
from pipeline.training.validation import validate

if TYPE_CHECKING:
    from pipeline.training.network import NetworkDetector

EMA_STEPS = 2000  # steps over which the average's decay rises, as in ultralytics: early weights are forgotten


def train(detector: "NetworkDetector", config: NetworkConfig, job: TrainJob, session: Session) -> None:
    """Train to the last epoch, from `session.last()` if there is one.

    In several processes the process group is there already; each has a batch of its own. Raises as
    `Backend.fit`.
    """
    loop = _Loop(detector, config, job, session)
    last = session.last()
    if last:
        checkpoint = load_tensors(last)
        session.resume(checkpoint, "model", "state_dict", "optimizer")
        loop.load(checkpoint)
    session.patience = config.train.patience
    session.begin(config.epochs, len(loop.batches), loop.optimizer)
    while session.epoch < config.epochs and not session.ends_early:
        session.begin_epoch()
        loop.epoch()


class _Loop:
    """One process's network, optimizer and photos."""

    def __init__(
        self, detector: "NetworkDetector", config: NetworkConfig, job: TrainJob, session: Session
    ) -> None:
        self.detector, self.config, self.job, self.session = detector, config, job, session
        options = self.options = config.train
        photos = TrainPhotos(job.train, detector.resized, config.augment, job.seed, job.cache)
        repeats = repeats_of(photos.boxes, config.sampling)
        self.batches = EpochBatches(len(photos), config.batch, job.seed, session.rank, job.gpus, repeats)
        self.loader = loader_of(photos, self.batches, job.workers, job.device)
        step_photos = config.batch * job.gpus
        self.accumulate = max(round(options.nominal_batch / step_photos), 1)  # batches per step
        self.lr = options.lr * max(step_photos / options.nominal_batch, 1)
        self.steps = -(-len(self.batches) // self.accumulate) * config.epochs
        self.step = 0  # optimizer steps that are done
        self.module = detector.module
        self.kept_norms: list[nn.Module] = []
        if any(job.weights.values()):
            backbone = (detector.backbone(),) if config.freeze else ()
            self.kept_norms = _freeze(self.module, options.freeze + backbone, options.freeze_norms + backbone)
        self.optimizer = _optimizer(self.module, options)
        self.scaler = torch.amp.GradScaler("cuda", enabled=detector.half)
        self.average = copy.deepcopy(self.module) if options.ema else None
        self.network: nn.Module = self.module  # what the losses go through
        if job.gpus > 1:
            devices = None if job.device == "cpu" else [torch.device(job.device)]
            if devices:
                torch.cuda.set_device(devices[0])  # where the processes exchange what is no tensor
            self.network = DistributedDataParallel(self.module, device_ids=devices)
        if repeats:
            self.log(str(repeats))
        self.log(f"{len(photos)} photos, {self.accumulate} batches of {config.batch} per step, {options}")

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what `state` made."""
        self.module.load_state_dict(checkpoint["model"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.step = checkpoint["step"]

    def state(self, whole: bool) -> dict[str, Any]:
        state: dict[str, Any] = {
            "state_dict": self.predicting.state_dict(),
            "classes": list(self.job.classes),
        }
        if whole:
            state |= {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
            state |= {"scaler": self.scaler.state_dict(), "step": self.step}
        return state

    @property
    def predicting(self) -> nn.Module:
        return self.module if self.average is None else self.average

    def epoch(self) -> None:
        """Train an epoch, validate if it is its turn, and tell the session."""
        self.network.train()
        for norm in self.kept_norms:
            norm.eval()
        self.batches.epoch = self.session.epoch
        photos = self.batches.photos
        totals: dict[str, Any] = {}
        window = self.accumulate * self.config.batch  # photos of this process in a step
        for number, samples in enumerate(self.loader):
            start = number * self.config.batch
            of_step = min(window, photos - start // window * window)
            last_of_step = (number + 1) % self.accumulate == 0 or number + 1 == len(self.batches)
            losses = self._backward(samples, of_step, last_of_step)
            if last_of_step:
                self._update()
            self.session.step(losses)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value
        map50 = self._validate()
        means = ", ".join(f"{k} {float(v) / len(self.batches):.4f}" for k, v in totals.items())
        self.log(f"epoch {self.session.epoch + 1}/{self.config.epochs}: {means}, mAP50 {map50}")
        self.session.end_epoch(map50, [self.module, self.predicting], self.state)

    def _backward(self, samples: list[Sample], of_step: int, last_of_step: bool) -> dict[str, Tensor]:
        """Add the gradients of a batch, as its share of the mean over the step's photos; its losses."""
        device = self.job.device
        samples = [Sample(*(tensor.to(device, non_blocking=True) for tensor in s)) for s in samples]
        totals: dict[str, Tensor] = {}
        parts = in_parts(samples, self.session.recovery.parts)
        for part in parts:
            waits = last_of_step and part is parts[-1]  # the processes' gradients are averaged once per step
            no_sync = getattr(self.network, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if waits else no_sync():
                with torch.autocast("cuda", enabled=self.detector.half):
                    losses = self.detector.losses(self.network, part)
                    loss = torch.stack([value.reshape(()) for value in losses.values()]).sum()
                self.scaler.scale(loss * (len(part) / of_step)).backward()
            for name, value in losses.items():
                share = value.detach() * (len(part) / len(samples))
                totals[name] = totals[name] + share if name in totals else share
        return totals

    def _update(self) -> None:
        """One step of the optimizer and of the average."""
        factor = lr_factor(self.step, self.steps, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        if self.options.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None and self.options.ema:
            decay = self.options.ema * (1 - math.exp(-self.step / EMA_STEPS))
            _average(self.average, self.module, decay)

    def _validate(self) -> float | None:
        epoch = self.session.epoch + 1
        if epoch % self.options.val_interval and epoch < self.config.epochs:
            return None
        if self.job.gpus > 1:  # each process has noted its own batch norms' statistics
            for module in {self.module, self.predicting}:
                for buffer in module.buffers():
                    dist.broadcast(buffer, 0)
        detector = self.detector.around(self.predicting.eval())
        return validate(detector, self.job.held_out, len(self.job.classes))

    def log(self, text: str) -> None:
        if self.session.leads:
            with open(self.session.log, "a", encoding="utf-8") as file:
                file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")


def lr_factor(step: int, steps: int, options: TrainOptions) -> float:
    """The learning rate of a step (from 0) of so many, as a share of `lr`: a linear warm-up, which takes at
    most a tenth of the steps, then half a cosine, or a line, that ends at `final_lr`."""
    warmup = min(options.warmup, steps // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1)
    left = 1 - progress if options.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return options.final_lr + (1 - options.final_lr) * left


def _optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Weights with decay, biases and norms without; frozen ones are left out."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "AdamW":
        return torch.optim.AdamW(groups, lr=options.lr)
    momentum = 0.9 if options.momentum is None else options.momentum
    return torch.optim.SGD(groups, lr=options.lr, momentum=momentum)


def _freeze(module: nn.Module, weights: tuple[str, ...], of_norms: tuple[str, ...]) -> list[nn.Module]:
    """Let pretrained weights be as they are, and norms of modules, all by the beginnings of their names;
    returns the norms."""
    norms: list[nn.Module] = [
        part
        for name, part in module.named_modules()
        if isinstance(part, nn.BatchNorm2d) and name.startswith(of_norms)
    ]
    kept = {id(parameter) for norm in norms for parameter in norm.parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) in kept or name.startswith(weights):
            parameter.requires_grad_(False)
    return norms


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * module; counters are copied."""
    pairs = zip(average.state_dict().values(), module.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
