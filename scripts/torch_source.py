"""Choose where `make setup` gets torch from, so that a CPU does not download the CUDA build.

    .venv/bin/python scripts/torch_source.py 2.13.0     # with CPU=1: the CPU build, or an error

PyPI's torch for Linux is the CUDA build, several gigabytes. The script uses only the standard
library because nothing is installed yet. It prints what will be downloaded to stderr, and an option
for pip, if one is needed, to stdout. The exit code is 1 if CPU=1 is set and no CPU build is found.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from importlib import metadata
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE = 5
"""Seconds until the index of CPU builds counts as out of reach."""
CPU_SIZE, CUDA_SIZE = "about 0.7 GB to fetch, 2.3 GB on disk", "about 3.2 GB to fetch, 6 GB on disk"
"""Of the whole environment under constraints.txt with torch 2.13.0, Linux on x86-64."""


def nvidia_device() -> bool:
    """Whether the system has an NVIDIA device with its driver."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def at_hand(version: str) -> str | None:
    """Return the build in .venv ("cpu", "cuda"), else the one that pip finds without an index."""
    try:
        if metadata.version("torch").partition("+")[0] == version:
            return _build(metadata.version("torch"), metadata.requires("torch") or [])
    except metadata.PackageNotFoundError:
        pass
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
    ]
    command += ["--no-index", "--report", "-", f"torch=={version}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        return None
    found = json.loads(done.stdout)["install"][0]["metadata"]
    return _build(found["version"], found.get("requires_dist", []))


def _build(version: str, requires: list[str]) -> str:
    return (
        "cuda"
        if not version.endswith("+cpu") and re.search("nvidia|cuda", " ".join(requires))
        else "cpu"
    )


def reachable(url: str) -> bool:
    """Whether an index answers soon, by way of the proxies that the environment names."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except (OSError, ValueError):
        return False


def choose(version: str, forced: bool) -> tuple[str | None, str]:
    """Return (extra index for pip, message); raise SystemExit if no forced CPU build is found."""
    build = at_hand(version)
    if build == "cpu" or (build and not forced):
        return None, f"torch {version} for {build.upper()} is at hand and is taken"
    if sys.platform != "linux":
        return None, f"PyPI's torch for this system is without CUDA: {CPU_SIZE}"
    if not forced and nvidia_device():
        return (
            None,
            f"an NVIDIA device is here: PyPI's torch with CUDA, {CUDA_SIZE} "
            "(make setup CPU=1: without)",
        )
    why = "CPU=1" if forced else "no NVIDIA device here"
    if reachable(f"{CPU_INDEX}/torch/"):
        return CPU_INDEX, f"{why}: torch's CPU build from {CPU_INDEX}, {CPU_SIZE}"
    answer = f"{CPU_INDEX} cannot be reached"
    if forced:
        raise SystemExit(
            f"setup: CPU=1, but {answer}, and pip has no other source of torch's CPU build. "
            f"Make it reachable, put torch-{version}+cpu-*.whl into a folder "
            "that PIP_FIND_LINKS names, or run without CPU=1."
        )
    return None, f"{why}, but {answer}: going on with PyPI's torch, which brings CUDA, {CUDA_SIZE}"


if __name__ == "__main__":
    index, told = choose(sys.argv[1], forced=bool(os.environ.get("CPU")))
    print(f"setup: {told}", file=sys.stderr)
    if index:
        print(f"--extra-index-url={index}")
