"""Latency of each operator of an exported graph, from the profile of its runtime."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from featherseg.comparison.variants import CATALOGUE_CLASSES, EXPORTS, BenchmarkModel, find_models
from featherseg.core.errors import ConfigError, ExportError
from featherseg.core.machine import default_threads
from featherseg.core.types import Size
from featherseg.inference.runtimes import is_exported_file
from featherseg.inference.runtimes.onnx import OnnxRuntime, open_session
from featherseg.inference.runtimes.openvino import OpenvinoRuntime
from featherseg.layers.sizes import resized

WARM_UP = 2
"""Passes before those that count: the first ones allocate memory. Chosen, not measured."""


@dataclass(frozen=True)
class Operator:
    """All nodes of one kind: their number, ms per pass, share of the pass, and the slowest node."""

    kind: str
    nodes: int
    ms: float
    share: float
    slowest: str
    slowest_ms: float


@dataclass(frozen=True)
class OperatorTimes:
    """The operators of one file, slowest first; each node's time is its median over the passes.

    size: (height, width) of a user's image; the file sees it resized as in validation.
    ms: all operators of a pass, without what the runtime does between operators.
    """

    name: str
    runtime: str
    size: Size
    batch: int
    threads: int
    ms: float = 0.0
    operators: tuple[Operator, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Timed(NamedTuple):
    """One node in one pass."""

    kind: str
    node: str
    ms: float


def time_operators(
    name: str,
    sizes: Sequence[Size] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    passes: int = 10,
) -> list[OperatorTimes]:
    """Time every operator of a graph on the CPU, on random images.

    Args:
        name: a run, an exported .onnx or .xml file, or a name of the catalogue. A run's
            export/model.onnx is timed; if it does not exist, the run is exported to a temporary
            folder, as is a catalogue's model with seeded noise as weights.
        sizes: (height, width); default: that of the run, or of its paper.
        batches: images per pass; default 1.
        threads: of the runtime; default: torch's number.
        passes: timed passes, after WARM_UP untimed ones.

    Returns:
        One entry per size, batch and number of threads.

    Raises:
        RunError, DataNotFound, ExportError: it cannot be opened, exported or run.
        ConfigError: its runtime keeps no profile, or a value is below 1.
        MissingExtra: the runtime is not installed.
    """
    if min([1, passes, *batches, *threads, *(side for size in sizes for side in size)]) < 1:
        raise ConfigError("sizes, batches, threads and rounds are at least 1.")
    with TemporaryDirectory(prefix="featherseg-operators-") as folder:
        if is_exported_file(name):
            path, model_size, label = Path(name), None, Path(name).name
        else:
            (model,) = find_models([name])
            path, model_size, label = _onnx_of(model, Path(folder)), model.size, model.name
        if path.suffix not in PROFILES:
            raise ConfigError(
                f"{path.name}: operators are timed of {' and '.join(PROFILES)} files."
            )
        runtime_name, open_file, profile = PROFILES[path.suffix]
        runtime = open_file(path, "cpu")  # refuses a damaged file before anything is timed
        results = []
        for size in sizes or [model_size or runtime.image_size or USUAL]:
            for batch in batches or [1]:
                rng, seen = np.random.default_rng(0), resized(size, runtime.test_resize)
                if runtime.masks:
                    images = rng.integers(0, 256, (batch, *seen, runtime.channels), dtype=np.uint8)
                else:
                    images = rng.normal(size=(batch, runtime.channels, *seen)).astype(np.float32)
                for number in threads or [default_threads()]:
                    timed = profile(path, runtime, images, number, passes, Path(folder))
                    setting = OperatorTimes(label, runtime_name, size, batch, number)
                    results.append(_summed(setting, timed, passes))
    return results


USUAL = (512, 512)
"""(height, width) for a file that does not state the size of its training images."""


def _onnx_of(model: BenchmarkModel, folder: Path) -> Path:
    from featherseg import models
    from featherseg.exporters import export
    from featherseg.exporters.parity import perturb

    if model.run:
        shipped = model.run.path / EXPORTS / "model.onnx"
        return shipped if shipped.is_file() else export(model.run, path=folder / "model.onnx").path
    return export(
        perturb(models.build(model.name, CATALOGUE_CLASSES)), path=folder / "model.onnx"
    ).path


def _profile_onnx(
    path: Path, _: OnnxRuntime, images: np.ndarray, threads: int, passes: int, folder: Path
) -> list[Timed]:
    """Return every node of each pass, from the events of ONNX Runtime's profile (JSON)."""
    session = open_session(path, "cpu", threads=threads, profile=folder / "profile")
    name = session.get_inputs()[0].name
    for _pass in range(WARM_UP + passes):
        session.run(None, {name: images})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    nodes = [
        event for event in events if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]
    timed = [
        Timed(e["args"]["op_name"], e["name"].removesuffix(suffix), e["dur"] / 1000) for e in nodes
    ]
    return timed[len(timed) // (WARM_UP + passes) * WARM_UP :]


def _profile_openvino(
    path: Path, runtime: OpenvinoRuntime, images: np.ndarray, threads: int, passes: int, _: Path
) -> list[Timed]:
    """Return every node of each pass from OpenVINO, with the settings of `OpenvinoRuntime`."""
    import openvino

    settings = {**runtime.settings, "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": "YES"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    request, timed = model.create_infer_request(), []
    for number in range(WARM_UP + passes):
        request.infer([images])
        if number >= WARM_UP:
            timed += [
                Timed(p.node_type, p.node_name, p.real_time.total_seconds() * 1000)
                for p in request.profiling_info
            ]
    return timed


PROFILES: dict[str, Any] = {
    ".onnx": ("ONNX Runtime", OnnxRuntime, _profile_onnx),
    ".xml": ("OpenVINO", OpenvinoRuntime, _profile_openvino),
}
"""Suffix of a file -> name of the runtime, class that opens it, function that times its nodes."""


def _summed(setting: OperatorTimes, timed: Iterable[Timed], passes: int) -> OperatorTimes:
    """Return `setting` with its operators: the median of every node, summed by kind."""
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, node, ms in timed:
        measured[kind, node].append(ms)

    # A runtime may give several nodes the same name, which then has several times per pass
    kinds: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    for (kind, node), all_ms in measured.items():
        same_name = max(1, len(all_ms) // passes)
        kinds[kind][node] = (same_name, same_name * median(all_ms))
    total = sum(ms for nodes in kinds.values() for _, ms in nodes.values())
    if not total:
        raise ExportError(f"{setting.name}: {setting.runtime} kept no times of its operators.")
    operators = []
    for kind, nodes in kinds.items():
        ms = sum(ms for _, ms in nodes.values())
        slowest = max(nodes, key=lambda node: nodes[node][1] / nodes[node][0])
        each = nodes[slowest][1] / nodes[slowest][0]
        operators.append(
            Operator(kind, sum(n for n, _ in nodes.values()), ms, ms / total, slowest, each)
        )
    operators.sort(key=lambda operator: -operator.ms)
    return replace(setting, ms=total, operators=tuple(operators))
