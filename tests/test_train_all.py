"""Many trainings on Ray: where they run, what survives a lost node, and what is said of it all."""

import contextlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from pipeline import cluster, folds, launch
from pipeline.cluster import connected
from pipeline.data import demo
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, find_model
from pipeline.data.predictions import read_predictions
from pipeline.data.profile import load_profile
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.jobs import scheduler, sharing
from pipeline.jobs.job import NONE, Command, Job, Outcome, Resources, read_resources
from pipeline.jobs.placement import Node, check_fit
from pipeline.jobs.plan import JobOptions, fit_resources, make_job, plan, try_again
from pipeline.jobs.sharing import Measured, Sharing, check_gpus_there, decide
from pipeline.jobs.status import StatusTable, duration
from pipeline.paths import PROJECT, write_json
from pipeline.processes import finish, start
from pipeline.training.job import SHARED_GPU
from pipeline.training.progress import PROGRESS

FAKE = Path(__file__).with_name("fake_stage.py")
pytest.importorskip("ray")


def fake_job(runs: Path, model: str, fold: int, resources: Resources, *arguments: object) -> Job:
    run = runs / f"{model}-{fold}"
    command = Command("training", (str(FAKE), str(run), *map(str, arguments)))
    return Job(model, fold, run, resources, (command,), {"PYTHONPATH": str(PROJECT)})


def run_table(
    ray: Any, jobs: list[Job], folder: Path, look: Any = None, share: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Outcomes by name, and the state file as it is in the end."""
    with StatusTable(jobs, folder, seconds=0.2) as table:
        shared = Sharing(ray, scheduler.nodes(ray), jobs, folder, table.say) if share else None

        def both() -> None:
            table.look()
            if look is not None:
                look(table)

        outcomes = scheduler.run_jobs(ray, jobs, folder, table.report, both, shared)
    return outcomes, json.loads((folder / "state.json").read_text())["jobs"]


@contextlib.contextmanager
def cluster_of(others: int, gpus: int, head_gpus: int, memory: str = "1.0") -> Iterator[Any]:
    """A real cluster on this machine, in RAY_ADDRESS: a head and others, two CPUs and pretended GPUs each.

    memory: the used part of the machine's from which on Ray kills what runs on the others; never by default.
    """
    cluster.load_ray()
    from ray.cluster_utils import Cluster

    args = {"num_cpus": 2, "object_store_memory": cluster.OBJECT_STORE}
    head = args | {"num_gpus": head_gpus, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", "1.0")
        made = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_memory_usage_threshold", memory)
        added = [made.add_node(num_gpus=gpus, **args) for _ in range(others)]
        made.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", made.address)
        yield made, added
    made.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Three nodes with a GPU each."""
    with cluster_of(others=2, gpus=1, head_gpus=1) as made:
        yield made


def test_a_lost_node_costs_no_job_and_no_result(nodes: Any, tmp_path: Path) -> None:
    """Six jobs over three nodes, one of them killed in the middle: all done, each once, as undisturbed."""
    made, others = nodes
    whole = Resources(gpus=1, cpus=1, memory_gb=0.1)
    jobs = [fake_job(tmp_path / "runs", model, fold, whole, 6, 0.3) for model in "ab" for fold in range(3)]
    doomed = others[0]
    killed: list[str] = []

    def kill(table: StatusTable) -> None:
        for name, status in table.statuses.items():
            there = status.attempts and status.attempts[-1]["node_id"] == doomed.node_id
            if not killed and there and (status.epoch or 0) >= 2 and status.state == "training":
                killed.append(name)
                made.remove_node(doomed, allow_graceful=False)

    with connected() as ray:
        assert len(scheduler.nodes(ray)) == 3
        outcomes, state = run_table(ray, jobs, tmp_path / "jobs", kill)
    assert killed and all(outcome.ok for outcome in outcomes.values()) and len(outcomes) == 6

    for job in jobs:
        attempts = state[job.name]["attempts"]
        lost = job.name in killed
        assert state[job.name]["state"] == "done" and len(attempts) == 1 + lost
        starts = [int(line) for line in (job.run / "starts").read_text().split()]
        assert len(starts) == 1 + lost and starts[0] == 0
        if lost:
            assert attempts[0]["reason"] in ("its node was lost", "its worker was killed")
            assert starts[1] >= 2, "it went on from its checkpoint"
            assert attempts[1]["node_id"] != doomed.node_id
    intervals = sorted(
        (attempt["node_id"], gpu, attempt["began"], attempt["ended"])
        for status in state.values()
        for attempt in status["attempts"]
        for gpu in attempt["gpus"]
    )
    assert len(intervals) == 7 and len({node for node, *_ in intervals}) == 3
    for (node, gpu, _, ended), (node_after, gpu_after, began, _) in itertools.pairwise(intervals):
        assert (node, gpu) != (node_after, gpu_after) or ended <= began, "two jobs on one GPU"

    quiet = [fake_job(tmp_path / "quiet", job.model, job.fold, whole, 6, 0) for job in jobs]
    for job, alone in zip(jobs, quiet, strict=True):
        subprocess.run(
            [sys.executable, *alone.commands[0].arguments],
            cwd=PROJECT,
            check=True,
            env=os.environ | alone.environment,
        )
        assert (job.run / "result.json").read_bytes() == (alone.run / "result.json").read_bytes()


def test_a_kill_for_want_of_memory_is_not_the_jobs_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own monitor kills it on a full node; with no retry left it still waits until there is another."""
    monkeypatch.setattr(scheduler, "RETRIES", 0)
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 1.0)
    job = fake_job(tmp_path, "m", 0, Resources(gpus=1, cpus=1, memory_gb=0.1), 3, 0.5)
    reasons: list[str] = []
    with cluster_of(others=1, gpus=1, head_gpus=0, memory="0.01") as (made, (full,)):

        def relieve(table: StatusTable) -> None:
            status = table.statuses[job.name]
            if status.state == "retrying" and not reasons:
                reasons.append(status.reason)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("RAY_memory_usage_threshold", "1.0")
                    made.add_node(num_cpus=2, num_gpus=1, object_store_memory=cluster.OBJECT_STORE)
                made.remove_node(full)

        with connected() as ray:
            outcomes, _ = run_table(ray, [job], tmp_path / "jobs", relieve)
    assert outcomes[job.name].ok, outcomes
    expected = r"ran out of memory; tries again in 1 s, and so on for at most 60 min more"
    assert re.search(expected, reasons[0]), reasons


def test_what_counts_against_a_job_and_how_long_it_waits(tmp_path: Path) -> None:
    turn: Any = scheduler.Turn(fake_job(tmp_path, "m", 0, Resources()))
    killed, full = Outcome(False, lost=True), Outcome(False, lost=True, no_memory=True)
    pauses = []
    while (after := turn.after(full)) is not None:
        turn = after
        pauses.append(turn.pause)
    assert pauses[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert scheduler.PATIENCE - 300 < sum(pauses) <= scheduler.PATIENCE
    for _ in range(scheduler.RETRIES):
        turn = turn.after(killed)
        assert turn.not_before == 0.0
    assert turn.after(killed) is None


def test_one_failing_job_stops_no_other_and_says_why(nodes: Any, tmp_path: Path) -> None:
    """A Python error is not tried again; a kill is, and then given up."""
    half = Resources(gpus=0.5, cpus=1, memory_gb=0.1)
    jobs = [
        fake_job(tmp_path / "runs", "good", 0, half, 1, 0.1),
        fake_job(tmp_path / "runs", "bad", 0, half, 1, 0.1, "error"),
        fake_job(tmp_path / "runs", "dying", 0, half, 9, 0.0, "kill"),
    ]
    with connected() as ray:
        outcomes, state = run_table(ray, jobs, tmp_path / "jobs")
    assert outcomes["good-fold0"].ok
    assert outcomes["bad-fold0"].reason == "training: ValueError: no such layer"
    assert len(state["bad-fold0"]["attempts"]) == 1
    assert outcomes["dying-fold0"].reason == "training: killed by SIGKILL, perhaps for want of memory"
    assert len(state["dying-fold0"]["attempts"]) == 1 + scheduler.RETRIES
    starts = (tmp_path / "runs" / "dying-0" / "starts").read_text().split()
    assert starts == ["0", "1", "2", "3"], "each attempt goes on from the checkpoint"
    log = (tmp_path / "jobs" / "bad-fold0.log").read_text()
    assert "Traceback" in log and "--- attempt 1" in log


def test_small_jobs_share_a_gpu(nodes: Any, tmp_path: Path) -> None:
    """Twice as many halves as there are GPUs run at the same time, two on a GPU."""
    half = Resources(gpus=0.5, cpus=1, memory_gb=0.1)
    with connected() as ray:
        count = 2 * len(scheduler.nodes(ray))
        jobs = [fake_job(tmp_path / "runs", "half", fold, half, 1, 3.0) for fold in range(count)]
        _, state = run_table(ray, jobs, tmp_path / "jobs")
    attempts = [attempt for status in state.values() for attempt in status["attempts"]]
    together = max(attempt["began"] for attempt in attempts) < min(attempt["ended"] for attempt in attempts)
    assert len(attempts) == count and together
    places = [(attempt["node_id"], *attempt["gpus"]) for attempt in attempts]
    assert {places.count(place) for place in places} == {2}


def sharing_jobs(
    runs: Path, count: int, seconds: float, memory: float, hold: Path | None = None
) -> list[Job]:
    """As GPUS=auto makes them: each takes so much of a GPU's memory, in epochs of a tenth of a second.

    hold: a file before which none of them ends.
    """
    one = Resources(gpus=1, cpus=1, memory_gb=0.1)
    environment = {SHARED_GPU: "1", "FAKE_MEMORY": str(memory), "PYTHONPATH": str(PROJECT)}
    environment |= {"FAKE_HOLD": str(hold)} if hold else {}
    jobs = [fake_job(runs, "m", fold, one, round(10 * seconds), 0.1) for fold in range(count)]
    return [replace(job, environment=environment) for job in jobs]


def releasing(
    hold: Path, when: Callable[[dict[str, list[dict[str, Any]]]], bool]
) -> Callable[[StatusTable], None]:
    """What to do on a look: let jobs end when their attempts are so, or after five minutes."""
    end = time.monotonic() + 300

    def look(table: StatusTable) -> None:
        attempts = {name: status.attempts for name, status in table.statuses.items()}
        if when(attempts) or time.monotonic() > end:
            hold.touch()

    return look


def most_at_once(attempts_of: dict[str, list[dict[str, Any]]]) -> dict[tuple[str, str], int]:
    """For each GPU, by node, how many jobs were on it at the same time; from the attempts of each job."""
    attempts = [attempt for of in attempts_of.values() for attempt in of]
    most: dict[tuple[str, str], int] = {}
    for attempt in attempts:
        place = attempt["node_id"], *attempt["gpus"]
        there = [a for a in attempts if (a["node_id"], *a["gpus"]) == place]
        count = sum(a["began"] <= attempt["began"] < (a["ended"] or math.inf) for a in there)
        most[place] = max(most.get(place, 0), count)
    return most


def test_as_many_jobs_share_a_gpu_as_was_found_best_on_one(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sharing, "TRIAL", 1.0)
    hold = tmp_path / "hold"
    with connected() as ray:
        count = len(scheduler.nodes(ray))
        jobs = sharing_jobs(tmp_path / "runs", 2 * count + 1, 1.0, 0.35, hold)
        look = releasing(hold, lambda attempts: list(most_at_once(attempts).values()) == [2] * count)
        outcomes, state = run_table(ray, jobs, tmp_path / "jobs", look, share=True)
    assert all(outcome.ok for outcome in outcomes.values())
    assert list(most_at_once({name: s["attempts"] for name, s in state.items()}).values()) == [2] * count
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("GPUS=auto")]
    assert re.fullmatch(r"GPUS=auto: m: photos per second of 1 job \d+\.\d; trying 2", lines[0])
    expected = r"GPUS=auto: m: photos per second of 1 job \d+\.\d, 2 jobs \d+\.\d; .*: 2 per GPU"
    assert re.fullmatch(expected, lines[1]) and len(lines) == 2


def test_a_job_out_of_memory_beside_others_is_tried_alone(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sharing, "TRIAL", 1.0)
    hold = tmp_path / "hold"
    with connected() as ray:
        count = len(scheduler.nodes(ray))
        jobs = sharing_jobs(tmp_path / "runs", count + 1, 1.0, 0.2, hold)
        large = jobs[-1]
        (command,) = large.commands
        command = replace(command, arguments=(*command.arguments, "memory"))
        jobs[-1] = replace(large, commands=(command,))
        look = releasing(hold, lambda attempts: any(a["ended"] for a in attempts[large.name]))
        outcomes, state = run_table(ray, jobs, tmp_path / "jobs", look, share=True)
    assert all(outcome.ok for outcome in outcomes.values())
    first, second = state[large.name]["attempts"]
    assert "tried alone" in first["reason"]
    others = [a for name, status in state.items() if name != large.name for a in status["attempts"]]

    def beside(attempt: dict[str, Any]) -> bool:
        return any(
            (other["node_id"], other["gpus"]) == (attempt["node_id"], attempt["gpus"])
            and other["began"] < attempt["ended"]
            and attempt["began"] < other["ended"]
            for other in others
        )

    assert beside(first) and not beside(second)
    assert f"{large.name} ran out of memory: 1 per GPU" in capsys.readouterr().out


def test_a_lost_node_costs_no_job_that_waits_for_a_shared_gpu(nodes: Any, tmp_path: Path) -> None:
    """What was to begin there begins elsewhere, though the GPU may never come back."""
    made, others = nodes
    doomed, began = others[-1], time.monotonic()
    killed: list[str] = []

    def kill(table: StatusTable) -> None:
        assert time.monotonic() - began < 300, "a job waits for ever"
        for name, status in table.statuses.items():
            there = status.attempts and status.attempts[-1]["node_id"] == doomed.node_id
            if not killed and there and (status.epoch or 0) >= 2:
                killed.append(name)
                made.remove_node(doomed, allow_graceful=False)

    with connected() as ray:
        jobs = sharing_jobs(tmp_path / "runs", len(scheduler.nodes(ray)) + 1, 2.0, 0.5)
        outcomes, _ = run_table(ray, jobs, tmp_path / "jobs", kill, share=True)
    assert killed and all(outcome.ok for outcome in outcomes.values())


@pytest.mark.parametrize(
    ("rates", "memory", "most", "expected"),
    [
        ([100], 0.2, 8, (2, False)),
        ([100, 111], 0.2, 8, (3, False)),
        ([100, 109], 0.2, 8, (1, True)),  # a tenth more is asked for
        ([100, 190, 208], 0.2, 8, (2, True)),
        ([100, 190, 280], 0.2, 3, (3, True)),  # CPUs
        ([100, 190, 280], 0.23, 8, (3, True)),  # a fourth would take 92 % of the memory
        ([100], 0.5, 8, (1, True)),
        ([0, 0], 0.2, 8, (3, False)),  # both validated: nothing is known
    ],
)
def test_how_many_jobs_share_a_gpu(
    rates: list[float], memory: float, most: int, expected: tuple[int, bool]
) -> None:
    measured = [Measured(rate, (memory,) * n) for n, rate in enumerate(rates, 1)]
    decision = decide(measured, most)
    assert (decision.jobs, decision.is_final) == expected
    assert bool(decision.reason) == decision.is_final


def test_memory_that_grew_beside_others_takes_one_job_back() -> None:
    grown = [Measured(100, (0.3,)), Measured(190, (0.5, 0.45))]
    assert decide(grown, 8).jobs == 1


def test_train_all_and_then_what_is_finished_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real trainings of two folds through the command, on a cluster of this machine's own."""
    demo.generate(home / "data" / "demo", n_train=8, n_test=2, size=64)
    folds.main(["--competition", "demo", "--folds", "2"])
    command = [
        sys.executable,
        "-m",
        "pipeline.launch",
        "--competition",
        "demo",
        "--models",
        "yolov5n",
        "--epochs",
        "1",
        "--image-size",
        "64",
        "--batch",
        "4",
        "--set",
        "pretrained=false",
        "--views",
        "identity,hflip",
    ]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for fold in (0, 1):
        run = home / "runs" / "demo" / "yolov5n" / f"fold{fold}"
        for split in ("oof", "test"):
            for view in ("identity", "hflip"):
                assert read_predictions(run / split / f"{view}.parquet").meta.model == "yolov5n"
    state = json.loads((home / "runs/demo/jobs/state.json").read_text())["jobs"]
    assert [job["state"] for job in state.values()] == ["done", "done"]
    assert all(job["epoch"] == job["epochs"] == 1 for job in state.values())
    for fold, job in enumerate(state.values()):
        history = (home / f"runs/demo/yolov5n/fold{fold}/history.csv").read_text().splitlines()
        assert job["loss"] == float(history[-1].split(",")[1]), "the last epoch's, not the last step's"

    profile = load_profile("demo")
    split = read_split("demo", load_dataset(profile, "train"))
    settings = Overrides(epochs=1, image_size=64, batch=4, options={"pretrained": False})
    one = Node(0, 2, 8)

    def left(options: JobOptions) -> list[str]:
        return [job.name for job in plan(profile, split, ["yolov5n"], [0, 1], options, [one])[0]]

    both = ["yolov5n-fold0", "yolov5n-fold1"]
    assert left(JobOptions(settings, views="identity,hflip")) == []
    assert left(JobOptions(settings, views="identity,rot90")) == both, "a view is missing"
    assert left(JobOptions(settings, seed=1)) == both, "another training, which the stage will refuse"
    tiny.cut_in_half(home / "runs/demo/yolov5n/fold1/oof/hflip.parquet")
    assert left(JobOptions(settings, views="identity,hflip")) == ["yolov5n-fold1"], "a damaged table"


def test_ctrl_c_stops_what_runs_and_the_state_says_so(tmp_path: Path) -> None:
    """The interrupted driver stops its stage, which keeps its checkpoint."""
    script = tmp_path / "drive.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = [{str(PROJECT)!r}, {str(FAKE.parent)!r}]
from pathlib import Path
from test_train_all import *
tmp = Path({str(tmp_path)!r})
jobs = [fake_job(tmp / "runs", "long", fold, Resources(0, 1, 0.1), 1000, 0.1) for fold in range(9)]
with connected() as ray:
    run_table(ray, jobs, tmp / "jobs")
"""
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    # A shell starts what runs in its background with SIGINT ignored, and tests may run there.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    driver = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, env=environment, **heeding
    )
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 90
    while not list(runs.glob("*/work/epoch.json")) and time.monotonic() < deadline:
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in driver.communicate(timeout=60)[1]
    states = {job["state"] for job in json.loads((tmp_path / "jobs/state.json").read_text())["jobs"].values()}
    assert states == {"stopped"}
    reached = {path: path.read_bytes() for path in runs.glob("*/work/epoch.json")}
    time.sleep(0.5)
    assert reached and reached == {path: path.read_bytes() for path in runs.glob("*/work/epoch.json")}
    assert not list(runs.glob("*/result.json"))


def test_a_job_that_no_node_can_hold_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    found = [Node(gpus=1, cpus=8, memory_gb=32), Node(gpus=2, cpus=4, memory_gb=16)]
    check_fit([fake_job(tmp_path, "m", 0, Resources(2, 4, 16))], found)
    with pytest.raises(
        PipelineError, match=r"^m-fold0 asks for 4 GPUs, 4 CPUs, 8 GB; none of 2 nodes .* lacks [23] GPUs"
    ):
        check_fit([fake_job(tmp_path, "m", 0, Resources(4, 4, 8))], found)
    with pytest.raises(PipelineError, match=r"lacks 4 CPUs, 1\.5 GB of memory"):
        check_fit([fake_job(tmp_path, "m", 0, Resources(0, 12, 33.5))], found[:1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpu": 1}, "expected gpus, cpus, memory_gb"),
        ({"gpus": 1.5}, "a part of one, or whole ones"),
        ({"cpus": 0}, "a whole number from 1"),
        ({"memory_gb": "8"}, "expected a number from 0"),
        ([1], "expected gpus, cpus, memory_gb"),
    ],
)
def test_resources_that_make_no_sense_are_refused(values: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        read_resources(values, "configs/m.yaml")


def test_without_gpus_the_cores_are_shared_out_and_with_them_the_config_rules() -> None:
    needs = [Resources(gpus=1, cpus=4, memory_gb=12), Resources(gpus=0.25, cpus=2, memory_gb=4)]
    options = JobOptions(Overrides())
    gpu, cpu = Node(4, 32, 100), Node(0, 16, 60)
    assert fit_resources(needs, [gpu, cpu], options) == needs
    assert fit_resources(needs, [gpu], JobOptions(Overrides(), gpus=4.0)) == [
        Resources(4, 4, 12),
        Resources(4, 2, 4),
    ]
    assert fit_resources(needs, [cpu], options) == [Resources(0, 8, 12), Resources(0, 8, 4)]
    assert fit_resources(needs, [Node(0, 2, 8)], options) == [Resources(0, 1, 3), Resources(0, 1, 2)]
    assert fit_resources(needs * 3, [Node(8, 2, 8)], JobOptions(Overrides(), device="cpu"))[0] == Resources(
        0, 1, 3
    )


def test_a_job_is_the_stages_as_a_user_types_them(tmp_path: Path) -> None:
    options = JobOptions(
        Overrides(epochs=3),
        seed=7,
        views="identity,hflip",
        train_arguments=("--epochs", "3"),
        common_arguments=("--competition", "demo"),
    )
    job = make_job(find_model("yolov5n"), 1, tmp_path, Resources(gpus=4, cpus=9), options)
    train, predict = (" ".join(command.arguments) for command in job.commands)
    assert train == (
        "-m pipeline.train --competition demo --model yolov5n --fold 1 --device cuda:0 --seed 7 --wait 300 "
        "--epochs 3 --workers 4 --gpus 4"
    )
    assert predict == (
        "-m pipeline.predict --competition demo --model yolov5n --fold 1 --device cuda:0 --split oof test "
        "--views identity,hflip"
    )
    assert job.commands[0].resources == NONE, "it would wait for GPUs that it holds itself"
    assert job.commands[1].resources == Resources(1, 2, 2) and len(job.steps) == 2
    assert json.loads(job.environment["PIPELINE_PROCESS"]) == {"CPU": 2, "GPU": 1, "memory": 2 * 2**30}
    alone = make_job(find_model("yolov5n"), 1, tmp_path, Resources(gpus=1), options)
    (command,) = alone.commands
    assert " ".join(command.arguments) == (
        "-m pipeline.train --competition demo --model yolov5n --fold 1 --device cuda:0 --seed 7 --wait 300 "
        "--epochs 3 --workers 3 --split oof test --views identity,hflip"
    )
    assert command.resources is None and not alone.environment
    cpu = make_job(find_model("yolov5n"), 1, tmp_path, Resources(gpus=0), options)
    assert "--device cpu" in " ".join(cpu.commands[0].arguments)
    assert "--workers" not in cpu.commands[0].arguments and "--gpus" not in cpu.commands[0].arguments


def test_a_command_that_has_trained_predicts(tmp_path: Path) -> None:
    job = fake_job(tmp_path, "m", 0, Resources())
    assert job.state("training") == "training"
    write_json(job.run / "card.json", {})
    assert job.state("training") == "predicting"


def test_the_command_to_try_again_names_what_failed(tmp_path: Path) -> None:
    jobs = [fake_job(tmp_path, model, fold, Resources()) for model in "ab" for fold in (0, 1)]
    command = try_again(jobs, ["a-fold1", "b-fold0"], {"COMP": "demo", "SET": "x=1 y=2"})
    assert command == "make train-all MODEL=a,b FOLD=0,1 COMP=demo SET='x=1 y=2'"


def test_the_table_shows_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *jobs, finished = [fake_job(tmp_path, "m", fold, Resources()) for fold in (0, 1, 2)]
    with StatusTable(jobs, tmp_path / "jobs", [finished]) as table:
        table.report(jobs[0], "done", "")
        table.report(jobs[1], "failed", "training: no such layer")
        lines = capsys.readouterr().out
        table.console.print(table.table())
    text = capsys.readouterr().out
    assert "2 of 3 done" in text and re.search(r"m-fold2\s+done", text)
    assert "m-fold0: done" in lines and "m-fold2" not in lines, "it was said before"
    states = json.loads((tmp_path / "jobs" / "state.json").read_text())["jobs"]
    assert {name: job["state"] for name, job in states.items()} == {
        "m-fold0": "done",
        "m-fold1": "failed",
        "m-fold2": "done",
    }
    assert re.search(r"m-fold1\s+failed\s+training: no such layer", text)
    assert table.summary()[0].startswith("m-fold1: failed: training: no such layer (log: ")


def test_a_damaged_record_that_is_only_shown_stops_no_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = fake_job(tmp_path, "m", 0, Resources())
    (job.run / "work").mkdir(parents=True)
    with StatusTable([job], tmp_path / "jobs", seconds=0.0) as table:
        for path in (tmp_path / "jobs" / "m-fold0.json", job.run / PROGRESS, job.run / "card.json"):
            path.write_text('{"epoch": ')
        table.look()
        table.report(job, "done", "")
    assert table.statuses[job.name].epoch is None
    assert "m-fold0: done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (12.4, "12 s"), (180, "3 min"), (7500, "2 h 05 min"), (99.4, "99 s")]
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux kills the children of a dead parent")
def test_a_stage_dies_with_its_worker(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pipeline.processes import start\n"
        "child = start([sys.executable, '-c', 'import time; time.sleep(60)'], open(sys.argv[1], 'wb'))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    worker = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    worker.kill()
    worker.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the stage outlived its worker"
        time.sleep(0.01)


def test_finish_returns_the_status_of_a_command(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        assert finish(start([sys.executable, "-c", "raise SystemExit(3)"], log)) == 3


def test_launch_refuses_before_it_starts_anything(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.generate(home / "data" / "demo", n_train=8, n_test=2, size=64)
    folds.main(["--competition", "demo", "--folds", "2"])
    monkeypatch.setattr(cluster, "load_ray", lambda: pytest.fail("Ray was started"))
    with pytest.raises(PipelineError, match="fold '2': expected 0 to 1"):
        launch.main(["--competition", "demo", "--models", "yolov5n", "--folds", "0", "2"])
    with pytest.raises(PipelineError, match="view 'flop'"):
        launch.main(["--competition", "demo", "--models", "yolov5n", "--views", "flop"])


@pytest.mark.parametrize(("found", "device"), [([Node(0, 8, 16)], None), ([Node(1, 8, 16)], "cpu")])
def test_sharing_gpus_without_one_is_refused_in_one_line(found: list[Node], device: str | None) -> None:
    with pytest.raises(PipelineError, match=r"^GPUS=auto: no GPU here; without GPUS= .* cores$"):
        check_gpus_there(found, device)
