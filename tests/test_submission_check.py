"""The check of a submission: each fault with its row and reason, all at once, and what is only odd."""

from dataclasses import replace

import competitions
import pytest
import tiny

from pipeline import submission
from pipeline.data.dataset import load_dataset
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.submissions.check import check_submission, verdict
from pipeline.submissions.compare import compare
from pipeline.submissions.ledger import entry_of, record
from pipeline.submissions.submit import keep_copy
from pipeline.submissions.writer import write_submission

HEADER = "PredictionString,image_id"
GOOD = [f"1 0.9 0 0 9 9 2 0.5 1 1 8 8,test/{i:04d}.jpg" for i in range(5)]


@pytest.fixture
def check(recycle, home):
    """Check a file of rows (its text, if a string); returns the report."""
    profile = load_profile("recycle")
    test = load_dataset(profile, "test")

    def check(rows, header=HEADER, **changes):
        text = rows if isinstance(rows, str) else "\n".join([header, *rows]) + "\n"
        (home / "s.csv").write_bytes(text.encode())
        spec = replace(profile.submission, **changes)
        return check_submission(home / "s.csv", replace(profile, submission=spec), test)

    return check


def with_row(index, text):
    return [*GOOD[:index], text, *GOOD[index + 1 :]]


def box(text):
    """Rows of which the third has this box string."""
    return with_row(2, f"{text},test/0002.jpg")


AT = "row 4 (test/0002.jpg)"
# Rows -> the errors, (what, where).
ERRORS = {
    "missing image": (GOOD[:3] + GOOD[4:], [("ids of the test set without a row", ("test/0003.jpg",))]),
    "unknown image": (
        [*GOOD, ",test/0009.jpg"],
        [
            (
                "ids that the test set does not have",
                ("row 7: 'test/0009.jpg', expected one like 'test/0000.jpg'",),
            )
        ],
    ),
    "doubled row": (
        [*GOOD, GOOD[1]],
        [("ids that are there twice", ("row 7 (test/0001.jpg): is also in row 3",))],
    ),
    "extra column in a row": (
        with_row(2, GOOD[2] + ",7"),
        [
            ("rows that have not 2 columns", ("row 4: 3 columns",)),
            ("ids of the test set without a row", ("test/0002.jpg",)),
        ],
    ),
    "rows out of order": (
        [GOOD[1], GOOD[0], *GOOD[2:]],
        [
            (
                "rows not in the order of the test set, from row 3 (test/0000.jpg) on; "
                "it begins test/0000.jpg, test/0001.jpg, test/0002.jpg",
                (),
            )
        ],
    ),
    "a value is missing": (
        box("1 0.9 0 0 9"),
        [
            (
                "box strings that are no multiple of 6 values ({label} {score} {x1} {y1} {x2} {y2})",
                (f"{AT}: 5 values",),
            )
        ],
    ),
    "NaN": (box("1 nan 0 0 9 9"), [("values that are not finite numbers", (f"{AT}: value 2: 'nan'",))]),
    "infinite": (
        box("1 0.5 0 0 inf 9"),
        [("values that are not finite numbers", (f"{AT}: value 5: 'inf'",))],
    ),
    "text": (
        box("1 0.5 0 0 9 9 1 high 0 0 9 9"),
        [("values that are not finite numbers", (f"{AT}: value 8: 'high'",))],
    ),
    "underscore": (
        box("1 0.5 0 0 1_0 9"),
        [("values that are not finite numbers", (f"{AT}: value 5: '1_0'",))],
    ),
    "label": (
        box("10 0.5 0 0 9 9 -1 0.5 0 0 9 9 1.5 0.5 0 0 9 9"),
        [
            (
                "labels that are no whole number from 0 to 9",
                (
                    f"{AT}: box 1: 10 0.5 0 0 9 9",
                    f"{AT}: box 2: -1 0.5 0 0 9 9",
                    f"{AT}: box 3: 1.5 0.5 0 0 9 9",
                ),
            )
        ],
    ),
    "score": (
        box("1 1.01 0 0 9 9 1 -0.1 0 0 9 9"),
        [("scores outside 0 to 1", (f"{AT}: box 1: 1 1.01 0 0 9 9", f"{AT}: box 2: 1 -0.1 0 0 9 9"))],
    ),
    "corners out of order": (
        box("1 0.9 9 0 3 9"),
        [("boxes without area or with corners out of order", (f"{AT}: box 1: 1 0.9 9 0 3 9",))],
    ),
    "no area": (
        box("1 0.9 3 0 3 9"),
        [("boxes without area or with corners out of order", (f"{AT}: box 1: 1 0.9 3 0 3 9",))],
    ),
    "outside": (
        box("1 0.9 0 0 48.6 9 1 0.9 -0.6 0 9 9"),
        [
            (
                "boxes that reach more than 0.5 px outside",
                (f"{AT}: box 1: 1 0.9 0 0 48.6 9", f"{AT}: box 2: 1 0.9 -0.6 0 9 9"),
            )
        ],
    ),
    **{
        f"{name} between two values": (
            box(f"1 0.9 0{c}0 1 9 9"),
            [("values that are not finite numbers", (f"{AT}: value 3: '0{escaped}0'",))],
        )
        for name, c, escaped in (
            ("line separator", "\u2028", "\\u2028"),
            ("next line", "\x85", "\\x85"),
            ("no-break space", "\xa0", "\\xa0"),
        )
    },
    "carriage return inside a box string": (
        box("1 0.9 0 0\r9 9"),
        [
            ("rows that have not 2 columns", ("row 4: 1 columns",)),
            (
                "box strings that are no multiple of 6 values ({label} {score} {x1} {y1} {x2} {y2})",
                ("row 5 (test/0002.jpg): 2 values",),
            ),
        ],
    ),
    "a row of one empty cell": (
        [*GOOD, '""'],
        [("rows that have not 2 columns", ("row 7: 1 columns",))],
    ),
    "two kinds at once": (
        with_row(2, "1 2 0 0 9 9 1 0.5 0 0 x 9,test/0003.jpg"),
        [
            ("ids that are there twice", ("row 5 (test/0003.jpg): is also in row 4",)),
            ("ids of the test set without a row", ("test/0002.jpg",)),
            ("values that are not finite numbers", ("row 4 (test/0003.jpg): value 11: 'x'",)),
            ("scores outside 0 to 1", ("row 4 (test/0003.jpg): box 1: 1 2 0 0 9 9",)),
        ],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_named_with_row_and_reason(check, name):
    rows, expected = ERRORS[name]
    report = check(rows)
    assert [(fault.what, fault.where) for fault in report.errors] == expected
    assert report.warnings == []


def test_a_good_file_has_nothing(check, home):
    report = check(GOOD)
    assert report.lines() == []
    assert verdict(home / "s.csv", report).endswith("s.csv: valid (5 rows, 10 boxes, 0.0 MB)")


WARNINGS = {
    "exponent": (
        box("1 5e-1 0 1.5E+0 9 9"),
        "numbers with an exponent",
        (f"{AT}: value 2: '5e-1'", f"{AT}: value 4: '1.5E+0'"),
    ),
    "minus zero": (box("1 0.5 -0.0 0 9 9"), "-0.0", (f"{AT}: value 3: '-0.0'",)),
    "slightly outside": (
        box("1 0.5 -0.5 0 48.5 9"),
        "boxes that reach up to 0.5 px outside",
        (f"{AT}: box 1: 1 0.5 -0.5 0 48.5 9",),
    ),
    "trailing space": (box("1 0.5 0 0 9 9 "), "box strings with a trailing space", (AT,)),
    "no box": (box(""), "images without a box", (AT,)),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_a_site_takes_is_only_a_warning(check, name):
    rows, what, where = WARNINGS[name]
    report = check(rows)
    assert report.errors == []
    assert [(fault.what, fault.where) for fault in report.warnings] == [(what, where)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "image_id,PredictionString,extra",
            "header image_id,PredictionString,extra, expected PredictionString,",
        ),
        ("PredictionString,image_id,score", "columns too many: score"),
    ],
)
def test_an_extra_column(check, header, message):
    rows = [f"{row},7" for row in GOOD]
    assert message in check(rows, header).errors[0].what


@pytest.mark.parametrize("header", ["image_id,boxes", "1 0.9 0 0 9 9,test/0000.jpg", ""])
def test_a_file_without_the_two_columns_is_no_submission(check, header):
    with pytest.raises(
        PipelineError, match=r"s\.csv: header \[.*\], expected \['PredictionString', 'image_id'\]"
    ):
        check(GOOD, header)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_truncated_file_is_recognised(check, cut):
    text = "\n".join([HEADER, *GOOD])[:-cut]
    errors = check(text).errors
    assert errors, "a truncated file passed"
    assert any("cut off" in line for fault in errors for line in fault.lines())


def test_columns_swapped_sizes_and_order_are_three_reasons(check):
    rows = [f"test/{i:04d}.jpg,1 0.9 30 20 9 8 2 0.5 28 20 8 8" for i in (3, 1, 0, 2, 4)]
    errors = [fault.what for fault in check(rows, "image_id,PredictionString").errors]
    assert [what.split(":")[0].split(",")[0] for what in errors] == [
        "columns swapped",
        "rows not in the order of the test set",
        "boxes as x y w h",
    ]


def test_a_site_that_goes_by_the_id_takes_any_order(check):
    report = check(GOOD[::-1], ordered=False)
    assert report.errors == []
    assert "rows not in the order of the test set" in report.notes[0]


def test_limits(check, home):
    assert check(GOOD, max_boxes=2, max_megabytes=1).errors == []
    (fault,) = check(box("1 0.9 0 0 9 9 2 0.5 1 1 8 8 3 0.5 1 1 8 8"), max_boxes=2).errors
    assert (fault.what, fault.where) == ("images with more than 2 boxes", (f"{AT}: 3 boxes",))
    (fault,) = check(GOOD, max_megabytes=0.0001).errors
    assert fault.what == "file of 0.0 MB; the site takes 0.0001 MB"


def test_the_first_twenty_of_a_kind_and_the_count(check):
    report = check(box("1 0.9 9 9 3 3 " * 15 + "1 0.9 0 0 9 9 " * 40 + "1 0.9 9 9 3 3 " * 8))
    (fault,) = report.errors
    assert (fault.count, len(fault.where)) == (23, 20)
    assert fault.lines()[-1] == "    ... 3 more"


def test_oddities_of_format_are_not_faults(check):
    """A byte order mark, \\r\\n, blank lines, quotes, two spaces, a tab."""
    rows = [*GOOD[:4], '"1  0.5 0\t0 9 9","test/0004.jpg"']
    text = "\ufeff" + "\r\n".join([HEADER, *rows[:2], "", *rows[2:]]) + "\r\n"
    assert check(text).lines() == []


# Other competitions


@pytest.fixture
def check_of(home):
    def check_of(name, change):
        competitions.WRITERS[name](home / "data" / name)
        profile = load_profile(name)
        test = load_dataset(profile, "test")
        path = home / "s.csv"
        write_submission(path, profile, tiny.table(test, [], competition=name), test.images)
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before
        report = check_submission(path, profile, test)
        return [(f.what, f.where) for f in report.errors], [f.what for f in report.warnings]

    return check_of


def test_an_empty_cell_where_the_site_wants_a_word_for_it(check_of):
    errors, _ = check_of(
        "vinbigdata", lambda text: text.replace("004f33259ee4,14 1 0 0 1 1", "004f33259ee4,")
    )
    where = ("row 3 (004f33259ee4)",)
    assert errors == [("images without a box that lack '14 1 0 0 1 1'", where)]


def test_no_finding_beside_findings_is_allowed(check_of):
    errors, _ = check_of("vinbigdata", lambda text: text.replace("ee4,14 1 0", "ee4,3 0.5 1 1 9 9 14 0.2 0"))
    assert errors == []


def test_study_rows_have_their_own_labels(check_of):
    assert check_of("siim", lambda text: text.replace("negative 1", "atypical 0.5"))[0] == []
    errors, _ = check_of("siim", lambda text: text.replace("none 1 0 0 1 1", "typical 1 0 0 1 1"))
    assert errors[0][0] == "labels that the competition does not have"
    errors, _ = check_of("siim", lambda text: text.replace("negative 1", "benign 1"))
    assert errors[0][1] == ("row 2 (00188a671292_study): box 1: benign 1 0 0 1 1",)
    errors, _ = check_of("siim", lambda text: text.replace("00188a671292_study,negative 1 0 0 1 1\n", ""))
    assert errors == [("ids of the test set without a row", ("00188a671292_study",))]


def test_normalised_boxes_are_shares(check_of):
    row = "00001a21632de752,"
    errors, _ = check_of("openimages", lambda text: text.replace(row, row + "/m/06m11 0.5 0.1 0.1 1 1"))
    assert errors == []
    errors, _ = check_of("openimages", lambda text: text.replace(row, row + "/m/06m11 0.5 10 10 200 300"))
    assert errors[0][0] == "boxes that reach more than 0.001 of the photo's side outside"
    errors, _ = check_of("openimages", lambda text: text.replace(row, row + "Rose 0.5 0.1 0.1 1 1"))
    assert errors[0][0] == "labels that the competition does not have"


def test_sizes_without_extent(check_of):
    errors, _ = check_of("wheat", lambda text: text.replace("aac893a91,", "aac893a91,0.5 3 3 0 9"))
    assert errors == [("boxes without width or height", ("row 2 (aac893a91): box 1: 0.5 3 3 0 9",))]


# Against another submission


def test_what_changed_is_counted_by_image_and_digit(recycle, home):
    profile = load_profile("recycle")
    old, new = home / "old.csv", home / "new.csv"
    old.write_text("\n".join([HEADER, *GOOD]) + "\n")
    # one score changed, one box doubled, one image emptied, the others in another order and notation
    rows = [
        GOOD[1].replace("0.9", "0.8"),
        GOOD[0].replace("0.9", "9e-1"),
        GOOD[2].replace(",", " 1 0.9 0 0 9 9,"),
        ",test/0003.jpg",
        GOOD[4],
    ]
    new.write_text("\n".join([HEADER, *rows]) + "\n")
    found = compare(new, old, profile)
    assert (found.new, found.gone, found.boxes, found.images_differ, found.images) == (2, 3, 9, 3, 5)
    assert str(found) == "2 of 9 boxes are new and 3 are gone, on 3 of 5 images"
    assert str(compare(old, old, profile)) == "the same boxes on every image"


# The stage


def test_the_stage_prints_all_faults_and_fails(recycle, home, capsys):
    path = home / "s.csv"
    path.write_text("\n".join([HEADER, *ERRORS["two kinds at once"][0]]) + "\n")
    with pytest.raises(
        PipelineError, match=r"s\.csv: NOT valid: errors of 4 kinds \(5 rows, 10 boxes, 0\.0 MB\)"
    ):
        submission.main(["check", str(path)])
    said = capsys.readouterr().out
    assert said.count("ERROR: ") == 4
    assert "    row 4 (test/0003.jpg): value 11: 'x'" in said


def test_the_stage_compares_with_the_last_one_submitted(recycle, home, capsys):
    for name, text in (("old.csv", "digest1"), ("older.csv", "digest2")):
        (home / name).write_text("\n".join([HEADER, *GOOD]) + "\n")
        keep_copy("recycle", home / name, text, {})
        record(entry_of("recycle", name, text, None, status="complete", ref=name))
    (home / "s.csv").write_text("\n".join([HEADER, *box("1 0.7 0 0 9 9 2 0.5 1 1 8 8")]) + "\n")
    submission.main(["check", str(home / "s.csv")])
    said = capsys.readouterr().out
    assert (
        "digest2.csv, the last one submitted: 1 of 10 boxes are new and 1 are gone, on 1 of 5 images" in said
    )
    assert said.splitlines()[-1].endswith("s.csv: valid (5 rows, 10 boxes, 0.0 MB)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["check"], "submissions/recycle/final.csv: no such file; name one with FILE="),
        (["check", "there-is-none.csv"], "there-is-none.csv: no such file"),
        (["write", "s.csv"], "write FILE: its name is the ensemble's"),
    ],
)
def test_options_that_do_not_fit(recycle, options, message):
    with pytest.raises(PipelineError, match=message):
        submission.main(options)


# Real submissions of six teams -> their errors and warnings.
REAL = {
    "bc2cv02_yolov5": (["columns swapped", "rows not in the order of the test set", "boxes as x y w h"], []),
    "bc2cv06_swin": ([], ["images without a box", "box strings with a trailing space"]),
    "bc3cv15_swinL": ([], ["images without a box", "box strings with a trailing space"]),
    "bc3cv18_yolov5x6_base": (
        [],
        [
            "images without a box",
            "box strings with a trailing space",
            "numbers with an exponent",
            "boxes that reach up to 0.5 px outside",
        ],
    ),
    "bc5cv11_cascade_ep19": ([], ["images without a box", "box strings with a trailing space"]),
    "bc7cv18_yolov11": ([], ["images without a box"]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_submissions(shared_data, name):
    profile = load_profile("recycle", shared_data / "boostcamp_recycle")
    test = load_dataset(profile, "test")
    report = check_submission(shared_data / f"predictions/test_submissions/{name}.csv", profile, test)
    errors = [fault.what.split(":")[0].split(",")[0] for fault in report.errors]
    assert (errors, [fault.what for fault in report.warnings]) == REAL[name]
