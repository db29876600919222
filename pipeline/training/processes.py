"""One training in several processes, a GPU each, on one machine or on several: by Ray Train's TorchTrainer.

It starts the processes together, initialises torch.distributed in them, brings the exception of one back
with its type, sees a killed process or a lost node within seconds and ends the others. When its caller dies,
the processes and what they had reserved go too. What Ray 2.60 does not do is here:

- It would retry a mistake as often as a lost process. So it retries nothing, and the caller decides
  (`LostProcessError`).
- A process that loses another fails too, with an error of torch.distributed: the cause is told, not that.
- Output goes to files of Ray's. So each process writes a file in the run's scratch folder, and the first
  one's is shown here. Nothing of Ray's is.
- Ctrl-C ends its caller with status 1, and its handler stays.

The caller must hold no GPU: a training waits for ever for what its own caller holds, since Ray lends only the
CPUs of a task that waits. To start takes two to three times as long as with torch's own launcher.

The rule: BATCH= is photos per step and GPU, so N GPUs make a step of N times as many. mmdet then multiplies
the learning rate by (photos per step) / base_batch_size. ultralytics adds gradients up to steps of nbs = 64
photos and, past that, steps with each batch; its loss is a sum over photos, which is the same linear rule.
"""

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cluster import connected
from pipeline.data.run_card import RecoveryNote
from pipeline.errors import LostProcessError, NoMemoryError, PipelineError
from pipeline.inference.memory import is_out_of_memory
from pipeline.processes import thread_limits
from pipeline.training.fit import fit_here
from pipeline.training.job import TrainJob
from pipeline.training.recovery import LossNotFiniteError

RESOURCES = "PIPELINE_PROCESS"  # environment: what each process reserves, by Ray's names, as JSON
OUTPUT = "process{rank}.log"  # in the scratch folder
Fit = Callable[[TrainJob, RecoveryNote, int], None]
POLL = 0.5  # seconds between looks at the output
OPTIONS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1e9",  # others may have the GPUs for days
}


def fit_in_processes(job: TrainJob, note: RecoveryNote, fit: Fit = fit_here) -> None:
    """Run `fit` in as many processes as the job has GPUs, on whatever nodes have room for them.

    Raises what one of them met: LossNotFiniteError, PipelineError, LostProcessError when one was killed, or a
    RuntimeError (out of memory, or any other error).
    """
    os.environ.update(OPTIONS)  # before the import, which reads some
    with connected(cpus=job.gpus), _heeding_ctrl_c(), _shown(job.work / OUTPUT.format(rank=0)):
        from ray.exceptions import RayError
        from ray.train import ControllerError, WorkerGroupError

        try:
            _trainer(job, lambda rank_job, rank: fit(rank_job, note, rank)).fit()
        except WorkerGroupError as error:
            raise cause_of(job, error.worker_failures.values(), str(error)) from None
        except ControllerError as error:  # before they had met
            raise cause_of(job, [error.controller_failure], str(error)) from None
        except RayError as error:  # Ray's own process that looks after them was killed
            raise cause_of(job, [error], str(error)) from None


def _trainer(job: TrainJob, fit: Callable[[TrainJob, int], None]) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    train: Any = ray.train  # its types are those of an older edition
    default = {"CPU": 1} if job.device == "cpu" else {"CPU": 0, "GPU": 1}
    resources = json.loads(os.environ.get(RESOURCES, "null")) or default
    bars = sys.stderr.isatty()
    environment = thread_limits(int(os.environ.get("OMP_NUM_THREADS", "1")))  # 1 as torch's launcher does
    return TorchTrainer(
        lambda: _fit_rank(job, fit, bars),
        torch_config=TorchConfig("gloo" if job.device == "cpu" else "nccl"),
        scaling_config=train.ScalingConfig(
            num_workers=job.gpus,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
            placement_strategy="STRICT_PACK" if job.nodes == 1 else "PACK",
        ),
        run_config=train.RunConfig(
            name="ray",
            storage_path=str(job.work),
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={"env_vars": dict(environment)},
        ),
    )


class _Terminal(io.TextIOWrapper):
    """A file that a terminal shows: libraries draw their progress bars in it."""

    def isatty(self) -> bool:
        return True


def _fit_rank(job: TrainJob, fit: Callable[[TrainJob, int], None], bars: bool) -> None:
    """One of the processes; RANK, LOCAL_RANK and WORLD_SIZE are in its environment."""
    import torch

    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    file = open(job.work / OUTPUT.format(rank=rank), "wb", buffering=0)  # noqa: SIM115
    output = (_Terminal if bars else io.TextIOWrapper)(file, encoding="utf-8", write_through=True)
    for stream in (1, 2):  # of libraries in C, too
        os.dup2(output.fileno(), stream)
    sys.stdout = sys.stderr = output
    if job.device != "cpu":
        job = replace(job, device=f"cuda:{local}")
        torch.cuda.set_device(local)
    try:
        fit(job, rank)
    except LossNotFiniteError as error:  # told without classes of frameworks, which the caller may not have
        raise LossNotFiniteError(str(error)) from None
    except PipelineError as error:
        raise PipelineError(str(error)) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise RuntimeError(str(error)) from None
        if _is_lost_touch(error):
            raise ConnectionError(f"lost touch with another process: {error}") from error
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _is_lost_touch(error: BaseException) -> bool:
    """Whether torch.distributed says so of another process; what became of that one, Ray may say."""
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def cause_of(job: TrainJob, errors: Iterable[Exception], report: str) -> BaseException:
    """What the processes met, as one exception: rather a cause than that another process went."""
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.train.v2._internal.exceptions import RayTrainError

    errors = [getattr(error, "cause", error) for error in errors]  # RayTaskError has one
    told = [error for error in errors if isinstance(error, (RuntimeError, PipelineError))]
    known = [error for error in told if isinstance(error, PipelineError) or is_out_of_memory(error)]
    if known:
        return known[0]
    kinds = (RayTrainError, RayActorError, OutOfMemoryError, ConnectionError)
    lost = [error for error in errors if isinstance(error, kinds) or _is_lost_touch(error)]
    if lost:
        return _loss(job, lost)
    print(report, file=sys.stderr)  # with the traceback
    return told[0] if told else RuntimeError(f"{type(errors[0]).__name__}: {errors[0]}")


def _loss(job: TrainJob, errors: Iterable[Exception]) -> LostProcessError:
    from ray.exceptions import OutOfMemoryError

    causes = [getattr(error, "health_check_failure", error.__cause__ or error) for error in errors]
    name = f"{job.label}: one of its {job.gpus} processes"
    if any(isinstance(cause, OutOfMemoryError) for cause in causes):
        return NoMemoryError(f"{name} was killed, because its node ran out of memory")
    if any("node has died" in str(cause) for cause in causes):
        return LostProcessError(f"{name} is gone, because its node was lost; the same command goes on")
    return LostProcessError(f"{name} was killed; the same command goes on")


@contextlib.contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """KeyboardInterrupt on Ctrl-C, and our handler again afterwards."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _shown(path: Path) -> Iterator[None]:
    """Print what another process writes to a file, as long as the block lasts."""
    path.unlink(missing_ok=True)
    done = threading.Event()

    def follow() -> None:
        position, last = 0, False
        while not last:
            last = done.wait(POLL)
            with (
                contextlib.suppress(OSError),
                open(path, encoding="utf-8", errors="replace", newline="") as file,
            ):
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
