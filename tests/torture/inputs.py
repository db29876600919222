"""Every kind of file that is read: small whole ones, how the pipeline reads them, and what the bytes say.

`KINDS` maps a name to a function that writes a whole file below the current PIPELINE_HOME and returns a
`Kind`. Files of `ours` must read as they were written or be refused. Of what people write, what is read
must be what the plain reader makes of the same bytes.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import competitions
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiny
import yaml
from PIL import Image, ImageOps
from test_records import KINDS as RECORDS

from pipeline import convert
from pipeline.data import models
from pipeline.data import profile as profiles
from pipeline.data.dataset import load_dataset
from pipeline.data.exchange import read_coco_results
from pipeline.data.findings import Findings
from pipeline.data.models import merge_layers, read_layers
from pipeline.data.photos import Photo, fault_of, load_photo, photo_size
from pipeline.data.predictions import KEY, read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.records import DIGEST
from pipeline.data.split import read_split
from pipeline.ensembles import config as ensembles
from pipeline.paths import PROJECT, folds_csv, home
from pipeline.submissions.check import check_submission
from pipeline.submissions.layout import layout_of
from pipeline.submissions.reader import read_submission
from torture import plain
from torture.mutate import damage_json

CLASSES = ("cup", "한글", "Plastic bag")
COUNT = 12  # images of a file
SIZE = (tiny.WIDTH, tiny.HEIGHT)
SUBMISSION = {"header": ["PredictionString", "image_id"], "box": "{label} {score} {x1} {y1} {x2} {y2}"}
COLUMNS = {
    "image": "image",
    "file": "{image}.jpg",
    "box": ["x1", "y1", "x2", "y2"],
    "xyxy": True,
    "label": "class",
    "crowd": "crowd",
    "width": "width",
    "height": "height",
}
CELLS = {"image": "image", "file": "{image}.jpg", "box": ["boxes"], "size": list(SIZE)}


@dataclass(frozen=True)
class Kind:
    """`read` and `plain` read the file at `path`; their values must be ==. Without `plain` any will do."""

    path: Path
    read: Callable[[], Any]
    plain: Callable[[], Any] | None = None
    ours: bool = False
    style: str = "text"  # of damage, a key of mutate.STYLES


def use_configs(folder: Path) -> None:
    """Have the pipeline look for profiles, models and ensembles in a copy of configs/ in this process."""
    shutil.copytree(PROJECT / "configs", folder, dirs_exist_ok=True)
    for module in (profiles, models, ensembles):
        module.CONFIGS = folder  # type: ignore[attr-defined]


def competition(name: str, **keys: Any) -> tuple[Any, Path]:
    """Write a profile; returns it and the folder of its data."""
    root = home() / "data" / name
    root.mkdir(parents=True, exist_ok=True)
    values = {"title": name, "format": "coco", "classes": list(CLASSES), "submission": SUBMISSION} | keys
    path = profiles.CONFIGS / "competitions" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return load_profile(name), root


def boxes_of(profile: Any, split: str, key: Callable[[str], str] = str) -> Any:
    """What a dataset holds, as the plain readers put it."""
    data = load_dataset(profile, split)
    names = dict(zip(data.images["image_id"], data.images["file_name"], strict=True))
    images = zip(
        map(key, names.values()), data.images["width"].tolist(), data.images["height"].tolist(), strict=True
    )
    columns = ["image_id", "label", "x1", "y1", "x2", "y2", "iscrowd"]
    boxes = [
        (key(names[i]), plain.same(profile.classes[label]), *(round(v, 6) for v in corners), crowd)
        for i, label, *corners, crowd in data.annotations[columns].itertuples(index=False)
    ]
    return sorted(images), sorted(boxes)


def coco_profile(name: str = "coco") -> tuple[Any, Path]:
    profile, root = competition(name, train={"annotations": "train.json"}, test={"annotations": "test.json"})
    for split in ("train", "test"):
        value = tiny.coco(split, COUNT, CLASSES, with_boxes=split == "train")
        for item in value["annotations"][:3]:  # without a box: its outline is one
            x, y, w, h = item.pop("bbox")
            item["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        (root / f"{split}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        for i in range(0, COUNT, 2):
            tiny.write_photo(root / f"{split}/{i:04d}.jpg", seed=i)
    return profile, root


def photo_beside(root: Path, suffix: str = "") -> plain.SizeOf:
    """The size of a photo with a name, where there is one."""

    def size_of(name: str) -> plain.Size | None:
        with contextlib.suppress(OSError, ValueError):
            return SIZE if (root / (name + suffix)).is_file() else None
        return None

    return size_of


def coco_train() -> Kind:
    profile, root = coco_profile()
    path = root / "train.json"
    return Kind(
        path,
        lambda: boxes_of(profile, "train"),
        lambda: plain.coco(path, CLASSES, photo_beside(root)),
        style="json",
    )


def coco_test() -> Kind:
    profile, root = coco_profile("coco_test")
    path = root / "test.json"
    return Kind(
        path,
        lambda: boxes_of(profile, "test"),
        lambda: plain.coco(path, CLASSES, photo_beside(root), with_boxes=False),
        style="json",
    )


def voc_profile(name: str) -> tuple[Any, Path]:
    split = {"annotations": "xml", "photos": "photos", "image_sets": ["set.txt"]}
    profile, root = competition(name, format="voc", train=split, test=split)
    (root / "xml").mkdir(exist_ok=True)
    stems = [f"사진 {i}" if i % 3 == 0 else f"cell_{i}" for i in range(COUNT // 2)]
    for i, stem in enumerate(stems):
        boxes = [
            (CLASSES[c], [x, y, x + w, y + h]) for c, (x, y, w, h) in tiny.random_boxes(i, len(CLASSES)) * 4
        ]
        (root / f"xml/{stem}.xml").write_text(tiny.voc_xml(f"{stem}.jpg", boxes), encoding="utf-8")
        tiny.write_photo(root / f"photos/{stem}.jpg", seed=i)
    (root / "set.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    return profile, root


def voc(file: str) -> Callable[[], Kind]:
    def make() -> Kind:
        profile, root = voc_profile(f"voc_{Path(file).suffix[1:]}")
        size_of = photo_beside(root / "photos", ".jpg")
        return Kind(
            root / file,
            lambda: boxes_of(profile, "train", lambda name: name.removesuffix(".jpg")),
            lambda: plain.voc(root / "xml", root / "set.txt", CLASSES, size_of),
            style="xml" if file.endswith(".xml") else "text",
        )

    return make


def csv_columns() -> Kind:
    train = {"annotations": "train.csv", "columns": COLUMNS}
    profile, root = competition("columns", format="csv", train=train, test=train)
    lines = [
        f"im{i},{x},{y},{x + w},{y + h},{CLASSES[c]},{int(k == 2)},{SIZE[0]},{SIZE[1]}"
        for i in range(COUNT)
        for k, (c, (x, y, w, h)) in enumerate(tiny.random_boxes(i, len(CLASSES)))
    ]
    path = competitions.write(root / "train.csv", "image,x1,y1,x2,y2,class,crowd,width,height", *lines)
    for i in range(0, COUNT, 2):
        tiny.write_photo(root / f"im{i}.jpg", seed=i)
    beside = photo_beside(root)
    return Kind(
        path,
        lambda: boxes_of(profile, "train"),
        lambda: plain.csv_boxes(path, CLASSES, lambda name: beside(name), COLUMNS),  # type: ignore[arg-type, misc]
    )


def csv_cells() -> Kind:
    train = {"annotations": "train.csv", "columns": CELLS}
    profile, root = competition("cells", format="csv", train=train, test=train, classes=["wheat"])
    rows = []
    for i in range(COUNT):
        boxes = [box for _, box in tiny.random_boxes(i, 1)]
        dicts = [dict(zip(("x", "y", "width", "height"), box, strict=True)) for box in boxes]
        rows += [f'"im, {i}","{dicts}"'] if i % 2 else [f'"im, {i}","{box}"' for box in boxes]
    path = competitions.write(root / "train.csv", "image,boxes", *rows)
    return Kind(
        path,
        lambda: boxes_of(profile, "train"),
        lambda: plain.csv_boxes(path, ["wheat"], lambda name: None, CELLS),  # type: ignore[arg-type, misc]
    )


def open_images(file: str) -> Callable[[], Kind]:
    def make() -> Kind:
        columns: dict[str, Any] = {
            "image": "ImageID",
            "file": "{ImageID}.jpg",
            "box": ["XMin", "YMin", "XMax", "YMax"],
            "xyxy": True,
            "normalized": True,
            "label": "LabelName",
            "crowd": "IsGroupOf",
            "sizes": "sizes.csv",
        }
        train = {"annotations": "boxes.csv", "columns": columns}
        labels = [f"/m/0{i}" for i in range(len(CLASSES))]
        name = f"openimages_{Path(file).stem}"
        profile, root = competition(name, format="csv", train=train, test=train, labels=labels)
        lines = [
            f"{i:02x}ab,xclick,{labels[c]},1,{x / 64},{(x + w) / 64},{y / 64},{(y + h) / 64},-1,0,{k % 2},0,0"
            for i in range(COUNT)
            for k, (c, (x, y, w, h)) in enumerate(tiny.random_boxes(i, len(CLASSES)))
        ]
        header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
        competitions.write(root / "boxes.csv", f"{header},IsDepiction,IsInside", *lines)
        sizes = [f"{i:02x}ab,{SIZE[0]},{SIZE[1]}" for i in range(COUNT)]
        competitions.write(root / "sizes.csv", "image,width,height", *sizes)

        def by_hand() -> Any:
            stated = {plain.same(row["image"]): row for row in reversed(plain.table(root / "sizes.csv"))}

            def size_of(name: str) -> plain.Size:
                row = stated[plain.same(name.removesuffix(".jpg"))]
                return plain.size(row["width"], row["height"], None)

            return plain.csv_boxes(root / "boxes.csv", CLASSES, size_of, columns, labels)

        return Kind(root / file, lambda: boxes_of(profile, "train"), by_hand)

    return make


def yolo(file: str) -> Callable[[], Kind]:
    def make() -> Kind:
        split = {"annotations": "data.yaml", "image_sets": ["train"]}
        name = f"yolo_{Path(file).suffix[1:]}"
        profile, root = competition(name, format="yolo", train=split, test=split)
        names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
        text = f"path: .\ntrain: images/train\nval: images/val\nnc: {len(CLASSES)}\nnames:\n{names}"
        (root / "data.yaml").write_text(text, encoding="utf-8")
        for i in range(COUNT // 2):
            tiny.write_photo(root / f"images/train/{i:04d}.jpg", seed=i)
            rows = [
                f"{c} {(x + w / 2) / SIZE[0]} {(y + h / 2) / SIZE[1]} {w / SIZE[0]} {h / SIZE[1]}"
                for c, (x, y, w, h) in tiny.random_boxes(i, len(CLASSES)) * 4
            ]
            rows[-1] = "2 0.1 0.1 0.4 0.2 0.3 0.5"
            competitions.write(root / f"labels/train/{i:04d}.txt", *rows)
        return Kind(
            root / file,
            lambda: boxes_of(profile, "train"),
            lambda: plain.yolo(root / "data.yaml", root, CLASSES, photo_beside(root)),
        )

    return make


def labelme() -> Kind:
    profile, root = competition(
        "labelme", format="labelme", train={"annotations": "."}, test={"annotations": "."}
    )
    for i in range(4):
        shapes = [
            {
                "label": CLASSES[c],
                "points": [[x, y], [x + w, y + h]],
                "shape_type": ("rectangle", "circle")[k % 5 == 4],
                "group_id": k % 3 if k % 5 == 0 else None,
            }
            for k, (c, (x, y, w, h)) in enumerate(tiny.random_boxes(2, len(CLASSES)) * 4)
        ]
        shapes.append({"label": "cup", "points": [[1, 2], [9, 4], [3, 8.5]], "shape_type": "polygon"})
        sizes = {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        tiny.write_json(root / f"{i}.json", {"imagePath": f"{i}.jpg", "shapes": shapes} | sizes)
        tiny.write_photo(root / f"{i}.jpg", seed=i)
    return Kind(
        root / "1.json",
        lambda: boxes_of(profile, "train"),
        lambda: plain.labelme(root, CLASSES, photo_beside(root)),
        style="json",
    )


def cvat() -> Kind:
    split = {"annotations": "annotations.xml"}
    profile, root = competition("cvat", format="cvat", train=split, test=split)
    rows = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>"]
    for i in range(COUNT // 2):
        rows.append(f'<image id="{i}" name="{i}.jpg" width="{SIZE[0]}" height="{SIZE[1]}">')
        for k, (c, (x, y, w, h)) in enumerate(tiny.random_boxes(i, len(CLASSES)) * 3):
            turned = 'rotation="30.0" ' if k == 1 else ""
            corners = f'xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"'
            rows.append(f'<box label="{CLASSES[c]}" {turned}{corners} z_order="0"></box>')
        rows += ['<polygon label="cup" points="1.5,2;30,8;9,20"></polygon>', "</image>"]
        if i % 2:
            tiny.write_photo(root / f"{i}.jpg", seed=i)
    path = competitions.write(root / "annotations.xml", *rows, "</annotations>")
    return Kind(
        path,
        lambda: boxes_of(profile, "train"),
        lambda: plain.cvat(path, CLASSES, photo_beside(root)),
        style="xml",
    )


def class_file() -> Kind:
    path = competitions.write(
        home() / "data/classes/classes.csv", "/m/01,Infant bed", "/m/02,한글", '/m/03,"a, b"'
    )
    split = {"annotations": "t.json"}
    competition("classes", train=split, test=split, classes_file=path.name)

    def read() -> Any:
        profile = load_profile("classes")
        return [[label, name] for label, name in zip(profile.labels, profile.classes, strict=True)]

    def by_hand() -> Any:
        rows = plain.rows_of(path, skip_blank=False)
        if any(len(row) != 2 for row in rows):
            raise plain.Refused("columns")
        return rows

    return Kind(path, read, by_hand)


def profile_yaml(name: str) -> Callable[[], Kind]:
    def make() -> Kind:
        source = PROJECT / "configs/competitions" / f"{name}.yaml"
        path = profiles.CONFIGS / "competitions" / f"torture_{name}.yaml"
        path.write_bytes(source.read_bytes())
        if name == "openimages":
            competitions.openimages(home() / "data" / path.stem)

        class Read(dict[str, Any]):
            def __eq__(self, value: object) -> bool:
                given = {k: v for k, v in dict(value).items() if k not in ("metric", "classes_file")}  # type: ignore[call-overload]
                if given.get("root") is not None:
                    given.pop("root")
                return plain.keys_of(given, self["profile"])

            __hash__ = None  # type: ignore[assignment]

        def read() -> Any:
            return Read(profile=load_profile(path.stem))

        return Kind(path, read, lambda: yaml.safe_load(path.read_bytes().decode("utf-8-sig")))

    return make


def ensemble_yaml() -> Kind:
    path = ensembles.CONFIGS / "ensembles" / "torture.yaml"
    path.write_text(
        "members:\n  - {model: yolov5n, views: [identity, hflip], weight: 2.5}\n  - model: cascade_swin\n"
        "method: wbf\niou: 0.6\nskip: 0.01\nconf_type: votes\n"
    )

    class Read(dict[str, Any]):
        def __eq__(self, value: object) -> bool:
            return plain.keys_of(dict(value or {}), self["ensemble"])  # type: ignore[call-overload]

        __hash__ = None  # type: ignore[assignment]

    return Kind(
        path,
        lambda: Read(ensemble=ensembles.read_ensemble("torture")),
        lambda: yaml.safe_load(path.read_bytes().decode("utf-8-sig")),
    )


def model_yaml() -> Kind:
    path = models.CONFIGS / "torchvision" / "torture.yaml"
    path.write_text(
        "_base_: _base_/default.yaml\nmodel: ssdlite320\nimage_size: 320\nresources: {gpus: 0.25}\n"
        "train: {lr: 0.001}\n"
    )
    keys = ("model", "image_size", "resources", "train", "epochs", "batch", "augment")
    return Kind(path, lambda: merge_layers(read_layers(path), keys))


def test_set(name: str, **submission: Any) -> tuple[Any, Any, Path]:
    """A profile, its test images, and the folder of its data."""
    submission = SUBMISSION | submission
    spec = {"annotations": "train.json"}, {"annotations": "test.json"}
    profile, root = competition(name, train=spec[0], test=spec[1], submission=submission)
    for split in ("train", "test"):
        tiny.write_json(root / f"{split}.json", tiny.coco(split, COUNT, CLASSES, with_boxes=split == "train"))
    return profile, load_dataset(profile, "test"), root


def submission_lines(images: Any) -> list[str]:
    rng, lines = np.random.default_rng(1), ["PredictionString,image_id"]
    rows = tiny.guesses(images, 1, 2, len(CLASSES))
    for i, name in zip(images["image_id"], images["file_name"], strict=True):
        boxes = [
            " ".join(map(repr, (int(r[1]), *(round(float(v), 4) for v in r[2:])))) for r in rows if r[0] == i
        ]
        lines.append(f"{' '.join(boxes[: rng.integers(3)])},{name}")
    return lines


def submission_read() -> Kind:
    profile, test, root = test_set("sent")
    path = competitions.write(root / "sent.csv", *submission_lines(test.images))
    names = dict(zip(test.images["image_id"], test.images["file_name"], strict=True))

    def read() -> Any:
        findings = Findings("sent.csv")
        boxes = read_submission(path, profile, test, findings)
        findings.check()
        rows = zip(boxes.image_id, boxes.label, boxes.score, boxes.boxes_xyxy.tolist(), strict=True)
        return sorted((names[i], int(label), float(score), *corners) for i, label, score, corners in rows)

    keys = list(names.values())
    return Kind(path, read, lambda: plain.submission(path, keys, len(CLASSES), False, SIZE))


def submission_check() -> Kind:
    profile, test, root = test_set("checked")
    path = competitions.write(root / "checked.csv", *submission_lines(test.images))
    keys = test.images["file_name"].tolist()

    def read() -> Any:
        report = check_submission(path, profile, test)
        lines = report.lines()
        assert all(line.isprintable() for line in lines), f"unprintable: {lines!r}"
        return not report.errors

    def by_hand() -> Any:
        try:
            plain.submission(path, keys, len(CLASSES), True, SIZE)
        except (plain.Refused, ValueError, KeyError, OverflowError, csv_error):
            return False
        return True

    return Kind(path, lambda: Lenient(read()), by_hand)


class Lenient:
    """The verdict of a check, which may refuse more than the plain reader does, but not less."""

    def __init__(self, valid: bool) -> None:
        self.valid = valid

    def __eq__(self, other: object) -> bool:
        return not self.valid or bool(other)

    def __repr__(self) -> str:
        return f"valid: {self.valid}"

    __hash__ = None  # type: ignore[assignment]


csv_error = __import__("csv").Error


def sample_submission() -> Kind:
    profile, test, root = test_set("sampled", sample="sample.csv")
    path = competitions.write(root / "sample.csv", *submission_lines(test.images))
    names = test.images["file_name"].tolist()

    def by_hand() -> Any:
        header, *rows = plain.rows_of(path, skip_blank=False)
        keys = [row[header.index("image_id")] for row in rows]
        if (
            sorted(map(plain.same, keys)) != sorted(map(plain.same, names))
            or "PredictionString" not in header
        ):
            raise plain.Refused("keys")
        return [header, keys]

    def read() -> Any:
        layout = layout_of(profile, test.images)
        return [list(layout.header), layout.keys]

    return Kind(path, read, by_hand)


def coco_results() -> Kind:
    _, test, root = test_set("results")
    path = root / "results.json"
    rows = tiny.guesses(test.images, 2, 2, len(CLASSES))
    items = [
        {"image_id": int(i), "category_id": int(c), "score": s, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, c, s, x1, y1, x2, y2 in rows
    ]
    path.write_text(json.dumps(items))

    def read() -> Any:
        findings = Findings("results.json")
        boxes = read_coco_results(path, test, findings)
        findings.check()
        rows = zip(boxes.image_id, boxes.label, boxes.score, boxes.boxes_xyxy.tolist(), strict=True)
        return sorted((int(i), int(c), float(s), *corners) for i, c, s, corners in rows)

    ids = test.images["file_id"].tolist()
    return Kind(path, read, lambda: plain.results(path, ids, test.category_ids, SIZE), style="json")


def fold_file() -> Kind:
    profile, _, _ = test_set("split")
    train = load_dataset(profile, "train")
    path = tiny.write_folds(folds_csv("split"), train.images, 3)
    names = train.images["file_name"].tolist()
    ids = dict(zip(names, train.images["image_id"].tolist(), strict=True))

    def by_hand() -> Any:
        folds = plain.assignment(path, names)
        if any(
            int(plain.number(row["image_id"])) != ids.get(plain.same(row["file_name"]))
            for row in plain.table(path)
        ):
            raise plain.Refused("image_id")
        if len(folds) < len(names) or set(folds.values()) != set(range(max(folds.values()) + 1)):
            raise plain.Refused("folds")
        return folds

    def read() -> Any:
        return dict(zip(names, read_split("split", train).fold.tolist(), strict=True))

    return Kind(path, read, by_hand)


def folds_of_others() -> Kind:
    profile, _, root = test_set("folds")
    train = load_dataset(profile, "train")
    names = train.images["file_name"].tolist()
    by_id = dict(zip(train.images["image_id"].tolist(), names, strict=True))
    path = competitions.write(
        root / "f.csv", "file_name,fold", *(f"{name},{i % 3}" for i, name in enumerate(names))
    )
    return Kind(
        path,
        lambda: {by_id[i]: fold for i, fold in convert.read_folds(path, train).items()},
        lambda: plain.assignment(path, names),
    )


def photo(suffix: str, mode: str = "RGB", **options: Any) -> Callable[[], Kind]:
    def make() -> Kind:
        path = home() / f"photos/{mode.replace(';', '')}{suffix}".lower()
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
        image = Image.fromarray(values).resize(SIZE, Image.Resampling.BILINEAR)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
        elif suffix != ".dcm":
            image = image.convert(mode)
        if suffix == ".dcm":
            competitions.write_dicom(path, np.asarray(image.convert("L")))
        else:
            image.save(path, **options)
        item = Photo(path, *SIZE)

        def read() -> Any:
            photo_size(path)
            fault_of(item)
            return load_photo(item).tobytes()

        def by_hand() -> Any:
            with Image.open(path) as image:
                image.load()
                whole = ImageOps.exif_transpose(image).convert("RGB")
                return (
                    whole if whole.size == SIZE else whole.resize(SIZE, Image.Resampling.BILINEAR)
                ).tobytes()

        # Pillow alone neither reads a JPEG that lacks nothing but its end, nor spreads deep greys.
        return Kind(
            path, read, by_hand if suffix in (".bmp", ".png") and mode == "RGB" else None, style="bytes"
        )

    return make


def weights(**options: Any) -> Callable[[], Kind]:
    """Weights as people download them, in torch's zip or its older format."""

    def make() -> Kind:
        import torch

        from pipeline.training.pretrained import take_in_order

        path, module = home() / f"weights/net{len(options)}.pth", torch.nn.Linear(3, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict() | {"note": [1, "x", {"a": 2.5}]}, path, **options)
        return Kind(path, lambda: take_in_order(module, path, ""), style="bytes")

    return make


def a_table(name: str) -> tuple[Path, Any]:
    profile, test, _ = test_set(name)
    rows = tiny.guesses(test.images, 3, 3, len(CLASSES))
    path = home() / f"{name}.parquet"
    write_predictions(path, tiny.table(test, rows, competition=profile.name, seconds=1.5))
    return path, lambda: values_of(read_predictions(path))


def values_of(table: Any) -> Any:
    columns = (table.image_id, table.labels, table.scores, table.boxes_xyxy)
    meta = vars(table.meta) | {key: getattr(table.meta, key).tolist() for key in ("image_ids", "folds")}
    return [column.tolist() for column in columns], json.loads(json.dumps(meta))


def prediction_table() -> Kind:
    path, read = a_table("table")
    return Kind(path, read, ours=True, style="bytes")


def table_of_others() -> Kind:
    """A table without a digest, damaged in its values: what is read is what plain pyarrow reads."""
    path, read = a_table("others")
    arrow = pq.read_table(path)
    text = json.dumps({key: v for key, v in json.loads(arrow.schema.metadata[KEY]).items() if key != DIGEST})
    pq.write_table(arrow.replace_schema_metadata({KEY: text}), path)

    def by_hand() -> Any:
        arrow = pq.read_table(path)
        meta = json.loads(arrow.schema.metadata[KEY])
        made = meta.get("made")
        if isinstance(made, dict) and type(made.get("seconds")) is int:
            made["seconds"] = float(made["seconds"])
        folds = [-1 if fold is None else fold for fold in meta.pop("folds")]
        columns = arrow.to_pydict()
        boxes = [list(box) for box in zip(*(columns[k] for k in ("x1", "y1", "x2", "y2")), strict=True)]
        values = [*(columns[k] for k in ("image_id", "label", "score")), boxes]
        kept = {key: meta[key] for key in meta if key != "format"} | {"folds": folds}
        return values, kept

    return Kind(path, read, by_hand, style="parquet")


def record(name: str) -> Callable[[], Kind]:
    """A record of ours, as tests/test_records.py writes it."""

    def make() -> Kind:
        written = RECORDS[name]
        path = written.write()

        def read() -> Any:
            return repr(written.read(path))

        return Kind(path, read, ours=True, style="text" if path.suffix == ".csv" else "json")

    return make


def damage_table(rng: Any, data: bytes) -> bytes:
    """One change to a value of a Parquet file, written anew as other programs write it."""
    arrow = pq.read_table(io.BytesIO(data))
    meta = dict(arrow.schema.metadata or {})
    columns = {key: list(values) for key, values in arrow.to_pydict().items()}
    name, row = rng.choice(list(columns)), rng.randrange(max(len(arrow), 1))
    match rng.randrange(6):
        case 0 if len(arrow):
            columns[name][row] = rng.choice(
                (0, 1, -1, 2**15, 0.5, 48.5, float("nan"), float("inf"), None, "1", True)
            )
        case 1:
            for values in columns.values():
                values[row : row + 1] = rng.choice(([], [values[row]] * 2)) if values else []
        case 2:
            columns[rng.choice((name + " ", name.upper(), "x"))] = columns.pop(name)
        case 3:
            order = rng.sample(range(len(arrow)), len(arrow))
            columns = {key: [values[i] for i in order] for key, values in columns.items()}
        case _:
            meta[KEY] = damage_json(rng, meta[KEY])
    try:
        fields = [
            pa.field(
                key,
                arrow.schema.field(key).type
                if key in arrow.schema.names and rng.random() < 0.8
                else pa.float64(),
            )
            for key in columns
        ]
        changed = pa.table(list(columns.values()), schema=pa.schema(fields))
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        changed = arrow
    sink = io.BytesIO()
    pq.write_table(changed.replace_schema_metadata(meta), sink)
    return sink.getvalue()


KINDS: dict[str, Callable[[], Kind]] = {
    "prediction table": prediction_table,
    "table without digest": table_of_others,
    **{name: record(name) for name in RECORDS},
    "COCO train": coco_train,
    "COCO test": coco_test,
    "VOC xml": voc("xml/cell_1.xml"),
    "CVAT xml": cvat,
    "LabelMe": labelme,
    "YOLO labels": yolo("labels/train/0001.txt"),
    "YOLO data.yaml": yolo("data.yaml"),
    "Open Images CSV": open_images("boxes.csv"),
    "Open Images sizes": open_images("sizes.csv"),
    "VOC image set": voc("set.txt"),
    "CSV, a box a row": csv_columns,
    "CSV, boxes in cells": csv_cells,
    "class file": class_file,
    "profile wheat": profile_yaml("wheat"),
    "profile vinbigdata": profile_yaml("vinbigdata"),
    "profile openimages": profile_yaml("openimages"),
    "ensemble YAML": ensemble_yaml,
    "model YAML": model_yaml,
    "submission read": submission_read,
    "submission checked": submission_check,
    "sample submission": sample_submission,
    "COCO results": coco_results,
    "folds.csv": fold_file,
    "FOLDS= of others": folds_of_others,
    "weights": weights(),
    "weights, older format": weights(_use_new_zipfile_serialization=False),
    "photo AVIF": photo(".avif"),
    "photo JPEG": photo(".jpg"),
    "photo JPEG grey": photo(".jpg", "L", quality=50),
    "photo PNG": photo(".png"),
    "photo PNG palette": photo(".png", "P"),
    "photo PNG 16 bit": photo(".png", "I;16"),
    "photo BMP": photo(".bmp"),
    "photo TIFF": photo(".tif"),
    "photo TIFF 16 bit": photo(".tif", "I;16"),
    "photo TIFF packed": photo(".tiff", compression="tiff_lzw"),
    "photo GIF": photo(".gif", "P"),
    "photo WEBP": photo(".webp"),
    "photo DICOM": photo(".dcm"),
}
