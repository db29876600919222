"""Seeded damage: to bytes, to the words of a text, and to the structure of JSON values."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any


def _words(text: str) -> list[str]:
    return text.split("|")


# What breaks readers: odd numbers, names, line ends, Unicode forms, control characters, other types.
NUMBERS = _words(
    "0|-0.0|1|-1|0.5|1e-4|2|3|47|48|49|1e308|1e400|-1e400|NaN|Infinity|-Infinity|2147483647|2147483648|"
    "-2147483649|9223372036854775808|99999999999999999999999|0x10|1_0|007|1.0|+5|5.|.5|1,5|３|٣"
)
TEXTS = _words(
    "| |null|true|no|[]|{}|../../x|/etc/passwd|a/b|a\\b|con|~|None|nan|한국어|\u1112\u1161\u11ab|é|e\u0301|"
    "\u2028|\x85|\x00|\x1b[31m|\r|\n|\t|\u202e|\ufeff|\ud800|😀|\"|'|,|;|%s|{0}|{file_name}|$HOME|`id`|=1+1|"
    "__class__|!!python/object/apply:os.system [id]|&a [*a]|<!--|&lt;|]]>|" + "x" * 400
)
ODD: list[Any] = json.loads(
    "[null, true, false, 0, 1, -1, 0.5, 1e300, NaN, Infinity, 2147483648, 1e30, [], {}, [[]]]"
)
VALUES: list[Any] = [*ODD, 2**63, 10**30, [1, 2, 3, 4], ["1", "2", "3", "4"], {"a": 1}, *TEXTS[:30]]
BYTES = [
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\x85",
    b"\xe2\x80\xa8",
    b'"',
    b"\xed\xa0",
]
WORD = re.compile(r'"[^"\n]*"|[\w.+-]+')


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """One change to bytes: a bit, a byte, a piece more, less, doubled, moved, or the end cut off."""
    made = bytearray(data)
    if not made:
        return rng.choice(BYTES)
    at, length = rng.randrange(len(made)), rng.choice((1, 1, 2, 4, 16, 200))
    match rng.randrange(8):
        case 0 | 1:
            made[at] ^= 1 << rng.randrange(8)
        case 2:
            made[at] = rng.randrange(256)
        case 3:
            made[at:at] = rng.choice(BYTES)
        case 4:
            del made[at : at + length]
        case 5:
            made[at:at] = made[at : at + length]
        case 6:
            to = rng.randrange(len(made))
            made[to : to + length] = made[at : at + length]
        case 7:
            del made[at:]
    return bytes(made)


def damage_text(rng: random.Random, data: bytes) -> bytes:
    """One change to a word or a line of a text, which stays a text; `damage_bytes` where it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return damage_bytes(rng, data)
    lines = text.split("\n")
    words = list(WORD.finditer(text))
    kind = rng.randrange(6)
    if kind < 3 and words:
        word, other = rng.choice(words), rng.choice(words)
        new = rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), other[0]))
        if word[0].startswith('"') and rng.random() < 0.7:
            new = json.dumps(new.strip('"'))
        text = text[: word.start()] + new + text[word.end() :]
    elif kind == 3:
        at, text_new = rng.randrange(len(text) + 1), rng.choice(TEXTS)
        text = text[:at] + text_new + text[at:]
    else:
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        line = lines[at] if rng.random() < 0.4 else lines.pop(at)
        if rng.random() < 0.6:
            lines.insert(to, line)
        text = rng.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)
    return text.encode("utf-8", "surrogatepass")


def damage_json(rng: random.Random, data: bytes) -> bytes:
    """One change to the structure of a JSON text: a value, a key, an item more or less, or deep nesting."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return damage_text(rng, data)
    value = damage_value(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1)))
    if rng.random() < 0.01:  # json.dumps would not write it
        text = text.replace("1", rng.choice(("[" * 100_000, '{"a":' * 5_000)), 1)
    return text.encode("utf-8", "surrogatepass")


def damage_value(rng: random.Random, value: Any) -> Any:
    """A copy of plain lists and mappings with one change at a random place."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice((key.upper(), key + " ", "", "id", rng.choice(TEXTS)))] = holder.pop(key)
        case 1:
            holder.insert(key, copy.deepcopy(holder[key]))
        case 2:
            other, there = rng.choice(places)
            holder[key] = copy.deepcopy(other[there])
        case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            changes = (
                -holder[key],
                holder[key] + 1,
                holder[key] * 1000,
                str(holder[key]),
                float(holder[key]) + 0.5,
            )
            holder[key] = rng.choice(changes)
        case 3 if isinstance(holder[key], str):
            holder[key] = rng.choice((holder[key] + rng.choice(TEXTS), rng.choice(TEXTS) + holder[key]))
        case 4:
            holder[key] = [holder[key]]
        case _:
            holder[key] = rng.choice(VALUES)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


ENCODINGS = _words("utf-8|UTF-16|utf-16le|utf-32|latin-1|ascii|euc-kr|cp949|shift_jis|utf-7|hex|klingon")
DECLARATION = re.compile(r"^\ufeff?(<\?xml.*?\?>\s*)?", re.DOTALL)
ENTITIES = '<!DOCTYPE a [<!ENTITY x "cup"><!ENTITY y "&x;&x;"><!ENTITY z SYSTEM "/etc/passwd">]>'
BOMB = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 9))


def damage_xml(rng: random.Random, data: bytes) -> bytes:
    """A declared encoding, which the bytes may have, or a document type with entities; else `damage_text`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return damage_bytes(rng, data)
    if rng.random() < 0.7:
        return damage_text(rng, data)
    name = rng.choice(ENCODINGS)
    if rng.random() < 0.5:
        text = DECLARATION.sub(f'<?xml version="1.0" encoding="{name}"?>\n', text, count=1)
    else:
        kind = rng.choice((ENTITIES, f'<!DOCTYPE a [<!ENTITY l0 "ha">{BOMB}]>', "<!DOCTYPE a>"))
        at = rng.choice([match.end() for match in re.finditer("<[a-z]+>", text)] or [0])
        text = text[:at] + rng.choice(("&x;", "&y;", "&z;", "&l8;", "&#49;", "")) + text[at:]
        text = DECLARATION.sub(lambda match: match[0] + kind, text, count=1)
    try:
        return text.encode(rng.choice((name, "utf-8", "utf-8-sig")), "xmlcharrefreplace")
    except (LookupError, UnicodeError):
        return text.encode("utf-8", "surrogatepass")


Damage = Callable[[random.Random, bytes], bytes]
STYLES: dict[str, tuple[Damage, ...]] = {
    "bytes": (damage_bytes,),
    "text": (damage_text, damage_text, damage_bytes),
    "xml": (damage_xml, damage_xml, damage_bytes),
    "json": (damage_json, damage_json, damage_text, damage_bytes),
}


def damaged(rng: random.Random, data: bytes, style: str) -> bytes:
    """The data with one to four changes, unlike what it was."""
    made = data
    while made == data:
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 4))):
            made = rng.choice(STYLES[style])(rng, made)
    return made
