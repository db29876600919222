"""Ray: joining a cluster, or starting one on this machine, without a word of Ray's on the terminal."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from pipeline.errors import PipelineError, reason
from pipeline.processes import python_path

GB = 2**30
OBJECT_STORE = 80 * 2**20  # bytes; jobs pass files, not objects
PASSED_ON = ("PIPELINE_HOME", "PIPELINE_WEIGHTS")  # environment that the pipeline reads on every node


def load_ray() -> Any:
    """Import Ray, without telemetry."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray
    except ModuleNotFoundError:
        raise PipelineError(
            "several processes and train-all need the package 'ray', which is not installed; make setup"
        ) from None
    # Its pages on a worker's death; the table and the error line say it in a line.
    ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
    return ray


@contextlib.contextmanager
def connected(cpus: int = 1) -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS or to one that lives here as long as the block.

    cpus: of which the one here has at least so many, whatever this machine has.
    """
    ray = load_ray()
    # "local", or Ray joins whatever cluster it finds on this machine.
    options: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(cpus, os.cpu_count() or 1),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }
    address = os.environ.get("RAY_ADDRESS")
    passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            try:
                ray.init(
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": {**python_path(), **passed_on}},
                    **({} if address else options),
                )
            except ConnectionError as error:
                raise PipelineError(
                    f"RAY_ADDRESS={address}: no cluster answers there ({reason(error)})"
                ) from None
            stack.callback(ray.shutdown)
        yield ray
