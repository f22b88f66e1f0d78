"""Lists that name the values of masks: _classes.csv, classes.txt, dataset.json, data.yaml, ..."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featherseg.core.errors import DataError
from featherseg.core.files import parse_json, parse_yaml, read_bounded
from featherseg.core.types import IGNORE
from featherseg.core.wording import counted, first_few
from featherseg.data.discovery.color_lists import NAMES as COLOR_LISTS
from featherseg.data.discovery.color_lists import is_ignored
from featherseg.data.discovery.masks_yaml import MASKS_DIR
from featherseg.data.images.palettes import is_background

MOST_NAME = 200
"""Number of characters of a class's name."""

_LISTS = re.compile(
    r"_?(?:class|label|categor|name|id2label)[a-z0-9_ -]*\.(?:csv|txt|json)"
    r"|dataset\.json|[^/]+\.ya?ml",
    re.IGNORECASE,
)
"""Names of files that may be such lists."""

_TABLES = ("labels", "classes", "names", "categories", "id2label", "class_names", "label_names")
"""Keys of a JSON that may have the names."""

_VALUES = ("pixel value", "value", "id", "index", "label", "class id")
_NAMES = ("class", "name", "class name", "label")
"""Heads of the columns of a CSV with values and names: the first one that the CSV has."""


@dataclass(frozen=True)
class ClassList:
    """Names of values. If not `numbered`, the file gives none: they are line numbers from 0."""

    path: Path
    names: Mapping[int, str]
    numbered: bool

    def named(self, values: Set[int]) -> dict[int, str]:
        """Return {value: name} for masks with these values; raises DataError if it is not clear.

        Names without values belong to the values in order, unless the masks have others. 255 is
        ignored unless the list names it.
        """
        names = dict(self.names)
        present = values - {IGNORE} if IGNORE not in names else values
        first = names.get(0, "")
        begins = is_background(first) or is_ignored(first)
        if values == {0, IGNORE} and names.keys() == {0, 1} and begins:
            return {0: names[0], IGNORE: names[1]}
        if not self.numbered and not begins and present == {*range(len(names) + 1)}:
            return {value + 1: name for value, name in names.items()}  # 0 is the background
        fits = self.numbered or begins or present == names.keys()
        if present - names.keys() or values == {0, IGNORE} or not fits:
            raise DataError(
                f"{self.path} has {counted(len(names), 'name')} of classes, and the masks have "
                f"{first_few(sorted(values), 5)}: which name is of which value is not clear"
            )
        return names


def find_class_list(files: Iterable[Path]) -> ClassList | None:
    """Return the first list among these files; names that begin with an underscore come first.

    Raises DataError for a file with the name of a list that cannot be read.
    """
    ordered = sorted(
        files, key=lambda path: (not path.name.startswith("_"), path.suffix, path.name)
    )
    lists = (
        read_class_list(path)
        for path in ordered
        if _LISTS.fullmatch(path.name) and path.name.lower() not in COLOR_LISTS
    )
    return next(filter(None, lists), None)


def read_class_list(path: Path) -> ClassList | None:
    """Return the names in a file; None if it has none. Raises DataError if it cannot be read."""
    ending = path.suffix.lower()
    try:
        text = read_bounded(path).decode("utf-8-sig")
        if ending == ".csv":
            return _numbered(path, listed_values(path, text)) if _columns(text) else None
        if ending == ".txt":
            return _of_lines(path, text)
        content = parse_json(text) if ending == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if ending in (".yaml", ".yml"):
        has_masks = isinstance(content, dict) and MASKS_DIR in content
        return _of_table(path, content.get("names")) if has_masks else None
    tables = [content.get(key) for key in _TABLES] if isinstance(content, dict) else []
    return next(filter(None, (_of_table(path, table) for table in (*tables, content))), None)


def listed_values(path: Path, text: str) -> dict[int, str]:
    """Return {value: name} from a CSV such as _classes.csv of Roboflow, else raise DataError."""
    names: dict[int, str] = {}
    value_column, name_column = _columns(text) or (0, 1)
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if number == 1 and cells and not cells[0].isdigit():
            continue
        complete = len(cells) > max(value_column, name_column) and cells[name_column]
        if not complete or not re.fullmatch(r"\d{1,3}", cells[value_column]):
            raise DataError(
                f"{path}, line {number}: {','.join(row)[:80]!r} is no value with a name, such as "
                "1, road"
            )
        names[int(cells[value_column])] = cells[name_column]
    return names


def _columns(text: str) -> tuple[int, int] | None:
    """Return the columns of values and names by the first line; None without it, or for colours."""
    first = next(csv.reader(text.splitlines()[:1]), [])
    heads = [cell.strip().lower().replace("_", " ") for cell in first]
    values = [heads.index(head) for head in _VALUES if head in heads]
    names = [heads.index(head) for head in _NAMES if head in heads]
    names = [column for column in names if column not in values[:1]]
    colored = {"r", "g", "b"} <= set(heads) or {"red", "green", "blue"} <= set(heads)
    return (values[0], names[0]) if values and names and not colored else None


def _of_lines(path: Path, text: str) -> ClassList | None:
    """Read lines of a name each, or of a value and a name each."""
    stripped = map(str.strip, text.splitlines())
    lines = [line for line in stripped if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"(\d{1,3})\s*[:=,;\t ]\s*(\S.*)", line) for line in lines]
    if all(pairs):
        return _numbered(path, {int(pair[1]): pair[2].strip() for pair in pairs if pair})
    return None if any(pairs) else _in_order(path, lines)


def _of_table(path: Path, table: Any) -> ClassList | None:
    """Read [name, ...], {value: name}, {name: value}, or [{id: value, name: name}, ...]."""
    if isinstance(table, list) and table and all(isinstance(row, dict) for row in table):
        rows = [
            ([row.get(k) for k in ("id", "value", "index", "trainId") if k in row], row.get("name"))
            for row in table
        ]
        table = {str(name): values[0] for values, name in rows if values and name}
    if isinstance(table, list) and table and all(isinstance(name, str) for name in table):
        return _in_order(path, table)
    if not isinstance(table, dict) or not table:
        return None
    by_value = {key: name for key, name in table.items() if re.fullmatch(r"\d{1,3}", str(key))}
    if len(by_value) == len(table):
        return _numbered(path, {int(key): name for key, name in by_value.items()})
    # Regions of nnU-Net have several values each: they are no classes
    return _numbered(path, {value: name for name, value in table.items() if type(value) is int})


def _in_order(path: Path, names: Sequence[str]) -> ClassList | None:
    class_list = _numbered(path, dict(enumerate(names)))
    return replace(class_list, numbered=False) if class_list else None


def _numbered(path: Path, names: Mapping[int, Any]) -> ClassList | None:
    """Return the list with these values; None if they cannot be classes."""
    usable = 0 < len(names) <= IGNORE and all(
        0 <= value <= IGNORE and isinstance(name, str) and 0 < len(name.strip()) <= MOST_NAME
        for value, name in names.items()
    )
    if not usable:
        return None
    return ClassList(path, {value: name.strip() for value, name in sorted(names.items())}, True)
