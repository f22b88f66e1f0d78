"""An exported ncnn file, .ncnn.param with .ncnn.bin and .ncnn.json, that is ready to run."""

import hashlib
import json
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataNotFound, DeviceError, ExportError, require
from featherseg.core.files import load_json, read_bounded
from featherseg.core.machine import default_threads
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts

GRAPH, WEIGHTS, FACTS = ".ncnn.param", ".ncnn.bin", ".ncnn.json"
"""Ends of the three files, which have a common beginning."""

MAGIC = "7767517"
"""The first line of every graph.

The next line has the numbers of layers and blobs. Then each layer has a line: kind, name, the
numbers of blobs that it reads and writes, their names, and its settings.
"""

MOST_SETTING = 2**20
"""Largest setting of a layer whose weights have fewer bytes."""


class NcnnRuntime(FileRuntime):
    """Files of `featherseg export --format ncnn`, run in fp32 on the CPU.

    They take images of one size.

    Raises:
        ExportError: They are no such files, or of different exports.
        MissingExtra: ncnn is not installed.
        DeviceError: The device is not the CPU.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"device {device!r} was asked for, but ncnn files run on the CPU here. Use "
                "--device cpu."
            )
        graph, weights, facts = (
            path.with_name(path.name.removesuffix(GRAPH) + end) for end in (GRAPH, WEIGHTS, FACTS)
        )
        for file in (graph, weights, facts):
            if not file.is_file():
                raise DataNotFound(
                    f"{file} does not exist; ncnn needs three files, {graph.name}, {weights.name} "
                    f"and {facts.name}. Write them with: featherseg export RUN --format ncnn"
                )
        _check_graph(graph, weights.stat().st_size)
        texts = _texts(facts)
        super().__init__(path, read_facts(texts, path))
        if texts.get("sha256") != json.dumps(read_pair_hash(graph, weights)):
            raise ExportError(
                f"{graph} and {weights.name} do not match {facts.name}: export again."
            )
        self._net = _load(graph, weights, threads or default_threads())

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime; ncnn takes one image at a time."""
        each = [self._run(image) for image in images]
        return [np.stack(maps) for maps in zip(*each, strict=True)]

    def _run(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of an image (C, H, W), (K | 1 | 2, h, w) each."""
        ncnn: Any = require("ncnn", "ncnn", f"running {self.name}")
        extractor = self._net.create_extractor()
        extractor.input("in0", ncnn.Mat(image).clone())
        maps = []
        for number, name in enumerate(self.outputs):
            code, output = extractor.extract(f"out{number}")
            if code != 0:
                raise ExportError(
                    f"{self.name} gives no {name}: ncnn stopped with {code}. Export again."
                )
            maps.append(np.array(output))
        return maps


def read_pair_hash(graph: Path, weights: Path) -> str:
    """Return the sha256 of both files: files of different exports never run together."""
    return hashlib.sha256(graph.read_bytes() + weights.read_bytes()).hexdigest()


def _texts(path: Path) -> dict[str, str]:
    try:
        texts = load_json(path)
    except ValueError as error:
        raise ExportError(
            f"{path} is not JSON ({error}); it was not written by featherseg."
        ) from None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ExportError(f"{path} has no model metadata; it was not written by featherseg.")
    return texts


def _check_graph(path: Path, weights_bytes: int) -> None:
    """Raise ExportError for a graph that is not in ncnn's form, or needs too many weights.

    ncnn trusts the form, and allocates as many weights as a layer names before it reads them.
    """
    try:
        text = read_bounded(path).decode(errors="replace")
    except ValueError as error:
        raise ExportError(f"{path} is not an ncnn graph: {error}.") from None
    # ncnn writes names to the terminal unescaped
    if odd := re.search(r"(?!\r\n)[^\n\x20-\x7e]", text):
        raise ExportError(
            f"{path} holds {odd[0]!r}, where ncnn has only plain letters. Export it again."
        )
    lines = [line.split() for line in text.splitlines() if line.strip()]
    try:
        layers = int(lines[1][0])
        blobs = [int(line[2]) + int(line[3]) for line in lines[2:]]
        complete = lines[0] == [MAGIC] and len(lines) == layers + 2
        complete = complete and all(
            len(line) >= 4 + count for line, count in zip(lines[2:], blobs, strict=True)
        )
    except (IndexError, ValueError):
        complete = False
    if not complete:
        raise ExportError(f"{path} is not an ncnn graph, or is damaged. Export it again.")
    for (kind, _, _, _, *words), count in zip(lines[2:], blobs, strict=True):
        # A number, or the length of an array: of any sign, because ncnn computes -2 * -2 as 4
        matches = [re.match(r"[+-]?\d+=[+-]?(\d+)", text) for text in words[count:]]
        digits = [match[1] for match in matches if match]
        numbers = [int(text) if len(text) < 20 else 10**19 for text in digits]
        large = max(numbers, default=0) > max(weights_bytes, MOST_SETTING)
        if large or (
            kind == "MemoryData" and prod(max(number, 1) for number in numbers) > weights_bytes
        ):
            raise ExportError(
                f"{path} holds a {kind} that needs more weights than the file has. Export it again."
            )


def _load(graph: Path, weights: Path, threads: int) -> Any:
    """Return an ncnn.Net. Raises ExportError if ncnn refuses the pair."""
    ncnn: Any = require("ncnn", "ncnn", f"running {graph.name}")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.opt.use_bf16_storage = net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(graph)) != 0 or net.load_model(str(weights)) != 0:
        raise ExportError(
            f"{graph} cannot be run by ncnn {ncnn.__version__}: it refuses the graph or the "
            "weights."
        )
    return net
