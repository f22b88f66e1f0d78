"""A catalogue: what featherseg has by name, and what installed packages add to it by an entry point."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from featherseg.core.errors import ConfigError

T = TypeVar("T")


class Catalogue(MutableMapping[str, T]):
    """Name -> entry. Packages are looked for only where a name is not featherseg's own, or all names are asked for.

    kind: "model"; group: of their entry points, "featherseg.models"; fits: whether an object of another package is
    such an entry; expected: what that is, for the message. Looking for a name and listing raise ConfigError where two
    packages offer one name, or one cannot be loaded or is something else; featherseg's own names always work.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, T], fits: Callable[[Any], bool], expected: str) -> None:
        self.kind, self.group, self.fits, self.expected = kind, group, fits, expected
        self._entries = dict(own)  # and what was loaded of other packages
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
        """The entry points of installed packages, by name."""
        offers: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            other = offers.get(point.name)
            if other and other.value != point.value:  # one package may be found twice, in two folders of sys.path
                raise ConfigError(
                    f"two installed packages offer the {self.kind} {point.name!r}: {_package(other)} and "
                    f"{_package(point)}. Uninstall one of them."
                )
            if point.name in self._own:
                raise ConfigError(
                    f"the installed package {_package(point)} offers the {self.kind} {point.name!r}, but featherseg "
                    f"has one of that name. Uninstall that package, or have it choose another name."
                )
            offers[point.name] = point
        return offers

    def _load(self, point: EntryPoint) -> T:
        where = f"the {self.kind} {point.name!r} of the installed package {_package(point)} ({point.value})"
        try:
            entry = point.load()
        except Exception as error:  # any that importing other people's code can raise
            raise ConfigError(
                f"{where} cannot be loaded: {type(error).__name__}: {error}. Update or uninstall that package."
            ) from error
        if not self.fits(entry):
            raise ConfigError(f"{where} is {type(entry).__name__}, expected {self.expected}.")
        return entry


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
