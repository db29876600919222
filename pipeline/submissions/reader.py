"""Read a submission CSV as boxes. The first fault is an error: `check.py` is what lists them all."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.exchange import Boxes, checked_boxes
from pipeline.data.findings import Findings
from pipeline.data.profile import Profile
from pipeline.data.specs import box_fields
from pipeline.data.text import same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown
from pipeline.submissions.layout import image_keys, layout_of
from pipeline.submissions.rows import Rows, none_label, read_rows


def read_submission(path: Path, profile: Profile, dataset: Dataset, findings: Findings) -> Boxes:
    """Read a submission CSV by the names of its images and columns, not by their position.

    Raises PipelineError with the row for anything that is not its format; a file of some of the
    images is allowed. Boxes that say "none" (vinbigdata's 14) are left out.
    """
    spec, rows = profile.submission, read_rows(path, profile)
    header = tuple(filter(None, rows.header))
    if sorted(header) != sorted(spec.header):
        raise PipelineError(f"{shown(path)}: header {list(rows.header)}, expected {list(spec.header)}")
    if header != rows.header:
        findings.notes.append("a column without a name left out, as pandas writes one for its index")
    if header != spec.header:
        findings.notes.append(f"columns in another order than {','.join(spec.header)}; read by name")
    places = [f"{shown(path)}: row {number}" for number in rows.row_numbers.tolist()]
    if (bad := np.flatnonzero(rows.widths != len(rows.header))).size:
        raise PipelineError(
            f"{places[bad[0]]}: {rows.widths[bad[0]]} columns, expected {len(rows.header)}; is the "
            "file cut off?"
        )
    names = image_keys(profile, dataset.images)
    by_key = dict(zip(map(same_text, names), dataset.images["image_id"].tolist(), strict=True))
    others = set()
    if spec.other_labels and dataset.split == "test":
        layout = layout_of(profile, dataset.images)
        others = {
            same_text(key) for key, i in zip(layout.keys, layout.image_ids.tolist(), strict=True) if i < 0
        }
    seen: dict[str, int] = {}
    keys = list(map(same_text, rows.keys))
    for place, number, key in zip(places, rows.row_numbers.tolist(), keys, strict=True):
        if key not in by_key and key not in others:
            raise PipelineError(
                f"{place}: image {key!r} is not in the {dataset.split} set of "
                f"'{profile.name}'; expected one like '{names[0]}'"
            )
        if key in seen:
            raise PipelineError(f"{place}: image {key!r} is also in row {seen[key]}")
        seen[key] = number
    named = np.array([by_key.get(key, -1) for key in keys], np.int64)
    places = [f"{place} ({key})" for place, key in zip(places, rows.keys, strict=True)]
    return _boxes(profile, dataset, rows, named, places, findings)


def _boxes(
    profile: Profile,
    dataset: Dataset,
    rows: Rows,
    named: NDArray[np.int64],
    places: list[str],
    findings: Findings,
) -> Boxes:
    spec, fields = profile.submission, box_fields(profile.submission)
    counts = rows.counts
    holds = ~rows.empty & (named >= 0)
    if (bad := np.flatnonzero(holds & (counts % len(fields) > 0))).size:
        raise PipelineError(
            f"{places[bad[0]]}: broken box string: {counts[bad[0]]} values, expected a "
            f"multiple of {len(fields)} ({spec.box})"
        )
    held = np.repeat(holds, counts)
    if (bad := np.flatnonzero(held & ~np.isfinite(rows.numbers))).size:
        row, _ = rows.locate(int(bad[0]))
        text = rows.texts[bad[0]].as_py()
        raise PipelineError(f"{places[row]}: broken box string: {text!r} is not a finite number")
    values = rows.numbers[held].reshape(-1, len(fields))
    of_row = np.repeat(np.flatnonzero(holds), counts[holds] // len(fields))
    if "label" in fields:
        real = values[:, fields.index("label")] != none_label(profile)
        values, of_row = values[real], of_row[real]
    if spec.normalized:
        sizes = dataset.images.set_index("image_id").loc[named[of_row]]
        for i, name in enumerate(fields):
            if name not in ("label", "score"):
                side = "width" if name in ("x1", "x2", "x", "w") else "height"
                values[:, i] *= sizes[side].to_numpy(np.float64)
    return checked_boxes(
        values, fields, named[of_row], named[named >= 0], lambda box: places[of_row[box]], dataset, findings
    )
