"""Writing and reading a submission beside pandas and polars: `python -m benchmarks.submissions`.

4,871 images with 100 boxes each, the format of Recycle Trash, numbers rounded alike. One run,
alternating, warm; the best of the rounds counts, by the clock. Everyone starts from the same flat
arrays in memory and ends with them; everyone's file is flushed to the disk and renamed, as the
pipeline does it. Ours checks the sample and the order of the images as well.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.predictions import Meta, Predictions, table_of_rows
from pipeline.data.profile import load_profile
from pipeline.kernels.threads import thread_count
from pipeline.paths import atomic
from pipeline.submissions.layout import layout_of
from pipeline.submissions.rows import read_rows
from pipeline.submissions.writer import write_submission

IMAGES, BOXES, SIDE, CLASSES = 4871, 100, 1024, 10
COLUMNS = ("label", "score", "x1", "y1", "x2", "y2")


def workload(images: int, boxes: int) -> tuple[Predictions, pd.DataFrame]:
    """Random boxes, and the image table they belong to."""
    rng = np.random.default_rng(7)
    n, ids = images * boxes, np.arange(images, dtype=np.int32)
    corners = np.sort(rng.uniform(0, SIDE, (n, 2, 2)), axis=1).reshape(n, 4)
    meta = Meta("recycle", "test", "", ids, np.full(images, -1, np.int32))
    table = table_of_rows(
        np.repeat(ids, boxes),
        rng.integers(0, CLASSES, n).astype(np.int16),
        rng.beta(0.5, 3, n).astype(np.float32).clip(0.001),
        corners.astype(np.float32),
        meta,
    )
    frame = pd.DataFrame({"image_id": ids, "file_id": ids, "position": ids, "width": SIDE, "height": SIDE})
    frame["file_name"] = [f"test/{i:04d}.jpg" for i in range(images)]
    return table, frame


def write_pandas(path: Path, table: Predictions, images: pd.DataFrame) -> None:
    strings = [
        f"{label} {score:.6f} {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f}"
        for label, score, (x1, y1, x2, y2) in zip(
            table.labels.tolist(), table.scores.tolist(), table.boxes_xyxy.tolist(), strict=True
        )
    ]
    ends = table.offsets
    cells = [" ".join(strings[a:b]) for a, b in pairwise(ends)]
    frame = pd.DataFrame({"PredictionString": cells, "image_id": images["file_name"]})
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_pandas(path: Path) -> Any:
    frame = pd.read_csv(path)
    return np.array([float(v) for cell in frame["PredictionString"] for v in cell.split()])


def write_polars(path: Path, table: Predictions, images: pd.DataFrame) -> None:
    import polars as pl

    columns = [table.labels, table.scores.round(6), *table.boxes_xyxy.round(2).T]
    frame = pl.DataFrame(dict(zip(COLUMNS, columns, strict=True)) | {"id": table.image_id})
    strings = frame.select("id", pl.concat_str(COLUMNS, separator=" ").alias("PredictionString"))
    rows = strings.group_by("id", maintain_order=True).agg(pl.col("PredictionString").str.join(" "))
    names = pl.DataFrame({"id": images["image_id"].to_numpy(), "image_id": images["file_name"].tolist()})
    with atomic(path) as temporary:
        names.join(rows, on="id", how="left").select("PredictionString", "image_id").write_csv(temporary)


def read_polars(path: Path) -> Any:
    import polars as pl

    cell = pl.col("PredictionString").str.split(" ")
    return pl.read_csv(path).select(cell.explode().cast(pl.Float64)).to_series().to_numpy()


def main(argv: list[str] | None = None) -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--boxes", type=int, default=BOXES, help="of an image")
    parser.add_argument("--rounds", type=int, default=9, help="the best counts")
    options = parser.parse_args(argv)
    profile = load_profile("recycle")
    profile = replace(profile, root=Path("/nowhere"))
    table, images = workload(options.images, options.boxes)
    writers: dict[str, Callable[..., Any]] = {
        "ours": lambda path, table, images: write_submission(path, profile, table, images),
        "pandas + f-string": write_pandas,
        "polars": write_polars,
    }
    readers: dict[str, Callable[..., Any]] = {
        "ours": lambda path: read_rows(path, profile).numbers,
        "pandas + float": read_pandas,
        "polars": read_polars,
    }
    layout_of(profile, images)
    print(f"{options.images} images, {len(table):,} boxes, {thread_count(None)} threads")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ours.csv"
        for title, contest in (("write", writers), ("read", readers)):
            best, results = dict.fromkeys(contest, np.inf), {}
            for _ in range(options.rounds + 1):  # the first warms up
                for name, call in contest.items():
                    path = Path(folder) / f"{name.split()[0]}.csv"
                    start = time.perf_counter()
                    results[name] = call(path, table, images) if title == "write" else call(file)
                    best[name] = min(best[name], time.perf_counter() - start)
            for name, seconds in best.items():
                note = "" if name == "ours" else f"ours is {seconds / best['ours']:4.1f} x as fast"
                if title == "read" and name != "ours":
                    same = np.array_equal(np.float32(results[name]), np.float32(results["ours"]))
                    note += ", the same numbers" if same else ", OTHER NUMBERS"
                print(f"{title:6} {name:18} {seconds:7.3f} s  {note}")
        print(f"file: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
