"""One training on several nodes: where its parts run, how they meet, and what a lost node costs."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_train_all import cluster_of, fake_job, run_board

from pipeline.data.models import Overrides, find_model
from pipeline.errors import PipelineError
from pipeline.jobs import attempt, cluster, worker
from pipeline.jobs.attempt import Attempt
from pipeline.jobs.board import Board
from pipeline.jobs.cluster import connected
from pipeline.jobs.fit import Node, check_fit, spread
from pipeline.jobs.job import Command, Job, Needs, Outcome, read_needs
from pipeline.jobs.plan import Asked, fit_needs, make_job, place
from pipeline.paths import PROJECT, write_json
from pipeline.processes import start
from pipeline.training import launcher
from pipeline.training.backend import check_nodes_of

pytest.importorskip("ray")
EIGHT = Needs(gpus=8, cpus=6, memory_gb=12)


@pytest.fixture(scope="module")
def pairs() -> Iterator[Any]:
    """A head without GPUs, and three nodes with two each."""
    with cluster_of(others=3, gpus=2, head_gpus=0) as made:
        yield made


def test_a_mistake_on_two_nodes_is_no_loss(pairs: Any, tmp_path: Path) -> None:
    """All nodes answer, so what the first said is the reason, and nothing is tried again."""
    job = fake_job(tmp_path, "m", 0, Needs(gpus=4, cpus=2, memory_gb=0.2, nodes=2), 2, 0.1, "error")
    with connected() as ray:
        outcomes, state = run_board(ray, [job], tmp_path / "jobs")
        assert not any(group["state"] == "CREATED" for group in ray.util.placement_group_table().values())
    assert outcomes[job.name] == Outcome(False, reason="training: ValueError: no such layer")
    assert len(state[job.name]["attempts"]) == 1
    helper = json.loads(worker.assistant_path(tmp_path / "jobs", job, 1).read_text())
    assert helper["node_id"] != state[job.name]["attempts"][0]["node_id"]


def test_a_training_on_two_nodes_survives_the_loss_of_one(pairs: Any, tmp_path: Path) -> None:
    """Four processes on two of three nodes; a node dies, all are ended, and all go on on the two left."""
    made, others = pairs
    run, epochs = tmp_path / "runs" / "wide-0", 6
    with connected() as ray:
        needs = spread(Needs(gpus=4, cpus=2, memory_gb=0.2), cluster.nodes(ray))
    assert needs.nodes == 2
    words = (str(Path(__file__).with_name("fake_nodes.py")), str(run), str(epochs), "0.4", "4", "2")
    job = Job("wide", 0, run, needs, (Command("training", words),), {"PYTHONPATH": str(PROJECT)})
    doomed: list[Any] = []

    def kill(board: Board) -> None:
        standing = board.standings[job.name]
        if not doomed and standing.attempts and (standing.epoch or 0) >= 2:
            assert standing.device.endswith(" + 1 more")
            helper = json.loads(worker.assistant_path(board.folder, job, 1).read_text())["node_id"]
            doomed.extend(node for node in others if node.node_id == helper)
            made.remove_node(doomed[0], allow_graceful=False)

    with connected() as ray:
        outcomes, state = run_board(ray, [job], tmp_path / "jobs", kill)
    log = (tmp_path / "jobs" / "wide-fold0.log").read_text()
    assert doomed and outcomes[job.name].ok, log
    attempts = state[job.name]["attempts"]
    assert len(attempts) == 2, log
    assert attempts[0]["reason"] in ("its node was lost", "its worker was killed")
    assert doomed[0].node_id not in [attempt["node_id"] for attempt in attempts]
    starts = [int(line) for line in (run / "starts").read_text().split()]
    assert len(starts) == 2 and starts[0] == 0 and starts[1] >= 2, "it went on from its checkpoint"
    result = json.loads((run / "result.json").read_text())
    assert result == {"epoch": epochs, "sum": sum(4 * epoch + 6 for epoch in range(epochs))}, "as undisturbed"
    for rank in range(4):
        for line in (run / f"rank{rank}").read_text().splitlines():
            local, node, world, gpus, pid = line.split()
            assert (int(local), int(node), int(world)) == (rank % 2, rank // 2, 4)
            assert gpus == "0,1", "the GPUs that Ray granted"
            assert not Path(f"/proc/{pid}").exists(), "a process is left"
    assert (tmp_path / "jobs" / "wide-fold0.node1.log").read_text().count("node 1 of 2: joins ") == 2


@pytest.mark.parametrize(
    ("left", "said"), [(1, ""), (0, "; waits until the cluster has 4 GPUs, 6 CPUs, 12 GB again")]
)
def test_a_job_says_that_it_waits_for_a_node_like_the_one_it_lost(
    left: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([Outcome(False, lost=True, reason="its node was lost"), Outcome(True)])
    monkeypatch.setattr(
        cluster, "begin", lambda ray, job, folder, number: Attempt(job, folder, number, (number,))
    )
    monkeypatch.setattr(cluster, "end", lambda ray, attempt, ended: next(outcomes))
    monkeypatch.setattr(cluster, "nodes", lambda ray: [Node(4, 8, 32)] * left + [Node(0, 8, 32)])
    ray: Any = SimpleNamespace(wait=lambda tasks, **options: (tasks, []))
    reports: list[tuple[str, str]] = []
    job = Job("m", 0, tmp_path, Needs(4, 6, 12), ())
    cluster.run_jobs(
        ray, [job], tmp_path, lambda job, state, number, reason: reports.append((state, reason)), lambda: None
    )
    assert reports == [("waiting", ""), ("retrying", "its node was lost" + said), ("done", "")]


def test_a_helper_never_says_that_a_job_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped from outside ends with status 0, and the job's checkpoint may not be there."""
    monkeypatch.setattr(worker, "_run", lambda *arguments: Outcome(True))
    job = Job("m", 0, tmp_path, Needs(4, 6, 12, nodes=2), ())
    helped = worker.assist(job, tmp_path, 1, "token", 1, "node")
    outcomes = {"first": Outcome(False, reason="TaskCancelledError"), "helper": helped}
    monkeypatch.setattr(attempt, "_outcome", lambda ray, task: outcomes[task])
    monkeypatch.setattr(attempt, "stop", lambda ray, attempts: None)
    monkeypatch.setattr(attempt, "_lost_a_node", lambda ray, attempt: False)
    ended = attempt.end(None, Attempt(job, tmp_path, 1, ("first", "helper"), "group"), ["helper"])
    assert ended == Outcome(False, lost=True, reason="node 1: was stopped")


def test_nodes_are_known_by_the_records_of_this_attempt(tmp_path: Path) -> None:
    job = Job("m", 0, tmp_path, Needs(4, 6, 12, nodes=2), ())
    both = Attempt(job, tmp_path, 2, ("first", "helper"), "group")
    assert attempt._node_ids(both) == [], "neither has begun"
    write_json(worker.record_path(tmp_path, job), {"attempt": 2, "node_id": "a"})
    write_json(worker.assistant_path(tmp_path, job, 1), {"attempt": 1, "node_id": "lost before"})
    assert attempt._node_ids(both) == ["a"]


def test_the_others_stop_with_the_first_and_say_when_they_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start of another attempt is not followed; a part that fails is told; one taken back is stopped."""
    (tmp_path / "work").mkdir()
    spec = tmp_path / "work" / launcher.SPEC
    code = (  # instead of torch's launcher
        "import sys; from pathlib import Path; from pipeline.training import launcher\n"
        "launcher.command = lambda spec, n, here, node: [sys.executable, '-c', here['code']]\n"
        "launcher.follow(Path(sys.argv[1]), 'ours', 1)"
    )
    here = {"token": "ours", "nodes": 2, "processes": 1, "address": "h", "port": 1, "launch": "a"}
    touch = f"open({str(tmp_path / 'began')!r}, 'a').write('x')"
    write_json(spec, {"start": here | {"token": "theirs", "code": touch}})
    with open(tmp_path / "log", "wb") as log:
        follower = start([sys.executable, "-c", code, str(spec.parent)], log, cwd=PROJECT)
    failed = spec.parent / launcher.FAILURE.format(node=1)

    def wait_for(path: Path) -> None:
        deadline = time.monotonic() + 20
        while not path.is_file():
            assert time.monotonic() < deadline and follower.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)

    try:
        time.sleep(0.5)
        write_json(spec, {"start": here | {"code": "raise SystemExit(3)"}})
        wait_for(failed)
        assert json.loads(failed.read_text()) == {"launch": "a", "status": 3}
        assert not (tmp_path / "began").exists()
        ended = tmp_path / "ended"
        sleeps = (
            f"import time, pathlib\n{touch}\ntry: time.sleep(60)\n"
            f"finally: pathlib.Path({str(ended)!r}).touch()"
        )
        write_json(spec, {"start": here | {"launch": "b", "code": sleeps}})
        wait_for(tmp_path / "began")
        spec.unlink()
        wait_for(ended)
        assert json.loads(failed.read_text())["launch"] == "a", "to be stopped is no failure"
    finally:
        follower.kill()
        follower.wait()


def test_the_first_stops_when_another_node_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launcher.TEAM, "ours 10.0.0.1")
    told: list[dict[str, Any]] = []

    def command(spec: Path, processes: int, here: dict[str, Any]) -> list[str]:
        told.append(json.loads(spec.read_text())["start"])
        write_json(tmp_path / launcher.FAILURE.format(node=1), {"launch": here["launch"], "status": 1})
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    monkeypatch.setattr(launcher, "command", command)
    write_json(tmp_path / launcher.FAILURE.format(node=2), {"launch": "of an earlier start", "status": 1})
    assert launcher.lead(tmp_path / launcher.SPEC, {"task": {}, "launch": "now"}, 8, 2) != 0
    assert not (tmp_path / launcher.SPEC).exists()
    assert (told[0]["address"], told[0]["nodes"], told[0]["processes"]) == ("10.0.0.1", 2, 4)
    monkeypatch.delenv(launcher.TEAM)
    with pytest.raises(PipelineError, match="`make train-all`, which starts the others"):
        launcher.lead(tmp_path / launcher.SPEC, {}, 8, 2)


def test_the_launcher_of_each_node_is_told_where_to_meet(tmp_path: Path) -> None:
    here = {"nodes": 2, "address": "10.0.0.1", "port": 4711, "ranks": launcher.RANKS}
    assert launcher.command(tmp_path / "ranks.json", 4, here, 1) == [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=10.0.0.1",
        "--master-port=4711",
        "--nproc-per-node=4",
        "--max-restarts=0",
        "--module",
        "pipeline.training.processes",
        str(tmp_path / "ranks.json"),
    ]


def test_as_few_nodes_as_hold_equal_shares() -> None:
    four, three, big = Node(4, 8, 32), Node(3, 8, 32), Node(8, 8, 32)
    assert spread(EIGHT, [four, big]).nodes == 1
    assert spread(EIGHT, [four, three, four]).nodes == 2
    assert spread(Needs(9, 6, 12), [four, three, four]).nodes == 3
    assert spread(EIGHT, [three] * 4).nodes == 4
    assert spread(EIGHT, [three] * 3) == EIGHT, "8 in three equal shares are no whole GPUs"
    assert spread(Needs(0.5), [Node(0, 1, 1)] * 2).nodes == 1
    assert spread(EIGHT, [four] * 2).share == Needs(4, 3, 6)
    assert spread(Needs(2, 12, 8), [big] * 2).nodes == 1, "the GPUs are there, CPUs are not"


def test_what_no_set_of_nodes_can_hold_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    def refused(needs: Needs, found: list[Node], message: str) -> None:
        with pytest.raises(PipelineError, match=message):
            check_fit([Job("m", 0, tmp_path, needs, ())], found)

    three = Node(3, 8, 32)
    refused(
        spread(EIGHT, [three] * 2),
        [three] * 2,
        r"^m-fold0 asks for 8 GPUs, 6 CPUs, 12 GB; none of 2 nodes has that, nor have several of them equal "
        r"shares of it, the nearest lacks 5 GPUs: lower",
    )
    two = Needs(8, 6, 12, nodes=2)
    refused(
        two,
        [Node(4, 8, 32), Node(4, 2, 32), Node(0, 8, 32)],
        r"^m-fold0 asks for 2 nodes with 4 GPUs, 3 CPUs, 6 GB each; 1 of 3 nodes has that, the nearest other "
        r"lacks 1 CPUs: ",
    )
    refused(two, [Node(8, 8, 32)], "1 of 1 nodes has that, 1 more needed")
    one_machine = "and its framework or NODES=1 takes no 2 that have it together, the nearest lacks 4 GPUs"
    refused(EIGHT, [Node(4, 8, 32)] * 2, one_machine)
    check_fit([Job("m", 0, tmp_path, two, ())], [Node(4, 8, 32)] * 2)


def test_nodes_are_asked_for_by_the_command_or_the_config() -> None:
    model, yolo = find_model("faster_rcnn_tiny"), find_model("yolov5n")
    fours = [Node(4, 8, 32)] * 4
    assert place(model, EIGHT, fours, Asked(Overrides())).nodes == 2
    assert place(model, EIGHT, fours, Asked(Overrides(), nodes=4)).nodes == 4
    assert place(model, Needs(8, nodes=4), fours, Asked(Overrides())).nodes == 4
    assert place(yolo, EIGHT, fours, Asked(Overrides())).nodes == 1, "check_fit then says what is missing"
    with pytest.raises(PipelineError, match="nodes 4, gpus 2: expected as many whole GPUs on each node"):
        place(model, Needs(2, nodes=4), fours, Asked(Overrides()))  # as the config says, with GPUS=2
    with pytest.raises(PipelineError, match="yolov5n: ultralytics trains a model on the GPUs of one machine"):
        place(yolo, EIGHT, fours, Asked(Overrides(), nodes=2))
    with pytest.raises(PipelineError, match="nodes 3, gpus 8: expected as many whole GPUs on each node"):
        place(model, EIGHT, fours, Asked(Overrides(), nodes=3))
    with pytest.raises(PipelineError, match=r"nodes 2, gpus 1: expected"):
        read_needs({"gpus": 1, "nodes": 2}, "configs/m.py")
    assert fit_needs([Needs(8, nodes=2)], [Node(0, 4, 8)], Asked(Overrides())) == [Needs(0, 4, 8)]
    check_nodes_of(find_model("cascade_swin"), 2)


def test_the_training_is_told_of_its_nodes(tmp_path: Path) -> None:
    job = make_job(find_model("faster_rcnn_tiny"), 0, tmp_path, Needs(8, 8, 8, nodes=2), Asked(Overrides()))
    assert " ".join(job.commands[0].arguments).endswith("--workers 7 --gpus 8 --nodes 2")
