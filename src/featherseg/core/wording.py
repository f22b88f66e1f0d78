"""Texts for people: counts, sizes, escapes."""

import codecs
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath, PureWindowsPath
from typing import Any

_DIRECTION_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

ESCAPES = "featherseg-escapes"
"""The `errors` handler of `str.encode` that writes `\\u00e4` for missing characters, as JSON does.
"""


class WarningText(str):
    """A warning: shown even by callers, such as `fit`, that hide a training's other messages."""

    __slots__ = ()


def counted(number: int, noun: str) -> str:
    """Return (1, "image") as `1 image`, (3, "image") as `3 images`, (3, "class") as `3 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def brief(thing: object, *facts: object) -> str:
    """Return `Run(photos, frm-lite0, 3 classes)`, a repr on one line; empty facts are skipped."""
    texts = [one_line(text) for text in map(str, filter(None, facts)) if text]
    return f"{type(thing).__name__}({', '.join(texts)})"


def first_few(items: Sequence[object], shown: int = 3) -> str:
    """Return the first items, separated by commas; `, ...` follows if there are more."""
    return ", ".join(map(str, items[:shown])) + ", ..." * (len(items) > shown)


def size_text(size: Iterable[int]) -> str:
    """Return (512, 1024) as `512x1024`, height first."""
    return "x".join(map(str, size))


def duration(seconds: float) -> str:
    """Return seconds in a unit that fits: `40 s`, `24 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def last_parts(path: str) -> str:
    """Return the last two parts of a path, joined by `/`; also of a Windows path on any system."""
    pure_path = (PureWindowsPath if PureWindowsPath(path).is_absolute() else PurePath)(path)
    return "/".join([part for part in pure_path.parts if part != pure_path.anchor][-2:])


def visible(text: str) -> str:
    """Escape characters that control a terminal or change the direction of reading.

    Names of files and classes come from others: `a\x1b[2J` is shown as `a\\x1b[2J`. Line breaks and
    tabs stay. Lone surrogates, Python's form of bytes that are no UTF-8, are shown as `\\udcff`.
    """
    return "".join(c.encode("unicode_escape").decode("ascii") if _steers(c) else c for c in text)


def one_line(text: str) -> str:
    """Escape as `visible`, and line breaks and tabs as well, so that the text stays on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def json_text(content: Any) -> str:
    """Return `content` as indented JSON; NaN and infinity become null, controls are escaped."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if _steers(c) else c for c in text)


def finite(content: Any) -> Any:
    """Return plain values with None for NaN and infinity, which only Python's JSON accepts."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _DIRECTION_MARKS or unicodedata.category(character) in (
        "Cc",
        "Cs",
        "Zl",
        "Zp",
    )


def _escape_lacking(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPES, _escape_lacking)


SELECTED, TRAINED_ON = "selected on these images", "trained on these images"
"""The notes on scores of images that a model has seen: unseen images score lower."""


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return `batch was 1, now 2; inference.flip was true, now false`; "" without a change."""
    before, after = (
        flattened(json.loads(json.dumps(settings))) for settings in (then, now)
    )  # tuples as lists
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return "; ".join(
        f"{key} was {json.dumps(before.get(key))}, now {json.dumps(after.get(key))}"
        for key in changed
    )


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"inference": {"flip": true}} as {"inference.flip": true}, at any depth."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def marks(*, selected: object, trained_on: object) -> str:
    """Return the notes that a score needs: SELECTED, TRAINED_ON, both or none."""
    return ", ".join(
        text for text, true in ((SELECTED, selected), (TRAINED_ON, trained_on)) if true
    )
