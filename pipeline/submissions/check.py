"""Check a submission before it leaves: every fault with its row and reason, all at once.

An error is what the site would reject or score wrongly. A warning is what it takes: exponents, -0.0,
corners up to half a pixel outside, a trailing space, an image without a box where that is allowed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.profile import Profile
from pipeline.data.specs import CORNER_FIELDS, SIZE_FIELDS, box_fields
from pipeline.paths import shown
from pipeline.submissions import digits
from pipeline.submissions.layout import Layout, layout_of
from pipeline.submissions.reader import none_label, token_place
from pipeline.submissions.report import Report
from pipeline.submissions.scan import Scan, scan_submission

SLACK = 0.5  # pixels that a corner may lie outside, as rounding and float32 leave it
MOSTLY = 0.5  # share of boxes with corners out of order from which the file holds x y w h
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Boxes:
    """The whole boxes of a scan: their row, first token, numbers by field, and photo's size."""

    row: NDArray[np.int64]
    token: NDArray[np.int64]
    field: dict[str, NDArray[np.float64]]
    size: NDArray[np.float64]  # (boxes, 2) width and height in the file's unit, NaN for unknown images


def check_submission(path: Path, profile: Profile, test: Dataset) -> Report:
    """Check a CSV against the competition's format and test images.

    Raises PipelineError only for a file that cannot be read as a CSV with the two columns.
    """
    report, spec = Report(), profile.submission
    layout = layout_of(profile, test.images)
    scan = scan_submission(path, profile)
    _check_file(report, path, profile, layout, scan)
    image = _check_rows(report, profile, layout, scan)
    fields = box_fields(spec)
    counts = np.diff(scan.offsets)
    holds = ~scan.empty & (counts > 0)

    def in_row(row: int) -> str:
        return f"row {scan.number[row]} ({scan.keys[row] or 'no id'})"

    broken = holds & (counts % len(fields) > 0)
    report.error(
        f"box strings that are no multiple of {len(fields)} values ({spec.box})",
        broken,
        lambda row: f"{in_row(row)}: {counts[row]} values",
    )
    _check_empty(report, profile, scan, image, counts, in_row)
    _check_tokens(report, scan, holds, in_row)
    boxes = _boxes_of(profile, test, scan, image, holds & ~broken, fields)
    _check_boxes(report, profile, scan, boxes, in_row)
    if spec.max_boxes:
        many = counts // len(fields)
        report.error(
            f"images with more than {spec.max_boxes} boxes",
            many > spec.max_boxes,
            lambda row: f"{in_row(row)}: {many[row]} boxes",
        )
    report.warn("box strings with a trailing space", scan.trailing_space, in_row)
    report.facts |= {
        "rows": len(scan.keys),
        "boxes": len(boxes.row),
        "bytes": len(scan.data),
        "images_without_box": int((~holds).sum()),
    }
    return report


def _check_file(report: Report, path: Path, profile: Profile, layout: Layout, scan: Scan) -> None:
    spec, header, wanted = profile.submission, ",".join(scan.header), ",".join(layout.header)
    if sorted(scan.header) == sorted(layout.header):
        if scan.header != layout.header:
            report.error(f"columns swapped: the header is {header}, expected {wanted}")
    else:
        extra = [name for name in scan.header if name not in layout.header]
        report.error(f"header {header}, expected {wanted}: columns too many: {', '.join(extra) or 'doubled'}")
    size = path.stat().st_size / 1e6
    if spec.max_megabytes and size > spec.max_megabytes:
        report.error(f"file of {size:.1f} MB; the site takes {spec.max_megabytes:g} MB")
    if not scan.whole:
        report.warn("no line end after the last row")


def _check_rows(report: Report, profile: Profile, layout: Layout, scan: Scan) -> NDArray[np.int64]:
    """Check cells and ids; returns the row of the layout that each row is for, -1 for none."""
    good = scan.columns == len(scan.header)
    last = len(scan.keys) - 1
    report.error(
        f"rows that have not {len(scan.header)} columns",
        ~good,
        lambda row: (
            f"row {scan.number[row]}: {scan.columns[row]} columns"
            + ("; is the file cut off?" if row == last and not scan.whole else "")
        ),
    )
    by_key = {key: place for place, key in enumerate(layout.keys)}
    place = np.array([by_key.get(key, -1) for key in scan.keys], np.int64)
    first: dict[str, int] = {}
    again = np.array([first.setdefault(key, row) != row for row, key in enumerate(scan.keys)], np.bool_)
    numbers, keys = scan.number, scan.keys
    report.error(
        "ids that the test set does not have",
        good & (place < 0),
        lambda row: f"row {numbers[row]}: '{keys[row]}', expected one like '{layout.keys[0]}'",
    )
    report.error(
        "ids that are there twice",
        good & again,
        lambda row: f"row {numbers[row]} ({keys[row]}): is also in row {numbers[first[keys[row]]]}",
    )
    missing = [key for key in layout.keys if key not in first]
    hint = "" if scan.whole or not missing else "; the file ends in the middle of a row, is it cut off?"
    report.error(f"ids of the test set without a row{hint}", range(len(missing)), lambda k: missing[k])
    known = place[good & ~again & (place >= 0)]
    if (np.diff(known) < 0).any():
        row = int(np.flatnonzero(good & ~again & (place >= 0))[np.argmax(np.diff(known) < 0) + 1])
        text = f"rows not in the order of the test set, from row {numbers[row]} ({keys[row]}) on"
        if profile.submission.ordered:
            report.error(f"{text}; it begins {', '.join(layout.keys[:3])}")
        else:
            report.notes.append(f"{text}; the site goes by the ids")
    return place


def _check_empty(
    report: Report,
    profile: Profile,
    scan: Scan,
    place: NDArray[np.int64],
    counts: NDArray[np.int64],
    in_row: Callable[[int], str],
) -> None:
    spec = profile.submission
    listed = (place >= 0) & (scan.columns == len(scan.header))
    if spec.empty:
        report.error(f"images without a box that lack '{spec.empty}'", listed & (counts == 0), in_row)
    report.warn("images without a box", listed & scan.empty, in_row)


def _check_tokens(report: Report, scan: Scan, holds: Mask, in_row: Callable[[int], str]) -> None:
    def say(token: int) -> str:
        row, place = token_place(scan, token)
        return f"{in_row(row)}: value {place + 1}: '{scan.cell(row).split()[place]}'"

    whole = np.repeat(holds, np.diff(scan.offsets))
    report.error("values that are not finite numbers", whole & (scan.flags & digits.UNREAD > 0), say)
    finite = scan.flags & digits.UNREAD == 0
    report.warn("numbers with an exponent", finite & (scan.flags & digits.EXPONENT > 0), say)
    report.warn("-0.0", scan.flags & digits.NEGATIVE_ZERO > 0, say)


def _boxes_of(
    profile: Profile, test: Dataset, scan: Scan, place: NDArray[np.int64], rows: Mask, fields: list[str]
) -> _Boxes:
    """The boxes of the rows with whole box strings; those that say that there is none are left out."""
    counts = np.where(rows, np.diff(scan.offsets) // len(fields), 0)
    row = np.repeat(np.arange(len(counts)), counts)
    begin = np.cumsum(counts) - counts
    token = scan.offsets[row] + (np.arange(len(row)) - begin[row]) * len(fields)
    layout = layout_of(profile, test.images)
    size = np.full((len(layout.keys) + 1, 2), np.nan)  # the last is for place -1
    images = test.images.set_index("image_id")[["width", "height"]]
    named = np.flatnonzero(layout.image_ids >= 0)
    size[named] = 1 if profile.submission.normalized else images.loc[layout.image_ids[named]].to_numpy()
    field = {name: scan.values[token + i] for i, name in enumerate(fields)}
    keep = np.ones(len(row), np.bool_)
    if "label" in field:
        keep = field["label"] != none_label(profile)
    column = {name: values[keep] for name, values in field.items()}
    return _Boxes(row[keep], token[keep], column, size[place[row[keep]]])


def _check_boxes(
    report: Report, profile: Profile, scan: Scan, boxes: _Boxes, in_row: Callable[[int], str]
) -> None:
    fields = box_fields(profile.submission)

    def say(box: int) -> str:
        row, place = token_place(scan, int(boxes.token[box]))
        words = scan.cell(row).split()[place : place + len(fields)]
        return f"{in_row(row)}: box {place // len(fields) + 1}: {' '.join(words)}"

    score, is_image = boxes.field["score"], np.isfinite(boxes.size[:, 0])
    if "label" in boxes.field:
        _check_labels(report, profile, boxes.field["label"], is_image, say)
    report.error("scores outside 0 to 1", (score < 0) | (score > 1), say)
    sides = CORNER_FIELDS if "x1" in boxes.field else SIZE_FIELDS
    a, b, c, d = (boxes.field[name] for name in sides)
    width, height = boxes.size.T
    if sides == CORNER_FIELDS:
        flat = is_image & ((c <= a) | (d <= b))
        right, bottom = c, d
        inside = (a + c <= width + SLACK) & (b + d <= height + SLACK)
        if flat.sum() > MOSTLY * is_image.sum() and inside.sum() > 0.9 * is_image.sum():
            report.error(
                f"boxes as x y w h, expected {profile.submission.box}: {flat.sum() / is_image.sum():.0%} of "
                f"them have corners out of order, and all but {(is_image & ~inside).sum()} fit their photo "
                "as x y w h"
            )
            return
        report.error("boxes without area or with corners out of order", flat, say)
    else:
        flat = is_image & ((c <= 0) | (d <= 0))
        right, bottom = a + c, b + d
        report.error("boxes without width or height", flat, say)
    outside = np.max([-a, -b, right - width, bottom - height], axis=0) if len(a) else a
    slack = SLACK
    if profile.submission.normalized:
        slack = 1e-3
    outside = np.where(is_image & ~flat, outside, 0)
    unit = "of the photo's side" if profile.submission.normalized else "px"
    report.error(f"boxes that reach more than {slack:g} {unit} outside", outside > slack, say)
    report.warn(f"boxes that reach up to {slack:g} {unit} outside", (outside > 0) & (outside <= slack), say)


def _check_labels(
    report: Report, profile: Profile, label: NDArray[np.float64], is_image: Mask, say: Callable[[int], str]
) -> None:
    count = len(profile.classes)
    good = (label >= 0) & (label < count) & (label == np.round(label))
    if profile.labels:
        # After the classes' names come that of no box, and those of rows that name no image.
        good |= ~is_image & (label > count)
        report.error("labels that the competition does not have", np.isfinite(label) & ~good, say)
    else:
        report.error(
            f"labels that are no whole number from 0 to {count - 1}", np.isfinite(label) & ~good, say
        )


def verdict(path: Path, report: Report) -> str:
    """The last line of a check."""
    facts = report.facts
    counts = f"{facts['rows']} rows, {facts['boxes']} boxes, {facts['bytes'] / 1e6:.1f} MB"
    if report.errors:
        return f"{shown(path)}: NOT valid: errors of {len(report.errors)} kinds ({counts})"
    warned = f", with warnings of {len(report.warnings)} kinds" if report.warnings else ""
    return f"{shown(path)}: valid{warned} ({counts})"
