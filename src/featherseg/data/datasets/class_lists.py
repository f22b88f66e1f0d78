"""Class lists of the benchmarks: NAME.toml in this folder, one line a class."""

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from featherseg.core.types import ClassInfo, DataFacts
from featherseg.data.images.palettes import parse_color


@cache
def read_classes(name: str) -> dict[int, ClassInfo]:
    """Return {the dataset's number of a class: class} from NAME.toml, in the order of class ids.

    A line is `number = [name, colour]`, with "thing" as third entry for a thing.
    """
    text = (Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8")
    return {
        int(number): ClassInfo(class_name, parse_color(color), thing=kind == ["thing"])
        for number, (class_name, color, *kind) in tomllib.loads(text)["classes"].items()
    }


class LazyFacts:
    """The `facts` of a dataset, made on first use: importing the datasets reads no class list."""

    def __init__(self, make: Callable[[], DataFacts]) -> None:
        self.make = cache(make)

    def __get__(self, instance: object, owner: type) -> DataFacts:
        return self.make()
