"""The fold file, read: it fits the train set or is refused, whatever the order of its rows."""

import pandas as pd
import pytest
import tiny

from pipeline.data.dataset import load_dataset
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.data.split import check_fold, read_split
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv
from pipeline.training.fold import check_same_split


@pytest.fixture
def train(recycle):
    return load_dataset(load_profile("recycle"), "train")


@pytest.fixture
def path(train):
    return tiny.write_folds(folds_csv("recycle"), train.images, 3)


def test_the_order_of_the_rows_is_irrelevant(path, train):
    before = read_split("recycle", train)
    assert (len(before.fold), before.n_folds) == (12, 3)
    pd.read_csv(path)[::-1].to_csv(path, index=False)
    after = read_split("recycle", train)
    assert after.fold.tolist() == before.fold.tolist()
    assert after.digest != before.digest  # of the file's bytes


# How a fold file is edited -> what a reader says.
BROKEN = {
    "no header": (lambda t: t.rename(columns={"fold": "part"}), r"header \['image_id', 'file_name', 'part'"),
    "extra column": (lambda t: t.assign(more=1), r"header \[.*'more'\], expected \['image_id', 'file_name'"),
    "row left out": (lambda t: t[1:], "its 11 images are not the 12 of the train set; point ROOT at"),
    "row twice": (lambda t: pd.concat([t, t[:1]]), "its 13 images are not the 12"),
    "other id": (lambda t: t.assign(image_id=t["image_id"] + 1), "its 12 images are not the 12"),
    "no id": (lambda t: t.assign(image_id="x"), "column image_id: expected whole numbers from 0"),
    "other name": (lambda t: t.assign(file_name="x.jpg"), "its 12 images are not the 12"),
    "half": (lambda t: t.assign(fold=0.5), "column fold: expected whole numbers from 0"),
    "negative": (lambda t: t.assign(fold=t["fold"] - 1), "column fold: expected whole numbers from 0"),
    "infinite": (lambda t: t.assign(fold=float("inf")), "column fold: expected whole numbers from 0"),
    "more folds than images": (
        lambda t: t.assign(fold=2**31 - 1),
        "column fold: expected whole numbers from 0",
    ),
    "infinite id": (lambda t: t.assign(image_id="1e400"), "column image_id: expected whole numbers from 0"),
    "text": (lambda t: t.assign(fold="a"), "column fold: expected whole numbers from 0"),
    "gap": (lambda t: t.assign(fold=t["fold"] * 2), "fold 1 has no image; make folds again"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_fold_file_that_does_not_fit(path, train, case):
    change, message = BROKEN[case]
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(PipelineError, match=r"folds\.csv: " + message):
        read_split("recycle", train)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,"b\n1'])
def test_a_file_that_is_no_fold_file(path, train, content):
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"folds\.csv: (not a CSV file|header|row \d has)"):
        read_split("recycle", train)


def test_no_split_yet(train, home):
    with pytest.raises(PipelineError, match=r"folds\.csv: no split yet; make folds COMP=recycle"):
        read_split("recycle", train)


@pytest.mark.parametrize("fold", [-1, 3, 99])
def test_a_fold_out_of_range(path, train, fold):
    with pytest.raises(PipelineError, match=rf"fold {fold} is out of range: .*folds\.csv has folds 0 to 2"):
        check_fold(read_split("recycle", train), fold)


def test_the_folds_that_are_there(path, train):
    split = read_split("recycle", train)
    for fold in range(3):
        check_fold(split, fold)


@pytest.mark.parametrize("stated", ["card.json", "job.json"])
def test_folds_of_one_model_belong_to_one_split(home, stated):
    run = Run("recycle", "small", 0)
    second = Run("recycle", "small", 1)
    check_same_split(second, "feed")  # nothing is trained yet
    if stated == "card.json":
        tiny.write_card(run, folds_digest="feed")
    else:
        run.write_job(tiny.job_description(run, folds_digest="feed"))
    check_same_split(second, "feed")
    check_same_split(run, "beef")  # its own run is another check's
    check_same_split(Run("recycle", "large", 1), "beef")
    with pytest.raises(PipelineError, match=r"small/fold0 was trained on another split than .* OVERWRITE=1"):
        check_same_split(second, "beef")
