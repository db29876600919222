"""Pictures of an analysis, to be pasted into a write-up.

Lines are told apart by colour-blind-safe colours (Okabe and Ito, "Color Universal Design", 2008) and
strokes; where there are more classes than those tell apart, by rank, from light (best) to dark.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.paths import atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STROKES = ("-", "--", ":")
FEW = len(COLOURS) * len(STROKES)  # classes that lines can be told apart for
LISTED = 60  # classes that a legend can name
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
DPI = 130
Analysis = dict[str, Any]


def draw_pictures(folder: Path, analysis: Analysis, title: str) -> list[Path]:
    """Write pr_curves, confusion_matrix, score_curves, iou and errors (.png); returns their paths.

    analysis: of `analyse`; title: what was analysed, as "Recycle Trash: final".
    """
    import matplotlib
    from matplotlib.figure import Figure

    paths = []
    with matplotlib.rc_context(STYLE):
        for name, draw in PICTURES.items():
            figure = Figure(layout="constrained")
            draw(figure, analysis, _short(title, 56))
            paths.append(folder / f"{name}.png")
            with atomic(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=DPI)
    return paths


def draw_pr_curves(figure: Any, analysis: Analysis, title: str) -> None:
    """Precision over recall of each class, as AP reads it, with the raw curve thin behind."""
    curves = analysis["curves"]
    ap = {name: analysis["classes"][name]["ap"] for name in curves["over_recall"]}
    names = sorted(ap, key=lambda name: -ap[name])
    axes = figure.subplots()
    lines, texts = [], []
    for name, style in zip(names, _line_styles(len(names)), strict=True):
        curve = curves["over_recall"][name]
        if len(names) <= FEW:
            axes.plot(curves["recalls"], curve["precision"], lw=0.8, alpha=0.35, color=style["color"])
        lines += axes.plot(curves["recalls"], curve["envelope"], lw=1.5, **style)
        texts.append(f"{ap[name]:.3f}  {_short(name)}")
    mean = np.mean([curve["envelope"] for curve in curves["over_recall"].values()], axis=0)
    lines = axes.plot(curves["recalls"], mean, color="black", lw=2.8) + lines
    texts = [f"{analysis['all']['map']:.3f}  mean of {len(names)} classes", *texts]
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
    axes.set_title(f"{title}\nprecision over recall at IoU {analysis['iou']:g}", loc="left")
    width = _legend(figure, lines, texts, "AP")
    figure.set_size_inches(6.2 + width, 5.2 if len(names) <= FEW else 7.0)


def draw_confusion(figure: Any, analysis: Analysis, title: str) -> None:
    """The confusion matrix, each row divided by its sum, with its percentages where they fit."""
    from matplotlib.colors import PowerNorm

    names = [_short(name) for name in analysis["confusion"]["classes"]]
    counts = np.array(analysis["confusion"]["counts"])
    shares = np.array(analysis["confusion"]["shares"])
    n = len(names)
    cell = (
        max(1.0, 3.6 / n)
        if n <= 5
        else 0.62
        if n <= 12
        else 0.45
        if n <= FEW + 1
        else max(0.17, 0.24 - 0.001 * n)
    )
    size = 10 if n <= 12 else 9 if n <= FEW + 1 else 7
    beside = 0.009 * size * max(map(len, names))  # inches that the longest name takes
    side = min(n * cell, 24.0)
    figure.set_size_inches(side + beside + 1.9, side + (beside if n > 5 else 0.3) + 1.4)
    axes = figure.subplots()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    shown = np.ma.masked_where((np.arange(n) == n - 1)[:, None] & (np.arange(n) == n - 1), shares)
    image = axes.imshow(shown, cmap="Blues", norm=PowerNorm(0.6, 0, 1))  # rare confusions show
    if n <= FEW + 1:
        for i, j in np.argwhere(counts > 0):
            text = f"{100 * shares[i, j]:.0f} %" if shares[i, j] >= 0.005 else "<1 %"
            text += f"\n{counts[i, j]}" if n <= 12 else ""
            colour = "white" if shares[i, j] > 0.4 else "black"
            small = 10 if n <= 5 else 7.5 if n <= 12 else 6.5
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=small)
    turn: dict[str, Any] = {"rotation": 0} if n <= 5 else {"rotation": 90}
    axes.set_xticks(range(n), names, fontsize=size, **turn)
    axes.set_yticks(range(n), names, fontsize=size)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1 if n <= FEW + 1 else 0.5)
    axes.tick_params(which="both", length=0)
    axes.set(
        xlabel="predicted class (background: not found)", ylabel="true class (background: nothing there)"
    )
    at = f"boxes of score {analysis['best_score']:.3f} and above, IoU {analysis['iou']:g}"
    axes.set_title(f"{title}\n{at}", loc="left")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the row", pad=0.02)


def draw_score_curves(figure: Any, analysis: Analysis, title: str) -> None:
    """Precision, recall and F1 of all classes together, and F1 of each class, over the score."""
    curves = analysis["curves"]
    names = list(curves["over_score_of_class"])
    pooled, single = figure.subplots(1, 2, sharey=True)
    for name, colour in zip(("precision", "recall", "f1"), COLOURS, strict=False):
        values = np.array(curves["over_score"][name], float)
        width = 2.6 if name == "f1" else 1.6
        pooled.plot(curves["scores"], values, color=colour, lw=width, label="F1" if name == "f1" else name)
    best = analysis["all"]["at_best"]
    if best:
        pooled.plot(best["score"], best["f1"], "o", color=COLOURS[2], ms=8, mec="black")
        text = f"F1 {best['f1']:.3f} at {best['score']:.3f}"
        pooled.set_title(f"{title}\nall classes: {text}", loc="left")
    else:
        pooled.set_title(title, loc="left")
    pooled.legend(loc="lower center", ncols=3, bbox_to_anchor=(0.5, 0.0))
    bests = {name: analysis["classes"][name]["at_best"] for name in names}
    names.sort(key=lambda name: -(bests[name] or {"f1": 0})["f1"])
    lines, texts = [], []
    for name, style in zip(names, _line_styles(len(names)), strict=True):
        values = np.array(curves["over_score_of_class"][name]["f1"], float)
        lines += single.plot(curves["scores"], values, lw=1.5, **style)
        best = bests[name]
        texts.append(
            f"{best['f1']:.3f} at {best['score']:.3f}  {_short(name)}" if best else f"–  {_short(name)}"
        )
    single.set_title("F1 of each class", loc="left")
    for axes in (pooled, single):
        axes.set(xlabel="lowest score kept", xlim=(0, 1), ylim=(0, 1.02))
    width = _legend(figure, lines, texts, "highest F1 and its score")
    figure.set_size_inches(9.2 + width, 4.6 if len(names) <= FEW else 7.0)


def draw_iou(figure: Any, analysis: Analysis, title: str) -> None:
    """How well the true boxes lie on their truth."""
    overlap = analysis["matched_iou"]
    edges = np.array(overlap["histogram"]["edges"])
    boxes = overlap["histogram"]["boxes"]
    figure.set_size_inches(6.6, 4.2)
    axes = figure.subplots()
    axes.bar(edges[:-1], boxes, np.diff(edges), align="edge", color=COLOURS[0], edgecolor="white")
    axes.grid(axis="x", visible=False)
    text = f"{overlap['boxes']} true boxes of score {analysis['best_score']:.3f} and above"
    if overlap["boxes"]:
        axes.axvline(overlap["mean"], color="black", lw=1.5, ls="--")
        shares = [f"{100 * overlap[f'share_from_{x}']:.0f} % from {x}" for x in ("0.75", "0.9")]
        text += f"\nmean IoU {overlap['mean']:.3f} (dashed), {', '.join(shares)}"
    axes.set(xlabel="IoU of a true box with its truth", ylabel="boxes", xlim=(edges[0], 1))
    axes.set_title(f"{title}\n{text}", loc="left")


def draw_errors(figure: Any, analysis: Analysis, title: str) -> None:
    """What mAP would rise by if all errors of a kind were put right."""
    errors = analysis["errors"]
    rows = [(f"{name}", value, COLOURS[0]) for name, value in errors["kinds"].items()]
    rows += [
        ("all false boxes", errors["false_boxes"], "#888888"),
        ("all truths not found", errors["unfound_truths"], "#888888"),
    ]
    figure.set_size_inches(7.6, 4.2)
    axes = figure.subplots()
    lost = [value["map_lost"] for _, value, _ in rows]
    bars = axes.barh([name for name, *_ in rows], lost, color=[colour for *_, colour in rows])
    texts = [f" {value['map_lost']:.3f}   ({value['count']:,})" for _, value, _ in rows]
    axes.bar_label(bars, texts, fontsize=9.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.axhline(len(errors["kinds"]) - 0.5, color="#888888", lw=0.8)
    axes.set(xlabel=f"mAP lost (number of errors); mAP is {errors['map']:.3f} at IoU {analysis['iou']:g}")
    axes.set_xlim(0, 1.35 * max(*lost, 0.01))
    axes.set_title(f"{title}\nwhat each kind of error costs", loc="left")


PICTURES: dict[str, Callable[[Any, Analysis, str], None]] = {
    "pr_curves": draw_pr_curves,
    "confusion_matrix": draw_confusion,
    "score_curves": draw_score_curves,
    "iou": draw_iou,
    "errors": draw_errors,
}


def _line_styles(n: int) -> list[dict[str, Any]]:
    """Colour and stroke of each of n lines, the best class first."""
    if n <= FEW:
        return [{"color": COLOURS[k % len(COLOURS)], "ls": STROKES[k // len(COLOURS)]} for k in range(n)]
    from matplotlib import colormaps

    colours: NDArray[np.float64] = colormaps["viridis"](np.linspace(0.92, 0.0, n))
    return [{"color": tuple(colour)} for colour in colours]


def _legend(figure: Any, lines: Sequence[Any], texts: Sequence[str], title: str) -> float:
    """A legend right of the picture; returns its width in inches. Of too many lines it names the ends."""
    if len(lines) > LISTED + 1:
        half = LISTED // 2
        lines, texts = [*lines[:half], *lines[-half:]], [*texts[:half], *texts[-half:]]
    many = len(lines) > FEW + 1
    figure.legend(
        lines,
        texts,
        loc="outside right upper",
        title=title,
        alignment="left",
        fontsize=8 if many else 9.5,
        ncols=2 if many else 1,
        handlelength=1.8,
    )
    widest = max(map(len, texts))
    return 2 * (0.6 + 0.068 * widest) if many else 0.8 + 0.083 * widest


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def _short(name: str, most: int = 24) -> str:
    """The name, its middle left out where it is long."""
    return _plain(name if len(name) <= most else f"{name[: most - 10]}…{name[-9:]}")
