"""The machine and the versions that a figure depends on."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from featherseg._version import __version__


def environment() -> dict[str, Any]:
    """What the figures of a run depend on beside its settings."""
    return {
        "featherseg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": " ".join(["featherseg", *sys.argv[1:]]),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
