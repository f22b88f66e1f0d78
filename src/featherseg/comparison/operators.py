"""Where an exported graph spends its time: the profile that a runtime keeps of its own operators, over some passes."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from featherseg import models
from featherseg.comparison.variants import CATALOGUE_CLASSES, BenchmarkModel, find_models
from featherseg.core.errors import ConfigError, ExportError
from featherseg.core.types import Size
from featherseg.exporters import export
from featherseg.exporters.parity import perturb
from featherseg.inference.runtimes import is_exported_file
from featherseg.inference.runtimes.onnx import OnnxRuntime, open_session
from featherseg.inference.runtimes.openvino import OpenvinoRuntime
from featherseg.layers.resize import resized
from featherseg.runs.run import EXPORTS

WARM_UP = 2
"""Passes before those that count: the first ones allocate."""


@dataclass(frozen=True)
class Operator:
    """All nodes of one kind: how many, their milliseconds a pass, their share of the pass, and the slowest of them."""

    kind: str
    nodes: int
    ms: float
    share: float
    slowest: str
    slowest_ms: float


@dataclass(frozen=True)
class OperatorTimes:
    """The operators of one file, the slowest first. size: (H, W) of images as a user has them, of which the file sees
    what its model was validated on (test_resize); ms: of all operators in a pass.

    Each node's time is its median over the passes; what a runtime does between operators is in none of them.
    """

    name: str
    runtime: str
    size: Size
    batch: int
    threads: int
    ms: float = 0.0
    operators: tuple[Operator, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
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
    """Time every operator of a graph, on the CPU, as its runtime runs it, on images of random values.

    Args:
        name: A run, an exported .onnx or .xml file, or a name of the catalogue. Of a run its export/model.onnx is
            timed; where there is none it is exported for this, as is a catalogue's model, filled with seeded noise.
        sizes: (height, width); default: the run's, or its paper's.
        batches: Images a pass; default 1.
        threads: Of the runtime; default: as many as torch has.
        passes: Passes that count, behind WARM_UP others.

    Returns:
        One entry for each size, batch and number of threads.

    Raises:
        RunError, DataNotFound, ExportError: It cannot be opened, exported or run.
        ConfigError: A file of a runtime that keeps no profile; a size, batch or number of threads below 1.
        MissingExtra: The runtime is not installed.
    """
    if min([1, passes, *batches, *threads, *(side for size in sizes for side in size)]) < 1:
        raise ConfigError("sizes, batches, threads and rounds are at least 1.")
    with TemporaryDirectory(prefix="featherseg-operators-") as folder:
        if is_exported_file(name):
            path, own, label = Path(name), None, Path(name).name
        else:
            (model,) = find_models([name])
            path, own, label = _onnx_of(model, Path(folder)), model.size, model.name
        if path.suffix not in PROFILES:
            raise ConfigError(
                f"{path.name}: operators are timed of {' and '.join(PROFILES)} files."
            )
        of_runtime, open_file, profile = PROFILES[path.suffix]
        runtime = open_file(path, "cpu")  # what is wrong with the file is said here
        found = []
        for size in sizes or [own or runtime.image_size or USUAL]:
            for batch in batches or [1]:
                rng, seen = np.random.default_rng(0), resized(size, runtime.test_resize)
                if runtime.masks:
                    images = rng.integers(0, 256, (batch, *seen, runtime.channels), dtype=np.uint8)
                else:
                    images = rng.normal(size=(batch, runtime.channels, *seen)).astype(np.float32)
                for number in threads or [torch.get_num_threads()]:
                    timed = profile(path, runtime, images, number, passes, Path(folder))
                    found.append(
                        _summed(
                            OperatorTimes(label, of_runtime, size, batch, number), timed, passes
                        )
                    )
    return found


USUAL = (512, 512)
"""Of a file that does not say which images its model was trained with."""


def _onnx_of(model: BenchmarkModel, folder: Path) -> Path:
    if model.run:
        shipped = model.run.path / EXPORTS / "model.onnx"
        return shipped if shipped.is_file() else export(model.run, path=folder / "model.onnx").path
    return export(
        perturb(models.build(model.name, CATALOGUE_CLASSES)), path=folder / "model.onnx"
    ).path


def _profile_onnx(
    path: Path, _: OnnxRuntime, images: np.ndarray, threads: int, passes: int, folder: Path
) -> list[Timed]:
    """Of each pass every node, from ONNX Runtime's profile, a list of events in JSON."""
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
    """The same from OpenVINO, which tells of one pass at a time; with the settings that the runtime runs it with."""
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
"""Suffix of a file -> the runtime's name, what opens it, and what times its nodes."""


def _summed(of: OperatorTimes, timed: Iterable[Timed], passes: int) -> OperatorTimes:
    """`of` with its operators: the median of every node, summed by kind."""
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, node, ms in timed:
        measured[kind, node].append(ms)

    # a runtime may give several nodes one name: each pass has several times of it then
    kinds: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    for (kind, node), all_ms in measured.items():
        alike = max(1, len(all_ms) // passes)
        kinds[kind][node] = (alike, alike * median(all_ms))
    total = sum(ms for nodes in kinds.values() for _, ms in nodes.values())
    if not total:
        raise ExportError(f"{of.name}: {of.runtime} kept no times of its operators.")
    operators = []
    for kind, nodes in kinds.items():
        ms = sum(ms for _, ms in nodes.values())
        slowest = max(nodes, key=lambda node: nodes[node][1] / nodes[node][0])
        each = nodes[slowest][1] / nodes[slowest][0]
        operators.append(
            Operator(kind, sum(n for n, _ in nodes.values()), ms, ms / total, slowest, each)
        )
    operators.sort(key=lambda operator: -operator.ms)
    return replace(of, ms=total, operators=tuple(operators))
