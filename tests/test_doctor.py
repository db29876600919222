"""What `make doctor` concludes, from facts that stand for other machines; then one real run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import Row, gpu_problem, gpu_rows, has_kernels
from pipeline.training import probe

# What torch 2.11.0's builds hold, by its release notes.
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CAPABILITIES = {
    "K80": (3, 7),
    "P100": (6, 0),
    "GTX 1080": (6, 1),
    "V100": (7, 0),
    "T4": (7, 5),
    "A100": (8, 0),
    "RTX 4090": (8, 9),
    "H100": (9, 0),
    "H200": (9, 0),
    "B200": (10, 0),
    "RTX 5090": (12, 0),
}


@pytest.mark.parametrize(
    ("gpu", "cu130", "cu126"),
    [
        ("K80", False, False),
        ("P100", False, True),
        ("GTX 1080", False, True),
        ("V100", False, True),
        ("T4", True, True),
        ("A100", True, True),
        ("RTX 4090", True, True),
        ("H100", True, True),
        ("H200", True, True),
        ("B200", True, False),
        ("RTX 5090", True, False),
    ],
)
def test_gpus_and_builds(gpu, cu130, cu126):
    assert has_kernels(CAPABILITIES[gpu], CU130) is cu130
    assert has_kernels(CAPABILITIES[gpu], CU126) is cu126
    assert (gpu_problem(CAPABILITIES[gpu], CU130, "580.95.05", "13.0") is None) is cu130
    assert (gpu_problem(CAPABILITIES[gpu], CU126, "560.35.03", "12.6") is None) is cu126


@pytest.mark.parametrize(
    ("arch", "runs"),
    [
        ("sm_80", {(8, 0), (8, 6), (8, 9)}),  # the same major version, from that minor on
        ("sm_86", {(8, 6), (8, 9)}),
        ("sm_90a", {(9, 0)}),  # that version only
        ("compute_80", {(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)}),  # PTX: all later ones
        ("gfx90a", set()),  # an AMD GPU
    ],
)
def test_binary_compatibility(arch, runs):
    gpus = {(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)}
    assert {gpu for gpu in gpus if has_kernels(gpu, [arch])} == runs


@pytest.mark.parametrize("gpu", ["P100", "GTX 1080", "V100"])
def test_old_gpu_is_sent_to_the_older_cuda(gpu):
    problem = gpu_problem(CAPABILITIES[gpu], CU130, "580.95.05", "13.0")
    assert "{}.{}".format(*CAPABILITIES[gpu]) in problem
    assert "cu126" in problem
    assert "driver" not in problem
    assert "525 or newer" in gpu_problem(CAPABILITIES[gpu], CU130, "470.82.01", "13.0")


def test_gpus_without_a_way_out_are_not_sent_there():
    too_old = gpu_problem(CAPABILITIES["K80"], CU130, "470.82.01", "13.0")
    assert "another GPU" in too_old
    assert "cu126" not in too_old
    too_new = gpu_problem((13, 0), CU130, "600.10", "13.0")
    assert "install a torch version that supports it" in too_new
    assert "cu126" not in too_new


@pytest.mark.parametrize(
    ("driver", "cuda", "fine"),
    [
        ("580.65.06", "13.0", True),
        ("610.1", "13.2", True),
        ("575.57.08", "13.0", False),
        ("525.60.13", "12.8", True),
        ("520.61.05", "12.6", False),
        (None, "13.0", True),
        ("[N/A]", "13.0", True),
    ],
)
def test_driver(driver, cuda, fine):
    assert (gpu_problem(CAPABILITIES["A100"], CU126, driver, cuda) is None) is fine


def test_old_driver_names_both_ways_out():
    problem = gpu_problem(CAPABILITIES["T4"], CU130, "535.104.05", "13.0")
    assert "535.104.05" in problem
    assert "580" in problem
    assert "cu126" in problem
    # these need the new driver anyway
    assert "cu126" not in gpu_problem(CAPABILITIES["T4"], CU130, "470.82.01", "13.0")
    assert "cu126" not in gpu_problem(CAPABILITIES["RTX 5090"], CU130, "575.57.08", "13.0")


def facts(gpus=(), nvidia_smi=None, cuda="13.0", error=""):
    return {
        "cuda": cuda,
        "arch_list": CU130 if cuda else [],
        "error": error,
        "gpus": [{"name": g, "capability": CAPABILITIES[g], "memory": 2**34} for g in gpus],
        "nvidia_smi": nvidia_smi,
    }


def listed(gpu, driver):
    return [{"name": gpu, "driver": driver, "capability": CAPABILITIES[gpu]}]


@pytest.mark.parametrize(
    ("seen", "hidden", "state", "words"),
    [
        (facts(["H200"], listed("H200", "580.1")), False, "ok", ["H200", "16 GiB", "580.1"]),
        (facts(["H200"]), False, "ok", ["driver unknown"]),
        (facts(["P100"], listed("P100", "580.1")), False, "PROBLEM", ["P100", "6.0", "cu126"]),
        (facts(nvidia_smi=listed("T4", "535.1")), False, "PROBLEM", ["T4", "535.1", "580"]),
        (facts(nvidia_smi=listed("V100", "535.1")), False, "PROBLEM", ["7.0", "cu126"]),
        (
            facts(nvidia_smi=listed("T4", "580.1"), error="No CUDA GPUs"),
            False,
            "PROBLEM",
            ["No CUDA GPUs", "new enough", "--gpus all"],
        ),
        (facts(nvidia_smi=listed("T4", "580.1"), cuda=None), False, "PROBLEM", ["CPU only"]),
        (facts(nvidia_smi="no devices were found"), False, "PROBLEM", ["no devices were found"]),
        (facts(nvidia_smi=listed("T4", "580.1")), True, "note", ["CUDA_VISIBLE_DEVICES"]),
        (facts(), False, "note", ["none", "CPU"]),
        (facts(cuda=None), False, "note", ["none", "CPU"]),
    ],
)
def test_gpu_row(seen, hidden, state, words):
    (row,) = gpu_rows(json.loads(json.dumps(seen)), hidden)
    assert row.state == state, row
    for word in words:
        assert word in row.detail


def test_every_gpu_has_its_row():
    rows = gpu_rows(facts(["T4", "P100"], listed("T4", "580.1") + listed("P100", "580.1")), False)
    assert [(row.name, row.state) for row in rows] == [("GPU 0", "ok"), ("GPU 1", "PROBLEM")]


def test_nvidia_smi_is_read():
    assert probe.parse_nvidia_smi("Tesla T4, 535.104.05, 7.5\nTesla K80, 470.82.01, [N/A]\n") == [
        {"name": "Tesla T4", "driver": "535.104.05", "capability": [7, 5]},
        {"name": "Tesla K80", "driver": "470.82.01", "capability": None},
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'Tesla T4, 580.1, 7.5'", [("Tesla T4", [7, 5])]),
        (
            'case "$*" in *compute_cap*) exit 2;; esac; echo "Tesla K80, 470.1"',
            [("Tesla K80", None)],
        ),
        ("echo 'could not talk to the driver'; exit 9", "could not talk to the driver"),
    ],
)
def test_nvidia_smi_is_asked(tmp_path, monkeypatch, script, expected):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    answer = probe.ask_nvidia_smi()
    if isinstance(answer, list):
        answer = [(gpu["name"], gpu["capability"]) for gpu in answer]
    assert answer == expected


def test_no_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.ask_nvidia_smi() is None


# --- packages and frameworks -----------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A clone with three direct packages, two of them for the laptop too, and what is installed."""
    (tmp_path / "requirements.in").write_text(
        "# direct packages\n\ntorch==2.11.0\nscikit_learn  # folds\nPandas[parquet] == 3.0\n"
    )
    (tmp_path / "requirements-ensemble.txt").write_text("pandas==3.0\nscikit-learn==1.7\n")
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    versions = {"torch": "2.11.0+cu126", "scikit-learn": "1.7", "pandas": "3.0"}
    monkeypatch.setattr(doctor, "installed", versions.get)
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name: versions.get(name) if name == "torch" else find(name),
    )
    works = {"ok": True, "detail": "works"}
    answers = {name: dict(works) for name in ("cv2", "mmdet", "ultralytics")}
    answers["torch"] = works | facts()
    monkeypatch.setattr(doctor, "probe", lambda names: {name: answers[name] for name in names})
    return versions, answers


def run(capsys):
    status = doctor.main([])
    *table, blank, last = capsys.readouterr().out.splitlines()
    assert blank == ""
    return status, table, last


def line_of(table, name):
    (line,) = [line for line in table if line.startswith(f"{name}  ")]
    return line


def test_all_is_well(machine, capsys):
    status, table, last = run(capsys)
    assert status == 0
    assert last.startswith("ready")
    assert line_of(table, "torch").split()[1:] == ["ok", "2.11.0+cu126"]  # another build, same pin
    for name in ("Python", "platform", "CPU cores", "memory", "free disk", "scikit-learn", "GPU"):
        assert line_of(table, name)


def test_missing_and_differing_packages(machine, capsys):
    machine[0].update({"pandas": "2.9", "scikit-learn": None})
    status, table, last = run(capsys)
    assert status == 1
    assert last == "not ready: scikit-learn"
    assert "note" in line_of(table, "pandas")
    assert "2.9, differs from the pinned 3.0" in line_of(table, "pandas")
    assert "missing" in line_of(table, "scikit-learn")


def test_broken_framework(machine, capsys):
    machine[1]["mmdet"] = {"ok": False, "detail": "ImportError: no libstdc++"}
    status, table, last = run(capsys)
    assert status == 1
    assert last == "not ready: mmdet works"
    assert "no libstdc++" in line_of(table, "mmdet works")


def test_laptop_without_torch(machine, capsys):
    machine[0].pop("torch")
    machine[1].clear()  # nothing is probed
    status, table, last = run(capsys)
    assert status == 0
    assert "make setup" in last
    for stage in ("folds", "ensemble", "evaluate", "submission"):
        assert stage in last
    assert "missing, pinned to 2.11.0" in line_of(table, "torch")
    machine[0].pop("pandas")  # this one the laptop needs
    status, _, last = run(capsys)
    assert (status, last) == (1, "not ready: pandas")


def test_no_requirements(machine, capsys):
    (doctor.PROJECT / "requirements.in").unlink()
    status, _, last = run(capsys)
    assert (status, last) == (1, "not ready: requirements.in")


def test_doctor_needs_the_standard_library_only():
    """A broken environment is when it is wanted: no site-packages at all."""
    command = [sys.executable, "-S", "-m", "pipeline.doctor"]
    project = Path(doctor.__file__).parents[1]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("Python")


def test_probe_answers_whatever_happens(monkeypatch, tmp_path):
    (tmp_path / "pipeline" / "training").mkdir(parents=True)
    (tmp_path / "pipeline" / "training" / "probe.py").write_text(
        "import os, sys, time\n"
        "if sys.argv[1] == 'crash': os.abort()\n"
        "if sys.argv[1] == 'hang': time.sleep(60)\n"
        """print('noise\\n{"ok": true, "detail": "fine"}')\n"""
    )
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    monkeypatch.setattr(doctor, "PATIENCE", 2)
    answers = doctor.probe(["fine", "crash", "hang"])
    assert answers["fine"] == {"ok": True, "detail": "fine"}
    assert "crashed, status -6" in answers["crash"]["detail"]
    assert answers["hang"] == {"ok": False, "detail": "no answer in 2 s"}


def test_probe_reports_errors_as_json(monkeypatch, capsys):
    def broken():
        raise RuntimeError("two\nlines")

    def absent():
        raise ModuleNotFoundError("No module named 'mmdet'", name="mmdet")

    monkeypatch.setattr(probe, "PROBES", {"broken": broken, "absent": absent})
    for name, detail in (
        ("broken", "RuntimeError: two lines"),
        ("absent", "mmdet is not installed: make setup"),
    ):
        probe.main([name])
        last = capsys.readouterr().out.splitlines()[-1]
        assert json.loads(last) == {"ok": False, "detail": detail}


def test_opencv_without_libgl_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(probe.importlib.metadata, "version", lambda name: "4.12.0.88")
    with pytest.raises(ImportError, match=r"libGL.*--no-deps opencv-python-headless==4\.12\.0\.88"):
        probe.cv2_works()


def test_this_environment_works():
    """The probes themselves, in this installation: both frameworks build and run a detector."""
    pytest.importorskip("torch")
    rows = {row.name: row for row in doctor.framework_rows()}
    for name in ("torch", "cv2", "mmdet", "ultralytics"):
        assert rows[f"{name} works"].state == "ok", rows[f"{name} works"]
    assert "mmcv kernels " in rows["mmdet works"].detail
    assert isinstance(rows.get("GPU") or rows["GPU 0"], Row)
