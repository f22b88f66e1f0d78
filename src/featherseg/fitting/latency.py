"""How long a file takes from a decoded image to the mask, in a process of its own, and what was measured before.

    python -P -m featherseg.fitting.latency FILE IMAGE.npy MAX_MS THREADS      # what the process runs: one line of JSON

Latency needs no trained weights, so that it is known before anything trains. It is that of `Predictor` with its default
threads: resize, normalise, model, upsampling and argmax.
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
from featherseg.layers.resize import preprocess

GUESS = Schedule(warm_up=0, least=8, most=8)
"""Of the convolution that `guess_speed` times."""

HANGS = 300.0
"""Seconds after which a process is ended."""

MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """What a candidate takes: milliseconds (of 100 passes 50 and 95 stay within p50 and p95; low, high: the interval of
    p50), peak memory of its process, size of its file. None for memory that the system does not tell."""

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
        """What the candidate is called."""
        return name_of(self.model, self.scale)

    def latency(self, percentile: int) -> float:
        """The one that the limit is about."""
        return self.p95 if percentile == 95 else self.p50

    def keeps(
        self, max_ms: float, percentile: int, max_mib: float | None, spare: float = SPARE
    ) -> bool:
        """Whether it stays within the limits, that of time with something to spare."""
        return keeps_limits(self.latency(percentile), self.memory_mib, max_ms, max_mib, spare)

    def slowed(self, factor: float) -> "Timing":
        """What it would be on a machine that takes so many times longer."""
        slower = {key: factor * getattr(self, key) for key in ("p50", "p95", "low", "high")}
        return replace(self, **slower)

    def as_dict(self) -> dict[str, Any]:
        """As fit.json and latency.json have it."""
        interval = [round(self.low, 3), round(self.high, 3)]
        times = {"p50": round(self.p50, 3), "p95": round(self.p95, 3), "interval": interval}
        sizes = {"memory_mib": self.memory_mib, "file_mib": round(self.file_mib, 2)}
        return {
            "model": self.model,
            "scale": self.scale,
            "format": self.format,
            "latency_ms": times,
            **sizes,
        }


@dataclass(frozen=True)
class Measured:
    """A timing, and the seconds that writing the file and timing it took."""

    timing: Timing
    seconds: Annotated[float, Field(ge=0)]


def here() -> tuple[str, int]:
    """This device in words, and how many threads a file is run with unless others are asked for."""
    found = machine()
    parts = [processor_text(found), counted(usable_cores(), "core")]
    return ", ".join([*parts, *(gpu["name"] for gpu in found["gpus"])]), default_threads()


def time_file(
    file: Path, image: np.ndarray, name: tuple[str, float, str], max_ms: float = math.inf
) -> Timing:
    """Time an exported file on an image (H, W, C) uint8, in a process of its own; name: model, scale, format.

    max_ms: the limit, FAR above which FEW passes are enough. Raises RunError where the file cannot be run.
    """
    with TemporaryDirectory(prefix="featherseg-latency-") as folder:
        np.save(Path(folder) / "image.npy", image)
        words = [
            sys.executable,
            "-P",
            "-m",
            "featherseg.fitting.latency",
            str(file),
            f"{folder}/image.npy",
        ]
        words += [str(max_ms), str(default_threads())]  # as `here` tells
        try:
            answer = run_apart(words, HANGS)
        except ProcessFailed as error:
            timed = f"{name_of(*name[:2])} as {name[2]}"
            raise RunError(f"{timed} could not be timed: {error}") from None
    times = summarise(answer["ms"])
    memory, size = answer["memory_mib"], _size(file) / MIB
    return Timing(*name, times.p50, times.p95, times.low, times.high, memory, size)


def time_candidate(
    name: tuple[str, float, str],
    classes: tuple[ClassInfo, ...],
    resize: Resize | None,
    image: np.ndarray,
    calibration: Sequence[np.ndarray],
    believed: Callable[[Timing], bool] = lambda _: True,
    max_ms: float = math.inf,
) -> Measured:
    """Write the untrained model in the format and time it; a measurement of the same on this machine is taken again.

    image: (H, W, C) uint8; calibration: images (H, W, C) for a quantised format; believed: whether such an older
    measurement is (the machine may have been busy then); max_ms: as of `time_file`. Raises MissingExtra,
    ExportError and RunError.
    """
    cache, key = cache_file(), _key(name, len(classes), resize, image.shape)
    if (found := _known(cache).get(key)) and believed(found.timing):
        return found
    began = time.monotonic()
    with TemporaryDirectory(prefix="featherseg-candidate-") as folder:
        file = write_untrained(name, classes, resize, image, calibration, Path(folder))
        timing = time_file(file, image, name, max_ms)
    found = Measured(timing, time.monotonic() - began)
    if timing.p50 <= FAR * max_ms:  # else it may be of FEW passes
        with suppress(FeathersegError):  # where nothing can be kept, it is timed anew
            write_json(
                cache, {name: asdict(row) for name, row in (_known(cache) | {key: found}).items()}
            )
    return found


def write_untrained(
    name: tuple[str, float, str],
    classes: tuple[ClassInfo, ...],
    resize: Resize | None,
    image: np.ndarray,
    calibration: Sequence[np.ndarray],
    folder: Path,
) -> Path:
    """The model with seeded weights in the format, unverified, for images like this (H, W, C): for its time alone."""
    row = EXPORTERS[name[2]]
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = models.build(name[0], len(classes), image.shape[2]).eval()
    _, _, height, width = _normalised(model, image, resize).shape
    facts = Facts(name[0], classes, "untrained", image.shape[:2], resize)
    seen = [_normalised(model, pixels, resize) for pixels in calibration] if row.quantised else []
    form = model if row.quantised else graph_form(model, row.channels_last)
    row.write(
        Job(
            model,
            facts,
            folder,
            lambda: to_onnx(form, facts, size=(height, width)),
            calibration=seen,
        )
    )
    return folder / row.main


def guess_speed() -> float:
    """About how many milliseconds light models take here for a multiply-accumulate of `Offer.macs` times a pixel.

    From a convolution of 64 channels, of whose rate they reach about a third; `counts` are of 512x1024 pixels.
    """
    image, weight = torch.zeros(1, 64, 90, 120), torch.zeros(64, 64, 3, 3)
    convolve = partial(torch.nn.functional.conv2d, image, weight, padding=1)
    with torch.inference_mode():
        times = time_passes(convolve, GUESS).ms
    return 3 * sorted(times)[2] / (90 * 120 * 64 * 64 * 9) / math.prod(SIZE)


def require_format(format: str) -> None:
    """Raises MissingExtra or FeathersegError where a format cannot be written or run here."""
    row = EXPORTERS[format]
    for package in row.packages:
        require(package, row.extra, f"--format {format}")
    if row.need:
        row.need()
    if not row.verified or row.checked:
        able = ", ".join(
            name for name, one in EXPORTERS.items() if one.verified and not one.checked
        )
        raise DeviceError(
            f"--format {format} is run nowhere here, so that it cannot be timed. Expected one of {able}."
        )


def cache_file() -> Path:
    """Where measurements are kept: $FEATHERSEG_HOME/latency.json, or ~/.cache/featherseg/latency.json if not set."""
    return home_folder() / "latency.json"


def _known(cache: Path) -> dict[str, Measured]:
    """What was measured before; of a file that is missing or not ours nothing, of rows that cannot be none of these."""
    known, checked = dict[str, Measured](), TypeAdapter(Measured)
    with suppress(OSError, ValueError, AttributeError):
        for key, row in load_json(cache).items():
            with suppress(ValidationError):
                known[key] = checked.validate_python(row)
    return known


def _key(
    name: tuple[str, float, str], classes: int, resize: Resize | None, shape: tuple[int, ...]
) -> str:
    """What a measurement depends on: the candidate, the image, this machine, the versions of what runs it."""
    found = machine()
    facts = [*name, classes, resize, shape, __version__, default_threads()]
    facts += [processor_text(found), found["flags"], found["usable_cores"]]
    facts += [found["versions"], found["variables"], found["python"]]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]


def _normalised(model: Any, image: np.ndarray, resize: Resize | None) -> torch.Tensor:
    """(H, W, C) -> (1, C, h, w) as the model sees it."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return preprocess(pixels, model.mean, model.std, resize, model.image_range)


def _size(file: Path) -> int:
    """Bytes of an exported file and of what stands beside it under its name (weights of OpenVINO and ncnn)."""
    stem = file.name.removesuffix(".ncnn.param").removesuffix(".xml")
    beside = [
        path
        for path in file.parent.iterdir()
        if path.is_file() and path.name.startswith(f"{stem}.")
    ]
    return sum(path.stat().st_size for path in {file, *beside})


def main() -> None:
    """The process: open the file, warm up, time."""
    from featherseg.inference.predictor import Predictor

    answers = answers_alone()
    try:
        torch.set_num_threads(int(sys.argv[4]))
        predictor, image = (
            Predictor(sys.argv[1], device="cpu", trust=True),
            np.load(sys.argv[2], allow_pickle=False),
        )
        passes = time_passes(partial(predictor, image), FIT, limit_ms=float(sys.argv[3]))
    except FeathersegError as error:
        sys.exit(" ".join(str(error).splitlines()))
    peak = peak_memory()
    memory = None if peak is None else round(peak / MIB, 1)
    with answers:
        json.dump({"ms": passes.ms, "memory_mib": memory}, answers)


if __name__ == "__main__":
    main()
