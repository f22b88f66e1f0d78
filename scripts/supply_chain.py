"""Check the licences and known holes of what the package needs, and write an SBOM.

    python scripts/supply_chain.py        # part of `make check`; writes build/sbom.json

Core, training, export, OpenVINO, the service and the hub may need nothing under the GPL or AGPL,
and nothing with a proprietary licence or none; the other extras are not judged. One exception is
named each time: NVIDIA's CUDA runtime, which PyPI's torch brings on Linux; PyTorch's CPU build does
not need it. The SBOM is CycloneDX, of the whole environment. pip-audit looks up known holes; if its
database cannot be reached, the script prints that and does not fail.
"""

import importlib.metadata as metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

GATED = ("", "train", "export", "openvino", "serve", "hub")
"""The extras of featherseg that are judged; "" is the package without any."""

REFUSED = re.compile(r"(?<!L)A?GPL|(?<!Lesser )General Public", re.IGNORECASE)
PROPRIETARY = re.compile(r"Proprietary|End User License|EULA", re.IGNORECASE)
CUDA_TERMS = "NVIDIA's CUDA EULA (License.txt in the wheel; https://docs.nvidia.com/cuda/eula/)"
NVIDIA = {
    "cuda-toolkit": "NVIDIA's CUDA EULA (https://docs.nvidia.com/cuda/eula/); "
    "it has no files and names no licence",
    "nvidia-cublas": CUDA_TERMS,
    "nvidia-cuda-cccl": CUDA_TERMS,
    "nvidia-cuda-cupti": CUDA_TERMS,
    "nvidia-cuda-nvrtc": CUDA_TERMS,
    "nvidia-cuda-runtime": CUDA_TERMS,
    "nvidia-cudnn": "NVIDIA's licence for its development kits, with the part on cuDNN "
    "(License.txt in the wheel)",
    "nvidia-cufft": CUDA_TERMS,
    "nvidia-cufile": CUDA_TERMS,
    "nvidia-curand": CUDA_TERMS,
    "nvidia-cusolver": CUDA_TERMS,
    "nvidia-cusparse": CUDA_TERMS,
    "nvidia-cusparselt": "'NVIDIA Proprietary Software' "
    "(metadata; https://docs.nvidia.com/cuda/cusparselt/license.html)",
    "nvidia-nccl": "BSD-3-Clause (License.txt in the wheel), though its metadata say proprietary",
    "nvidia-nvjitlink": CUDA_TERMS,
    "nvidia-nvshmem": CUDA_TERMS,
    "nvidia-nvtx": "Apache-2.0 (License.txt in the wheel), though its metadata say proprietary",
}
"""Packages of the CUDA builds of torch 2.11 to 2.15, without a suffix such as -cu13, whose metadata
name no licence or a proprietary one -> their terms, and where these are published."""

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
    """Return a package's licence: expression, else classifiers, else the first line of its text."""
    told = metadata.metadata(name)
    classifiers = [
        row.rpartition(" :: ")[2]
        for row in told.get_all("Classifier") or []
        if row.startswith("License")
    ]
    free = (told.get("License") or "").strip().partition("\n")[0]
    return told.get("License-Expression") or ", ".join(classifiers) or free


def refused(name: str) -> str | None:
    """Why a package may not be needed, in a sentence; None where it may."""
    found = licence(name)
    if REFUSED.search(found) and " OR " not in found:
        return f"{name}: {found}. Nothing under the GPL or AGPL in core, train, export or serve."
    if without_cuda(name) in NVIDIA:
        return None
    if not found or found.upper() == "UNKNOWN":
        return f"{name}: its metadata name no licence, so it may not be needed."
    if PROPRIETARY.search(found):
        return (
            f"{name}: {found}. Nothing proprietary is allowed in core, train, export or serve "
            "but torch's CUDA runtime."
        )
    return None


def without_cuda(name: str) -> str:
    """nvidia-cudnn of nvidia-cudnn-cu13."""
    return re.sub(r"-cu\d+$", "", name)


def proprietary(names: Iterable[str]) -> list[str]:
    """Return lines on NVIDIA's packages: a heading, then the packages under each of their terms."""
    terms: dict[str, list[str]] = {}
    for name in sorted(names):
        if term := NVIDIA.get(without_cuda(name)):
            terms.setdefault(term, []).append(name)
    number = sum(map(len, terms.values()))
    head = (
        f"proprietary: {number} packages of NVIDIA's come with this torch "
        "(its CPU build needs none)"
    )
    return (
        [head, *(f"  {', '.join(under)}: {term}" for term, under in terms.items())] if terms else []
    )


def holes() -> tuple[list[str], int]:
    """-> (known holes in the installed packages, how many packages could not be looked up)."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "-f", "json"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if not done.stdout.strip():
        return [], -1
    packages = json.loads(done.stdout)["dependencies"]
    found = []
    for package in packages:
        for hole in package.get("vulns", []):
            mended = ", ".join(hole["fix_versions"]) or "no version yet"
            found.append(
                f"{package['name']} {package['version']}: {hole['id']}, mended in {mended}"
            )
    return found, sum("skip_reason" in package for package in packages)


def main() -> int:
    """Print what was found; -> 1 where a licence is refused or a hole is known."""
    names = sorted(needed(GATED))
    complaints = [text for name in names if (text := refused(name))]
    SBOM.parent.mkdir(exist_ok=True)
    command = [
        "environment",
        sys.executable,
        "--pyproject",
        "pyproject.toml",
        "--mc-type",
        "library",
    ]
    subprocess.run([sys.executable, "-m", "cyclonedx_py", *command, "-o", str(SBOM)], check=True)
    parts = len(json.loads(SBOM.read_text(encoding="utf-8"))["components"])
    print(
        f"licences: {len(names)} packages needed, {len(complaints)} refused; "
        f"{SBOM} lists {parts} installed ones"
    )
    for text in proprietary(names):
        print(text)
    found, unknown = holes()
    if unknown:
        print(
            f"holes: SKIPPED for {'all' if unknown < 0 else unknown} packages, "
            "the database could not be reached"
        )
    for text in (*complaints, *found):
        print(text)
    return 1 if complaints or found else 0


if __name__ == "__main__":
    sys.exit(main())
