"""Words for people."""

import codecs
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

_DIRECTION_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

ESCAPES = "featherseg-escapes"
"""How characters that an encoding lacks are written (`errors` of `str.encode`): `\\u00e4`, which JSON reads as well."""


class Doubt(str):
    """A message of what may be wrong: also told by those that leave out how a training goes, such as `fit`."""

    __slots__ = ()


def counted(number: int, noun: str) -> str:
    """(1, "image") -> `1 image`, (3, "image") -> `3 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(size: Iterable[int]) -> str:
    """(512, 1024) -> `512x1024`, height first."""
    return "x".join(map(str, size))


def last_parts(path: str) -> str:
    """The last two parts of a path, `/` between them; of one that starts at a drive of Windows on every system."""
    found = (PureWindowsPath if PureWindowsPath(path).is_absolute() else PurePath)(path)
    return "/".join([part for part in found.parts if part != found.anchor][-2:])


def visible(text: str) -> str:
    """The text with escapes in place of characters that steer a terminal or turn the direction of reading.

    Names of files and classes come from others: `a\x1b[2J` is shown as `a\\x1b[2J`. Line breaks and tabs stay; half
    characters, as Python holds bytes of a name that are no UTF-8, are shown as `\\udcff`.
    """
    return "".join(c.encode("unicode_escape").decode("ascii") if _steers(c) else c for c in text)


def one_line(text: str) -> str:
    """`visible`, and line breaks and tabs are escapes as well: so a name stands in a line with others' words."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def json_text(content: Any) -> str:
    """`content` as indented JSON; null for NaN and infinity; what would steer a terminal is escaped as JSON has it."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if _steers(c) else c for c in text)


def finite(content: Any) -> Any:
    """Plain values as JSON can hold them: None for NaN and infinity, which only Python's own reader takes."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _DIRECTION_MARKS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _escape_lacking(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPES, _escape_lacking)


SELECTED, TRAINED_ON = "selected on these images", "trained on these images"
"""What is said of a score on images by which weights or a model were chosen: unseen ones give less."""


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`batch was 1, now 2; inference.flip was true, now false`; "" where both are the same as JSON."""
    before, after = (_flat(json.loads(json.dumps(settings))) for settings in (then, now))  # tuples as lists
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return "; ".join(f"{key} was {json.dumps(before.get(key))}, now {json.dumps(after.get(key))}" for key in changed)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"inference": {"flip": true}} -> {"inference.flip": true}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def marks(*, selected: object, trained_on: object) -> str:
    """What a reader of a score has to know of its images: SELECTED, TRAINED_ON, both or nothing."""
    return ", ".join(text for text, true in ((SELECTED, selected), (TRAINED_ON, trained_on)) if true)
