"""A discovery as the text of a profile: YAML with comments, which is read back before it is kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.discover.choose import Discovery
from pipeline.errors import printable
from pipeline.paths import home, write_text

WIDEST = 112  # characters of a line


def profile_text(made: Discovery, name: str, root: Path) -> str:
    """The YAML of a profile, with comments that say what was found and what is assumed."""
    lines = [f"# {name}: {made.chosen.what}.", "# Written by `make new`; correct it where it is wrong."]
    lines += [f"# {split}: {text}." for split in ("train", "test") if (text := made.summary(split))]
    lines += [f"# Not taken: {text}" for text in made.others]
    lines += [f"# WARNING: {text}" for text in made.warnings]
    folder = root.resolve()
    default = (home() / "data" / name).resolve()
    values = dict(made.values)
    if folder != default:
        inside = folder.is_relative_to(home())
        values = {"title": values.pop("title"), "root": str(folder.relative_to(home()) if inside else folder)}
        values |= {key: value for key, value in made.values.items() if key != "title"}
    for key, value in values.items():
        lines += _classes(made) if key == "classes" else list(_lines(key, value, made.comments))
    if "site" not in values:
        lines.append("# site: {api: kaggle, competition: <its name in its address>}")
    return "\n".join(map(printable, lines)) + "\n"


def write_profile(path: Path, made: Discovery, name: str, root: Path) -> None:
    write_text(path, profile_text(made, name, root))


def _lines(key: str, value: Any, comments: dict[str, str], place: str = "", depth: int = 0) -> Iterator[str]:
    """A key and its value: a mapping that has comments or is long line by line, else on one line."""
    place = f"{place}{key}"
    indent, comment = "  " * depth, comments.get(place, "")
    commented = any(name.startswith(f"{place}.") for name in comments)
    line = f"{indent}{key}: {_flow(value)}" + (f"  # {comment}" if comment else "")
    if not isinstance(value, dict) or (not commented and len(line) <= WIDEST):
        yield line
        return
    yield f"{indent}{key}:" + (f"  # {comment}" if comment else "")
    for name, item in value.items():
        yield from _lines(name, item, comments, f"{place}.", depth + 1)


def _classes(made: Discovery) -> list[str]:
    """One class per line, with its boxes of train."""
    comment = made.comments.get("classes", "in the order of the file's ids")
    counts = made.counts()
    return [f"classes:  # {comment}"] + [
        f"  - {_flow(name)}  # {counts[name]} boxes" if name in counts else f"  - {_flow(name)}"
        for name in made.values["classes"]
    ]


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()
