"""Scoring candidates: each fused once, scored for every set of images that a choice may look at."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.data.metric import MetricSpec
from pipeline.ensembles.calibration import Calibration, fit_calibration
from pipeline.ensembles.fuse_tuned import (
    pack_sources,
    prepare,
)
from pipeline.ensembles.tuned import TunedEnsemble, TunedMember
from pipeline.errors import PipelineError
from pipeline.fusion import Fused, Packed, fuse
from pipeline.paths import shown, text_digest, write_text
from pipeline.scoring.metrics import Scored, correctness, score
from pipeline.scoring.truth import Truth
from pipeline.tuning.candidates import Candidate
from pipeline.tuning.members import Member
from pipeline.tuning.parts import Partition, inner_weights, part_weights

Values = NDArray[np.float64]


_PACKED_KEPT = 3


@dataclass(eq=False)
class Engine:
    """The members, the truth, and the rows of `weights` (w, m): the images that each choice may use.

    Row 0 are all images, the others all but one part of a partition. `values` holds what is known:
    candidate key -> (w + parts,) the metric on each row's images and then on each part's, at its best
    cut for metrics that have one; NaN where it was not evaluated.
    """

    members: list[Member]
    truth: Truth
    metric: MetricSpec
    partitions: list[Partition]
    journal: "Journal"
    values: dict[str, Values] = field(default_factory=dict)
    seen: dict[str, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = inner_weights(self.partitions)
        self._masks = np.concatenate([self.weights, part_weights(self.partitions)])
        self.row_parts = [(0, -1)]  # of each row: the partition, and the part it does not look at
        self.row_parts += [
            (p, k) for p, partition in enumerate(self.partitions) for k in range(partition.n_parts)
        ]
        self._maps: dict[Any, Calibration | None] = {}
        self.sources = [member.table for member in self.members]
        image = [source.image_index() for source in self.sources]
        self._image = image
        self._correct = [correctness(source, self.truth, self.metric) for source in self.sources]
        self._packed: OrderedDict[Any, Packed] = OrderedDict()
        self.values |= self.journal.read(len(self._masks))

    def calibration(self, i: int, kind: str, p: int, without: frozenset[int]) -> Calibration | None:
        """Member i's maps, fitted on the images outside of some parts of a partition."""
        name, _, per_class = kind.partition(" ")
        if name != "isotonic":  # it looks at no truth
            p, without = 0, frozenset()
        key = (i, kind, p, without)
        if key not in self._maps:
            source = self.sources[i]
            here = ~np.isin(self.partitions[p].part, list(without))[self._image[i]]
            self._maps[key] = fit_calibration(
                name,
                bool(per_class),
                source.scores[here],
                source.labels[here],
                self._correct[i][here],
                self.truth.n_classes,
            )
        return self._maps[key]

    def prepared(self, i: int, floor: float, nms: float, kind: str, row: int) -> Boxes:
        """Member i's boxes for a row. Maps that look at truth are cross-fitted: an image of the row is
        calibrated by what was fitted without its part, so that no map has seen the truth of its boxes."""
        p, k = self.row_parts[row]
        whole = self.calibration(i, kind, p, frozenset({k} - {-1}))
        if not kind.startswith("isotonic") or whole is None:
            return prepare(self.sources[i], floor, nms, whole)
        plain = prepare(self.sources[i], floor, nms, None)
        scores = whole.apply(plain.scores, plain.labels)
        part = np.repeat(self.partitions[p].part, np.diff(plain.offsets))
        for j in range(self.partitions[p].n_parts):
            fitted = self.calibration(i, kind, p, frozenset({j, k} - {-1}))
            if j != k and fitted is not None:
                here = part == j
                scores[here] = fitted.apply(plain.scores[here], plain.labels[here])
        return replace(plain, scores=scores)

    def tuned(self, candidate: Candidate, row: int) -> TunedEnsemble:
        """The candidate with all that is fitted, on the images of a row of weights."""
        p, k = self.row_parts[row]
        without = frozenset({k} - {-1})
        settings = [
            TunedMember(
                self.members[i].model,
                self.members[i].view,
                candidate.weights[i],
                candidate.floors[i],
                candidate.nms[i],
                self.calibration(i, candidate.calibrations[i], p, without),
            )
            for i in candidate.kept
        ]
        return TunedEnsemble(tuple(settings), candidate.fusion)

    def parts_of(self, row: int) -> NDArray[np.intp]:
        """Where in a candidate's values those of the parts are that a row looks at."""
        p, k = self.row_parts[row]
        first = len(self.weights) + sum(partition.n_parts for partition in self.partitions[:p])
        return first + np.flatnonzero(np.arange(self.partitions[p].n_parts) != k)

    def sources_of(self, candidate: Candidate) -> Sequence[Boxes]:
        return [self.sources[i] for i in candidate.kept]

    def fused(self, candidate: Candidate, row: int) -> Fused:
        """The candidate's boxes; `row` matters where its calibration looks at truth."""
        kept = candidate.kept
        settings = tuple((i, candidate.floors[i], candidate.nms[i], candidate.calibrations[i]) for i in kept)
        key = (settings, row if candidate.looks_at_truth else -1)
        if key not in self._packed:
            self._packed[key] = pack_sources([self.prepared(*member, row) for member in settings])
            if len(self._packed) > _PACKED_KEPT:
                self._packed.popitem(last=False)
        self._packed.move_to_end(key)
        weights = [candidate.weights[i] for i in kept]
        return fuse(self._packed[key], weights=weights, **vars(candidate.fusion))

    def output_map(self, fused: Fused, row: int) -> Calibration | None:
        """The map of fused scores to the share of correct boxes, fitted on a row's images.

        Rows choose other methods and calibrations, so their scores lie on other scales; pooled over
        parts, or read by a person, they must mean the same.
        """
        image = fused.image_index()
        here = self.weights[row][image] > 0
        correct = correctness(fused, self.truth, self.metric)
        return fit_calibration(
            "isotonic", False, fused.scores[here], fused.labels[here], correct[here], self.truth.n_classes
        )

    def mapped(self, candidate: Candidate, row: int) -> tuple[Boxes, Calibration | None]:
        """The candidate's boxes with mapped scores, and the map."""
        fused = self.fused(candidate, row)
        output = self.output_map(fused, row)
        return (
            fused if output is None else fused.with_scores(output.apply(fused.scores, fused.labels))
        ), output

    def scored(self, boxes: Boxes) -> Scored:
        return score(boxes, self.truth, self.metric, checked=True)

    def evaluate(self, candidate: Candidate, row: int) -> Values:
        """The candidate's values, of the row at least, and of all where no calibration looks at truth.

        Where one does, the values of the parts are those of this row.
        """
        looks = candidate.looks_at_truth
        key = f"{candidate.key} {row}" if looks else candidate.key
        self.seen[key] = candidate
        if key not in self.values:
            masks = np.arange(len(self._masks))
            if looks:
                masks = np.append(self.parts_of(row), row)
            known = np.full(len(self._masks), np.nan)
            scored = self.scored(self.fused(candidate, row if looks else 0))
            known[masks] = np.nan_to_num(scored.at_cuts(self._masks[masks])).max(axis=1)
            self.values[key] = known
            self.journal.add(key, known)
        return self.values[key]

    def value(self, candidate: Candidate, row: int) -> float:
        return float(self.evaluate(candidate, row)[row])

    def known(self, candidate: Candidate, row: int = 0) -> float | None:
        """The candidate's value on a row where it was evaluated."""
        for key in (candidate.key, f"{candidate.key} {row}"):
            if key in self.values and not np.isnan(self.values[key][row]):
                return float(self.values[key][row])
        return None


@dataclass
class Journal:
    """The values so far, one line per candidate, so that an interrupted search goes on from there.

    A line is a candidate's key, its values (null where not evaluated), a tab and the digest of these two.
    The file is held open: another search in the same folder, of other data, replaces it by a file of
    its own, and neither reads the other's values.
    """

    path: Path | None
    header: dict[str, Any]
    resumed: int = 0
    _file: TextIO | None = None

    def read(self, n_rows: int) -> dict[str, Values]:
        """The values of an earlier search of the same members, truth, metric and parts; else none."""
        known: dict[str, Values] = {}
        if self.path is None:
            return known
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
            if lines[0] == json.dumps(self.header, sort_keys=True):
                written = [line.rpartition("\t") for line in lines[1:] if line]
                whole = [text for text, _, digest in written if digest == text_digest(text)]
                known = {
                    key: np.array([np.nan if v is None else v for v in values], np.float64)
                    for key, values in map(json.loads, whole)
                    if len(values) == n_rows
                }
                if damaged := len(written) - len(whole):
                    print(
                        f"  note: {shown(self.path)}: {damaged} lines cut off or damaged; what they held is "
                        "scored again"
                    )
        self.resumed = len(known)
        try:
            if not known:
                write_text(self.path, json.dumps(self.header, sort_keys=True) + "\n")
            self._file = self.path.open("a", encoding="utf-8")
            if known:
                self._file.write("\n")  # ends a line that was cut off
        except OSError as error:
            raise PipelineError(f"{shown(self.path)}: cannot write ({error.strerror})") from None
        return known

    def add(self, key: str, values: Values) -> None:
        if self._file is not None:
            row = [None if np.isnan(v) else float(v) for v in values]
            text = json.dumps([key, row])
            self._file.write(f"{text}\t{text_digest(text)}\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
