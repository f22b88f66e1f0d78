"""The lists that name the values of masks: _classes.csv, classes.txt, dataset.json of nnU-Net, data.yaml, ..."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherseg.core.errors import DataError
from featherseg.core.files import parse_json, parse_yaml, read_bounded
from featherseg.core.types import IGNORE
from featherseg.core.wording import counted
from featherseg.data.discovery.color_lists import NAMES as COLOR_LISTS
from featherseg.data.discovery.color_lists import is_background, is_ignored
from featherseg.data.discovery.masks_yaml import MASKS_DIR

MOST_NAME = 200
"""Characters of a class's name."""

_LISTS = re.compile(
    r"_?(?:class|label|categor|name|id2label)[a-z0-9_ -]*\.(?:csv|txt|json)|dataset\.json|[^/]+\.ya?ml",
    re.IGNORECASE,
)
"""What such files are called."""

_TABLES = ("labels", "classes", "names", "categories", "id2label", "class_names", "label_names")
"""Keys under which a JSON has the names."""

_VALUES, _NAMES = (
    ("pixel value", "value", "id", "index", "label", "class id"),
    ("class", "name", "class name", "label"),
)
"""Heads of the columns of a CSV: the first of each that is there."""


@dataclass(frozen=True)
class ClassList:
    """Names of values. `numbered` says whether the file gives the values; else they are the places in it, from 0."""

    path: Path
    names: Mapping[int, str]
    numbered: bool

    def named(self, values: Set[int]) -> dict[int, str]:
        """Value -> name for masks that hold these values, 255 for ignore aside. Raises DataError where it is not clear.

        A list of names alone is of the values in order, unless the masks hold others.
        """
        held, names = values - {IGNORE} if IGNORE not in self.names else values, dict(self.names)
        first = names.get(0, "")
        begins = is_background(first) or is_ignored(first)
        if values == {0, IGNORE} and names.keys() == {0, 1} and begins:
            return {0: names[0], IGNORE: names[1]}
        if not self.numbered and not begins and held == {*range(len(names) + 1)}:
            return {
                value + 1: name for value, name in names.items()
            }  # the background has no name there
        strangers = sorted(held - names.keys())
        if (
            strangers
            or values == {0, IGNORE}
            or not (self.numbered or begins or held == names.keys())
        ):
            shown = ", ".join(map(str, sorted(values)[:5])) + ", ..." * (len(values) > 5)
            raise DataError(
                f"{self.path} has {counted(len(names), 'name')} of classes, and the masks hold {shown}: which name is "
                "of which value is not clear"
            )
        return names


def find_class_list(files: Iterable[Path]) -> ClassList | None:
    """The first of these files that names values, those whose names begin with an underscore first.

    Raises DataError for one that is called like a list of classes and cannot be read.
    """
    for path in sorted(
        files, key=lambda path: (not path.name.startswith("_"), path.suffix, path.name)
    ):
        if (
            _LISTS.fullmatch(path.name)
            and path.name.lower() not in COLOR_LISTS
            and (found := read_class_list(path))
        ):
            return found
    return None


def read_class_list(path: Path) -> ClassList | None:
    """The names in a file; None where it has none. Raises DataError for a file that cannot be read."""
    try:
        text = read_bounded(path).decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            return _numbered(path, listed_values(path, text)) if _columns(text) else None
        if path.suffix.lower() == ".txt":
            return _of_lines(path, text)
        content = parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        return (
            _of_table(path, content.get("names"))
            if isinstance(content, dict) and MASKS_DIR in content
            else None
        )
    tables = [content.get(key) for key in _TABLES] if isinstance(content, dict) else []
    return next(filter(None, (_of_table(path, table) for table in (*tables, content))), None)


def listed_values(path: Path, text: str) -> dict[int, str]:
    """A CSV with a value and a name a line, as _classes.csv of Roboflow: value -> name. Raises DataError for others."""
    found: dict[int, str] = {}
    value_column, name_column = _columns(text) or (0, 1)
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if number == 1 and cells and not cells[0].isdigit():
            continue
        usable = len(cells) > max(value_column, name_column) and re.fullmatch(
            r"\d{1,3}", cells[value_column]
        )
        if not usable or not cells[name_column]:
            raise DataError(
                f"{path}, line {number}: {','.join(row)[:80]!r} is no value with a name, such as 1, road"
            )
        found[int(cells[value_column])] = cells[name_column]
    return found


def _columns(text: str) -> tuple[int, int] | None:
    """The columns of values and names by the first line; None where it does not tell them, or tells colours."""
    first = next(csv.reader(text.splitlines()[:1]), [])
    heads = [cell.strip().lower().replace("_", " ") for cell in first]
    values = [heads.index(head) for head in _VALUES if head in heads]
    names = [
        heads.index(head)
        for head in _NAMES
        if head in heads and heads.index(head) not in values[:1]
    ]
    colored = {"r", "g", "b"} <= set(heads) or {"red", "green", "blue"} <= set(heads)
    return (values[0], names[0]) if values and names and not colored else None


def _of_lines(path: Path, text: str) -> ClassList | None:
    """A name a line, or a value and a name."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    pairs = [re.fullmatch(r"(\d{1,3})\s*[:=,;\t ]\s*(\S.*)", line) for line in lines]
    if all(pairs):
        return _numbered(path, {int(pair[1]): pair[2].strip() for pair in pairs if pair})
    return None if any(pairs) else _in_order(path, lines)


def _of_table(path: Path, table: Any) -> ClassList | None:
    """[name, ...], {value: name}, {name: value}, or [{id: value, name: name}, ...]."""
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
    numbered = {key: name for key, name in table.items() if re.fullmatch(r"\d{1,3}", str(key))}
    if len(numbered) == len(table):
        return _numbered(path, {int(key): name for key, name in numbered.items()})
    return _numbered(
        path, {v: n for n, v in table.items() if type(v) is int}
    )  # of regions, which nnU-Net has, none


def _in_order(path: Path, names: Sequence[str]) -> ClassList | None:
    found = _numbered(path, dict(enumerate(names)))
    return ClassList(path, found.names, numbered=False) if found else None


def _numbered(path: Path, names: Mapping[int, Any]) -> ClassList | None:
    """A list with values; None where it cannot be one of classes."""
    usable = all(
        isinstance(name, str) and 0 < len(name.strip()) <= MOST_NAME for name in names.values()
    )
    if (
        not names
        or not usable
        or len(names) > IGNORE
        or not all(0 <= value <= IGNORE for value in names)
    ):
        return None
    return ClassList(
        path, {value: name.strip() for value, name in sorted(names.items())}, numbered=True
    )
