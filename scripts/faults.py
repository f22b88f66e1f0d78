"""Plants single faults in a copy of the package, one at a time, and records which tests catch each.

    python scripts/faults.py [NAME ...]

The faults stand in scripts/faults.toml. What was found is added to scripts/faults.jsonl, a line a fault; one that has a
line is not planted again, so that a stopped run goes on and a line that is taken out is measured anew. The tests of the
spoiled file are run first, then those of its folder, then all quick ones, until some fail. Exit code 1 where nobody
catches a fault. It is to be run where `make test` passes, and takes ten minutes for each fault that nobody catches.
Faults in C need a compiler.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST, FOUND = ROOT / "scripts" / "faults.toml", ROOT / "scripts" / "faults.jsonl"
COPY = ROOT / "build" / "faults"

NAMED = 5
"""Tests that are named of those which catch a fault: the others are not waited for."""

SECONDS = 1800
"""After which tests that do not end have caught a fault as well."""


def main(names: Sequence[str]) -> int:
    """Plant what is named, or all, and has no line yet; -> 1 where some fault was caught by nobody."""
    faults = {fault["name"]: fault for fault in tomllib.loads(LIST.read_text(encoding="utf-8"))["fault"]}
    if unknown := set(names) - set(faults):
        sys.exit(f"no such fault in {LIST.name}: {', '.join(sorted(unknown))}")
    lines = FOUND.read_text(encoding="utf-8").splitlines() if FOUND.is_file() else []
    found = {row["fault"]: row for row in map(json.loads, lines)}
    for name, fault in faults.items():
        if name in found or (names and name not in names):
            continue
        found[name] = row = {"fault": name, "file": fault["file"], **measure(fault)}
        with FOUND.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{name}: {row['caught_by'][0] if row['caught_by'] else 'CAUGHT BY NOBODY'} ({row['seconds']} s)",
            flush=True,
        )
    missed = [name for name in faults if name in found and not found[name]["caught_by"]]
    print(f"{len(found)} of {len(faults)} planted; caught by nobody: {', '.join(missed) or 'none'}")
    return bool(missed)


def measure(fault: dict[str, str]) -> dict[str, object]:
    """Plant one fault in a fresh copy of HEAD and run tests until some fail."""
    began = time.monotonic()
    shutil.rmtree(COPY, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", ROOT, COPY], check=True)
    for built in (ROOT / "src/featherseg/kernels").glob("*.so"):
        shutil.copy(built, COPY / built.relative_to(ROOT))
    spoiled = COPY / "src" / "featherseg" / fault["file"]
    text = spoiled.read_text(encoding="utf-8")
    if text.count(fault["old"]) != 1:
        sys.exit(
            f"{fault['name']}: the text stands {text.count(fault['old'])} times in {fault['file']}, expected once."
        )
    spoiled.write_text(text.replace(fault["old"], fault["new"]), encoding="utf-8")
    if spoiled.suffix in {".c", ".h"}:
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"], cwd=COPY, check=True)

    # the nearest tests first: most faults are caught there, in seconds
    own = sorted(COPY.glob(f"tests/**/test_{spoiled.stem.strip('_').removesuffix('_loops')}*.py"))
    folder = COPY / "tests" / Path(fault["file"]).parts[0].replace("exporters", "export")
    caught: list[str] = []
    for places in (own, [folder] if folder.is_dir() else [], [COPY / "tests"]):
        caught = caught or (failures(places) if places else [])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    return {"caught_by": caught, "seconds": round(time.monotonic() - began), "commit": commit.stdout.strip()}


def failures(places: Sequence[Path]) -> list[str]:
    """The first quick tests of these files or folders that fail, at most NAMED."""
    command = [sys.executable, "-m", "pytest", *places, "-n", "2", "--dist", "worksteal", "-m", "not slow and not gpu"]
    command += ["--tb=no", "-p", "no:cacheprovider", f"--maxfail={NAMED}"]
    environment = os.environ | {"PYTHONPATH": str(COPY / "src"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=COPY, env=environment, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    ) as tests:
        try:
            output, _ = tests.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return [f"(no end within {SECONDS} s)"]
        finally:  # pytest's workers and what they started go with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tests.pid, signal.SIGKILL)
    told = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [line.partition(" ")[2].split(" - ")[0] for line in told][:NAMED]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
