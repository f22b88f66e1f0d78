"""Latency of a candidate of `fit` on this machine, measured in a process of its own and cached.

    python -P -m featherseg.fitting.latency FILE IMAGE.npy MAX_MS THREADS    # prints JSON

Latency needs no trained weights, so it is known before any training. It is that of `Predictor` from
a decoded image to its mask: resize, normalise, model, upsampling and argmax.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError

from featherseg import models
from featherseg._version import __version__
from featherseg.core.errors import DeviceError, FeathersegError, RunError, require
from featherseg.core.files import home_folder, load_json, write_json
from featherseg.core.machine import (
    default_threads,
    machine,
    processor_text,
    usable_cores,
)
from featherseg.core.types import ClassInfo, Resize
from featherseg.core.wording import counted
from featherseg.costs.catalogue import SIZE
from featherseg.costs.latency import (
    FAR,
    FIT,
    ProcessFailed,
    Schedule,
    answers_alone,
    peak_memory,
    run_apart,
    summarise,
    time_passes,
)
from featherseg.exporters.formats import EXPORTERS
from featherseg.exporters.job import Facts, Job
from featherseg.exporters.onnx import graph_form, to_onnx
from featherseg.fitting.halving import SPARE, Milliseconds, Scale, keeps_limits, name_of
from featherseg.layers.model import merge_paths
from featherseg.layers.resize import preprocess

GUESS = Schedule(warm_up=0, least=8, most=8)
"""Of the convolution in `guess_speed`."""

HANGS = 300.0
"""Seconds after which a process that times a file is killed."""

MIB = 2**20
"""Bytes."""


@dataclass(frozen=True)
class Timing:
    """Latency, memory and size of a candidate.

    Args:
        p50, p95: milliseconds.
        low, high: 95 % interval of p50.
        memory_mib: peak memory of the process; None if the system does not report it.
        file_mib: size of the exported file.
    """

    model: str
    scale: Scale
    format: str
    p50: Milliseconds
    p95: Milliseconds
    low: Milliseconds
    high: Milliseconds
    memory_mib: Annotated[float, Field(gt=0)] | None
    file_mib: Annotated[float, Field(ge=0)]

    @property
    def name(self) -> str:
        """Name of the candidate."""
        return name_of(self.model, self.scale)

    def latency(self, percentile: int) -> float:
        """Return p50 or p95, whichever has the limit."""
        return self.p95 if percentile == 95 else self.p50

    def keeps(
        self, max_ms: float, percentile: int, max_mib: float | None, spare: float = SPARE
    ) -> bool:
        """Return whether latency and memory keep the limits; `spare`: see `keeps_limits`."""
        return keeps_limits(self.latency(percentile), self.memory_mib, max_ms, max_mib, spare)

    def slowed(self, factor: float) -> "Timing":
        """Return the timing on a machine that takes `factor` times as long."""
        times = {key: factor * getattr(self, key) for key in ("p50", "p95", "low", "high")}
        return replace(self, **times)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as in fit.json and latency.json."""
        p50, p95, low, high = (round(ms, 3) for ms in (self.p50, self.p95, self.low, self.high))
        return {
            "model": self.model,
            "scale": self.scale,
            "format": self.format,
            "latency_ms": {"p50": p50, "p95": p95, "interval": [low, high]},
            "memory_mib": self.memory_mib,
            "file_mib": round(self.file_mib, 2),
        }


@dataclass(frozen=True)
class Measured:
    """A timing, and how many seconds it took to write and time the file."""

    timing: Timing
    seconds: Annotated[float, Field(ge=0)]


def here() -> tuple[str, int]:
    """Return this device as text, and the default number of threads."""
    facts = machine()
    parts = [processor_text(facts), counted(usable_cores(), "core")]
    return ", ".join([*parts, *(gpu["name"] for gpu in facts["gpus"])]), default_threads()


def time_file(
    file: Path, image: np.ndarray, name: tuple[str, float, str], max_ms: float = math.inf
) -> Timing:
    """Time an exported file in a process of its own, with `default_threads`.

    Args:
        image: (H, W, C) uint8.
        name: model, scale, format.
        max_ms: the limit; a file that takes FAR times as long is timed for FEW passes only.

    Raises:
        RunError: the file cannot be run.
    """
    with TemporaryDirectory(prefix="featherseg-latency-") as folder:
        np.save(Path(folder) / "image.npy", image)
        command = [sys.executable, "-P", "-m", "featherseg.fitting.latency", str(file)]
        command += [f"{folder}/image.npy", str(max_ms), str(default_threads())]
        try:
            answer = run_apart(command, HANGS)
        except ProcessFailed as error:
            candidate = f"{name_of(*name[:2])} as {name[2]}"
            raise RunError(f"{candidate} could not be timed: {error}") from None
    times = summarise(answer["ms"])
    memory, size = answer["memory_mib"], _size(file) / MIB
    return Timing(*name, times.p50, times.p95, times.low, times.high, memory, size)


def time_candidate(
    name: tuple[str, float, str],
    classes: tuple[ClassInfo, ...],
    resize: Resize | None,
    image: np.ndarray,
    calibration: Sequence[np.ndarray],
    accept: Callable[[Timing], bool] = lambda _: True,
    max_ms: float = math.inf,
) -> Measured:
    """Export the untrained model and time it, or return the cached timing of this machine.

    Args:
        name: model, scale, format.
        image: (H, W, C) uint8.
        calibration: images (H, W, C) for a quantised format.
        accept: whether to use a cached timing; other programs may have run at that time.
        max_ms: as for `time_file`.

    Raises:
        MissingExtra, ExportError: the format cannot be written.
        RunError: the file cannot be run.
    """
    cache, key = cache_file(), _key(name, len(classes), resize, image.shape)
    cached = _read_cache(cache).get(key)
    if cached and accept(cached.timing):
        return cached
    began = time.monotonic()
    with TemporaryDirectory(prefix="featherseg-candidate-") as folder:
        file = write_untrained(name, classes, resize, image, calibration, Path(folder))
        timing = time_file(file, image, name, max_ms)
    measured = Measured(timing, time.monotonic() - began)
    if timing.p50 <= FAR * max_ms:  # a slower one was timed for FEW passes only
        rows = _read_cache(cache) | {key: measured}  # another process may have written meanwhile
        with suppress(FeathersegError):  # without a cache, every timing is measured
            write_json(cache, {key: asdict(row) for key, row in rows.items()})
    return measured


def write_untrained(
    name: tuple[str, float, str],
    classes: tuple[ClassInfo, ...],
    resize: Resize | None,
    image: np.ndarray,
    calibration: Sequence[np.ndarray],
    folder: Path,
) -> Path:
    """Export a model with seeded weights for images like `image` (H, W, C); return the file.

    The file is not verified: it serves for timing only.
    """
    row = EXPORTERS[name[2]]
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = models.build(name[0], len(classes), image.shape[2]).eval()
    merge_paths(model)
    _, _, height, width = _normalised(model, image, resize).shape
    facts = Facts(name[0], classes, "untrained", image.shape[:2], resize)
    form = model if row.quantised else graph_form(model, row.channels_last)
    images = [_normalised(model, pixels, resize) for pixels in calibration if row.quantised]
    graph = partial(to_onnx, form, facts, size=(height, width))
    row.write(Job(model, facts, folder, graph, calibration=images))
    return folder / row.main


def guess_speed() -> float:
    """Return about how many ms light models take here per unit of `Offer.macs` times pixels.

    The time is that of a convolution of 64 channels; light models reach about a third of its rate.
    `Offer.macs` counts at SIZE.
    """
    image, weight = torch.zeros(1, 64, 90, 120), torch.zeros(64, 64, 3, 3)
    convolve = partial(torch.nn.functional.conv2d, image, weight, padding=1)
    with torch.inference_mode():
        times = time_passes(convolve, GUESS).ms
    return 3 * sorted(times)[2] / (90 * 120 * 64 * 64 * 9) / math.prod(SIZE)


def require_format(format: str) -> None:
    """Raise MissingExtra or another FeathersegError if a format cannot be written or run here."""
    row = EXPORTERS[format]
    for package in row.packages:
        require(package, row.extra, f"--format {format}")
    if row.need:
        row.need()
    if not row.verified or row.checked:
        names = [name for name, one in EXPORTERS.items() if one.verified and not one.checked]
        raise DeviceError(
            f"--format {format} cannot be timed, because featherseg has no runtime for it. "
            f"Expected one of {', '.join(names)}."
        )


def cache_file() -> Path:
    """Return the cache: latency.json in $FEATHERSEG_HOME, by default ~/.cache/featherseg."""
    return home_folder() / "latency.json"


def _read_cache(cache: Path) -> dict[str, Measured]:
    """Return the cached timings; a file or a row that is damaged counts as missing."""
    timings, adapter = dict[str, Measured](), TypeAdapter(Measured)
    with suppress(OSError, ValueError, AttributeError):
        for key, row in load_json(cache).items():
            with suppress(ValidationError):
                timings[key] = adapter.validate_python(row)
    return timings


def _key(
    name: tuple[str, float, str], classes: int, resize: Resize | None, shape: tuple[int, ...]
) -> str:
    """Return a digest of what a timing depends on: candidate, image, machine and versions."""
    device = machine()
    facts = [*name, classes, resize, shape, __version__, default_threads()]
    facts += [processor_text(device), device["flags"], device["usable_cores"]]
    facts += [device["versions"], device["variables"], device["python"]]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]


def _normalised(model: Any, image: np.ndarray, resize: Resize | None) -> torch.Tensor:
    """Return an image (H, W, C) as the model's input (1, C, h, w)."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return preprocess(pixels, model.mean, model.std, resize, model.image_range)


def _size(file: Path) -> int:
    """Return bytes of an exported file, and of the weights beside it (OpenVINO, ncnn)."""
    stem = file.name.removesuffix(".ncnn.param").removesuffix(".xml")
    beside = [
        path
        for path in file.parent.iterdir()
        if path.is_file() and path.name.startswith(f"{stem}.")
    ]
    return sum(path.stat().st_size for path in {file, *beside})


def main() -> None:
    """Time a file in this process; print JSON."""
    from featherseg.inference.predictor import Predictor

    answers = answers_alone()
    try:
        torch.set_num_threads(int(sys.argv[4]))
        predictor = Predictor(sys.argv[1], device="cpu", trust=True)
        image = np.load(sys.argv[2], allow_pickle=False)
        passes = time_passes(partial(predictor, image), FIT, limit_ms=float(sys.argv[3]))
    except FeathersegError as error:
        sys.exit(" ".join(str(error).splitlines()))
    peak = peak_memory()
    memory = None if peak is None else round(peak / MIB, 1)
    with answers:
        json.dump({"ms": passes.ms, "memory_mib": memory}, answers)


if __name__ == "__main__":
    main()
