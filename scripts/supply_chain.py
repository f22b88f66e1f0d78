"""What the package is made of: a gate on licences, an SBOM, and known holes in the versions installed here.

    python scripts/supply_chain.py        # part of `make check`; writes build/sbom.json

Core, training, export, OpenVINO and the service may need nothing under the GPL or AGPL, nor anything whose licence is
not stated; the other extras are not judged. The SBOM is CycloneDX, of the whole environment. Holes are looked up by
pip-audit; where its database cannot be reached that is said, and is no failure.
"""

import importlib.metadata as metadata
import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

GATED = ("", "train", "export", "openvino", "serve")
"""The extras of featherseg that are judged; "" is the package without any."""

REFUSED = re.compile(r"(?<!L)A?GPL|(?<!Lesser )General Public", re.IGNORECASE)
SBOM = Path("build/sbom.json")


def needed(extras: tuple[str, ...]) -> set[str]:
    """Every installed package that featherseg with these extras needs, directly or not."""
    waiting, seen = [("featherseg", extra) for extra in extras], set()
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen} - {"featherseg"}


def licence(name: str) -> str:
    """What a package's metadata say: the expression, else its classifiers, else the first line of the text."""
    told = metadata.metadata(name)
    classifiers = [row.rpartition(" :: ")[2] for row in told.get_all("Classifier") or [] if row.startswith("License")]
    free = (told.get("License") or "").strip().partition("\n")[0]
    return told.get("License-Expression") or ", ".join(classifiers) or free


def refused(name: str) -> str | None:
    """Why a package may not be needed, in a sentence; None where it may."""
    found = licence(name)
    if not found or found.upper() == "UNKNOWN":
        return f"{name}: its metadata name no licence, so that nobody can say whether it may be needed."
    if REFUSED.search(found) and " OR " not in found:
        return f"{name}: {found}. Nothing under the GPL or AGPL in core, train, export or serve."
    return None


def holes() -> tuple[list[str], int]:
    """-> (known holes in the installed packages, how many packages could not be looked up)."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        return [], -1
    packages = json.loads(done.stdout)["dependencies"]
    found = []
    for package in packages:
        for hole in package.get("vulns", []):
            mended = ", ".join(hole["fix_versions"]) or "no version yet"
            found.append(f"{package['name']} {package['version']}: {hole['id']}, mended in {mended}")
    return found, sum("skip_reason" in package for package in packages)


def main() -> int:
    """Print what was found; -> 1 where a licence is refused or a hole is known."""
    names = sorted(needed(GATED))
    complaints = [text for name in names if (text := refused(name))]
    SBOM.parent.mkdir(exist_ok=True)
    command = ["environment", sys.executable, "--pyproject", "pyproject.toml", "--mc-type", "library"]
    subprocess.run([sys.executable, "-m", "cyclonedx_py", *command, "-o", str(SBOM)], check=True)
    parts = len(json.loads(SBOM.read_text(encoding="utf-8"))["components"])
    print(f"licences: {len(names)} packages needed, {len(complaints)} refused; {SBOM} lists {parts} installed ones")
    found, unknown = holes()
    if unknown:
        print(f"holes: SKIPPED for {'all' if unknown < 0 else unknown} packages, the database could not be reached")
    for text in (*complaints, *found):
        print(text)
    return 1 if complaints or found else 0


if __name__ == "__main__":
    sys.exit(main())
