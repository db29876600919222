"""Read a submission CSV as boxes. The first fault is an error: `check.py` is what lists them all."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.exchange import Boxes, checked_boxes
from pipeline.data.findings import Findings
from pipeline.data.profile import Profile
from pipeline.data.specs import box_fields
from pipeline.errors import PipelineError
from pipeline.paths import shown
from pipeline.submissions.layout import image_keys, layout_of
from pipeline.submissions.scan import Scan, scan_submission


def read_submission(path: Path, profile: Profile, dataset: Dataset, findings: Findings) -> Boxes:
    """Read a submission CSV by the names of its images and columns, not by their position.

    Raises PipelineError with the row for anything that is not its format; a file of some of the
    images is allowed. Boxes that say "none" (vinbigdata's 14) are left out.
    """
    spec, scan = profile.submission, scan_submission(path, profile)
    if sorted(scan.header) != sorted(spec.header):
        raise PipelineError(f"{shown(path)}: header {list(scan.header)}, expected {list(spec.header)}")
    if scan.header != spec.header:
        findings.notes.append(f"columns in another order than {','.join(spec.header)}; read by name")
    places = [f"{shown(path)}: row {number}" for number in scan.number.tolist()]
    if (bad := np.flatnonzero(scan.columns != len(scan.header))).size:
        raise PipelineError(
            f"{places[bad[0]]}: {scan.columns[bad[0]]} columns, expected {len(scan.header)}; is the "
            "file cut off?"
        )
    names = image_keys(profile, dataset.images)
    by_key = dict(zip(names, dataset.images["image_id"].tolist(), strict=True))
    others = set()
    if spec.other_labels and dataset.split == "test":
        layout = layout_of(profile, dataset.images)
        others = {key for key, i in zip(layout.keys, layout.image_ids.tolist(), strict=True) if i < 0}
    seen: dict[str, int] = {}
    for place, number, key in zip(places, scan.number.tolist(), scan.keys, strict=True):
        if key not in by_key and key not in others:
            raise PipelineError(
                f"{place}: image '{key}' is not in the {dataset.split} set of "
                f"'{profile.name}'; expected one like '{names[0]}'"
            )
        if key in seen:
            raise PipelineError(f"{place}: image '{key}' is also in row {seen[key]}")
        seen[key] = number
    named = np.array([by_key.get(key, -1) for key in scan.keys], np.int64)
    places = [f"{place} ({key})" for place, key in zip(places, scan.keys, strict=True)]
    return _boxes(profile, dataset, scan, named, places, findings)


def _boxes(
    profile: Profile,
    dataset: Dataset,
    scan: Scan,
    named: NDArray[np.int64],
    places: list[str],
    findings: Findings,
) -> Boxes:
    spec, fields = profile.submission, box_fields(profile.submission)
    counts = np.diff(scan.offsets)
    holds = ~scan.empty & (named >= 0)
    if (bad := np.flatnonzero(holds & (counts % len(fields) > 0))).size:
        raise PipelineError(
            f"{places[bad[0]]}: broken box string: {counts[bad[0]]} values, expected a "
            f"multiple of {len(fields)} ({spec.box})"
        )
    tokens = np.repeat(holds, counts)
    if (bad := np.flatnonzero(tokens & ~np.isfinite(scan.values))).size:
        row, token = token_place(scan, int(bad[0]))
        word = scan.cell(row).split()[token]
        raise PipelineError(f"{places[row]}: broken box string: '{word}' is not a finite number")
    values = scan.values[tokens].reshape(-1, len(fields))
    of_row = np.repeat(np.flatnonzero(holds), counts[holds] // len(fields))
    if "label" in fields:
        real = values[:, fields.index("label")] != none_label(profile)
        values, of_row = values[real], of_row[real]
    if spec.normalized:
        rows = dataset.images.set_index("image_id").loc[named[of_row]]
        for i, name in enumerate(fields):
            if name not in ("label", "score"):
                side = "width" if name in ("x1", "x2", "x", "w") else "height"
                values[:, i] *= rows[side].to_numpy(np.float64)
    return checked_boxes(
        values, fields, named[of_row], named[named >= 0], lambda box: places[of_row[box]], dataset, findings
    )


def token_place(scan: Scan, token: int) -> tuple[int, int]:
    """(row, position in the row's cell) of a token."""
    row = int(np.searchsorted(scan.offsets, token, side="right")) - 1
    return row, token - int(scan.offsets[row])


def none_label(profile: Profile) -> float:
    """The label of the box that says that there is none, as `Scan.values` has it; NaN without one."""
    empty = profile.submission.empty.split()
    if not empty:
        return float("nan")
    return float(len(profile.labels) if profile.labels else empty[0])
