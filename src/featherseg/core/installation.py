"""Findings on the installation, each with the command that repairs it.

The package's requirements are read from its metadata. Only the standard library and packaging are
imported, so that it works when all else is broken.
"""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from featherseg._version import __version__

PACKAGE, CORE, TORCH = "featherseg", "", "torch"
IMPORT_SECONDS = 180
SYSTEM = f"{platform.system()} on {platform.machine()}"
ELSEWHERE = "export on Linux on x86-64, and copy the file here"
"""What to do about an exporter that is not published for this system."""

_IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}
"""Package -> its module, if the names differ."""

_TRY_IMPORTS = """
import importlib, json, runpy, sys
last, *names = sys.argv[1:]
for name in names:
    print(json.dumps([name, "the process died while importing it"]), flush=True)
    try:
        importlib.import_module(name)
        fault = None
    except BaseException as error:
        fault = f"{type(error).__name__}: {error}"
    print(json.dumps([name, fault]), flush=True)
if last:
    runpy.run_module(last, run_name="__main__")
"""


@dataclass(frozen=True)
class Requirement:
    """One line of the package's metadata: `torch>=2.10` is ("torch", ">=2.10", "").

    extra: the extra that requires it, "" for the core; published: whether it exists for this
    system and processor.
    """

    name: str
    versions: str
    extra: str
    published: bool = True

    @property
    def module(self) -> str:
        """The name of its module."""
        return _IMPORT_NAMES.get(self.name, self.name.replace("-", "_"))

    @property
    def found(self) -> str | None:
        """The installed version; None without one."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return None


def requirements() -> list[Requirement]:
    """Return all requirements: the core, then each extra with the extras it names.

    Extras for development are skipped. Empty if the package is not installed but found on the path;
    only packaging if that is missing.
    """
    try:
        from packaging.requirements import Requirement as Line

        lines = [Line(line) for line in metadata.requires(PACKAGE) or []]
        extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
    except ImportError:
        return [Requirement("packaging", "", CORE)]

    def extra_of(line: Line) -> str:
        named = re.search(r'extra == "(.+?)"', str(line.marker))
        return named[1] if named else CORE

    def asked_by(extra: str) -> list[Line]:
        own = [line for line in lines if extra_of(line) == extra]
        named = [inner for line in own if line.name == PACKAGE for inner in sorted(line.extras)]
        return [line for line in own if line.name != PACKAGE] + [
            line for inner in named for line in asked_by(inner)
        ]

    return [
        Requirement(
            line.name.lower(),
            str(line.specifier),
            extra,
            line.marker is None or line.marker.evaluate({"extra": extra_of(line)}),
        )
        for extra in (CORE, *extras)
        if extra != "dev"
        for line in asked_by(extra)
    ]


def satisfies(version: str, versions: str) -> bool:
    """Whether a version such as "2.13.0+cpu" is in ">=2.10,<3"; None is in none."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(versions).contains(version, prereleases=True)
    except InvalidVersion:
        return False


def import_faults(modules: Iterable[str], last: str = "") -> tuple[dict[str, str], list[Any]]:
    """Import the modules in a separate process, which may crash, then run the module `last` there.

    Returns:
        (module -> why it cannot be imported, the JSON objects that `last` printed, one a line)
    """
    remaining: list[str] = list(modules)
    faults: dict[str, str] = {}
    printed: list[Any] = []
    while remaining:
        tried, printed = _try_imports(remaining, last)
        faults |= {name: fault for name, fault in tried.items() if fault}
        remaining = [name for name in remaining if name not in tried] if tried else []
    return faults, printed


def _try_imports(modules: list[str], last: str) -> tuple[dict[str, str | None], list[Any]]:
    command = [sys.executable, "-W", "ignore", "-c", _TRY_IMPORTS, last, *modules]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {modules[0]: f"importing it takes longer than {IMPORT_SECONDS} s"}, []
    tried: dict[str, str | None] = {}
    printed = []
    for line in done.stdout.splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # a module's own output during the import
            continue
        match content:
            case [str(name), fault]:
                tried[name] = fault
            case dict():
                printed.append(content)
    return tried, printed


State = Literal["ok", "missing", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line: section, name, what was found, its state, and the remedy if it is not "ok".

    "broken": the core or an installed extra does not work; "missing": optional; "warning": may cost
    time or space.
    """

    section: str
    name: str
    found: str
    state: State = "ok"
    remedy: str | None = None


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether everything required works."""
    return all(finding.state != "broken" for finding in findings)


def installation(machine: str) -> list[Finding]:
    """Return findings on versions, core packages (each imported once), extras and the machine.

    The packages of [torch] are imported too, if they are installed.

    machine: the module that prints its findings as JSON, one a line, when run. It runs in the
    process that imported these packages, so that torch is imported once.
    """
    required = requirements()
    core = [row for row in required if row.extra == CORE]
    imported = [row for row in required if row.extra in (CORE, TORCH)]
    modules = [row.module for row in imported if row.found] or ["torch", "numpy"]
    faults, rows = import_faults(modules, last=machine)
    findings = [*_versions(), *(_core_package(row, faults.get(row.module)) for row in core)]
    if not required:
        # On the path but not installed: its requirements are unknown
        tried = (
            "; ".join(f"{name}: {fault}" for name, fault in faults.items())
            or "torch and numpy can be imported"
        )
        state: State = "broken" if faults else "warning"
        found = f"is not installed, but runs from a folder; {tried}"
        findings.append(Finding("core", PACKAGE, found, state, "pip install -e . in its checkout"))
    extras = [row for row in required if row.extra != CORE]
    for row in extras:
        finding = _package(row, _section(row.extra), f"'{PACKAGE}[{row.extra}]'")
        findings.append(_imported(finding, row, faults.get(row.module)))
    if faults or not rows:
        return [*findings, Finding("machine", "the rest", "not checked: the core does not work")]
    return findings + [Finding(**row) for row in rows]


def usable_extras(findings: Sequence[Finding]) -> list[str]:
    """Return the extras whose packages are all installed in a usable version."""
    extras = dict.fromkeys(row.extra for row in requirements() if row.extra != CORE)
    unusable = {finding.section for finding in findings if finding.state != "ok"}
    return [extra for extra in extras if _section(extra) not in unusable]


def reinstall(*packages: str) -> str:
    """Return the command that reinstalls damaged packages without their requirements."""
    return f"pip install --force-reinstall --no-deps {' '.join(packages)}"


def _section(extra: str) -> str:
    return f"extra [{extra}]"


def _versions() -> list[Finding]:
    place = Path(__file__).resolve().parents[1]
    return [
        Finding("versions", "featherseg", f"{__version__} in {place}"),
        Finding("versions", "python", f"{platform.python_version()} ({sys.executable})"),
        Finding("versions", "system", platform.platform()),
    ]


def _core_package(row: Requirement, fault: str | None) -> Finding:
    finding = _package(row, "core", f"'{row.name}{row.versions}'")
    if finding.state == "missing":
        return Finding("core", row.name, finding.found, "broken", finding.remedy)
    return _imported(finding, row, fault)


def _imported(finding: Finding, row: Requirement, fault: str | None) -> Finding:
    """Return a finding, or that the package cannot be imported."""
    if fault and finding.state == "ok":
        found = f"{row.found}, but it cannot be imported: {fault}"
        return Finding(finding.section, row.name, found, "broken", reinstall(row.name))
    return finding


def _package(row: Requirement, section: str, what: str) -> Finding:
    wanted = f"{row.versions} required" if row.versions else "any version will do"
    if row.found is None and not row.published:
        found = f"not published for {SYSTEM}, {wanted}"
        return Finding(section, row.name, found, "missing", ELSEWHERE)
    if row.found is None:
        return Finding(
            section, row.name, f"not installed, {wanted}", "missing", f"pip install {what}"
        )
    if satisfies(row.found, row.versions):
        return Finding(section, row.name, f"{row.found}, {wanted}")
    remedy = f"pip install --upgrade '{row.name}{row.versions}'"
    return Finding(section, row.name, f"{row.found}, but {wanted}", "broken", remedy)
