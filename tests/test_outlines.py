"""Outlines of objects as they are read: COCO's polygons and run-length masks, and what is wrong with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray
from pycocotools import mask as masks

from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.outlines import SEGMENTATION
from pipeline.data.profile import load_profile
from pipeline.data.specs import Losses
from pipeline.errors import PipelineError

WIDTH, HEIGHT = tiny.WIDTH, tiny.HEIGHT
TRIANGLE = [10.0, 5.0, 30.0, 5.0, 10.0, 25.0]  # in the box 10, 5, 20, 20
BOX = {"bbox": [10, 5, 20, 20]}


def pixels(polygons: list[list[float]], width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    return masks.decode(masks.merge(masks.frPyObjects(polygons, height, width)))


def runs_of(pixels: NDArray[np.uint8], compressed: bool = True) -> dict[str, Any]:
    """COCO's two forms of a run-length mask; the second by its definition: columns, zeros first."""
    if compressed:
        packed = masks.encode(np.asfortranarray(pixels))
        return packed | {"counts": packed["counts"].decode()}
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(pixels.shape), "counts": [0] * int(flat[0]) + counts}


def outlined(root: Path, *objects: dict[str, Any], others: int = 0) -> None:
    """A train file whose first image has these objects, and others with good outlines; ids count from 1."""

    def change(content: dict[str, Any]) -> None:
        good = [BOX | {"segmentation": [TRIANGLE], "image_id": 1 + i % 11} for i in range(others)]
        for i, item in enumerate(good):  # doubled boxes would be dropped
            item["bbox"] = [10, 5, 20, 20 + i / 100]
        items = [{"image_id": 0, "category_id": 0, "iscrowd": 0} | item for item in [*objects, *good]]
        content["annotations"] = [{"id": i, **item} for i, item in enumerate(items, start=1)]

    tiny.edit_json(root / "train.json", change)


def read(**options: Any) -> Dataset:
    return load_dataset(load_profile("recycle"), "train", **({"masks": True} | options))


def outlines(dataset: Dataset) -> list[Any]:
    return [json.loads(text) for text in dataset.annotations[SEGMENTATION]]


def test_every_form_comes_through_as_the_same_pixels(recycle: Path) -> None:
    parts = [TRIANGLE, [20.5, 20.25, 29.0, 20.0, 29.0, 24.0]]
    drawn = pixels(parts)
    forms = [parts, runs_of(drawn), runs_of(drawn, compressed=False)]
    outlined(recycle, *[{"bbox": [10, 5, 20, 20 + i], "segmentation": form} for i, form in enumerate(forms)])
    dataset = read()
    polygons, *packed = outlines(dataset)
    assert polygons == parts
    assert all(np.array_equal(masks.decode(outline), drawn) for outline in packed)
    assert not {kind for kind in dataset.findings.kinds if "outline" in kind}


def test_only_who_asks_gets_them_and_nothing_else_changes(recycle: Path) -> None:
    def read_tables() -> tuple[Dataset, str]:
        plain = read(masks=False)
        return plain, plain.annotations.to_csv(index=False)

    before, text = read_tables()
    tiny.edit_json(
        recycle / "train.json",
        lambda content: [
            item.update(segmentation=[[x, y, x + w, y, x, y + h]])
            for item in content["annotations"]
            for x, y, w, h in [item["bbox"]]
        ],
    )
    after, same_text = read_tables()
    assert (after.digest, same_text) == (before.digest, text) and SEGMENTATION not in after.annotations
    assert read().annotations.drop(columns=SEGMENTATION).equals(after.annotations)
    assert after.findings.as_json() == before.findings.as_json()


def test_polygons_are_clipped_to_the_photo_as_their_boxes_are(recycle: Path) -> None:
    """Against the same polygon drawn on a larger canvas, which is then cut."""
    rng = np.random.default_rng(0)
    shapes = [
        np.concatenate([rng.uniform(0.2, 0.8, (1, 2)), rng.uniform(-0.7, 1.7, (4, 2))]) for _ in range(40)
    ]
    polygons = [(shape * (WIDTH, HEIGHT)).ravel().tolist() for shape in shapes]
    objects = []
    for i, polygon in enumerate(polygons):
        points = np.reshape(polygon, (-1, 2))
        low, high = points.min(0), points.max(0)
        place = {"image_id": i % 12, "category_id": i // 12}  # so that none is doubled
        objects.append({"bbox": [*low, *(high - low)], "segmentation": [polygon]} | place)
    outlined(recycle, *objects)
    dataset = read()
    taken = dict(zip(dataset.annotations["annotation_id"], outlines(dataset), strict=True))
    cut = 0
    for number, polygon in enumerate(polygons, start=1):
        moved = (np.reshape(polygon, (-1, 2)) + np.array([WIDTH, HEIGHT])).ravel().tolist()
        whole = pixels([moved], 3 * WIDTH, 3 * HEIGHT)[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
        points = np.reshape(taken[number][0], (-1, 2))
        assert (points >= 0).all() and (points <= (WIDTH, HEIGHT)).all()
        assert (pixels(taken[number]) != whole).mean() < 0.02  # pixels at the edges
        cut += taken[number][0] != polygon
    assert cut > 30 and len(dataset.findings.kinds["outlines that reach outside clipped (ids)"]) == cut


RECTANGLE = [[10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]]
SMALL = np.ones((HEIGHT, WIDTH - 1), np.uint8)
BAD_RUNS = {"size": [HEIGHT, WIDTH]}
FAULTS: list[tuple[Any, str]] = [
    (None, "without an outline"),
    ([], "without an outline"),
    ("polygon", "without an outline"),
    ([TRIANGLE[:5]], "whose outline has an odd number of coordinates"),
    ([TRIANGLE[:4]], "whose outline has fewer than three points"),
    ([[*TRIANGLE, float("nan"), 3]], "whose outline has coordinates that are no finite numbers"),
    ([[*TRIANGLE, 1e300, 3]], "whose outline has coordinates that are no finite numbers"),
    (TRIANGLE, "whose outline has coordinates that are no finite numbers"),
    ([[40, 26, 47, 26, 47, 31]], "beside which their outline lies"),
    ([[-9, -9, -2, -9, -2, -3]], "beside which their outline lies"),
    (runs_of(SMALL), "whose run-length mask is not of the photo's size"),
    (runs_of(SMALL, compressed=False), "whose run-length mask is not of the photo's size"),
    (runs_of(np.zeros((HEIGHT, WIDTH), np.uint8)), "beside which their outline lies"),
    ({"counts": [3]}, "whose run-length mask is not of the photo's size"),
    (BAD_RUNS | {"counts": [5, 6]}, "whose run-length mask does not fill the photo"),
    (BAD_RUNS | {"counts": [HEIGHT * WIDTH + 5, -5]}, "whose run-length mask does not fill the photo"),
    (BAD_RUNS | {"counts": "ooooooooooooooooooooo"}, "whose run-length mask does not fill the photo"),
    (BAD_RUNS | {"counts": "한글"}, "whose run-length mask does not fill the photo"),
    (BAD_RUNS, "whose run-length mask does not fill the photo"),
]


@pytest.mark.parametrize(("stated", "fault"), FAULTS)
def test_a_fault_is_a_line_and_its_box_a_rectangle(
    recycle: Path, stated: Any, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outlined(recycle, BOX | {"segmentation": stated}, others=10)
    dataset = read()
    assert outlines(dataset)[0] == RECTANGLE
    dataset.findings.show()
    line = f"  note: train.json: 1 boxes {fault}, learned as rectangles (ids): 1\n"
    assert line in capsys.readouterr().out
    assert read(masks=False).findings.kinds.keys().isdisjoint(dataset.findings.kinds)


def test_of_several_polygons_the_good_ones_are_taken(recycle: Path) -> None:
    outlined(recycle, BOX | {"segmentation": [[1, 2, 3, 4], TRIANGLE, [7, 7, 7]]})
    dataset = read()
    assert outlines(dataset) == [[TRIANGLE]]
    assert dataset.findings.kinds == {
        "outlines with a polygon of an odd number of coordinates, which is left out (ids)": [1],
        "outlines with a polygon of fewer than three points, which is left out (ids)": [1],
    }


def test_a_crowd_is_ignored_by_its_box(recycle: Path) -> None:
    """So that a file of polygons stays one where its crowds are run-length masks, as COCO's are."""
    outlined(recycle, BOX | {"segmentation": {"size": [1, 1], "counts": [1]}, "iscrowd": 1}, others=1)
    dataset = read()
    assert outlines(dataset)[0] == RECTANGLE and not dataset.findings.kinds


def test_an_object_that_only_an_outline_states_keeps_it(recycle: Path) -> None:
    outlined(recycle, {"segmentation": [TRIANGLE]})
    dataset = read()
    assert dataset.annotations[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[10, 5, 30, 25]]
    assert outlines(dataset) == [[TRIANGLE]]


def test_too_few_outlines_are_refused_unless_the_profile_accepts_it(recycle: Path) -> None:
    outlined(recycle, BOX, BOX | {"bbox": [0, 0, 9, 9]}, others=10)
    message = (
        r"^train.json: 2 of 12 outlines would be left out: 2 boxes without an outline, learned as rectangles "
        r"\(ids\): 1, 2. .*accept_losses: {outlines: 2, why: ...} in the profile takes the rest$"
    )
    with pytest.raises(PipelineError, match=message):
        read()
    assert len(read(masks=False).annotations) == 12
    accepting = replace(load_profile("recycle"), accept_losses=Losses("two bottles", outlines=2))
    assert len(load_dataset(accepting, "train", masks=True).annotations) == 12
