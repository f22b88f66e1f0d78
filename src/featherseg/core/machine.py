"""This machine: the device to run on, and the facts on which timings and figures depend.

The records contain no name of a host, a user or a folder.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import psutil

from featherseg._version import __version__
from featherseg.core.errors import DeviceError
from featherseg.core.processors import apple_flags, arm_cores, processor_name, read_cpuinfo

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "numpy", "pillow", "onnxruntime", "openvino", "nncf", "ncnn", "ai-edge-litert")

CPU_FACTS = {
    "Architecture:": "architecture",
    "Model name:": "processor",
    "CPU family:": "cpu_family",
    "Model:": "cpu_model",
    "CPU(s):": "logical_cores",
    "Thread(s) per core:": "threads_per_core",
    "Socket(s):": "sockets",
    "CPU max MHz:": "max_mhz",
    "L1d cache:": "l1d_cache",
    "L2 cache:": "l2_cache",
    "L3 cache:": "l3_cache",
    "Hypervisor vendor:": "hypervisor",
}
"""Field of lscpu -> key of the record."""

CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sme",
)
"""Instruction sets that decide the speed of models."""

VARIABLES = (
    "ATEN_",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_",
    "FEATHERSEG_ALLOCATOR",
    "FEATHERSEG_NO_EXT",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LD_PRELOAD",
    "MALLOC_",
    "MKL_",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "OV_",
    "THP_MEM_ALLOC_ENABLE",
    "TORCH_",
    "TORCHINDUCTOR_",
)
"""Environment variables that affect timings: their names or prefixes."""


def machine() -> dict[str, Any]:
    """Return plain values on processor, memory, system, versions, variables, GPUs and load."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **processor(),
        "usable_cores": usable_cores(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "featherseg": __version__,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "transparent_hugepages": _first_line(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
        "gpus": _gpus(),
        "load_average": load_average(),
    }


def usable_cores() -> int:
    """Return the number of usable logical cores: the affinity, and on Linux the cgroup's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores, cgroup_cores() or cores)


@cache
def cgroup_cores(root: Path = Path("/")) -> int | None:
    """Return the cores of this process' cgroup quota, rounded up; None without a quota.

    The lowest quota of the group and its parents counts. A container often sees its group as the
    root.
    """
    shares = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = (
            fields if len(fields := line.split(":", 2)) == 3 else ("", "none", "")
        )
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = (
            root / "sys/fs/cgroup" / (controllers and "cpu")
        )  # version 2 has no controllers here
        group = PurePosixPath(place.lstrip("/"))
        for folder in (mount / part for part in (group, *group.parents)):
            if controllers:
                words = [
                    *_lines(folder / "cpu.cfs_quota_us"),
                    *_lines(folder / "cpu.cfs_period_us"),
                ]
            else:
                words = " ".join(_lines(folder / "cpu.max")).split()
            if len(words) == 2 and words[0] not in ("max", "-1"):
                shares.append(int(words[0]) / int(words[1]))
    return max(1, math.ceil(min(shares))) if shares else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []


def torch_thread_count() -> int:
    """Return torch's number of threads; if torch is not imported, the one it would have."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    return min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())


def default_threads() -> int:
    """Return the default number of threads of a model: torch's, at most one per usable core."""
    return min(torch_thread_count(), usable_cores())


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Let torch use `count` threads in the block, by default `default_threads`."""
    import torch

    before, wanted = torch.get_num_threads(), count or default_threads()
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_average() -> float | None:
    """Return the average number of runnable processes in the last minute; None if unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def processor_text(facts: dict[str, Any]) -> str:
    """Return `AMD EPYC (family 25, model 17)`: virtual machines name several generations alike."""
    kind = ", ".join(
        f"{key.removeprefix('cpu_')} {facts[key]}"
        for key in ("cpu_family", "cpu_model")
        if key in facts
    )
    return (facts["processor"] or facts["system"]) + (f" ({kind})" if kind else "")


def machine_text(facts: dict[str, Any]) -> str:
    """Return `AMD EPYC (family 25, model 17), 2 cores, 23 GiB; Linux 6.1; torch 2.13.0, ...`."""
    gpus = "".join(f"; {gpu['name']}" for gpu in facts["gpus"])
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    size = f"{facts['usable_cores']} cores, {facts['memory_gib']:.0f} GiB{gpus}"
    return f"{processor_text(facts)}, {size}; {facts['system']}; {versions}"


def processor() -> dict[str, Any]:
    """Return the facts and flags of lscpu; without lscpu those of /proc/cpuinfo or of a Mac."""
    cpuinfo = read_cpuinfo()
    cores = arm_cores(cpuinfo)  # lscpu names one kind of them, or none if it is old
    known = {"processor": cores} if cores else {}
    unknown = {"processor": processor_name(), "flags": apple_flags(), **_facts_of(cpuinfo), **known}
    if not (lscpu := shutil.which("lscpu")):  # slim containers have none
        return unknown
    done = subprocess.run(
        [lscpu, "--json"],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        rows = {row["field"]: row["data"] for row in _flat(json.loads(done.stdout)["lscpu"])}
    except (ValueError, KeyError):
        return unknown
    facts = {key: rows[name] for name, key in CPU_FACTS.items() if name in rows}
    return {**unknown, **facts, **known, "flags": _known_flags(rows.get("Flags:", ""))}


def _facts_of(cpuinfo: str) -> dict[str, Any]:
    """Return name, family, model and flags in a text of /proc/cpuinfo, as far as it has them."""
    rows = dict[str, str]()  # of the first core
    for line in cpuinfo.splitlines():
        key, _, value = (words.strip() for words in line.partition(":"))
        rows.setdefault(key, value)
    names = {"model name": "processor", "cpu family": "cpu_family", "model": "cpu_model"}
    facts: dict[str, Any] = {key: rows[name] for name, key in names.items() if rows.get(name)}
    if flags := rows.get("flags") or rows.get("Features"):  # of x86-64, of ARM
        facts["flags"] = _known_flags(flags)
    return facts


def _known_flags(text: str) -> list[str]:
    """Return those of CPU_FLAGS that are among the words."""
    return [flag for flag in CPU_FLAGS if flag in text.split()]


def _flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flatten lscpu's rows, which newer versions nest."""
    return [one for row in rows for one in (row, *_flat(row.get("children", [])))]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    """Return name, memory, driver and clocks of every GPU that torch sees; none without torch."""
    if find_spec("torch") is None:
        return []
    import torch

    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    rows = _nvidia_smi() if names else []
    return [
        {"name": p.name, "memory_gib": p.total_memory / 2**30, **(rows[i] if i < len(rows) else {})}
        for i, p in enumerate(names)
    ]


def _nvidia_smi() -> list[dict[str, str]]:
    keys = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
    if not (smi := shutil.which("nvidia-smi")):
        return []
    command = [smi, f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return [
        dict(zip(keys, map(str.strip, line.split(",")), strict=False))
        for line in done.stdout.splitlines()
    ]


def _first_line(path: Path) -> str | None:
    return next(iter(_lines(path)), None)


def pick_device(name: str = "auto") -> torch.device:
    """Return a device: `auto` is the first GPU, else the CPU; else "cpu", "cuda:1", "mps", ...

    Raises DeviceError for a device that this machine does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"unknown device {name!r}. Expected auto, cpu, cuda, cuda:N or mps."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was requested, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here. Use --device cpu or --device auto, or "
            "install a CUDA build of torch and a driver."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            "device 'mps' was requested, but this machine has none. Use --device cpu or --device "
            "auto."
        )
    return device


def computes_bf16(device: torch.device) -> bool:
    """Whether this device has bf16 instructions; others emulate it, slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        flags = {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    else:  # torch before 2.11
        flags = set(processor()["flags"])
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


_process_began: float | None = None


@contextmanager
def one_command() -> Iterator[None]:
    """Mark this process as one command of the terminal: its time counts from its start."""
    global _process_began
    _process_began = time.monotonic() - (time.time() - psutil.Process().create_time())
    try:
        yield
    finally:
        _process_began = None


def command_began() -> float:
    """Return `time.monotonic` at the start of the command's process; elsewhere now."""
    return time.monotonic() if _process_began is None else _process_began


def this_rank() -> int:
    """Return the rank of this process in a distributed training, 0 if it trains alone.

    torchrun, SLURM and Lightning set the variables for the processes that they start.
    """
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def source_commit() -> str | None:
    """Return the commit of the checkout that featherseg runs from; None if it is installed.

    "-dirty" follows if files were changed.
    """
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, check=True, timeout=20
        )
        return done.stdout.decode("utf-8").strip()
    return None


def environment() -> dict[str, Any]:
    """Return what the figures of a run depend on besides its settings."""
    import torch

    return {
        "featherseg": __version__,
        "commit": source_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor()["processor"] or "unknown",
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": " ".join(["featherseg", *sys.argv[1:]]),
    }
