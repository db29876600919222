"""Submitting with the real kaggle client to a server on loopback: every way it can end."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
from kaggle_server import KEY, USER, KaggleServer, drop, drop_half_way, status, take_and_drop, take_and_hang

from pipeline import submit as stage
from pipeline.data.dataset import load_dataset
from pipeline.data.profile import load_profile
from pipeline.data.specs import SiteSpec
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, ledger_csv, sent_csv, submission_csv, write_json
from pipeline.submissions.card import read_card
from pipeline.submissions.kaggle_site import KaggleSite
from pipeline.submissions.ledger import read_ledger
from pipeline.submissions.submit import Upload, submit
from pipeline.submissions.writer import write_submission

# The interpreter of the client reads this at its start: no connection but to loopback.
LOOPBACK_ONLY = """
import socket
def guarded(connect):
    def inner(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost"):
            raise RuntimeError(f"a connection to {address}")
        return connect(self, address)
    return inner
class Guarded(socket.socket):
    connect = guarded(socket.socket.connect)
    connect_ex = guarded(socket.socket.connect_ex)
socket.socket = Guarded
"""


@pytest.fixture
def kaggle(home, tmp_path, monkeypatch):
    """A server, and an environment in which the client finds it and nothing else."""
    server = KaggleServer()
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(LOOPBACK_ONLY)
    for name in (
        "no_proxy",
        "NO_PROXY",
        "KAGGLE_API_TOKEN",
        "KAGGLE_KERNEL_RUN_TYPE",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, server.address)
    search = [str(tmp_path / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(search))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield server
    server.stop()


@pytest.fixture
def path(recycle):
    """A written submission with its card."""
    profile = load_profile("recycle")
    test = load_dataset(profile, "test")
    path = submission_csv("recycle", "final")
    write_submission(path, profile, tiny.table(test, tiny.guesses(test.images, 1)), test.images)
    write_json(path.with_suffix(".json"), card(path))
    return path


def card(path, oof=0.6):
    return {
        "file_digest": file_digest(path),
        "oof": {"map50": oof},
        "fusion": {"method": "wbf", "iou": 0.55},
        "members": [{"model": "yolov5x", "fold": 0, "views": ["identity", "hflip"], "weight": 1}],
    }


@pytest.fixture
def send(kaggle, path):
    """Submit `path` with short patience; what was said is in `send.said`."""

    def send(again=False, seconds=20.0, patience=0.6, **changes):
        with KaggleSite("some-competition", seconds, seconds) as site:
            upload = Upload(
                "recycle",
                path,
                file_digest(path),
                read_card(path),
                "a word",
                lambda text: site.submit(path, text),
            )
            return submit(
                replace(upload, **changes),
                site,
                again=again,
                patience=patience,
                pause=0.05,
                show=send.said.append,
            )

    send.said = []
    return send


def test_the_client_reaches_nothing_but_loopback(kaggle):
    """Without this the tests below might."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("RuntimeError: a connection to ('192.0.2.1', 80)")


def test_success(kaggle, send, path):
    entry = send()
    assert kaggle.calls == [
        "ListSubmissions",
        "GetSubmissionLimits",
        "StartSubmissionUpload",
        "PUT",
        "CreateSubmission",
        "ListSubmissions",
    ]
    assert kaggle.uploaded == path.read_bytes()
    assert kaggle.last_request["competitionName"] == "some-competition"
    assert kaggle.last_request["submissionDescription"] == f"a word oof 0.60000 [{file_digest(path)}]"
    (row,) = csv.DictReader(ledger_csv().read_text().splitlines())
    assert read_ledger() == [entry]
    expected = {
        "competition": "recycle",
        "file": "final.csv",
        "digest": file_digest(path),
        "status": "complete",
        "ref": "1000",
        "members": "yolov5x[identity+hflip]",
        "metric": "map50",
        "oof": "0.60000",
        "public": "0.71234",
        "private": "",
        "message": f"a word oof 0.60000 [{file_digest(path)}]",
        "parameters": '{"fusion": {"iou": 0.55, "method": "wbf"}}',
    }
    assert {key: row[key] for key in expected} == expected
    scored = json.loads(path.with_suffix(".json").read_text())
    assert (scored["public"], scored["submission"]) == ("0.71234", "1000")
    assert sent_csv("recycle", file_digest(path)).read_bytes() == path.read_bytes()


def test_pending_then_complete(kaggle, send):
    kaggle.states = ["COMPLETE", "PENDING", "PENDING", "COMPLETE"]
    assert send(patience=20).public == "0.71234"
    assert kaggle.calls.count("ListSubmissions") == 4


def test_still_pending_is_recorded_and_the_next_try_fetches_the_score(kaggle, send):
    kaggle.states = ["PENDING"]
    entry = send(patience=0)
    assert (entry.status, entry.public) == ("pending", "")
    assert read_ledger() == [entry]
    assert send.said[-1] == "submission 1000 is not scored yet; the same command later fetches its score"
    kaggle.states = ["COMPLETE"]
    assert send().public == "0.71234"
    assert [(e.ref, e.status) for e in read_ledger()] == [("1000", "complete")]
    assert kaggle.calls.count("CreateSubmission") == 1


def test_the_site_cannot_score_it(kaggle, send):
    kaggle.states = ["ERROR"]
    with pytest.raises(PipelineError, match="could not score it: Submission has 2 rows, expected 5"):
        send()
    (entry,) = read_ledger()
    assert (entry.status, entry.public) == ("error", "")
    assert entry.message.endswith("| Submission has 2 rows, expected 5")


def test_wrong_credentials(kaggle, send, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "wrong")
    with pytest.raises(PipelineError, match=r"kaggle: not let in \(401: .*\); check your credentials"):
        send()
    assert kaggle.calls == ["unauthenticated"]
    assert not ledger_csv().exists()


def test_no_credentials(kaggle, send, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(PipelineError, match=r"not let in \(no credentials; see kaggle.com/settings"):
        send()
    assert kaggle.calls == []


@pytest.mark.parametrize(
    ("call", "fault", "message", "last"),
    [
        ("PUT", status(400, "no"), "the upload failed .*; nothing was submitted", "PUT"),
        ("StartSubmissionUpload", status(429, "slow down"), "too many requests or submissions", "StartSu"),
        ("CreateSubmission", status(429, "limit"), "too many requests or submissions .429: limit", "CreateS"),
        ("CreateSubmission", status(400, "deadline passed"), "refused .400: deadline passed", "CreateS"),
        ("ListSubmissions", status(404, "no such competition"), "refused .404: no such comp", "ListSub"),
    ],
)
def test_the_site_says_no(kaggle, send, call, fault, message, last):
    kaggle.faults[call] = [fault]
    with pytest.raises(PipelineError, match=message):
        send()
    assert kaggle.calls[-1].startswith(last)
    assert (kaggle.submissions, ledger_csv().exists()) == ([], False)


@pytest.mark.parametrize(
    "answer", [[], "nothing", {"submissions": {}}, {"submissions": [[]]}, {"error": "busy"}, None]
)
def test_an_answer_that_is_no_list_of_submissions_is_not_an_empty_one(kaggle, send, answer):
    """Else the file would be sent again, which costs one of the day's submissions."""
    send()

    def fault(handler):
        handler.read()
        handler.reply(200, answer if answer is not None else "\x1b[31m" * 9)
        return True

    kaggle.faults["ListSubmissions"] = [fault]
    with pytest.raises(PipelineError, match=r"kaggle: (no clear answer|its client failed)") as refused:
        send()
    assert len(kaggle.submissions) == 1
    assert str(refused.value).isprintable()


def listing(answer):
    """A site that answers so where a list of submissions is expected."""

    def fault(handler):
        handler.read()
        handler.reply(200, answer)
        return True

    return fault


@pytest.mark.parametrize("answer", [{}, {"submissions": []}, {"submissions": [{}]}, []])
def test_an_upload_that_ended_unclear_is_not_sent_again_on_a_list_without_rows(kaggle, send, answer):
    kaggle.faults["CreateSubmission"] = [take_and_drop]
    kaggle.faults["ListSubmissions"] = [lambda _: False, *[listing(answer)] * 4]
    for _ in range(2):
        with pytest.raises(PipelineError, match=r"does not submit twice|nothing was sent|no clear answer"):
            send()
        assert (len(kaggle.submissions), ledger_csv().exists()) == (1, False)
    kaggle.faults.clear()
    assert send().ref == "1000"
    assert len(kaggle.submissions) == len(read_ledger()) == 1
    assert not list(sent_csv("recycle", "x").parent.glob("*.sending"))


def test_an_upload_that_was_killed_is_not_sent_again_on_an_empty_list(kaggle, send, path):
    def take_and_die(text):
        kaggle.take({"submissionDescription": text}, path.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(send=take_and_die)
    kaggle.faults["ListSubmissions"] = [listing({})]
    with pytest.raises(
        PipelineError, match=r"an upload of final\.csv began .* is not known; nothing was sent"
    ):
        send()
    assert send().ref == "1000" and len(kaggle.submissions) == 1


def test_a_list_without_the_last_one_of_the_ledger_is_not_believed(kaggle, send):
    send()
    other = kaggle.submissions.pop() | {"ref": 7, "description": "another"}
    kaggle.submissions.append(other)
    with pytest.raises(PipelineError, match=r"lists 1 other, the ledger has 1 of recycle.*1000; nothing"):
        send()
    assert kaggle.submissions == [other]


@pytest.mark.parametrize("answer", [{}, {"submissions": []}])
def test_an_empty_list_where_the_ledger_has_a_submission_is_not_believed(kaggle, send, answer):
    send()
    kaggle.submissions.clear()
    kaggle.faults["ListSubmissions"] = [
        lambda handler: (handler.read() and handler.reply(200, answer)) or True
    ]
    with pytest.raises(
        PipelineError, match=r"lists no submission, the ledger has 1 of recycle.*1000; nothing"
    ):
        send()
    assert kaggle.submissions == []
    assert send(again=True).ref == "1000"


def test_control_characters_of_the_site_do_not_reach_the_terminal(kaggle, send):
    kaggle.faults["CreateSubmission"] = [status(400, "no \x1b[31m\x07\nway")]
    with pytest.raises(PipelineError, match=r"refused .400: no  \[31m") as refused:
        send()
    assert str(refused.value).isprintable()


def test_no_submission_left_today(kaggle, send):
    kaggle.left = 0
    with pytest.raises(PipelineError, match="no submission is left today by the site's count; nothing was s"):
        send()
    assert kaggle.calls == ["ListSubmissions", "GetSubmissionLimits"]


def test_an_upload_that_breaks_off_half_way_is_tried_again_by_the_client(kaggle, send, path):
    kaggle.faults["PUT"] = [drop_half_way]
    assert send().status == "complete"
    assert kaggle.calls.count("CreateSubmission") == 1
    assert kaggle.uploaded == path.read_bytes()


def test_an_upload_that_never_gets_through(kaggle, send):
    kaggle.faults["PUT"] = [drop_half_way] * 99
    with pytest.raises(
        PipelineError, match="no answer within 2 s; the site does not list the submission, so"
    ):
        send(seconds=2)
    assert "CreateSubmission" not in kaggle.calls
    assert not ledger_csv().exists()


@pytest.mark.parametrize("fault", [status(500, "oops"), drop])
def test_an_unclear_answer_without_a_submission_is_not_recorded(kaggle, send, fault):
    kaggle.faults["CreateSubmission"] = [fault]
    with pytest.raises(PipelineError, match="does not list the submission, so it is not recorded"):
        send()
    assert not ledger_csv().exists()
    assert send().status == "complete"  # the site counts none today: the second try submits, once
    assert len(kaggle.submissions) == len(read_ledger()) == 1


@pytest.mark.parametrize(("fault", "seconds"), [(take_and_drop, 20.0), (take_and_hang(8), 2.0)])
def test_a_submission_that_arrived_without_an_answer_is_found(kaggle, send, fault, seconds):
    kaggle.faults["CreateSubmission"] = [fault]
    assert send(seconds=seconds).public == "0.71234"
    assert any("looking whether it arrived" in line for line in send.said)
    assert send.said[-1] == "it arrived, as number 1000"
    assert len(kaggle.submissions) == len(read_ledger()) == 1


def test_the_server_goes_away_after_it_took_it_and_the_second_try_says_so(kaggle, send):
    kaggle.faults = {
        "CreateSubmission": [take_and_drop],
        "ListSubmissions": [lambda _: False, status(503, "gone")],
    }
    with pytest.raises(
        PipelineError, match="It is not known whether the submission arrived, so it is not re"
    ):
        send()
    assert not ledger_csv().exists()
    assert send().public == "0.71234"
    assert send.said[-1] == (
        "already submitted at 2026-11-22T10:00:00Z (number 1000, complete); not sent again (AGAIN=1 sends "
        "it a second time)"
    )
    assert len(kaggle.submissions) == len(read_ledger()) == 1
    assert read_ledger()[0].time == "2026-11-22T10:00:00Z"


def test_no_server_at_all(kaggle, send, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match=r"kaggle: no clear answer \(.*refused"):
        send()
    assert (kaggle.calls, ledger_csv().exists()) == ([], False)


def test_a_second_time_only_when_asked_for(kaggle, send):
    first, same = send(), send()
    assert (first.ref, same.ref, len(kaggle.submissions)) == ("1000", "1000", 1)
    second = send(again=True)
    assert (second.ref, len(kaggle.submissions)) == ("1001", 2)
    assert "the site has it already, as number 1000; sending it a second time" in send.said
    assert [e.ref for e in read_ledger()] == ["1000", "1001"]


# The stage


@pytest.fixture
def as_kaggle(monkeypatch):
    """The competition `recycle` as if it were on Kaggle."""

    def on_kaggle(code=False):
        real = load_profile

        def load(name, root=None):
            return replace(real(name, root), site=SiteSpec("kaggle", "some-competition", code))

        monkeypatch.setattr(stage, "load_profile", load)

    return on_kaggle


def test_the_stage_shows_the_card_and_asks(kaggle, path, as_kaggle, monkeypatch, capsys):
    as_kaggle()
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    with pytest.raises(PipelineError, match="not submitted"):
        stage.main([])
    assert (asked, kaggle.calls) == (["Submit it to some-competition on kaggle? [y/N] "], [])
    said = capsys.readouterr().out
    for words in (
        "final.csv: valid (5 rows",
        "wbf, iou 0.55",
        "yolov5x fold 0 [identity, hflip]",
        "map50 0.6000",
    ):
        assert words in said
    stage.main(["--yes", "--message", "second"])
    assert "number 1000, complete, public 0.71234, private -" in capsys.readouterr().out
    assert kaggle.submissions[0]["description"].startswith("second oof 0.60000 [")


def test_nobody_to_ask(kaggle, path, as_kaggle, monkeypatch):
    as_kaggle()
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(EOFError))
    with pytest.raises(PipelineError, match="nobody to ask; YES=1"):
        stage.main([])
    assert kaggle.calls == []


def test_a_faulty_file_does_not_leave(kaggle, path, as_kaggle):
    as_kaggle()
    path.write_text(path.read_text().replace("test/0003.jpg", "test/0002.jpg"))
    with pytest.raises(PipelineError, match=r"NOT valid: .*; nothing was sent"):
        stage.main(["--yes"])
    assert kaggle.calls == []


def test_a_card_of_another_file_stops_it(kaggle, path, as_kaggle):
    as_kaggle()
    path.write_text(path.read_text().replace(" 0.", " 0.0", 1))
    with pytest.raises(PipelineError, match=r"is not the file that .*final\.json describes"):
        stage.main(["--yes"])
    assert kaggle.calls == []


def test_a_code_competition_submits_a_notebook_version(kaggle, path, as_kaggle):
    as_kaggle(code=True)
    with pytest.raises(PipelineError, match="code competition: expected KERNEL=owner/name VERSION=3"):
        stage.main(["--yes"])
    stage.main(["--yes", "--kernel", "me/my-notebook", "--kernel-version", "3"])
    assert kaggle.calls.count("CreateCodeSubmission") == 1
    request = kaggle.last_request
    assert (request["kernelOwner"], request["kernelSlug"], request["kernelVersion"]) == (
        "me",
        "my-notebook",
        3,
    )
    (entry,) = read_ledger()
    assert (entry.digest, entry.public) == ("me--my-notebook-v3", "0.71234")
    stage.main(["--yes", "--kernel", "me/my-notebook", "--kernel-version", "3"])
    assert (kaggle.calls.count("CreateCodeSubmission"), len(read_ledger())) == (1, 1)


def test_a_competition_without_an_api(path, capsys):
    stage.main([])
    said = capsys.readouterr().out
    assert "'recycle' has no API: nothing was uploaded" in said
    assert f"(10 of 10 left today):\n  {path}\n" in said
    assert not ledger_csv().exists()
    stage.main(["score", "--public", "0.71", "--message", "by hand"])
    stage.main(["score", "--private", "0.69"])
    (entry,) = read_ledger()
    assert (entry.public, entry.private, entry.oof, entry.message) == ("0.71", "0.69", "0.60000", "by hand")
    assert json.loads(path.with_suffix(".json").read_text())["private"] == "0.69"
    capsys.readouterr()
    stage.main([])
    assert "(9 of 10 left today)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["score"], "expected PUBLIC= or PRIVATE="),
        (["score", "--public", "high"], "public score 'high': expected a number"),
        (["score", "--public", "nan"], "public score 'nan': expected a number"),
        (["--ensemble", "other"], "other.csv: no such submission; make submission COMP=recycle writes it"),
    ],
)
def test_options_that_do_not_fit(path, options, message):
    with pytest.raises(PipelineError, match=message):
        stage.main(options)
    assert not ledger_csv().exists()
