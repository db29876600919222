"""Non-maximum suppression of one group: a box stays unless a better one overlaps it too much."""

from pipeline.fusion.overlap import any_match, put
from pipeline.kernels.jit import inlined


@inlined
def nms_group(rows, lo, hi, image, parameters, scratch, out):
    """Suppress in the rows lo..hi-1, best first; return the number of boxes written."""
    n = 0
    start = out.n[0]
    for row in range(lo, hi):
        x1 = rows.boxes_xyxy[row, 0]
        y1 = rows.boxes_xyxy[row, 1]
        x2 = rows.boxes_xyxy[row, 2]
        y2 = rows.boxes_xyxy[row, 3]
        if any_match(scratch.blocks, n, x1, y1, x2, y2, parameters.iou, parameters.part):
            continue
        put(scratch.blocks, n, x1, y1, x2, y2)
        out.boxes_xyxy[start + n, 0] = x1
        out.boxes_xyxy[start + n, 1] = y1
        out.boxes_xyxy[start + n, 2] = x2
        out.boxes_xyxy[start + n, 3] = y2
        out.scores[start + n] = image.weights[rows.source[row]] * rows.scores[row]
        n += 1
    return n
