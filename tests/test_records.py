"""Records: random damage to any of them reads as a record or is one line; nothing is converted in silence."""

import json
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from pydantic import ValidationError

from pipeline.data import demo
from pipeline.data.dataset import load_dataset
from pipeline.data.ensemble_card import (
    CardMember,
    EnsembleCard,
    NestedScore,
    OofScores,
    Score,
    SourceTable,
    read_ensemble_card,
    write_ensemble_card,
)
from pipeline.data.model_table import all_rows
from pipeline.data.predictions import KEY, Predictions, read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.records import DIGEST, Record, read_json, read_record, write_record
from pipeline.data.run_card import DeviceSpeed, ModelCost, RecoveryNote
from pipeline.data.runs import Run, run_of
from pipeline.ensembles.calibration import Calibration
from pipeline.ensembles.tables import Fusion
from pipeline.ensembles.tuned import (
    MemberTables,
    TunedEnsemble,
    TunedMember,
    TuningRecord,
    read_tuned,
    write_tuned,
)
from pipeline.errors import PipelineError
from pipeline.paths import ensemble_dir, file_digest, ledger_csv, runs_dir, submission_csv
from pipeline.submissions.card import SubmissionCard, read_card, write_card
from pipeline.submissions.ledger import entry_of, read_ledger, record
from pipeline.tuning.engine import Journal

RUN = Run("recycle", "small", 0)
SPEED = DeviceSpeed(fps=9.5, fps_best=12.25, best_batch=4, precision="float32", versions={"torch": "2"})
COST = ModelCost(parameters=25, flops=77, input_size=640, speed={"a laptop": SPEED})


SCORE = Score(metric="map50", value=0.5, low=0.4, high=0.6)
TABLE = SourceTable(model="small", view="hflip", file="hflip.parquet", digest="?")
NESTED = NestedScore(
    value=0.5, partitions=(0.5,), optimism=0.01, plain=SCORE, rescoring_chosen=0, parts=5, rescored=SCORE
)
ENSEMBLE_CARD = EnsembleCard(
    ensemble="final",
    competition="recycle",
    models=("small",),
    folds=(0, "full"),
    fusion={"method": "wbf", "iou": 0.5},
    across_folds={"method": "wbf"},
    cut=(0.1, 0.2),
    test_table_digest="?",
    oof=OofScores(map50=0.5, ap50={"Paper": None}, competition=SCORE),
    members=(CardMember(model="small", fold=0, views=("hflip",), weight=1.0),),
    tables=(TABLE,),
    nested=NESTED,
)


@dataclass(frozen=True)
class Kind:
    """A kind of record: `write` makes one below a home folder and returns its path; `read` reads it."""

    write: Callable[[], Path]
    read: Callable[[Path], Any]


def written_card() -> Path:
    return tiny.write_card(RUN, cost=COST, findings=({"source": "train.json"},)) / "card.json"


def written_job() -> Path:
    RUN.write_job(tiny.job_description(RUN))
    return RUN.folder / "job.json"


def written_note() -> Path:
    path = RUN.folder / "work" / "recovery.json"
    write_record(path, RecoveryNote(parts=4, lr_factor=0.5))
    return path


def written_ensemble_card() -> Path:
    write_ensemble_card(ENSEMBLE_CARD)
    return ensemble_dir("recycle", "final") / "card.json"


def written_tuned_ensemble() -> Path:
    maps = Calibration("isotonic", (((0.1, 0.9), (0.2, 0.8)),))
    members = (TunedMember("small", "hflip", 0.5, 0.01, 0.7, maps), TunedMember("large", "identity"))
    tables = (MemberTables(member="small/hflip", tables=(TABLE,)),)
    record = TuningRecord(
        competition="recycle",
        metric="map50",
        image_digest="?",
        members=tables,
        nested=NESTED,
        seed=0,
        search="?",
        stopped=False,
        folds_digests=("?",),
    )
    folder = ensemble_dir("recycle", "final") / "tuned"
    write_tuned(folder, TunedEnsemble(members, Fusion(), maps, "tree", (0.1, 0.2)), record)
    return folder / "tuned.json"


def written_submission_card() -> Path:
    path = submission_csv("recycle", "final")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("PredictionString,image_id\n")
    card = SubmissionCard(**dict(ENSEMBLE_CARD), file_digest=file_digest(path), boxes=7, public="0.7")
    write_card(path, card)
    return path.with_suffix(".json")


def written_ledger() -> Path:
    card = SubmissionCard(**dict(ENSEMBLE_CARD), file_digest="?")
    for name in ("a", "b"):
        record(entry_of("recycle", name, name, card, status="complete", time="2026-11-22T10:00:00Z"))
    return ledger_csv()


def without_digest(path: Path) -> None:
    """Make a record one of an earlier version."""
    if path.suffix == ".json":
        tiny.edit_json(path, lambda value: None)
    else:
        rows = path.read_text().splitlines()
        path.write_text("".join(row.rpartition(",")[0] + "\n" for row in rows))


KINDS = {
    "submission card": Kind(written_submission_card, lambda path: read_card(path.with_suffix(".csv"))),
    "ledger": Kind(written_ledger, read_ledger),
    "ensemble card": Kind(written_ensemble_card, lambda _: read_ensemble_card("recycle", "final")),
    "tuned ensemble": Kind(written_tuned_ensemble, lambda path: read_tuned(path.parent)),
    "run card": Kind(written_card, lambda _: RUN.card()),
    "job description": Kind(written_job, lambda _: RUN.job()),
    "recovery note": Kind(written_note, lambda path: read_record(path, RecoveryNote, "train again")),
}
ODD_VALUES = [
    None,
    True,
    1,
    -1,
    0.5,
    "",
    "true",
    "1",
    [],
    {},
    [[]],
    {"?": {}},
    10**400,
    "\ud800",
    "\x1b[2J\n",
]
ODD_BYTES = [
    b"\xff",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b"NaN",
    b"1e999",
    b"-",
    b"\x00",
    b"[" * 100_000,
    b"\xef\xbb",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a value but itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in [(*path, key), *places(item, (*path, key))]]


def damaged_value(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value of which one place is another value, is gone, or has a neighbour."""
    copy = json.loads(json.dumps(value))
    *path, last = rng.choice(places(copy))
    parent = copy
    for key in path:
        parent = parent[key]
    if (how := rng.randrange(4)) == 0:
        del parent[last]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice(["?", "", "\ud800", last + "s", "x" * 1000])] = rng.choice(ODD_VALUES)
    else:
        parent[last] = rng.choice(ODD_VALUES)
    return copy


def damaged_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes that are cut off, flipped, doubled, or have others between them."""
    start, how = rng.randrange(len(raw)), rng.randrange(4)
    if how == 0:
        return raw[:start]
    if how == 1:
        return raw[:start] + bytes([raw[start] ^ 1 << rng.randrange(8)]) + raw[start + 1 :]
    if how == 2:
        end = rng.randrange(start, len(raw))
        return raw[:end] + raw[start:end] + raw[end:]
    return raw[:start] + rng.choice(ODD_BYTES) + raw[start:]


def check_line(error: PipelineError, path: Path) -> None:
    line = str(error)
    assert path.name in line
    assert line.isprintable() and len(line) <= 300, line


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.chdir(home)
    return KINDS[request.param]


def test_a_record_reads_as_it_was_written(kind: Kind) -> None:
    path = kind.write()
    before, raw = kind.read(path), path.read_bytes()
    kind.write()
    assert path.read_bytes() == raw and kind.read(path) == before


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_is_one_line_or_a_record(kind: Kind, seed: int) -> None:
    path = kind.write()
    whole, rng, refused = path.read_bytes(), random.Random(seed), 0
    whole_record = kind.read(path)
    for _ in range(150):
        path.write_bytes(damaged_bytes(whole, rng))
        try:
            assert type(kind.read(path)) is type(whole_record)
        except PipelineError as error:
            check_line(error, path)
            refused += 1
    assert refused > (50 if path.suffix == ".json" else 5)


def test_any_changed_byte_is_an_error(kind: Kind) -> None:
    path, rng = kind.write(), random.Random(0)
    whole = path.read_bytes()
    assert kind.read(path)
    places = rng.sample(range(len(whole)), min(len(whole), 500))
    changed = [whole[:k] + bytes([whole[k] ^ 1 << rng.randrange(8)]) + whole[k + 1 :] for k in places]
    changed += [whole[:k] + rng.choice((b" ", b"\n", b"0")) + whole[k:] for k in places[:50]]
    changed += [whole[:k] for k in places[:50]]
    changed += [whole + more for more in (b" ", b"\n", b"\0", whole)]
    for raw in changed:
        path.write_bytes(raw)
        with pytest.raises(PipelineError) as error:
            kind.read(path)
        check_line(error.value, path)


def test_what_earlier_versions_wrote_is_read_with_a_note(kind: Kind, capsys: Any) -> None:
    path = kind.write()
    before = kind.read(path)
    assert capsys.readouterr().out == ""
    without_digest(path)
    assert [kind.read(path), kind.read(path)] == [before, before]
    assert capsys.readouterr().out.count(f"{path.name}: has no digest (earlier versions wrote none)") == 1
    kind.write()
    assert kind.read(path) == before and DIGEST in path.read_text()


@pytest.mark.parametrize("seed", range(3))
def test_values_of_other_types_are_refused(kind: Kind, seed: int) -> None:
    path = kind.write()
    if path.suffix != ".json":
        pytest.skip("all values are texts")
    whole, rng, refused = path.read_text(), random.Random(seed), 0
    whole_record = kind.read(path)
    for _ in range(150):
        value = json.loads(whole)
        del value[DIGEST]
        path.write_text(json.dumps(damaged_value(value, rng)))
        try:
            assert type(kind.read(path)) is type(whole_record)
        except PipelineError as error:
            check_line(error, path)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"parts": 0}', "r.json: parts: expected greater than or equal to 1, found 0; train again"),
        ('{"parts": true}', "r.json: parts: expected a whole number, found true; train again"),
        ('{"parts": "2"}', 'r.json: parts: expected a whole number, found "2"; train again'),
        ('{"lr_factor": 1.5}', "r.json: lr_factor: expected less than or equal to 1, found 1.5; train again"),
        ('{"lr_factor": 0, "parts": []}', "(and 1 more); train again"),
        ('{"lr_factor": NaN}', "r.json: not JSON: NaN is no number; train again"),
        ('{"lr_factor": 1e999}', "r.json: not JSON: 1e999 is no number; train again"),
        ('{"parts": 1, "parts": 2}', "r.json: not JSON: key 'parts' is there twice; train again"),
        ('{"part": 1}', "r.json: unknown key 'part'; known: lr_factor, parts; train again"),
        ("[]", "r.json: expected a mapping, found a list of 0; train again"),
        ("[" * 100_000, "r.json: not JSON: nested too deep; train again"),
        (b"\xff", "r.json: not a text in UTF-8 (byte 0); train again"),
        (None, "r.json: not readable (No such file or directory); train again"),
    ],
)
def test_what_a_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError) as error:
        read_record(path, RecoveryNote, "train again")
    assert message in str(error.value)
    check_line(error.value, path)


def test_the_place_of_a_fault_is_its_path(home: Path) -> None:
    path = written_card()
    tiny.edit_json(path, lambda card: card["cost"]["speed"]["a laptop"].update(fps="fast"))
    with pytest.raises(PipelineError, match=r'cost\.speed\.a laptop\.fps: expected a number, found "fast"'):
        RUN.card()
    tiny.edit_json(path, lambda card: card["cost"]["speed"]["a laptop"].update(fps=1, fbs=2))
    with pytest.raises(PipelineError, match=r"unknown key 'cost\.speed\.a laptop\.fbs'; known: best_batch, "):
        RUN.card()


class Nullable(Record):
    value: float | None


def test_what_is_not_known_is_written_and_read(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", Nullable(value=None))
    assert read_record(tmp_path / "r.json", Nullable, "") == Nullable(value=None)


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RecoveryNote().parts = 2


def test_a_card_names_files_beside_it_alone(home: Path) -> None:
    path = written_card()
    for name in ("../../../etc/passwd", "/etc/passwd", "..", "", "a\\b"):
        tiny.edit_json(path, lambda card, name=name: card.update(checkpoint=name))
        with pytest.raises(PipelineError, match="checkpoint: expected a name, not a path"):
            RUN.card()


@pytest.mark.parametrize("fold", [-1, True, "fold0", None, 1.0])
def test_a_fold_is_a_number_or_full(home: Path, fold: Any) -> None:
    tiny.edit_json(written_card(), lambda card: card.update(fold=fold))
    with pytest.raises(PipelineError, match="fold: expected the number of a fold, from 0, or full, found"):
        RUN.card()


def test_a_card_of_an_earlier_version_is_read(home: Path) -> None:
    later = ("gpus", "findings", "recovery", "pretrained", "cost")
    path = written_card()
    tiny.edit_json(path, lambda card: [card.pop(key) for key in later])
    card = RUN.card()
    assert (card.gpus, card.findings, card.recovery, card.cost) == (1, (), RecoveryNote(), None)


def test_the_card_of_a_run_says_which_command_helps(home: Path) -> None:
    command = "make train COMP=recycle MODEL=small FOLD=0"
    with pytest.raises(PipelineError, match=f"small/fold0: not trained yet; {command}"):
        RUN.card()
    written_card().write_text("{}")
    with pytest.raises(PipelineError, match=f"missing key 'competition' .*; restore it, .* {command} OVERWR"):
        RUN.card()


def test_the_config_of_a_run_is_data(home: Path) -> None:
    written_card()
    (RUN.folder / "config.json").write_text('{"model": {"type": "RetinaNet"}}')
    assert RUN.config() == {"model": {"type": "RetinaNet"}}
    write_record(RUN.folder / "config.json", {"score_thr": 0.1})
    assert RUN.config() == {"score_thr": 0.1}
    path = RUN.folder / "config.json"
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(PipelineError, match=r"config\.json: changed since it was written: record_digest is "):
        RUN.config()
    (RUN.folder / "config.json").write_text("[1]")
    with pytest.raises(PipelineError, match=r"config\.json: expected a mapping of keys to values, found a "):
        RUN.config()
    tiny.write_card(RUN, config="config.py")
    with pytest.raises(PipelineError, match=r"config\.py: trained before configs .* MODEL=small FOLD=0 OVER"):
        RUN.config()


def test_a_run_of_all_photos_has_a_folder_of_its_own(home: Path) -> None:
    run = Run("recycle", "small", "full")
    assert run.folder == home / "runs" / "recycle" / "small" / "full"
    assert run_of(tiny.write_card(run)) == run and run.card().fold == "full"
    assert run_of(home / "runs" / "recycle" / "ensembles" / "fold0") is None
    assert run_of(home / "runs" / "recycle" / "small" / "folder") is None


def test_a_checkpoint_that_the_card_does_not_describe(home: Path) -> None:
    checkpoint = tiny.write_card(RUN) / "best.pt"
    assert RUN.checkpoint == checkpoint and not RUN.is_whole()
    checkpoint.write_bytes(b"weights")
    tiny.write_card(RUN, checkpoint_digest=file_digest(checkpoint))
    assert RUN.is_whole()
    checkpoint.write_bytes(b"other weights")
    assert not RUN.is_whole()


def test_a_mapping_of_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for text in ("[1]", "{", "1"):
        path.write_text(text)
        with pytest.raises(PipelineError) as error:
            read_json(path, "evaluate again")
        check_line(error.value, path)


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_a_tables_metadata(recycle: Path, seed: int) -> None:
    train = load_dataset(load_profile("recycle"), "train")
    rows = tiny.guesses(train.images, 0)
    path, rng = recycle / "t.parquet", random.Random(seed)
    made = {"seconds": 1.5, "folds_digest": "?", "cut": [0.1], "members": [{"model": "a"}]}
    write_predictions(path, tiny.table(train, rows, fold=0, **made))
    arrow, refused = pq.read_table(path), 0
    whole = arrow.schema.metadata[KEY]
    for k in range(150):
        value = json.loads(whole)
        del value[DIGEST]
        text = json.dumps(damaged_value(value, rng)).encode() if k % 2 else damaged_bytes(whole, rng)
        pq.write_table(arrow.replace_schema_metadata({KEY: text}), path)
        try:
            assert isinstance(read_predictions(path), Predictions)
        except PipelineError as error:
            check_line(error, path)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_a_search_journal_costs_lines(tmp_path: Path, seed: int) -> None:
    header, rng = {"metric": "map50", "seed": 0}, random.Random(seed)
    path = tmp_path / "search.jsonl"
    with closing(Journal(path, header)) as journal:
        journal.read(2)
        for k in range(20):
            journal.add(f"candidate {k}", np.array([0.5, np.nan if k % 2 else 0.25]))
    with closing(Journal(path, header)) as journal:
        with_all = journal.read(2)
    whole = path.read_bytes()
    assert len(with_all) == 20
    for _ in range(150):
        path.write_bytes(damaged_bytes(whole, rng))
        with closing(Journal(path, header)) as journal:
            for key, values in journal.read(2).items():
                np.testing.assert_array_equal(values, with_all[key])


def test_a_damaged_stamp_of_the_demo_is_as_none(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    assert demo.generate(root, n_train=1, n_test=1, size=64)
    assert not demo.generate(root, n_train=1, n_test=1, size=64)
    for text in ("", "[1]", "[" * 100_000, '{"version": 4}', '{"seed": "0"}'):
        (root / demo.STAMP).write_text(text)
        assert demo.generate(root, n_train=1, n_test=1, size=64)


@pytest.mark.parametrize("value", [[], {}, [1], {"identity": 1}, {"identity": {"competition": "x"}}])
def test_scores_of_a_model_that_are_damaged(home: Path, value: Any) -> None:
    tiny.write_card(Run("recycle", "yolov5n", 0))
    path = tiny.write_json(runs_dir("recycle") / "yolov5n" / "metrics.json", {"scores": value})
    if value == {}:
        assert not any(row["OOF"] for row in all_rows("recycle", []))
        return
    with pytest.raises(PipelineError) as error:
        all_rows("recycle", [])
    check_line(error.value, path)
    assert str(error.value).endswith("; make evaluate COMP=recycle MODEL=yolov5n again")
