"""`featherseg doctor`: what works on this machine, what is missing, and how to install it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import AsJson
from featherseg.core.wording import json_text, one_line

if TYPE_CHECKING:
    from featherseg.core.installation import Finding

MARKS = {"ok": " ", "missing": "-", "warning": "!", "broken": "x"}
TITLES = {"broken": "broken", "warning": "worth fixing", "missing": "not installed"}


def doctor(
    try_extras: Annotated[
        bool,
        typer.Option(
            "--try-extras", help="Try every installed extra: one step, one export (20 s of a core)."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print versions, devices, compiled loops, folders and extras; for each fault how to fix it.

    Installed extras that take about a second are tried: a frame is encoded, a form is answered.
    --try-extras tries the others too: a step is trained, a layer is exported and run. Exit code 0
    if everything needed works, 1 if something is broken: a core package that is missing or cannot
    be imported, a package version that cannot be used, an extra that fails. A missing extra is not
    a fault.
    """
    from featherseg.core.installation import installation, is_healthy, usable_extras

    findings = installation(machine="featherseg.cli.machine_findings")
    if is_healthy([finding for finding in findings if finding.section == "core"]):
        from featherseg.cli import probes

        findings += probes.findings(usable_extras(findings), all_of_them=try_extras)
    if as_json:
        content = {
            "healthy": is_healthy(findings),
            "findings": [asdict(finding) for finding in findings],
        }
        print(json_text(content))
    else:
        _print(findings)
    if not is_healthy(findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    """Print plain lines, one per finding, because rich may be what is broken.

    A package that several extras need is printed under the first of them.
    """
    width = max(len(finding.name) for finding in findings)
    section = ""
    first = {(finding.name, finding.found): finding for finding in reversed(findings)}
    for finding in findings:
        if first[finding.name, finding.found] is not finding:
            continue
        if finding.section != section:
            section = finding.section
            print(section)
        print(one_line(f" {MARKS[finding.state]} {finding.name:<{width}}  {finding.found}"))
    print()
    for state, title in TITLES.items():
        alike = [finding for finding in findings if finding.state == state]
        for remedy in dict.fromkeys(finding.remedy for finding in alike):
            names = ", ".join(finding.name for finding in alike if finding.remedy == remedy)
            print(f"{title}: {names}\n    {remedy}")
    broken = any(finding.state == "broken" for finding in findings)
    print("something is broken: see above" if broken else "all that is needed works")
