"""Confusions and kinds of errors again, in plain Python, straight from their definitions.

Boxes are tuples (x1, y1, x2, y2); found: a list an image of (label, score, box), best score first;
truth: a list an image of (label, box).
"""

from scoring_oracle import iou


def confusion(found, truth, n_classes, threshold, score):
    """Rows truth, columns predicted; background is the last of both."""
    counts = [[0] * (n_classes + 1) for _ in range(n_classes + 1)]
    for mine, real in zip(found, truth, strict=True):
        free = list(range(len(real)))
        for label, _, box in (row for row in mine if row[1] >= score):
            fits = [g for g in free if iou(box, real[g][1]) >= threshold]
            if fits:
                best = max(fits, key=lambda g: (iou(box, real[g][1]), real[g][0] == label, -g))
                free.remove(best)
            counts[real[best][0] if fits else n_classes][label] += 1
        for g in free:
            counts[real[g][0]][n_classes] += 1
    return counts


def average_precision(rows, total):
    """COCO's, of (score, true) in the order of rank."""
    hits, points = 0, []
    for n, (_, true) in enumerate(rows, start=1):
        hits += true
        points.append((hits / total, hits / n))
    return sum(max([p for r, p in points if r >= k * 0.01], default=0) for k in range(101)) / 101


def mean_ap(rows, totals):
    """Of rows (label, score, true); a class whose truth has all been taken away scores 0 if it has rows."""
    values = []
    for label, total in totals.items():
        mine = sorted(((s, true) for name, s, true in rows if name == label), key=lambda row: -row[0])
        if total:
            values.append(average_precision(mine, total))
        elif mine:
            values.append(0.0)
    return sum(values) / len(values) if values else 0.0


def tide(found, truth, tf=0.5, tb=0.1):
    """{kind: (count, cost)} as in tidecv's `TIDERun`, but with COCO's choice among equal IoUs."""
    boxes, errors, missed, totals = [], {}, [], {}
    claims, unfound = {}, []  # truth -> the box that may be put right for it
    for i, (mine, real) in enumerate(zip(found, truth, strict=True)):
        for label, _ in real:
            totals[label] = totals.get(label, 0) + 1
        owner = {}
        start = len(boxes)
        for label, score, box in mine:
            fits = [
                g
                for g, (name, b) in enumerate(real)
                if name == label and g not in owner and iou(box, b) >= tf
            ]
            if fits:
                owner[max(fits, key=lambda g: (iou(box, real[g][1]), g))] = len(boxes)
            boxes.append((label, score, bool(fits)))
        for k, (label, score, box) in enumerate(mine, start=start):
            if boxes[k][2]:
                continue
            own = {g: iou(box, b) for g, (name, b) in enumerate(real) if name == label}
            other = {g: iou(box, b) for g, (name, b) in enumerate(real) if name != label}
            most, wrong = max(own.values(), default=0.0), max(other.values(), default=0.0)
            target = None
            if own and tb <= most <= tf:
                kind, target = "localisation", max(own, key=own.get)
            elif other and wrong >= tf:
                kind, target = "classification", max(other, key=other.get)
            elif any(own[g] >= tf for g in own if g in owner):
                kind = "duplicate"
            elif max(most, wrong) <= tb:
                kind = "background"
            else:
                kind = "both"
            errors[k] = kind
            if target is not None and target not in owner:
                best = claims.get((i, target))
                if best is None or boxes[best][1] < score:
                    claims[i, target] = k
        unfound += [label for g, (label, _) in enumerate(real) if g not in owner]
        missed += [label for g, (label, _) in enumerate(real) if g not in owner and (i, g) not in claims]
    right = {k: truth[i][g][0] for (i, g), k in claims.items()}
    base = mean_ap(boxes, totals)

    def without(labels):
        return {label: n - labels.count(label) for label, n in totals.items()}

    def put_right(kind):
        rows = []
        for k, row in enumerate(boxes):
            if errors.get(k) != kind:
                rows.append(row)
            elif k in right:
                rows.append((right[k], row[1], True))
        return rows

    costs = {
        kind: (list(errors.values()).count(kind), mean_ap(put_right(kind), totals) - base)
        for kind in ("classification", "localisation", "both", "duplicate", "background")
    }
    costs["missed"] = (len(missed), mean_ap(boxes, without(missed)) - base)
    costs["false_boxes"] = (len(errors), mean_ap([row for row in boxes if row[2]], totals) - base)
    costs["unfound_truths"] = (len(unfound), mean_ap(boxes, without(unfound)) - base)
    return {kind: (count, max(cost, 0.0)) for kind, (count, cost) in costs.items()}
