"""What was measured: a JSON line for each measurement as soon as it is there, and the table made of them."""

import json
from pathlib import Path
from typing import Any

COLUMNS = ("limit", "ours", "theirs", "busy", "memory", "validation", "outside")
TITLES = ("", "limit", "ours", "theirs", "ours/limit", "ours/theirs", "busy", "GiB", "val s", "outside s")


class Results:
    """The lines of a file. One measured row has a line for each of its parts: limit, ours, theirs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                self.lines.append(json.loads(line))
            except ValueError:  # cut off in the middle of it
                continue

    def has(self, row: str, part: str) -> bool:
        return any((line["row"], line["part"]) == (row, part) for line in self.lines)

    def add(self, row: str, part: str, **values: Any) -> None:
        """Take note of what was measured: `limit`, `ours` or `theirs` in photos a second, and the like."""
        line = {"row": row, "part": part} | values
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            file.seek(max(file.tell() - 1, 0))
            whole = file.read() in (b"", b"\n")  # or its last line was cut off
            file.write(("" if whole else "\n").encode() + json.dumps(line).encode() + b"\n")
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{row}: {part}: {shown}", flush=True)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The measured values of each row by column."""
        rows: dict[str, dict[str, Any]] = {}
        for line in self.lines:
            values = {key: value for key, value in line.items() if key in COLUMNS}
            rows.setdefault(line["row"], {}).update(values)
        return rows

    def table(self) -> list[str]:
        """Rates in photos a second; what was not measured is a dash."""
        table = [TITLES]
        for name, row in self.rows().items():
            limit, ours, theirs = (row.get(key) for key in ("limit", "ours", "theirs"))
            cells = [_cell(value, "{:.1f}") for value in (limit, ours, theirs)]
            cells += [_cell(ours and other and ours / other, "{:.2f}") for other in (limit, theirs)]
            cells += [_cell(row.get("busy"), "{:.0%}"), _cell(row.get("memory"), "{:.1f}")]
            cells += [_cell(row.get(key), "{:.2f}") for key in ("validation", "outside")]
            table.append((name, *cells))
        widths = [max(len(row[i]) for row in table) for i in range(len(TITLES))]
        return [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in table
        ]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
