"""The package's requirements, from its metadata, and which of them are here. Nothing but the standard library."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

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
    """All requirements in the order of the metadata, extras of extras resolved, those of development left out.

    Empty where the package was not installed but found on the path.
    """
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    rows = [_parse(line) for line in lines]
    within = {row.extra: _named_extras(row.name) for row in rows if row.name.startswith(f"{PACKAGE}[")}
    plain = [row for row in rows if not row.name.startswith(f"{PACKAGE}[") and row.extra != "dev"]
    inherited = [
        Requirement(row.name, row.versions, extra)
        for extra, others in within.items()
        for row in plain
        if row.extra in others and extra != "dev"
    ]
    order = list(dict.fromkeys(row.extra for row in rows))
    return sorted([*plain, *inherited], key=lambda row: order.index(row.extra))  # stable: else as in the metadata


def satisfies(version: str, versions: str) -> bool:
    """Whether "2.13.0+cpu" is one of ">=2.10,<3": as PEP 440 has it, for final releases."""
    return all(_satisfies(_release(version), part.strip()) for part in versions.split(",") if part.strip())


def import_faults(modules: Iterable[str]) -> dict[str, str]:
    """Module -> why it cannot be imported, of those that cannot; tried in a process of its own, which may die of it."""
    rest: list[str] = list(modules)
    faults: dict[str, str] = {}
    while rest:
        told = _try_imports(rest)
        faults |= {name: fault for name, fault in told.items() if fault}
        rest = [name for name in rest if name not in told] if told else []
    return faults


def _try_imports(modules: list[str]) -> dict[str, str | None]:
    command = [sys.executable, "-W", "ignore", "-c", _TRY_IMPORTS, *modules]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {modules[0]: f"importing it takes longer than {IMPORT_SECONDS} s"}
    told: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        try:
            name, fault = json.loads(line)
        except ValueError:  # what a module prints while it is imported
            continue
        told[name] = fault
    return told


def _parse(line: str) -> Requirement:
    """`lightning<2.7,>=2.6; extra == "train"` -> Requirement. A requirement on this package keeps its brackets."""
    what, _, marker = line.partition(";")
    extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
    name, versions = re.match(r"\s*([A-Za-z0-9._-]+(?:\[[^\]]*\])?)\s*(.*)", what).groups()  # type: ignore[union-attr]
    return Requirement(name.lower(), versions.strip().strip("()"), extra[1] if extra else CORE)


def _named_extras(name: str) -> list[str]:
    return [extra.strip() for extra in name.partition("[")[2].rstrip("]").split(",")]


def _release(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu"."""
    found = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _satisfies(found: tuple[int, ...], part: str) -> bool:
    sign, text = re.match(r"(~=|==|!=|<=|>=|<|>)\s*(.*)", part).groups()  # type: ignore[union-attr]
    asked = _release(text)
    if text.endswith(".*") or sign == "~=":
        same = found[: len(asked) - (sign == "~=")] == asked[: len(asked) - (sign == "~=")]
        return same != (sign == "!=") and (sign != "~=" or found >= asked)
    width = max(len(found), len(asked))
    a, b = (release + (0,) * (width - len(release)) for release in (found, asked))
    return {"==": a == b, "!=": a != b, "<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b}[sign]
