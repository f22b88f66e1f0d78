"""What of featherseg is installed here, and whether it can be used: findings, each with the command that mends it.

Nothing but the standard library and packaging is imported: this answers where all else is broken.
"""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featherseg._version import __version__
from featherseg.core.requirements import CORE, PACKAGE, Requirement, import_faults, requirements, satisfies

State = Literal["ok", "missing", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line: section and name of what was looked at, what was found, its state, and what to do where not "ok".

    "broken" keeps the core or an installed extra from working; "missing" is optional; "warning" may cost time or room.
    """

    section: str
    name: str
    found: str
    state: State = "ok"
    remedy: str | None = None


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether all that is needed works."""
    return all(finding.state != "broken" for finding in findings)


def installation() -> list[Finding]:
    """Versions, the core packages, each imported once in another process, and those of the extras by their version."""
    asked = requirements()
    core = [row for row in asked if row.extra == CORE]
    faults = import_faults([row.module for row in core if row.found] or ["torch", "numpy"])
    findings = [*_versions(), *(_core_package(row, faults.get(row.module)) for row in core)]
    if not asked:
        findings.append(_no_metadata(faults))
    extras = [row for row in asked if row.extra != CORE]
    return findings + [_package(row, _section(row.extra), f"'{PACKAGE}[{row.extra}]'") for row in extras]


def usable_extras(findings: Sequence[Finding]) -> list[str]:
    """The extras whose packages are all here, each in a version that can be used."""
    extras = dict.fromkeys(row.extra for row in requirements() if row.extra != CORE)
    unusable = {finding.section for finding in findings if finding.state != "ok"}
    return [extra for extra in extras if _section(extra) not in unusable]


def reinstall(package: str) -> str:
    """The command that replaces a package that is damaged."""
    return f"pip install --force-reinstall {package}"


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
    if fault and finding.state == "ok":
        words = f"{row.found}, but it cannot be imported: {fault}"
        return Finding("core", row.name, words, "broken", reinstall(row.name))
    return finding


def _package(row: Requirement, section: str, what: str) -> Finding:
    wanted = f"{row.versions} required" if row.versions else "any version will do"
    if row.found is None:
        return Finding(section, row.name, f"not installed, {wanted}", "missing", f"pip install {what}")
    if satisfies(row.found, row.versions):
        return Finding(section, row.name, f"{row.found}, {wanted}")
    return Finding(section, row.name, f"{row.found}, but {wanted}", "broken", f"pip install --upgrade {what}")


def _no_metadata(faults: dict[str, str]) -> Finding:
    """The package lies on the path but was not installed: which packages it needs is not known here."""
    told = "; ".join(f"{name}: {fault}" for name, fault in faults.items()) or "torch and numpy can be imported"
    words = f"is not installed, but runs from a folder; {told}"
    return Finding("core", PACKAGE, words, "broken" if faults else "warning", "pip install -e . in its checkout")
