"""Every competition: its published annotations are read, its submission is right to the byte, and checks."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import competitions
import numpy as np
import pytest
import tiny
from PIL import Image

from pipeline.data import profile as profiles
from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.findings import Findings
from pipeline.data.formats.csv import read_csv
from pipeline.data.photos import Photo, check_photos, load_photo, photos_of
from pipeline.data.profile import load_profile, profile_names
from pipeline.data.raw import as_list
from pipeline.errors import PipelineError
from pipeline.submissions.check import check_submission
from pipeline.submissions.reader import read_submission
from pipeline.submissions.writer import write_submission

PAGE = Path(__file__).resolve().parent.parent / "docs" / "competitions.md"

# (place in the test file, label, score, corners): the first image has two boxes, the second none.
ROWS = [
    (0, 0, 0.25, 1, 2, 30.126, 20),
    (0, 2, 0.9, 0, 0, 1000.5, 500),
    (2, 1, 1.0, 10.5, 11.25, 12.75, 13),
    (2, 0, 0.00001, 512, 256, 1024, 384),
]
CORNERS = {
    0: "2 0.9 0 0 1000.5 500 0 0.25 1 2 30.13 20",
    2: "1 1 10.5 11.25 12.75 13 0 0.00001 512 256 1024 384",
}
SIZES = {
    0: "0.9 0 0 1000.5 500 0.25 1 2 29.13 18",
    2: "1 10.5 11.25 2.25 1.75 0.00001 512 256 512 128",
}
GOLDEN = {
    "recycle": "PredictionString,image_id\n"
    f"{CORNERS[0]},test/0000.jpg\n,test/0001.jpg\n{CORNERS[2]},test/0002.jpg\n",
    "bccd": f"PredictionString,image_id\n{CORNERS[0]},cell_0.jpg\n,cell_1.jpg\n{CORNERS[2]},cell_2.jpg\n",
    "wheat": f"image_id,PredictionString\naac893a91,{SIZES[0]}\n51f1be19e,\nf5a1f0359,{SIZES[2]}\n",
    "rsna": "patientId,PredictionString\n"
    f"0000a175-0e68,{SIZES[0]}\n0005d3cc-3c3f,\n000686d7-f4fc,{SIZES[2]}\n",
    "vinbigdata": "image_id,PredictionString\n"
    f"002a34c58c5b,{CORNERS[0]}\n004f33259ee4,14 1 0 0 1 1\n008bdde2af2a,{CORNERS[2]}\n",
    "siim": "Id,PredictionString\n"
    "00188a671292_study,negative 1 0 0 1 1\n"
    "004bd59708be_study,negative 0.25 0 0 1 1 typical 0.75 0 0 1 1\n"
    "65761e66de9f_image,opacity 0.9 0 0 1000.5 500 opacity 0.25 1 2 30.13 20\n"
    "51759b5579bc_image,none 1 0 0 1 1\n"
    "c7c3c1a5c2f4_image,opacity 1 10.5 11.25 12.75 13 opacity 0.00001 512 256 1024 384\n",
    "reef": f"index,annotations\n0,{SIZES[0]}\n1,\n2,{SIZES[2]}\n",
    # 1024 x 512: x / 1024 and y / 512 to six places.
    "openimages": "ImageId,PredictionString\n"
    "00000b4dcff7f799,/m/03120 0.9 0 0 0.977051 0.976562 /m/061hd_ 0.25 0.000977 0.003906 0.02942 0.039062\n"
    "00001a21632de752,\n"
    "0000d67245642c5f,/m/06m11 1 0.010254 0.021973 0.012451 0.025391 /m/061hd_ 0.00001 0.5 0.5 1 0.75\n",
}
GOLDEN |= dict.fromkeys(("demo", "taco"), GOLDEN["recycle"])


@pytest.fixture
def data(home):
    """Write a competition's tiny data; returns its profile and test set."""

    def data(name):
        competitions.WRITERS[name](home / "data" / name)
        profile = load_profile(name)
        return profile, load_dataset(profile, "test")

    return data


def made_table(name, profile, test):
    ids = test.images.sort_values("position")["image_id"].to_numpy()
    rows = [(ids[i], label if len(profile.classes) > 1 else 0, *rest) for i, label, *rest in ROWS]
    return tiny.table(test, rows, competition=name)


def test_every_competition_has_a_golden_submission():
    assert sorted(GOLDEN) == profile_names() == sorted(competitions.WRITERS)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_submission_and_back(data, tmp_path, name):
    profile, test = data(name)
    path, table = tmp_path / "s.csv", made_table(name, profile, test)
    assert write_submission(path, profile, table, test.images) == 4
    assert path.read_bytes().decode() == GOLDEN[name]
    report = check_submission(path, profile, test)
    assert report.errors == []
    allowed = ["images without a box"]
    assert [fault.what for fault in report.warnings] == allowed
    findings = Findings("s.csv")
    boxes = read_submission(path, profile, test, findings)
    order = np.lexsort([-boxes.score, boxes.image_id])
    assert boxes.image_id[order].tolist() == table.image_id.tolist()
    assert boxes.label[order].tolist() == table.labels.tolist()
    np.testing.assert_allclose(boxes.boxes_xyxy[order], table.boxes_xyxy, atol=0.011)
    assert sorted(boxes.named_ids.tolist()) == test.images["image_id"].tolist()
    assert (findings.kinds, findings.notes) == ({}, [])


def test_the_competition_of_the_page(home, tmp_path, monkeypatch):
    """The one YAML file that docs/competitions.md shows is enough for a new competition."""
    block = re.search(r"```yaml\n(.*?)```\n", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    competitions.write(tmp_path / "configs/competitions/mine.yaml", textwrap.dedent(block))
    monkeypatch.setattr(profiles, "CONFIGS", tmp_path / "configs")
    root = home / "data/mine"
    competitions.write(root / "train.csv", "image_id,x1,y1,x2,y2,class", "a,1,2,3,4,dog", "b,,,,,")
    competitions.write(root / "sample_submission.csv", "image_id,PredictionString", "d,", "c,")
    profile = load_profile("mine")
    train, test = load_dataset(profile, "train"), load_dataset(profile, "test")
    assert train.annotations[["label", "x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[1, 1, 2, 3, 4]]
    assert train.images["file_name"].tolist() == ["a.jpg", "b.jpg"]
    table = tiny.table(test, [(0, 1, 0.5, 1, 2, 3, 4)], competition="mine")
    write_submission(tmp_path / "s.csv", profile, table, test.images)
    assert (tmp_path / "s.csv").read_text() == "image_id,PredictionString\nd,\nc,1 0.5 1 2 3 4\n"
    assert check_submission(tmp_path / "s.csv", profile, test).errors == []


def test_a_cut_per_class_leaves_boxes_out(data, tmp_path):
    profile, test = data("recycle")
    floors = np.zeros(10, np.float32)
    floors[0], floors[2] = 0.25, 0.95  # a score that equals the cut stays
    table = made_table("recycle", profile, test)
    assert write_submission(tmp_path / "s.csv", profile, table, test.images, floors) == 2
    assert (tmp_path / "s.csv").read_text() == (
        "PredictionString,image_id\n0 0.25 1 2 30.13 20,test/0000.jpg\n,test/0001.jpg\n"
        "1 1 10.5 11.25 12.75 13,test/0002.jpg\n"
    )
    with pytest.raises(PipelineError, match=r"minimum scores of shape \(3,\) for 10 classes"):
        write_submission(tmp_path / "s.csv", profile, table, test.images, floors[:3])


# Image by file name -> (width, height), and its boxes as (class, x1, y1, x2, y2).
ANNOTATIONS = {
    "wheat": {
        "b6ab77fd7.jpg": (1024, 1024, [("wheat", 834, 222, 890, 258), ("wheat", 226, 548, 356, 606)]),
        "f5a1f0358.jpg": (1024, 1024, [("wheat", 0, 1.5, 10, 21.5)]),
    },
    "rsna": {
        "0004cfab-14fd.dcm": (1024, 1024, []),
        "00436515-870c.dcm": (
            1024,
            1024,
            [("pneumonia", 264, 152, 477, 531), ("pneumonia", 562, 152, 818, 605)],
        ),
    },
    "vinbigdata": {
        "50a418190bc3.dicom": (2332, 2580, []),
        "9a5094b2563a.dicom": (
            2954,
            3159,
            [("Cardiomegaly", 691, 1375, 1653, 1831), ("Aortic enlargement", 1264, 743, 1611, 1019)],
        ),
    },
    "siim": {
        "000a312787f2.dcm": (
            4256,
            3488,
            [
                ("opacity", 789.28836, 582.43035, 1815.94498, 2499.73327),
                ("opacity", 2245.91208, 591.20528, 3340.5737, 2352.75472),
            ],
        ),
        "000c3a3f293f.dcm": (2832, 2320, []),
    },
    "reef": {
        "video_0/0.jpg": (1280, 720, []),
        "video_0/16.jpg": (1280, 720, [("starfish", 559, 213, 609, 245)]),
        "video_0/17.jpg": (1280, 720, [("starfish", 558, 213, 608, 245), ("starfish", 1, 2, 4, 6)]),
    },
    "openimages": {
        "000002b66c9c498e.jpg": (
            1000,
            800,
            [("Rose", 12.5, 118.7504, 195.312, 470), ("Flag", 500, 200, 1000, 600)],
        ),
        "000002b97e5471a0.jpg": (640, 480, []),
    },
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_published_annotations(data, name):
    profile, _ = data(name)
    train = load_dataset(profile, "train", strict=False)  # openimages: one box of three is of no class
    found = {}
    for row in train.images.itertuples():
        mine = train.annotations[train.annotations["image_id"] == row.image_id]
        boxes = [
            (profile.classes[b.label], *(round(v, 5) for v in (b.x1, b.y1, b.x2, b.y2)))
            for b in mine.itertuples()
        ]
        found[row.file_name] = (row.width, row.height, boxes)
    assert found == ANNOTATIONS[name]


def test_the_records_of_a_table_are_those_of_a_list(data):
    profile, _ = data("reef")
    raw = read_csv(profile, profile.train, Findings("train.csv"))
    assert [image["file_name"] for image in as_list(raw.images)][2] == "video_0/17.jpg"
    assert [(box["image"], box["x1"]) for box in as_list(raw.boxes)] == [(1, 559), (2, 558), (2, 1)]
    assert as_list([{"a": 1}]) == [{"a": 1}]


def test_what_the_profile_does_not_know_is_listed(data):
    profile, _ = data("openimages")
    train = load_dataset(profile, "train", strict=False)
    assert train.findings.kinds == {"boxes of class '/m/0dog', which the profile lacks, dropped (rows)": [4]}
    assert train.annotations["iscrowd"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("wheat", "train.csv", "bbox", "box", "train.csv: no column 'bbox'; it has image_id,"),
        (
            "siim",
            "meta.csv",
            "dim0",
            "rows",
            "meta.csv: expected columns image,width,height, or image_id,dim0",
        ),
        ("siim", "studies.csv", "004b", "x", "studies.csv: 'xd59708be_study' is no row of the sample"),
        (
            "wheat",
            "sample_submission.csv",
            "51f1be19e",
            "aac893a91",
            r"row 3: expected 2 columns, and each imag",
        ),
        ("wheat", "sample_submission.csv", "PredictionString", "String", "lacks 'image_id' or 'Prediction"),
    ],
)
def test_a_file_that_is_not_as_published(data, home, tmp_path, name, file, old, new, message):
    competitions.WRITERS[name](home / "data" / name)
    path = home / "data" / name / file
    path.write_text(path.read_text().replace(old, new))

    def use():
        profile = load_profile(name)
        test = load_dataset(profile, "test")
        load_dataset(profile, "train")
        write_submission(tmp_path / "s.csv", profile, tiny.table(test, [], competition=name), test.images)

    with pytest.raises(PipelineError, match=message):
        use()
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    "cell", ["[1, 2, 3]", "[1, 2, 3, nan]", "[1, 2", "[{'x': 1}]", "7", "['a', 2, 3, 4]"]
)
def test_a_cell_that_holds_no_boxes_is_dropped_and_listed(data, home, cell):
    data("wheat")
    path = home / "data/wheat/train.csv"
    path.write_text(path.read_text().replace("[834.0, 222.0, 56.0, 36.0]", cell))
    train = load_dataset(load_profile("wheat"), "train", strict=False)
    assert train.findings.kinds == {"boxes that are not four finite numbers dropped (rows)": [2]}
    assert len(train.annotations) == 2


def test_the_sample_decides_on_header_rows_and_order(data, home, tmp_path):
    profile, test = data("wheat")
    table = made_table("wheat", profile, test)
    sample = home / "data/wheat/sample_submission.csv"
    sample.write_text("PredictionString,image_id\n,f5a1f0359\n,aac893a91\n,51f1be19e\n")
    write_submission(tmp_path / "s.csv", profile, table, test.images)
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "PredictionString,image_id",
        f"{SIZES[2]},f5a1f0359",
        f"{SIZES[0]},aac893a91",
        ",51f1be19e",
    ]
    sample.write_text("PredictionString,image_id\n,f5a1f0359\n,aac893a91\n")
    with pytest.raises(PipelineError, match="no row for 1 of 3 test images, the first is '51f1be19e'"):
        write_submission(tmp_path / "s.csv", profile, table, test.images)


def test_no_truth_of_the_test_sets(data):
    assert load_truth(data("wheat")[0], "test") is None


# DICOM


def dicom_set(home, write_photo):
    """vinbigdata with photos written by `write_photo(path without suffix, width, height)`; the photos."""
    competitions.vinbigdata(home / "data/vinbigdata")
    competitions.write(
        home / "data/vinbigdata/train_meta.csv",
        "image_id,dim0,dim1",
        "50a418190bc3,30,40",
        "9a5094b2563a,32,48",
    )
    for name, width, height in (("50a418190bc3", 40, 30), ("9a5094b2563a", 48, 32)):
        write_photo(home / "data/vinbigdata/train" / name, width, height)


def train_photos():
    profile = load_profile("vinbigdata")
    return photos_of(profile, "train", load_dataset(profile, "train", strict=False).images)


@pytest.mark.parametrize("sizes", ["stated", "from the headers"])
def test_dicom_photos_become_8_bits(home, sizes):
    def write_photo(path, width, height):
        pixels = np.linspace(1000, 3000, width * height).astype(np.uint16).reshape(height, width)
        competitions.write_dicom(path.with_suffix(".dicom"), pixels)

    dicom_set(home, write_photo)
    if sizes != "stated":
        (home / "data/vinbigdata/train_meta.csv").unlink()
    photos, findings = train_photos(), Findings("train")
    assert [(p.width, p.height) for p in photos] == [(40, 30), (48, 32)]
    assert check_photos(photos, findings) == {p.path for p in photos}
    assert findings.kinds == {
        "DICOM photos decoded to 8 bits of grey": ["50a418190bc3.dicom", "9a5094b2563a.dicom"]
    }
    pixels = load_photo(photos[0])
    assert pixels.shape == (30, 40, 3)
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
    # (value - 1000) / 2000 * 255, rounded
    assert pixels[15, 20, 1] == round((int(np.linspace(1000, 3000, 1200)[15 * 40 + 20]) - 1000) / 2000 * 255)


def grey(home, pixels, **options):
    path = competitions.write_dicom(home / "a.dcm", pixels, **options)
    return load_photo(Photo(path, pixels.shape[1], pixels.shape[0]))[..., 0]


def test_dicom_of_8_bits_stays_as_it_is_and_monochrome1_is_inverted(home):
    pixels = np.array([[10, 20], [30, 200]], np.uint8)
    assert grey(home, pixels).tolist() == [[10, 20], [30, 200]]
    assert grey(home, pixels, kind="MONOCHROME1").tolist() == [[245, 235], [225, 55]]


def test_dicom_window_and_rescale(home):
    """PS3.3 C.11.2.1.2: linear between center - 0.5 -+ (width - 1) / 2, flat outside."""
    pixels = np.array([[0, 1000], [1500, 4000]], np.uint16)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 1500.5, "WindowWidth": 1001}
    # rescaled: -1000, 1000, 2000, 7000; the window goes from 1000 to 2000
    assert grey(home, pixels, **tags).tolist() == [[0, 0], [255, 255]]
    tags |= {"WindowCenter": 2000.5, "WindowWidth": 2001}  # from 1000 to 3000
    assert grey(home, pixels, **tags).tolist() == [[0, 0], [128, 255]]


def test_a_broken_dicom_is_named(home):
    path = competitions.write_dicom(home / "a.dcm", np.zeros((4, 4), np.uint16))
    for data, message in (
        (b"text", "a.dcm: not a readable photo"),
        (path.read_bytes()[:-9], "a.dcm: not a rea"),
    ):
        path.write_bytes(data)
        with pytest.raises(PipelineError, match=message):
            load_photo(Photo(path, 4, 4))
        with pytest.raises(PipelineError, match=r"a\.dcm: "):
            check_photos([Photo(path, 5, 4)], Findings("x"))


def test_pngs_stand_in_for_dicoms_in_their_scale(home):
    def write_photo(path, width, height):
        tiny.write_photo(path.with_suffix(".png"), width // 2, height // 2)

    dicom_set(home, write_photo)
    photos = train_photos()
    assert [p.path.name for p in photos] == ["50a418190bc3.png", "9a5094b2563a.png"]
    assert load_photo(photos[0]).shape == (30, 40, 3)


def test_squared_pngs_are_taken_only_where_the_profile_says_so(home):
    dicom_set(home, lambda path, w, h: tiny.write_photo(path.with_suffix(".png"), 16, 16))
    (photo, _) = train_photos()
    with pytest.raises(PipelineError, match="another shape"):
        load_photo(photo)
    assert load_photo(replace(photo, stretched=True)).shape == (30, 40, 3)


def test_photos_in_folders_of_study_and_series_are_found(home):
    competitions.siim(home / "data/siim")
    folder = home / "data/siim/train/5776db0cec75/81456c9c5423"
    folder.mkdir(parents=True)
    Image.new("L", (4256, 3488)).save(folder / "000a312787f2.png", compress_level=1)
    profile = load_profile("siim")
    photos = photos_of(profile, "train", load_dataset(profile, "train").images)
    assert photos[0].path == folder / "000a312787f2.png"
