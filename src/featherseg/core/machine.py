"""This machine: the device to run on, and the records of it that a time or a figure depends on.

The records hold no name of a host, a user or a folder.
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
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import psutil

from featherseg._version import __version__
from featherseg.core.errors import DeviceError

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
    "i8mm",
    "bf16",
)
"""Instructions that decide how fast models are, where the processor has them."""

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
"""Environment variables that change times: their names, or how these begin."""


def machine() -> dict[str, Any]:
    """Plain values: processor, caches, instructions, memory, system, versions, variables, GPUs, load average now."""
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
    """Logical cores that this process may use: its affinity, and on Linux the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cgroup_cores() or cores)


@cache
def cgroup_cores(root: Path = Path("/")) -> int | None:
    """Cores that the quota of this process' control groups is worth, rounded up; None without a quota.

    The lowest quota of the group and those above it counts. A container often sees its own group as the root.
    """
    shares = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = fields if len(fields := line.split(":", 2)) == 3 else ("", "none", "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controllers and "cpu")  # version 2 has no controllers here
        group = PurePosixPath(place.lstrip("/"))
        for folder in (mount / part for part in (group, *group.parents)):
            if controllers:
                words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
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


def default_threads() -> int:
    """Threads that a model runs on unless others are asked for: torch's, at most one for each usable core."""
    import torch

    return min(torch.get_num_threads(), usable_cores())


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Meanwhile torch computes on so many threads, by default on `default_threads`."""
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
    """Processes that wanted a core during the last minute, on average; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_memory() -> float | None:
    """The most that this process has held of the main memory, in bytes, as Linux or Windows has it; else None.

    Not getrusage: its peak survives the start of a new program, so that a child would report its parent's.
    """
    try:
        rows = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM:")) * 1024.0  # kB in the file
    except (OSError, StopIteration):
        return getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows alone


def processor_text(found: dict[str, Any]) -> str:
    """`AMD EPYC (family 25, model 17)`: virtual machines give generations of other speed one name."""
    kind = ", ".join(f"{key.removeprefix('cpu_')} {found[key]}" for key in ("cpu_family", "cpu_model") if key in found)
    return (found["processor"] or found["system"]) + (f" ({kind})" if kind else "")


def machine_text(found: dict[str, Any]) -> str:
    """`AMD EPYC (family 25, model 17), 2 cores, 23 GiB; Linux 6.1; torch 2.13.0, openvino 2026.4`."""
    gpus = "".join(f"; {gpu['name']}" for gpu in found["gpus"])
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    size = f"{found['usable_cores']} cores, {found['memory_gib']:.0f} GiB{gpus}"
    return f"{processor_text(found)}, {size}; {found['system']}; {versions}"


def processor() -> dict[str, Any]:
    """The facts and flags of lscpu; the name alone where it is missing."""
    unknown = {"processor": platform.processor() or platform.machine(), "flags": []}
    if not (lscpu := shutil.which("lscpu")):
        return unknown
    done = subprocess.run(
        [lscpu, "--json"], capture_output=True, encoding="utf-8", check=False, env={**os.environ, "LC_ALL": "C"}
    )
    try:
        rows = {row["field"]: row["data"] for row in _flat(json.loads(done.stdout)["lscpu"])}
    except (ValueError, KeyError):
        return unknown
    has = set(rows.get("Flags:", "").split())
    facts = {key: rows[name] for name, key in CPU_FACTS.items() if name in rows}
    return {**unknown, **facts, "flags": [flag for flag in CPU_FLAGS if flag in has]}


def _flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """lscpu's rows, of which newer ones hold others."""
    return [one for row in rows for one in (row, *_flat(row.get("children", [])))]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    """Name, memory, driver and clocks of every GPU that torch sees."""
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
    return [dict(zip(keys, map(str.strip, line.split(",")), strict=False)) for line in done.stdout.splitlines()]


def _first_line(path: Path) -> str | None:
    return next(iter(_lines(path)), None)


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; else any device torch knows: "cpu", "cuda:1", "mps".

    Raises DeviceError for a device that this machine does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}. Expected auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was requested, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices here. Use --device cpu or --device auto, or install a CUDA build of torch and a driver."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was requested, but this machine has none. Use --device cpu or --device auto.")
    return device


def computes_bf16(device: torch.device) -> bool:
    """Whether this device has instructions for bf16; others emulate it, slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(feature, False) for feature in ("avx512_bf16", "amx_bf16", "bf16"))


_process_began: float | None = None


@contextmanager
def one_command() -> Iterator[None]:
    """This process is one command of the terminal: what it may take counts from its start."""
    global _process_began
    _process_began = time.monotonic() - (time.time() - psutil.Process().create_time())
    try:
        yield
    finally:
        _process_began = None


def command_began() -> float:
    """When the command was given, by `time.monotonic`: the start of a command's process, elsewhere now."""
    return time.monotonic() if _process_began is None else _process_began


def environment() -> dict[str, Any]:
    """What the figures of a run depend on beside its settings."""
    import torch

    return {
        "featherseg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor()["processor"] or "unknown",
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": " ".join(["featherseg", *sys.argv[1:]]),
    }
