"""The list of models: configs/models.yaml, the page made from it, and what `make models` shows."""

from pathlib import Path

from pipeline.data.model_facts import FACTS, read_facts, write_facts
from pipeline.data.models import list_models


def test_every_config_has_its_line() -> None:
    lacking = sorted(set(list_models()) - set(read_facts()))
    assert not lacking, f"add a line to configs/models.yaml for {', '.join(lacking)}; its head says how"


def test_the_table_is_as_it_would_be_written(tmp_path: Path) -> None:
    copy = tmp_path / "models.yaml"
    copy.write_bytes(FACTS.read_bytes())
    write_facts(read_facts(copy), copy)
    assert copy.read_text(encoding="utf-8") == FACTS.read_text(encoding="utf-8")
