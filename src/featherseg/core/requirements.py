"""The package's requirements, from its metadata, and which of them are here."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

PACKAGE, CORE = "featherseg", ""
IMPORT_SECONDS = 180
_IMPORT_NAMES = {"pillow": "PIL"}
"""Where the module has another name than the package."""

_TRY_IMPORTS = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps([name, "the process died while importing it"]), flush=True)
    try:
        importlib.import_module(name)
        fault = None
    except BaseException as error:
        fault = f"{type(error).__name__}: {error}"
    print(json.dumps([name, fault]), flush=True)
"""


@dataclass(frozen=True)
class Requirement:
    """One line of the package's metadata: `torch>=2.10` is ("torch", ">=2.10", "").

    extra: the extra that asks for it, "" for the core.
    """

    name: str
    versions: str
    extra: str

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return _IMPORT_NAMES.get(self.name, self.name.replace("-", "_"))

    @property
    def found(self) -> str | None:
        """The version that is installed; None where none is."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return None


def requirements() -> list[Requirement]:
    """All requirements: the core, then each extra with those of the extras that it names; without those of development.

    Empty where the package was not installed but found on the path; packaging alone where that is what is missing.
    """
    try:
        from packaging.requirements import Requirement as Line

        lines = [Line(line) for line in metadata.requires(PACKAGE) or []]
        extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
    except ImportError:
        return [Requirement("packaging", "", CORE)]

    def asked_by(extra: str) -> list[Line]:
        own = [line for line in lines if (line.marker is None) == (extra == CORE)]
        own = [line for line in own if line.marker is None or line.marker.evaluate({"extra": extra})]
        named = [inner for line in own if line.name == PACKAGE for inner in sorted(line.extras)]
        return [line for line in own if line.name != PACKAGE] + [line for inner in named for line in asked_by(inner)]

    return [
        Requirement(line.name.lower(), str(line.specifier), extra)
        for extra in (CORE, *extras)
        if extra != "dev"
        for line in asked_by(extra)
    ]


def satisfies(version: str, versions: str) -> bool:
    """Whether "2.13.0+cpu" is one of ">=2.10,<3"; no version at all is none of them."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(versions).contains(version, prereleases=True)
    except InvalidVersion:
        return False


def import_faults(modules: Iterable[str]) -> dict[str, str]:
    """Module -> why it cannot be imported, of those that cannot; tried in a process of its own, which may die of it."""
    rest: list[str] = list(modules)
    faults: dict[str, str] = {}
    while rest:
        tried = _try_imports(rest)
        faults |= {name: fault for name, fault in tried.items() if fault}
        rest = [name for name in rest if name not in tried] if tried else []
    return faults


def _try_imports(modules: list[str]) -> dict[str, str | None]:
    command = [sys.executable, "-W", "ignore", "-c", _TRY_IMPORTS, *modules]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {modules[0]: f"importing it takes longer than {IMPORT_SECONDS} s"}
    tried: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        try:
            name, fault = json.loads(line)
        except ValueError:  # what a module prints while it is imported
            continue
        tried[name] = fault
    return tried
