"""How much memory a network takes, measured: a process of its own opens it, runs one picture and reports its peak.

A process of its own, as memory that another network once took is not given back. This file is that process too:
python -m featherseg.evaluation.peak_memory RUN HEIGHT WIDTH DEVICE
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.types import Size
from featherseg.inference.runtimes import open_runtime

MIB = 2**20


@dataclass(frozen=True)
class PeakMemory:
    """Peaks in MiB while a network is opened and runs one picture.

    process_mib is all that the process took, Python and torch included; network_mib what came on top of these;
    gpu_mib what torch took on the GPU, None without one.
    """

    process_mib: float
    network_mib: float
    gpu_mib: float | None = None


def peak_memory(run: str | Path, size: Size, device: str = "cpu") -> PeakMemory:
    """The peak of a run folder or an exported file (`open_runtime`) at (height, width), measured in a child process.

    Raises RunError with the child's sentence where it cannot open or run the network.
    """
    command = [sys.executable, "-m", __name__, str(run), *map(str, size), device]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = child.stdout.splitlines()
    if child.returncode == 0 and lines:
        return PeakMemory(**json.loads(lines[-1]))
    if child.returncode < 0:
        why = f"ended by signal {-child.returncode}; signal 9 is most often a lack of memory. Try a smaller size."
    else:
        why = (child.stderr.splitlines() or [f"exit status {child.returncode}"])[-1]
    raise RunError(f"the memory of {run} at {size[0]}x{size[1]} (height x width) could not be measured: {why}")


def measure(run: str, size: Size, device: str) -> PeakMemory:
    """The peak of this process, so far, after opening the network and running it twice on one picture."""
    before = resident_mib("VmRSS")
    runtime = open_runtime(run, device)
    picture = torch.zeros(1, runtime.channels, *size, device=runtime.device)
    for _ in range(2):  # the second pass takes what the first one cached besides its own
        runtime(picture)
    peak = resident_mib("VmHWM")
    gpu = torch.cuda.max_memory_allocated(runtime.device) / MIB if runtime.device.type == "cuda" else None
    return PeakMemory(peak, peak - before, gpu)


def resident_mib(line: str) -> float:
    """Memory of this process as the kernel has it: `VmRSS` now, `VmHWM` its peak. Raises RunError where not on Linux.

    Not getrusage: its peak survives the start of a new program, so that a child would report its parent's.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        raise RunError(f"peak memory is read from {status}, which this system ({sys.platform}) does not have.")
    found = dict(row.split(":", 1) for row in status.read_text().splitlines() if ":" in row)
    return int(found[line].split()[0]) / 1024  # kB in the file


def main(arguments: list[str]) -> int:
    """The child: one line of JSON on standard output, or a sentence on standard error and exit status 2."""
    run, height, width, device = arguments
    try:
        found = measure(run, (int(height), int(width)), device)
    except FeathersegError as error:
        sys.stderr.write(" ".join(str(error).splitlines()) + "\n")
        return 2
    sys.stdout.write(json.dumps(vars(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
