"""Print what is installed, what works, and whether torch supports this machine's GPU.

The last line is the verdict. Exit status 0 when everything works that this installation is for,
else 1. Without torch (requirements-ensemble.txt) only the stages that need no torch are judged.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.cpus import usable_cpus
from pipeline.paths import PROJECT
from pipeline.processes import memory_limit

PYTHONS = ((3, 11), (3, 12))  # the versions that requirements.txt was resolved for
PATIENCE = 180  # seconds that a framework may take to be imported and run once
# Oldest driver for each CUDA generation, by NVIDIA's table of minor version compatibility.
DRIVERS = {11: 450, 12: 525, 13: 580}
CU126 = (
    'install the CUDA 12.6 build ("cu126") of the same torch and torchvision versions from '
    "PyTorch's download index, see pytorch.org/get-started"
)


@dataclass(frozen=True)
class Row:
    """One line of the table. `state`: "ok", "note" (worth knowing) or "PROBLEM"."""

    name: str
    state: str
    detail: str


# --- GPU -------------------------------------------------------------------------------------


def has_kernels(capability: tuple[int, int], arch_list: Iterable[str]) -> bool:
    """Whether code built for `arch_list` (as torch.cuda.get_arch_list()) runs on the GPU.

    sm_XY runs on the same major version from that minor version on; compute_XY is PTX, which the
    driver compiles for any later GPU. A suffix "a" binds the code to exactly that version.
    (CUDA programming guide, "application compatibility".)
    """
    for arch in arch_list:
        if match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch):
            built = (int(match[2]), int(match[3]))
            if match[4] == "a":
                fits = capability == built
            elif match[1] == "compute" and not match[4]:
                fits = capability >= built
            else:
                fits = capability[0] == built[0] and capability >= built
            if fits:
                return True
    return False


def gpu_problem(
    capability: tuple[int, int] | None, arch_list: Sequence[str], driver: str | None, cuda: str
) -> str | None:
    """What keeps this torch build from using the GPU and the way out, or None.

    `driver` as nvidia-smi prints it ("535.104.05"), `cuda` as torch.version.cuda ("13.0"); what
    is not known is None.
    """
    generation = int(cuda.split(".")[0])
    needed = DRIVERS.get(generation, max(DRIVERS.values()))
    known = re.match(r"\d+", driver or "")
    present = int(known[0]) if known else needed
    # The 12.6 builds go from Maxwell to Hopper, and their drivers from 525 on.
    cu126_runs = generation > 12 and (capability is None or (5, 0) <= capability < (10, 0))
    if capability and not has_kernels(capability, arch_list):
        problem = (
            f"compute capability {capability[0]}.{capability[1]}, but this torch build (CUDA "
            f"{cuda}) has kernels for {' '.join(arch_list) or 'no GPU'} only; "
        )
        if cu126_runs:
            update = f" and update the driver {driver} to 525 or newer" if present < 525 else ""
            return problem + CU126 + update
        if capability < (5, 0):
            return problem + "no current torch supports it: use another GPU, or DEVICE=cpu"
        return problem + "install a torch version that supports it"
    if present < needed:
        problem = f"driver {driver} is too old for this torch build: CUDA {cuda} needs {needed} or "
        problem += "newer; update the driver"
        return f"{problem}, or {CU126}" if cu126_runs and present >= 525 else problem
    return None


def gpu_rows(facts: dict[str, Any], hidden: bool) -> list[Row]:
    """Judge each GPU. `facts`: `training.probe.torch_facts`; `hidden`: by CUDA_VISIBLE_DEVICES."""
    cuda, arch_list, smi = facts["cuda"], facts["arch_list"], facts["nvidia_smi"]
    listed = smi if isinstance(smi, list) else []
    driver = listed[0]["driver"] if listed else None
    rows = []
    for index, gpu in enumerate(facts["gpus"]):
        problem = gpu_problem(tuple(gpu["capability"]), arch_list, driver, cuda) if cuda else None
        fine = f"{gpu['memory'] / 2**30:.0f} GiB, driver {driver or 'unknown'}, supported by torch"
        state = "PROBLEM" if problem else "ok"
        rows.append(Row(f"GPU {index}", state, f"{gpu['name']}: {problem or fine}"))
    if rows:
        return rows
    if hidden:
        return [Row("GPU", "note", "hidden by CUDA_VISIBLE_DEVICES; the CPU is used")]
    if isinstance(smi, str):
        return [Row("GPU", "PROBLEM", f"nvidia-smi fails: {smi}; repair or restart the driver")]
    for index, gpu in enumerate(listed):
        problem = "this torch build is for the CPU only; install one for CUDA"
        if cuda:
            capability = tuple(gpu["capability"]) if gpu["capability"] else None
            problem = gpu_problem(capability, arch_list, driver, cuda) or (
                f"torch sees no GPU ({facts['error'] or 'no reason given'}), though driver "
                f"{driver} is new enough for CUDA {cuda}; restart after an update of the driver, "
                "and start a container with its GPUs (docker run --gpus all)"
            )
        rows.append(Row(f"GPU {index}", "PROBLEM", f"{gpu['name']}: {problem}"))
    return rows or [Row("GPU", "note", "none; training and prediction use the CPU")]


# --- packages and frameworks -----------------------------------------------------------------


def read_requirements(path: Path) -> dict[str, str | None]:
    """Package -> pinned version or None; lines are `name==version`, `name`, `-r file` or # comments."""
    pins: dict[str, str | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if line.startswith("-r "):
            pins |= read_requirements(path.with_name(line[3:].strip()))
        elif match := re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?\s*(?:==\s*([^\s;#]+))?", line.strip()):
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return pins


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_rows(pins: dict[str, str | None], needed: Iterable[str]) -> list[Row]:
    rows = []
    for name, pin in pins.items():
        version = installed(name)
        if version is None:
            state = "PROBLEM" if name in needed else "note"
            rows.append(Row(name, state, "missing" + (f", pinned to {pin}" if pin else "")))
        elif pin and version.partition("+")[0] != pin.partition("+")[0]:  # "+cu126" is a build
            rows.append(Row(name, "note", f"{version}, differs from the pinned {pin}"))
        else:
            rows.append(Row(name, "ok", version))
    return rows


def probe(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Answers of `training.probe`, asked side by side: {"ok": bool, "detail": str, ...} by name."""
    command = [sys.executable, "-m", "pipeline.training.probe"]
    pipe = subprocess.PIPE
    running = {
        name: subprocess.Popen([*command, name], cwd=PROJECT, stdout=pipe, stderr=pipe, text=True)
        for name in names
    }
    answers = {}
    for name, process in running.items():
        try:
            out, errors = process.communicate(timeout=PATIENCE)
            answers[name] = json.loads(out.strip().rpartition("\n")[2])
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            answers[name] = {"ok": False, "detail": f"no answer in {PATIENCE} s"}
        except ValueError:
            last = errors.strip().rpartition("\n")[2]
            answers[name] = {"ok": False, "detail": f"crashed, status {process.returncode}: {last}"}
    return answers


def framework_rows() -> list[Row]:
    answers = probe(["torch", "cv2", "mmdet", "ultralytics"])
    rows = [
        Row(f"{name} works", "ok" if answer["ok"] else "PROBLEM", answer["detail"])
        for name, answer in answers.items()
    ]
    if not answers["torch"]["ok"]:
        return rows
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return rows + gpu_rows(answers["torch"], hidden)


# --- machine ---------------------------------------------------------------------------------


def machine_rows() -> list[Row]:
    version = platform.python_version()
    known = sys.version_info[:2] in PYTHONS
    wanted = " or ".join(".".join(map(str, python)) for python in PYTHONS)
    rows = [
        Row(
            "Python",
            "ok" if known else "note",
            version if known else f"{version}, made for {wanted}",
        ),
        Row("platform", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}"),
    ]
    rows.append(Row("CPU cores", "ok", f"{usable_cpus()} usable of {os.cpu_count()}"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = min(memory, memory_limit() or memory)
    rows.append(Row("memory", "ok" if memory >= 4e9 else "note", f"{memory / 2**30:.1f} GiB"))
    free = shutil.disk_usage(PROJECT).free
    rows.append(Row("free disk", "ok" if free >= 5e9 else "note", f"{free / 2**30:.1f} GiB"))
    return rows


def verdict(rows: Iterable[Row], trains: bool) -> tuple[int, str]:
    """Exit status and last line; `trains`: torch is there, so everything has to work."""
    if problems := [row.name for row in rows if row.state == "PROBLEM"]:
        return 1, f"not ready: {', '.join(problems)}"
    if trains:
        return 0, "ready: everything works"
    return 0, (
        "ready for folds, ensemble, evaluate, submission and convert; "
        "training and prediction need torch: make setup"
    )


def main(argv: list[str] | None = None) -> int:
    cli.parser(__doc__).parse_args(argv)
    pins = read_requirements(PROJECT / "requirements.in")
    trains = importlib.util.find_spec("torch") is not None
    needed = pins if trains else read_requirements(PROJECT / "requirements-ensemble.txt")
    rows = machine_rows() + package_rows(pins, needed)
    if not pins:
        rows.append(Row("requirements.in", "PROBLEM", "missing or empty: run in a whole clone"))
    if trains:
        rows += framework_rows()
    else:
        rows.append(Row("training", "note", "needs torch, as does prediction: make setup"))
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.state:<7}  {row.detail}")
    status, line = verdict(rows, trains)
    print(f"\n{line}")
    return status


if __name__ == "__main__":
    cli.run(main)
