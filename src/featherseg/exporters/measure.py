"""The order of magnitude of a file's speed."""

from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from featherseg.core.types import Size
from featherseg.inference.runtimes import open_file

PASSES, WARM_UP = 5, 2


def latency_ms(file: Path, size: Size) -> float:
    """Median milliseconds of PASSES runs of the file on one image of (height, width), after WARM_UP untimed ones."""
    runtime = open_file(file, "cpu")
    height, width = size
    if runtime.masks:
        image = np.zeros((1, height, width, runtime.channels), dtype=np.uint8)
    else:
        image = np.zeros((1, runtime.channels, height, width), dtype=np.float32)
    times = []
    for _ in range(WARM_UP + PASSES):
        start = perf_counter()
        runtime.run(image)
        times.append(1000 * (perf_counter() - start))
    return median(times[WARM_UP:])
