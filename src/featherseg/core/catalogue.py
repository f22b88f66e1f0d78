"""Catalogues: featherseg's entries by name, and those of installed packages' entry points."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from featherseg.core.errors import ConfigError

T = TypeVar("T")


class Catalogue(MutableMapping[str, T]):
    """Name -> entry. Packages are searched only for an unknown name, or to list all names.

    kind: "model"; group: the group of entry points, "featherseg.models"; fits: whether another
    package's object is such an entry; expected: what it should be, for the message. Looking up a
    foreign name and listing raise ConfigError if two packages offer one name, or an entry cannot be
    loaded or does not fit; featherseg's own names always work.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, T],
        fits: Callable[[Any], bool],
        expected: str,
    ) -> None:
        self.kind, self.group, self.fits, self.expected = kind, group, fits, expected
        self._entries = dict(own)  # and loaded entries of other packages
        self._own = frozenset(own)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._entries[name] = self._load(self._offers()[name])
        return self._entries[name]

    def __setitem__(self, name: str, entry: T) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._entries, *self._offers()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _offers(self) -> dict[str, EntryPoint]:
        """Return the entry points of installed packages by name."""
        offers: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            other = offers.get(point.name)
            if (
                other and other.value != point.value
            ):  # one package may lie in two folders of sys.path
                raise ConfigError(
                    f"two installed packages offer the {self.kind} {point.name!r}: "
                    f"{_package(other)} and {_package(point)}. Uninstall one of them."
                )
            if point.name in self._own:
                raise ConfigError(
                    f"the installed package {_package(point)} offers the {self.kind} "
                    f"{point.name!r}, but featherseg has one of that name. Uninstall that package, "
                    "or have it choose another name."
                )
            offers[point.name] = point
        return offers

    def _load(self, point: EntryPoint) -> T:
        package = f"the installed package {_package(point)} ({point.value})"
        where = f"the {self.kind} {point.name!r} of {package}"
        try:
            entry = point.load()
        except Exception as error:  # importing other people's code can raise anything
            raise ConfigError(
                f"{where} cannot be loaded: {type(error).__name__}: {error}. Update or uninstall "
                "that package."
            ) from error
        if not self.fits(entry):
            raise ConfigError(f"{where} is {type(entry).__name__}, expected {self.expected}.")
        return entry


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
