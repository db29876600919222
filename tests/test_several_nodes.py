"""One training in several processes, on one node or several: where they run, and what a lost one costs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_train_all import cluster_of, run_table

from pipeline.cluster import connected
from pipeline.data.models import Overrides, find_model
from pipeline.errors import LostProcessError, PipelineError
from pipeline.jobs import scheduler
from pipeline.jobs.attempt import Attempt
from pipeline.jobs.job import NONE, Command, Job, Outcome, Resources, read_resources
from pipeline.jobs.placement import Node, check_fit, spread
from pipeline.jobs.plan import PROCESS, JobOptions, choose_nodes, fit_resources, make_job
from pipeline.jobs.status import StatusTable
from pipeline.paths import PROJECT
from pipeline.training.backend import check_nodes_of

pytest.importorskip("ray")
FAKE = Path(__file__).with_name("fake_nodes.py")
EIGHT = Resources(gpus=8, cpus=6, memory_gb=12)
PATHS = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{FAKE.parent}"}  # each process finds the tests' function


@pytest.fixture(scope="module")
def pairs() -> Iterator[Any]:
    """A head without GPUs, and three nodes with two each."""
    with cluster_of(others=3, gpus=2, head_gpus=0) as made:
        yield made


def wide_job(tmp_path: Path, epochs: int, seconds: float, trouble: str = "") -> Job:
    """Four processes on two nodes, started by a command that holds nothing, and a command after it."""
    run = tmp_path / "runs" / "wide-0"
    words = (str(FAKE), str(run), str(epochs), str(seconds), "4", "2", *filter(None, [trouble]))
    after = Command("predicting", ("-c", "import os; print('GPU', os.environ['CUDA_VISIBLE_DEVICES'])"))
    resources = Resources(gpus=4, cpus=2, memory_gb=0.2, nodes=2)
    commands = (Command("training", words, NONE), Command("predicting", after.arguments, resources.each))
    environment = PATHS | {PROCESS: json.dumps({"CPU": 1, "GPU": 1})}
    return Job("wide", 0, run, resources, commands, environment)


def ranks(run: Path, rank: int) -> list[list[str]]:
    """LOCAL_RANK, WORLD_SIZE, GPUs, node and process of each start of a process."""
    path = run / f"rank{rank}"
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def expected_result(epochs: int, processes: int) -> dict[str, int]:
    both = sum(range(processes))
    return {"epoch": epochs, "sum": sum(processes * epoch + both for epoch in range(epochs))}


def assert_ended(run: Path, processes: int) -> None:
    deadline = time.monotonic() + 30
    pids = [pid for rank in range(processes) for *_, pid in ranks(run, rank)]
    while left := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").is_file()]:
        assert time.monotonic() < deadline, f"processes are left: {left}"
        time.sleep(0.1)


def test_a_mistake_on_two_nodes_is_told_and_not_tried_again(pairs: Any, tmp_path: Path) -> None:
    job = wide_job(tmp_path, 6, 0.1, "error")
    with connected() as ray:
        outcomes, state = run_table(ray, [job], tmp_path / "jobs")
        assert not any(group["state"] == "CREATED" for group in ray.util.placement_group_table().values())
    assert outcomes[job.name] == Outcome(False, reason="training: RuntimeError: ValueError: no such layer")
    assert len(state[job.name]["attempts"]) == 1
    log = (tmp_path / "jobs" / "wide-fold0.log").read_text()
    assert "in fit" in log, "the traceback of the process that failed"


def test_a_training_on_two_nodes_survives_the_loss_of_one(pairs: Any, tmp_path: Path) -> None:
    """Four processes on two of three nodes; a node dies, and all go on on the two that are left.

    The job asks for all GPUs that these have: it would wait for ever if its own task held one of them.
    """
    made, others = pairs
    job, epochs = wide_job(tmp_path, 8, 0.4), 8
    doomed: list[Any] = []

    def kill(table: StatusTable) -> None:
        status = table.statuses[job.name]
        if not doomed and status.attempts and (status.epoch or 0) >= 2:
            assert status.device == "4 GPUs"
            node_id = ranks(job.run, 3)[-1][3]
            doomed.extend(node for node in others if node.node_id == node_id)
            made.remove_node(doomed[0], allow_graceful=False)

    with connected() as ray:
        assert spread(Resources(gpus=4, cpus=2, memory_gb=0.2), scheduler.nodes(ray)) == job.resources
        outcomes, state = run_table(ray, [job], tmp_path / "jobs", kill)
    log = (tmp_path / "jobs" / "wide-fold0.log").read_text()
    assert doomed and outcomes[job.name].ok, log
    attempts = state[job.name]["attempts"]
    assert len(attempts) == 2, log
    assert "was lost" in attempts[0]["reason"] or "was killed" in attempts[0]["reason"]
    starts = [int(line) for line in (job.run / "starts").read_text().split()]
    assert len(starts) == 2 and starts[0] == 0 and starts[1] >= 2, "it went on from its checkpoint"
    assert json.loads((job.run / "result.json").read_text()) == expected_result(epochs, 4), "as undisturbed"
    for start, lost in ((0, True), (1, False)):
        places = [ranks(job.run, rank)[start] for rank in range(4)]
        assert {world for _, world, *_ in places} == {"4"}
        nodes = [node for *_, node, _ in places]
        assert sorted(nodes.count(node) for node in set(nodes)) == [2, 2]
        assert (doomed[0].node_id in nodes) == lost
    assert_ended(job.run, 4)
    assert "goes on from epoch 0" in log and "GPU 0" in log, (
        "the first process's words, then the next command"
    )
    assert "raylet" not in log and "(pid=" not in log, "nothing of Ray's"


@pytest.fixture
def start_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """Starts one training in two processes, as make train does, on a Ray of its own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_memory_usage_threshold", "1.0")

    def begin(epochs: int, seconds: float, *trouble: str) -> subprocess.Popen[str]:
        (tmp_path / "run").mkdir(exist_ok=True)
        command = [sys.executable, str(FAKE), str(tmp_path / "run"), str(epochs), str(seconds), "2", "1"]
        # A shell starts what runs in its background with SIGINT ignored, and tests may run there.
        heeding: Any = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        return subprocess.Popen(
            [*command, *trouble],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | PATHS,
            **heeding,
        )

    return begin


def wait_for_epochs(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    path = run / "work" / "epoch.json"
    while not path.is_file() or json.loads(path.read_text())["epoch"] < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_process_ends_a_training_and_the_same_command_goes_on(
    start_alone: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start_alone(8, 0.3)
    wait_for_epochs(run, 2, process)
    killed = time.monotonic()
    os.kill(int(ranks(run, 1)[0][-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == LostProcessError.status
    assert time.monotonic() - killed < 60
    line = "error: fake run: one of its 2 processes was killed; the same command goes on"
    assert (out, err) == ("rank 0 goes on from epoch 0\n", line + "\n"), "one line, and nothing of Ray's"
    assert_ended(run, 2)

    process = start_alone(8, 0.3)
    wait_for_epochs(run, 4, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "stopped; the same command goes on from here\n")
    assert_ended(run, 2)

    process = start_alone(8, 0.0)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    starts = [int(line) for line in (run / "starts").read_text().split()]
    assert starts[0] == 0 and 2 <= starts[1] < starts[2]
    assert out == f"rank 0 goes on from epoch {starts[2]}\n"
    assert json.loads((run / "result.json").read_text()) == expected_result(8, 2), "as undisturbed"


def test_a_mistake_in_one_process_is_one_line(
    start_alone: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_alone(8, 0.1, "mistake")
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (1, "error: no such layer\n")
    assert_ended(tmp_path / "run", 2)


@pytest.mark.parametrize(
    ("left", "waits"), [(1, ""), (0, "; waits until the cluster has 4 GPUs, 6 CPUs, 12 GB again")]
)
def test_a_job_says_that_it_waits_for_a_node_like_the_one_it_lost(
    left: int, waits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([Outcome(False, lost=True, reason="its node was lost"), Outcome(True)])
    monkeypatch.setattr(
        scheduler,
        "begin",
        lambda ray, job, folder, number, step=0, group=None: Attempt(job, number, step, number),
    )
    monkeypatch.setattr(scheduler, "outcome_of", lambda ray, attempt: next(outcomes))
    monkeypatch.setattr(scheduler, "nodes", lambda ray: [Node(4, 8, 32)] * left + [Node(0, 8, 32)])
    ray: Any = SimpleNamespace(wait=lambda tasks, **options: (tasks, []))
    reports: list[tuple[str, str]] = []
    job = Job("m", 0, tmp_path, Resources(4, 6, 12), (Command("training", ()),))
    scheduler.run_jobs(
        ray, [job], tmp_path, lambda job, state, reason: reports.append((state, reason)), lambda: None
    )
    assert reports == [("waiting", ""), ("retrying", "its node was lost" + waits), ("done", "")]


def test_no_more_trainings_in_several_processes_begin_than_have_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would wait with a process of their own, and keep what they hold from those that run."""
    begun: list[str] = []

    def begin(ray: Any, job: Job, folder: Path, number: int, step: int = 0, group: Any = None) -> Attempt:
        begun.append(f"{job.name} {step}")
        return Attempt(job, number, step, (job.name, step))

    monkeypatch.setattr(scheduler, "begin", begin)
    monkeypatch.setattr(scheduler, "outcome_of", lambda ray, attempt: Outcome(True))
    monkeypatch.setattr(scheduler, "nodes", lambda ray: [Node(4, 8, 32)])
    monkeypatch.setattr(scheduler, "POLL", 0.0)
    ray: Any = SimpleNamespace(wait=lambda tasks, **options: (tasks[:1], []))
    commands = (Command("training", (), NONE), Command("predicting", ()))
    jobs = [Job("m", fold, tmp_path, Resources(2, 2, 2), commands) for fold in range(3)]
    jobs.append(Job("small", 0, tmp_path, Resources(1, 2, 2), commands[1:]))
    scheduler.run_jobs(ray, jobs, tmp_path, lambda *words: None, lambda: None)
    assert begun[:3] == ["m-fold0 0", "m-fold1 0", "small-fold0 0"]
    assert begun.index("m-fold2 0") > begun.index("m-fold0 1"), "after one has ended"
    assert len(begun) == 7


def test_as_few_nodes_as_hold_all_processes() -> None:
    four, three, big = Node(4, 8, 32), Node(3, 8, 32), Node(8, 8, 32)
    assert spread(EIGHT, [four, big]).nodes == 1
    assert spread(EIGHT, [four, three, four]).nodes == 2
    assert spread(Resources(9, 6, 12), [four, three, four]).nodes == 3
    assert spread(EIGHT, [three] * 4).nodes == 3, "3, 3 and 2"
    assert spread(EIGHT, [three] * 2) == EIGHT, "there are no 8"
    assert spread(Resources(0.5), [Node(0, 1, 1)] * 2).nodes == 1
    assert spread(EIGHT, [four] * 2).each == Resources(1, 1, 1.5)
    assert spread(Resources(2, 12, 8), [big] * 2).nodes == 1, "the GPUs are there, CPUs are not"


def test_what_no_nodes_can_hold_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    def refused(resources: Resources, nodes: list[Node], message: str) -> None:
        with pytest.raises(PipelineError, match=message):
            check_fit([Job("m", 0, tmp_path, resources, ())], nodes)

    three = Node(3, 8, 32)
    refused(
        spread(EIGHT, [three] * 2),
        [three] * 2,
        r"^m-fold0 asks for 8 GPUs, 6 CPUs, 12 GB; none of 2 nodes has that, the nearest lacks 5 GPUs: lower",
    )
    two = Resources(8, 6, 12, nodes=2)
    refused(
        two,
        [Node(4, 8, 32), Node(4, 2, 32), Node(0, 8, 32)],
        r"^m-fold0 asks for 8 GPUs, 6 CPUs, 12 GB; 2 nodes hold 6 of its 8 processes with 1 GPU, 1 CPU, "
        r"1.5 GB each: ",
    )
    refused(
        EIGHT,
        [Node(4, 8, 32)] * 2,
        "lacks 4 GPUs; 2 have it together, which its framework or NODES=1 does not",
    )
    check_fit([Job("m", 0, tmp_path, two, ())], [Node(4, 8, 32)] * 2)
    check_fit([Job("m", 0, tmp_path, two, ())], [Node(8, 8, 32)])


def test_nodes_are_asked_for_by_the_command_or_the_config() -> None:
    model, yolo = find_model("faster_rcnn_tiny"), find_model("yolov5n")
    fours = [Node(4, 8, 32)] * 4

    def options(nodes: int | None = None) -> JobOptions:
        return JobOptions(Overrides(), nodes=nodes)

    assert choose_nodes(model, EIGHT, fours, options()).nodes == 2
    assert choose_nodes(model, EIGHT, fours, options(4)).nodes == 4
    assert choose_nodes(model, Resources(8, nodes=4), fours, options()).nodes == 4
    assert choose_nodes(yolo, EIGHT, fours, options()).nodes == 1, "check_fit then says what is missing"
    with pytest.raises(PipelineError, match="nodes 4, gpus 2: expected a GPU for each node"):
        choose_nodes(model, Resources(2, nodes=4), fours, options())  # as the config says, with GPUS=2
    with pytest.raises(PipelineError, match=r"gpus 2\.5: expected a part of one, or whole ones"):
        choose_nodes(model, Resources(2.5), fours, options())
    with pytest.raises(PipelineError, match="yolov5n: ultralytics trains a model on the GPUs of one machine"):
        choose_nodes(yolo, EIGHT, fours, options(2))
    with pytest.raises(PipelineError, match=r"nodes 2, gpus 1: expected"):
        read_resources({"gpus": 1, "nodes": 2}, "configs/m.py")
    cpu = fit_resources([Resources(8, nodes=2)], [Node(0, 4, 8)], options())
    assert cpu == [Resources(0, 4, 8)]
    check_nodes_of(model, 2)


def test_the_training_is_told_of_its_nodes(tmp_path: Path) -> None:
    resources = Resources(8, 16, 8, nodes=2)
    job = make_job(find_model("faster_rcnn_tiny"), 0, tmp_path, resources, JobOptions(Overrides()))
    assert " ".join(job.commands[0].arguments).endswith("--workers 8 --gpus 8 --nodes 2")
