"""Check a submission before it leaves: every fault with its row and reason, all at once.

An error is what the site would reject or score wrongly. A warning is what it takes: exponents, -0.0,
corners up to half a pixel outside, a trailing space, an image without a box where that is allowed.
"""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.exchange import SCORE_SLACK
from pipeline.data.profile import Profile
from pipeline.data.specs import CORNER_FIELDS, SIZE_FIELDS, box_fields
from pipeline.data.text import same_text
from pipeline.data.units import inside_one_pixel
from pipeline.paths import shown
from pipeline.submissions.faults import Report
from pipeline.submissions.layout import layout_of
from pipeline.submissions.rows import none_label, read_rows

SLACK = 0.5  # pixels that a corner may lie outside, as rounding and float32 leave it
SHARE_SLACK = 1e-3  # the same of normalised coordinates
MOSTLY = 0.5  # share of boxes with corners out of order from which the file holds x y w h
UNNAMED = "one without a name (pandas' index; to_csv(..., index=False) leaves it out)"
Mask = NDArray[np.bool_]


def check_submission(path: Path, profile: Profile, test: Dataset) -> Report:
    """Check a CSV against the competition's format and test images.

    Raises PipelineError only for a file that cannot be read as a CSV with the two columns.
    """
    check = _Check(path, profile, test)
    check.file()
    check.keys()
    check.box_strings()
    check.numbers()
    check.boxes()
    return check.report


class _Check:
    """One file, what it should be, and what was found so far."""

    def __init__(self, path: Path, profile: Profile, test: Dataset) -> None:
        self.report, self.profile, self.spec, self.test = Report(), profile, profile.submission, test
        self.layout, self.rows = layout_of(profile, test.images), read_rows(path, profile)
        self.fields = box_fields(self.spec)
        rows, layout_rows = self.rows, {same_text(key): row for row, key in enumerate(self.layout.keys)}
        self.full_width: Mask = rows.widths == len(rows.header)
        # The layout's row of each row, -1 for none.
        self.layout_row = np.array([layout_rows.get(same_text(key), -1) for key in rows.keys], np.int64)
        self.has_boxes: Mask = ~rows.empty & (rows.counts > 0)
        self.broken: Mask = self.has_boxes & (rows.counts % len(self.fields) > 0)

    def _row(self, row: int) -> str:
        return f"row {self.rows.row_numbers[row]} ({self.rows.keys[row] or 'no id'})"

    def _value(self, value: int) -> str:
        row, position = self.rows.locate(value)
        return f"{self._row(row)}: value {position + 1}: '{self.rows.texts[value].as_py()}'"

    def file(self) -> None:
        """Check header, size and end of the file."""
        report, header, expected = self.report, self.rows.header, self.layout.header
        if sorted(header) == sorted(expected):
            if header != expected:
                report.error(
                    f"columns swapped: the header is {','.join(header)}, expected {','.join(expected)}"
                )
        else:
            extra = ", ".join(name or UNNAMED for name in header if name not in expected) or "doubled"
            report.error(
                f"header {','.join(header)}, expected {','.join(expected)}: columns too many: {extra}"
            )
        size = self.rows.path.stat().st_size
        if self.spec.max_megabytes and size > self.spec.max_megabytes * 1e6:
            report.error(f"file of {size / 1e6:.1f} MB; the site takes {self.spec.max_megabytes:g} MB")
        if not self.rows.complete:
            report.warn("no line end after the last row")
        report.facts |= {"rows": len(self.rows.keys), "bytes": size}

    def keys(self) -> None:
        """Check that each image has its row, once and in order."""
        report, rows, numbers, keys = self.report, self.rows, self.rows.row_numbers, self.rows.keys
        cut = "" if rows.complete else "; is the file cut off?"
        report.error(
            f"rows that have not {len(rows.header)} columns",
            ~self.full_width,
            lambda row: (
                f"row {numbers[row]}: {rows.widths[row]} columns{cut if row == len(keys) - 1 else ''}"
            ),
        )
        exact = set(self.layout.keys)
        report.warn(
            "ids in another Unicode form than the test set's, which the site may not know",
            (self.layout_row >= 0) & np.array([key not in exact for key in keys], np.bool_),
            self._row,
        )
        first: dict[str, int] = {}
        plain = list(map(same_text, keys))
        again = np.array([first.setdefault(key, row) != row for row, key in enumerate(plain)], np.bool_)
        report.error(
            "ids that the test set does not have",
            self.full_width & (self.layout_row < 0),
            lambda row: f"row {numbers[row]}: '{keys[row]}', expected one like '{self.layout.keys[0]}'",
        )
        report.error(
            "ids that are there twice",
            self.full_width & again,
            lambda row: f"row {numbers[row]} ({keys[row]}): is also in row {numbers[first[plain[row]]]}",
        )
        missing = [key for key in self.layout.keys if same_text(key) not in first]
        hint = "; the file ends in the middle of a row, is it cut off?" if cut and missing else ""
        report.error(f"ids of the test set without a row{hint}", range(len(missing)), missing.__getitem__)
        known = np.flatnonzero(~again & (self.layout_row >= 0))
        if (back := np.flatnonzero(np.diff(self.layout_row[known]) < 0)).size:
            row = int(known[back[0] + 1])
            text = f"rows not in the order of the test set, from row {numbers[row]} ({keys[row]}) on"
            if self.spec.ordered:
                report.error(f"{text}; it begins {', '.join(self.layout.keys[:3])}")
            else:
                report.notes.append(f"{text}; the site goes by the ids")

    def box_strings(self) -> None:
        """Check how many values the box strings have."""
        report, rows, width = self.report, self.rows, len(self.fields)
        report.error(
            f"box strings that are no multiple of {width} values ({self.spec.box})",
            self.broken,
            lambda row: f"{self._row(row)}: {rows.counts[row]} values",
        )
        listed = self.full_width & (self.layout_row >= 0)
        if self.spec.empty:
            lacking = listed & (rows.counts == 0)
            report.error(f"images without a box that lack '{self.spec.empty}'", lacking, self._row)
        report.warn("images without a box", listed & rows.empty, self._row)
        spaced = [row for row, cell in enumerate(rows.cells) if cell.endswith(" ")]
        report.warn("box strings with a trailing space", spaced, self._row)
        if self.spec.max_boxes:
            report.error(
                f"images with more than {self.spec.max_boxes} boxes",
                rows.counts // width > self.spec.max_boxes,
                lambda row: f"{self._row(row)}: {rows.counts[row] // width} boxes",
            )
        report.facts["images_without_box"] = int((~self.has_boxes).sum())

    def numbers(self) -> None:
        """Check that values are numbers, and warn of odd ways to write one."""
        report, rows = self.report, self.rows
        in_boxes = np.repeat(self.has_boxes, rows.counts)
        finite = np.isfinite(rows.numbers)
        report.error("values that are not finite numbers", in_boxes & ~finite, self._value)
        has_e = pc.or_(pc.match_substring(rows.texts, "e"), pc.match_substring(rows.texts, "E"))
        report.warn(
            "numbers with an exponent", finite & ~rows.are_names & np.array(has_e, np.bool_), self._value
        )
        report.warn("-0.0", (rows.numbers == 0) & np.signbit(rows.numbers), self._value)

    def boxes(self) -> None:
        """Check labels, scores and corners of the whole box strings."""
        report, rows, width = self.report, self.rows, len(self.fields)
        counts = np.where(self.has_boxes & ~self.broken, rows.counts // width, 0)
        row = np.repeat(np.arange(len(counts)), counts)
        in_row = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = rows.offsets[row] + in_row * width  # of the box in `numbers`
        if "label" in self.fields:  # boxes that say that there is none are left out
            real = rows.numbers[start + self.fields.index("label")] != none_label(self.profile)
            row, start = row[real], start[real]
        report.facts["boxes"] = len(row)
        column = {name: rows.numbers[start + i] for i, name in enumerate(self.fields)}
        photo_width, photo_height = self._photo_sizes()[self.layout_row[row]].T
        is_image = np.isfinite(photo_width)

        def describe(box: int) -> str:
            row, position = rows.locate(int(start[box]))
            texts = rows.texts.slice(start[box], width).to_pylist()
            return f"{self._row(row)}: box {position // width + 1}: {' '.join(texts)}"

        if "label" in column:
            what, good = self._label_rule(column["label"], is_image)
            report.error(what, np.isfinite(column["label"]) & ~good, describe)
        score = column["score"]
        report.error("scores outside 0 to 1", (score < 0) | (score > 1 + SCORE_SLACK), describe)
        report.warn(
            f"scores up to {SCORE_SLACK:g} above 1", (score > 1) & (score <= 1 + SCORE_SLACK), describe
        )
        is_corners = "x1" in column
        left, top, a, b = (column[name] for name in (CORNER_FIELDS if is_corners else SIZE_FIELDS))
        if is_corners:
            right, bottom = a, b
            flat = is_image & ((right <= left) | (bottom <= top))
            inside = (left + a <= photo_width + SLACK) & (top + b <= photo_height + SLACK)
            if flat.sum() > MOSTLY * is_image.sum() and inside.sum() > 0.9 * is_image.sum():
                report.error(
                    f"boxes as x y w h, expected {self.spec.box}: {flat.sum() / is_image.sum():.0%} of "
                    f"them have corners out of order, and all but {(is_image & ~inside).sum()} fit their "
                    "photo as x y w h"
                )
                return
            report.error("boxes without area or with corners out of order", flat, describe)
        else:
            right, bottom = left + a, top + b
            flat = is_image & ((a <= 0) | (b <= 0))
            report.error("boxes without width or height", flat, describe)
        if not self.spec.normalized:
            corners, sizes = np.stack([left, top, right, bottom], 1), np.stack([photo_width, photo_height], 1)
            for doubt in inside_one_pixel(corners[is_image], sizes[is_image]):
                report.error(doubt)
        outside = np.maximum.reduce([-left, -top, right - photo_width, bottom - photo_height])
        outside = np.where(is_image & ~flat, outside, 0)
        slack, unit = SLACK, "px"
        if self.spec.normalized:
            slack, unit = SHARE_SLACK, "of the photo's side"
        what = "boxes that reach {} {:g} {} outside"
        report.error(what.format("more than", slack, unit), outside > slack, describe)
        report.warn(what.format("up to", slack, unit), (outside > 0) & (outside <= slack), describe)

    def _photo_sizes(self) -> NDArray[np.float64]:
        """(layout rows + 1, 2) width and height in the file's unit, NaN where a row names no image.

        The last is for layout row -1.
        """
        ids = self.layout.image_ids
        sizes = np.full((len(ids) + 1, 2), np.nan)
        images = self.test.images.set_index("image_id")[["width", "height"]]
        named = np.flatnonzero(ids >= 0)
        sizes[named] = 1 if self.spec.normalized else images.loc[ids[named]].to_numpy()
        return sizes

    def _label_rule(self, label: NDArray[np.float64], is_image: Mask) -> tuple[str, Mask]:
        """What wrong labels are called, and which labels are right."""
        count = len(self.profile.classes)
        good = (label >= 0) & (label < count) & (label == np.round(label))
        if not self.profile.labels:
            return f"labels that are no whole number from 0 to {count - 1}", good
        # After the classes' names come that of no box, and those of rows that name no image.
        return "labels that the competition does not have", good | (~is_image & (label > count))


def verdict(path: Path, report: Report) -> str:
    """The last line of a check."""
    facts = report.facts
    counts = f"{facts['rows']} rows, {facts['boxes']} boxes, {facts['bytes'] / 1e6:.1f} MB"
    if report.errors:
        return f"{shown(path)}: NOT valid: errors of {len(report.errors)} kinds ({counts})"
    warned = f", with warnings of {len(report.warnings)} kinds" if report.warnings else ""
    return f"{shown(path)}: valid{warned} ({counts})"
