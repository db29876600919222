"""Fusing the boxes of several sources (models, views, folds) over all images at once.

    packed = pack(boxes_xyxy, scores, labels, source, offsets, n_sources=10, sizes=sizes)
    fused = fuse(packed, "wbf", iou=0.55, weights=[2, 1, ...])  # as often as wanted

Flat NumPy arrays in pixels go in and come out (see `pack`, `Fused`). The fusers are the entries of
`FUSERS`; `CONF_TYPES` are the scores of `wbf`: `votes`, ours and the default, sums each source's
best weighted score in a cluster and divides by the total weight, so that duplicates of low score do
not drag a good box down; the other four are those of ensemble-boxes.

Rules for all fusers:

Errors (`PipelineError`): arrays of the wrong length, shape or kind; offsets that do not rise from 0
to the number of boxes; labels or sources out of range; a finite score outside 0..1; rows of a
source that is absent by `present`; negative, NaN or all-zero weights, or not one per source; unknown
names and thresholds out of range; a `skip` below the floor of the packing.

Repairs, counted in `report`: rows dropped whose score is NaN, infinite or 0, whose corners are NaN
or infinite, or that have no area (after clipping); corners swapped that were in the wrong order;
corners clipped to the image where `sizes` are given; a fused score above 1 set to 1. Rows below the
score floor are left out before their boxes are looked at.

Weights: a source counts in the total weight of every image that it predicted (`present`), with or
without boxes there. A source with weight 0 takes no part at all.

Order: boxes are fused by weighted score, highest first; equal ones by x1, y1, x2, y2, lowest first,
then the higher weight. Boxes that are equal in all of that may come in any order: the same box from
two sources ends in one cluster, since a cluster that moves towards a box never loses IoU with it. So
the result does not depend on the order of rows and sources, nor on the number of threads. It is sorted
by image, score (highest first), x1, y1, x2, y2, label.

Differences from ensemble-boxes 1.0.9, on purpose: there `avg` gives scores above 1 for
unequal weights and for `allows_overflow` (here at most 1); weighted scores of 0 give NaN boxes, a
NaN box swallows others, a NaN score passes the floor (dropped here); weights of the wrong length
become 1, other wrong lengths or names end the process (errors here); corners in pixels are clipped
to 1 (here pixels are the unit); `nms` and `soft_nms` fail on a source without boxes and change the
caller's scores; `soft_nms` returns undecayed scores; an unstable sort decides ties.
"""

from pipeline.fusion.fusers import FUSERS, Fused, Fuser, fuse
from pipeline.fusion.packing import Packed, pack
from pipeline.fusion.wbf import CONF_TYPES

__all__ = [
    "CONF_TYPES",
    "FUSERS",
    "Fused",
    "Fuser",
    "Packed",
    "fuse",
    "pack",
]
