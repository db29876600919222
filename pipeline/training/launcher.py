"""torch's launcher (torchrun), which runs the processes of one training, on one node or on several.

Several nodes share the run's folder, and through it the first tells the others what to do. For each start
of its processes it writes ranks.json, with its address and a free port; on every other node
`python -m pipeline.training.launcher WORK TOKEN NODE` waits for that file and starts that node's processes,
which meet the first's there. A node whose processes fail says so in failed-node<i>.json, and the first
stops its own; when the first takes ranks.json away, the others stop theirs and wait for the next start.
"""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.paths import PROJECT, write_json
from pipeline.processes import finish, python_path, start

SPEC, FAILURE = "ranks.json", "failed-node{node}.json"
TEAM = "PIPELINE_TEAM"  # environment of the first node: a token of this attempt, and its own address
RANKS = ("--module", "pipeline.training.processes")  # what the launcher runs
POLL = 0.5  # seconds


def command(spec: Path, processes: int, here: dict[str, Any] | None = None, node: int = 0) -> list[str]:
    """The launcher's command line; it stops all processes of its node when one fails.

    processes: of this node. `here` is the start that ranks.json describes, for several nodes.
    """
    where = ["--standalone"]
    if here is not None:
        where = [
            f"--nnodes={here['nodes']}",
            f"--node-rank={node}",
            f"--master-addr={here['address']}",
            f"--master-port={here['port']}",
        ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *where,
        f"--nproc-per-node={processes}",
        "--max-restarts=0",
        *(here["ranks"] if here else RANKS),
        str(spec),
    ]


def lead(spec: Path, content: dict[str, Any], processes: int, nodes: int = 1) -> int:
    """Write the spec, run the processes of this node, have the others run theirs; returns a status.

    processes: of all nodes; content["launch"] names this start. Raises PipelineError when nobody has
    started the other nodes.
    """
    if nodes == 1:
        write_json(spec, content)
        return finish(_started(command(spec, processes)))
    if TEAM not in os.environ:
        raise PipelineError(f"{nodes} nodes train a model through `make train-all`, which starts the others")
    token, address = os.environ[TEAM].split()
    here: dict[str, Any] = {
        "token": token,
        "launch": content["launch"],
        "nodes": nodes,
        "processes": processes // nodes,
        "address": address,
        "port": _free_port(),
        "ranks": RANKS,
    }
    write_json(spec, content | {"start": here})
    try:
        process = _started(command(spec, here["processes"], here))
        return finish(process, stop=lambda: _another_failed(spec.parent, here["launch"]))
    finally:
        spec.unlink(missing_ok=True)


def follow(work: Path, token: str, node: int) -> None:
    """Start this node's processes whenever the first node starts its own, until killed."""
    spec, last = work / SPEC, ""
    print(f"node {node}: waits for {spec}, which the first node writes", flush=True)
    while True:
        here = _told(spec, token)
        if here is None or here["launch"] == last:
            time.sleep(POLL)
            continue
        last = launch = here["launch"]
        print(f"node {node} of {here['nodes']}: joins {here['address']}:{here['port']}", flush=True)
        process = _started(command(spec, here["processes"], here, node))
        status = finish(process, stop=lambda launch=launch: not _is_current(spec, token, launch))  # type: ignore[misc]
        if status and _is_current(spec, token, launch):
            write_json(work / FAILURE.format(node=node), {"launch": launch, "status": status})


def _told(spec: Path, token: str) -> dict[str, Any] | None:
    """The start that the first node asks for now, if it is one of this attempt."""
    while True:
        try:
            here: dict[str, Any] = json.loads(spec.read_text(encoding="utf-8")).get("start", {})
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ESTALE:  # NFS: another node has replaced it as we read
                raise
            time.sleep(POLL)
        else:
            return here if here.get("token") == token else None


def _is_current(spec: Path, token: str, launch: str) -> bool:
    here = _told(spec, token)
    return here is not None and here["launch"] == launch


def _another_failed(work: Path, launch: str) -> bool:
    paths = work.glob(FAILURE.format(node="*"))
    return any(json.loads(path.read_text(encoding="utf-8"))["launch"] == launch for path in paths)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | python_path()
    environment.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, with a warning
    return start(command, None, cwd=PROJECT, env=environment)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # so it is stopped when the first node has done
        follow(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
