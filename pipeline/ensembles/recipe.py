"""A recipe: everything that is done to the members' boxes of one fold, on held-out and test photos alike.

Each member's boxes are floored, put through an NMS of their own and calibrated; then they are fused;
then rescored. `cook` is the one way that does it, for tuning, out-of-fold and test: nothing in it looks
at more than one image, or is fitted. A recipe is kept as json beside LightGBM's text.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.data.predictions import Predictions
from pipeline.ensembles.calibration import Calibration
from pipeline.ensembles.features import MemberRows, features
from pipeline.ensembles.rescoring import rescored
from pipeline.ensembles.tables import Fusion, check_fusion, describe
from pipeline.errors import PipelineError
from pipeline.fusion import Fused, Packed, fuse, pack
from pipeline.paths import file_digest, shown, write_json, write_text

FORMAT = 1
TUNED, RESCORING = "tuned.json", "rescoring.txt"
MOST_BOXES = 150  # of an image, fused, that are rescored; beyond, they only cost time


@dataclass(frozen=True)
class MemberSettings:
    """What is done to a member's boxes before they are fused, and its weight; `nms` 0: none."""

    model: str
    view: str
    weight: float = 1.0
    floor: float = 0.001
    nms: float = 0.0
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        return f"{self.model}/{self.view}"


@dataclass(frozen=True)
class Recipe:
    """`output`: a map of the fused scores to the share of right boxes, or `rescoring`: LightGBM's text,
    which gives it for each box. `cut`: per class, the lowest score that is submitted."""

    members: tuple[MemberSettings, ...]
    fusion: Fusion
    output: Calibration | None = None
    rescoring: str | None = None
    cut: tuple[float, ...] | None = None


def prepare(source: Boxes, floor: float, nms: float, calibration: Calibration | None) -> Boxes:
    """A member's boxes, floored, through an NMS of their own, calibrated."""
    keep = source.scores >= np.float32(floor)
    if not keep.all():
        source = source.select(keep)
    if nms:
        source = fuse(pack_sources([source]), "nms", iou=nms, skip=0.0)
    if calibration is not None:
        source = replace(source, scores=calibration.apply(source.scores, source.labels))
    return source


def pack_sources(sources: Sequence[Boxes]) -> Packed:
    """Pack members' boxes of the same images, each member one source."""
    sizes = np.array([len(source) for source in sources])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return pack(
        np.concatenate([source.boxes_xyxy for source in sources]),
        np.concatenate([source.scores for source in sources]),
        np.concatenate([source.labels for source in sources]),
        np.repeat(np.arange(len(sources), dtype=np.int16), sizes),
        np.stack([source.offsets + start for source, start in zip(sources, starts, strict=True)]),
        n_sources=len(sources),
    )


def describe_boxes(
    fused: Boxes, packed: Packed, sizes: NDArray[np.float64], n_classes: int
) -> NDArray[np.float32]:
    """(n, columns) what the packed members say about each fused box; see `features`."""
    table = packed.table
    labels = np.repeat(table.group_labels, np.diff(table.group_rows, axis=1)[:, 0])
    members = MemberRows(table.boxes_xyxy, table.scores, labels, table.source, table.image_rows)
    return features(fused, members, sizes, packed.n_sources, n_classes)


def fuse_members(recipe: Recipe, sources: Sequence[Boxes]) -> tuple[Packed, Fused]:
    """The members' boxes, prepared and packed, and fused."""
    ready = [
        prepare(source, member.floor, member.nms, member.calibration)
        for source, member in zip(sources, recipe.members, strict=True)
    ]
    packed = pack_sources(ready)
    weights = [member.weight for member in recipe.members]
    return packed, fuse(packed, weights=weights, **asdict(recipe.fusion))


def to_be_rescored(
    recipe: Recipe, sources: Sequence[Boxes], sizes: NDArray[np.float64], n_classes: int
) -> tuple[Boxes, NDArray[np.float32]]:
    """The fused boxes that are rescored, and what the members say about each; to fit and to apply."""
    packed, fused = fuse_members(recipe, sources)
    boxes = fused.best_per_image(MOST_BOXES)
    return boxes, describe_boxes(boxes, packed, sizes, n_classes)


def cook(recipe: Recipe, sources: Sequence[Boxes], sizes: NDArray[np.float64], n_classes: int) -> Boxes:
    """Make the fused boxes of a recipe, before its cut.

    sources: one a member of the recipe, in its order, on the same images. sizes (m, 2): the images'.
    """
    if recipe.rescoring is not None:
        boxes, rows = to_be_rescored(recipe, sources, sizes, n_classes)
        return boxes.with_scores(rescored(recipe.rescoring, rows))
    _, fused = fuse_members(recipe, sources)
    if recipe.output is None:
        return fused
    return fused.with_scores(recipe.output.apply(fused.scores, fused.labels))


def over_cut(
    scores: NDArray[np.float32], labels: NDArray[np.int16], cut: Sequence[float]
) -> NDArray[np.bool_]:
    """(n,) whether a box reaches its class's cut."""
    return scores >= np.asarray(cut, np.float32)[labels]


def write_recipe(folder: Path, recipe: Recipe, made: dict[str, Any]) -> None:
    """Write tuned.json and the trees beside it; `made` says what the recipe was tuned on."""
    text = None
    if recipe.rescoring is not None:
        write_text(folder / RESCORING, recipe.rescoring)
        text = {"file": RESCORING, "digest": file_digest(folder / RESCORING)}
    members = [
        {key: value for key, value in vars(member).items() if key != "calibration"}
        | {"calibration": member.calibration.to_json() if member.calibration else None}
        for member in recipe.members
    ]
    cut = list(recipe.cut) if recipe.cut is not None else None
    value = {
        "format": FORMAT,
        "members": members,
        "fusion": asdict(recipe.fusion),
        "rescoring": text,
        "output": recipe.output.to_json() if recipe.output else None,
        "cut": cut,
        "made": made,
    }
    write_json(folder / TUNED, value)
    if text is None:
        (folder / RESCORING).unlink(missing_ok=True)


def read_recipe(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a folder, and what it says of its making. Raises PipelineError when damaged."""
    path = folder / TUNED
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise PipelineError(f"{shown(path)}: format {value['format']}, expected {FORMAT}; tune again")
        members = tuple(
            MemberSettings(**entry | {"calibration": _calibration(entry["calibration"])})
            for entry in value["members"]
        )
        cut = None if value["cut"] is None else tuple(map(float, value["cut"]))
        recipe = Recipe(members, check_fusion(value["fusion"]), _calibration(value["output"]), None, cut)
        rescoring, made = value["rescoring"], value["made"]
    except FileNotFoundError:
        raise PipelineError(f"{shown(path)}: not tuned yet") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{shown(path)}: damaged ({error!r}); tune again") from None
    if rescoring is not None:
        text = folder / rescoring["file"]
        if not text.is_file() or file_digest(text) != rescoring["digest"]:
            raise PipelineError(f"{shown(text)}: not the trees that {path.name} was saved with; tune again")
        recipe = replace(recipe, rescoring=text.read_text(encoding="utf-8"))
    return recipe, made


def _calibration(value: dict[str, Any] | None) -> Calibration | None:
    return None if value is None else Calibration.from_json(value)


def recipe_in_words(recipe: Recipe) -> dict[str, Any]:
    """What a report or a card says of a recipe: without the knots of its maps and the trees."""
    members = []
    for member in recipe.members:
        row: dict[str, Any] = {"member": member.name, "weight": member.weight, "floor": member.floor}
        if member.nms:
            row["nms"] = member.nms
        if member.calibration is not None:
            row["calibration"] = member.calibration.kind
        members.append(row)
    cut = None if recipe.cut is None else [round(value, 4) for value in recipe.cut]
    return {
        "members": members,
        "fusion": describe(recipe.fusion),
        "rescored": recipe.rescoring is not None,
        "cut": cut,
    }


def submitted(table: Predictions) -> Predictions:
    """The boxes of an ensemble's table that its submission holds: those that reach the tuned cut."""
    cut = table.meta.made.get("cut")
    if cut is None:
        return table
    return table.select(over_cut(table.scores, table.labels, cut))
