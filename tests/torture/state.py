"""What was tried so far: counts, findings and the next seeds, in one file that each share continues from.

    {"inputs": {kind: {"next": 4711, "refused": 4000, "read": 711}},
     "stages": {stage: {trial: {outcome: count}}},
     "findings": {"kind / outcome: why": {"times": 3, "number": 12, "example": "findings/ab", "open": true}},
     "shares": [{"began": ..., "minutes": ..., "inputs": ..., "trials": ...}]}

Numbers are seeds: input 12 of a kind, or trial 12 of a stage, is the same each time. Files of two shares
that began at other numbers (`FIRST=`) can be added up.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.paths import runs_dir, write_json

BAD = ("traceback", "bad line", "third thing", "unseen", "hang", "crash")
BAD_TRIALS = (*BAD, "no line", "left over", "lost", "other result", "does not go on")
GOOD_COLUMNS = ("refused", "read", "same")


class State:
    """The state file, `runs/torture/state.json`; it is saved after every piece of work."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or runs_dir("torture")
        self.path = self.folder / "state.json"
        empty: dict[str, Any] = {"inputs": {}, "stages": {}, "findings": {}, "shares": []}
        self.values = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else empty

    def save(self) -> None:
        write_json(self.path, self.values)

    def next_input(self, kind: str, first: int) -> int:
        return int(self.values["inputs"].get(kind, {}).get("next", first))

    def add_inputs(self, kind: str, following: int, counts: Counter[str]) -> None:
        row = self.values["inputs"].setdefault(kind, {})
        row["next"] = following
        for outcome, count in counts.items():
            row[outcome] = row.get(outcome, 0) + count

    def add_trial(self, stage: str, trial: str, outcome: str) -> int:
        """Count a trial of a stage."""
        row = self.values["stages"].setdefault(stage, {}).setdefault(trial, {})
        row[outcome] = row.get(outcome, 0) + 1
        return int(sum(row.values()))

    def trials(self, stage: str, trial: str, outcome: str = "") -> int:
        """How many commands of a kind of trial a stage had; of kills those that were in time."""
        row = self.values["stages"].get(stage, {}).get(trial, {})
        killed = row.get("killed", 0) + row.get("left running", 0)
        return int(killed if outcome == "killed" else sum(row.values()))

    def find(self, where: str, why: str, times: int, number: int, data: bytes = b"", said: str = "") -> None:
        """Note a finding, with the smallest input that shows it."""
        key = f"{where} / {why}"
        found = self.values["findings"].setdefault(key, {"times": 0})
        found |= {"times": found["times"] + times, "open": True}
        name = f"findings/{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        path = self.folder / name
        if "number" not in found or (data and path.is_file() and len(data) < path.stat().st_size):
            found |= {"number": number, "said": said[:400]}
            if data:
                found["example"] = name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def lines(self) -> list[str]:
        """The table: figures by reader and by stage, then the open findings."""
        lines = [f"{'input':24}{'tried':>9}" + "".join(f"{name:>12}" for name in (*GOOD_COLUMNS, *BAD))]
        total: Counter[str] = Counter()
        for kind, row in self.values["inputs"].items():
            counts = {outcome: row.get(outcome, 0) for outcome in (*GOOD_COLUMNS, *BAD)}
            total.update(counts)
            lines.append(_row(kind, counts))
        lines.append(_row("all", {name: total[name] for name in (*GOOD_COLUMNS, *BAD)}))
        trials = sorted({trial for stage in self.values["stages"].values() for trial in stage})
        lines += ["", f"{'stage':16}{'trial':28}{'tried':>7}  outcomes"]
        for trial in trials:
            for stage, row in self.values["stages"].items():
                if trial in row:
                    said = ", ".join(f"{outcome} {count}" for outcome, count in sorted(row[trial].items()))
                    lines.append(f"{stage:16}{trial:28}{sum(row[trial].values()):>7}  {said}")
        found = self.values["findings"]
        still = {key: row for key, row in found.items() if row["open"]}
        lines += ["", f"findings: {len(found)}, of which {len(still)} open"]
        lines += [
            f"  {row['times']:>6} x {key} (number {row['number']})" for key, row in sorted(still.items())
        ]
        minutes = sum(share["minutes"] for share in self.values["shares"])
        lines.append(f"{len(self.values['shares'])} shares, {minutes:.0f} minutes; state: {self.path}")
        return lines


def _row(name: str, counts: dict[str, int]) -> str:
    return f"{name:24}{sum(counts.values()):>9}" + "".join(f"{count or '-':>12}" for count in counts.values())
