"""An exported ncnn file (.ncnn.param, with .ncnn.bin and .ncnn.json beside it) that is ready to run."""

import hashlib
import json
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featherseg.core.errors import DataNotFound, DeviceError, ExportError, require
from featherseg.core.files import load_json, read_bounded
from featherseg.inference.runtimes.file_metadata import FileRuntime, read_facts

GRAPH, WEIGHTS, FACTS = ".ncnn.param", ".ncnn.bin", ".ncnn.json"
"""How the three files end; all begin alike."""

MAGIC = "7767517"
"""The first line of every graph; then the numbers of layers and blobs, then a line a layer: kind, name, how many blobs
it reads, how many it writes, which, and its settings.
"""


MOST_SETTING = 2**20
"""Sizes, strides and counts of a layer, where its weights have fewer bytes."""


class NcnnRuntime(FileRuntime):
    """A file written by `featherseg export --format ncnn`, run in fp32 on the CPU, on as many threads as torch's.

    It takes images of one size. Raises ExportError for files that are none, or not of one export, MissingExtra
    without ncnn, DeviceError for a device that is not the CPU.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"device {device!r} was asked for, but ncnn files run on the CPU here. Use --device cpu."
            )
        graph, weights, facts = (
            path.with_name(path.name.removesuffix(GRAPH) + end) for end in (GRAPH, WEIGHTS, FACTS)
        )
        for file in (graph, weights, facts):
            if not file.is_file():
                raise DataNotFound(
                    f"{file} does not exist; ncnn needs three files, {graph.name}, {weights.name} and {facts.name}. "
                    f"Write them with: featherseg export RUN --format ncnn"
                )
        _check_graph(graph, weights.stat().st_size)
        texts = _texts(facts)
        super().__init__(path, read_facts(texts, path))
        if texts.get("sha256") != json.dumps(read_pair_hash(graph, weights)):
            raise ExportError(
                f"{graph} and {weights.name} do not match {facts.name}: export again."
            )
        self._net = _load(graph, weights)

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """See FileRuntime; ncnn knows no batches, so images go one after the other."""
        each = [self._run(image) for image in images]
        return [np.stack(maps) for maps in zip(*each, strict=True)]

    def _run(self, image: np.ndarray) -> list[np.ndarray]:
        """(C, H, W) -> the outputs, (K | 1 | 2, h, w) each."""
        ncnn: Any = require("ncnn", "ncnn", f"running {self.name}")
        extractor = self._net.create_extractor()
        extractor.input("in0", ncnn.Mat(image).clone())
        maps = []
        for number, name in enumerate(self.outputs):
            code, found = extractor.extract(f"out{number}")
            if code != 0:
                raise ExportError(
                    f"{self.name} gives no {name}: ncnn stopped with {code}. Export again."
                )
            maps.append(np.array(found))
        return maps


def read_pair_hash(graph: Path, weights: Path) -> str:
    """The sha256 of both files, one after the other: files of different exports are never run together."""
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
    """Raises ExportError where the graph's text is not of ncnn's form, which ncnn itself trusts, or asks for too much.

    ncnn makes room for as many weights as a layer says, before it reads them.
    """
    try:
        text = read_bounded(path).decode(errors="replace")
    except ValueError as error:
        raise ExportError(f"{path} is not an ncnn graph: {error}.") from None
    if odd := re.search(
        r"(?!\r\n)[^\n\x20-\x7e]", text
    ):  # ncnn writes names to the terminal as they are
        raise ExportError(
            f"{path} holds {odd[0]!r}, where ncnn has only plain letters. Export it again."
        )
    lines = [line.split() for line in text.splitlines() if line.strip()]
    try:
        layers = int(lines[1][0])
        whole = lines[0] == [MAGIC] and len(lines) == layers + 2
        whole = whole and all(len(line) >= 4 + int(line[2]) + int(line[3]) for line in lines[2:])
        settings = (
            [(line[0], line[4 + int(line[2]) + int(line[3]) :]) for line in lines[2:]]
            if whole
            else []
        )
    except (IndexError, ValueError):
        whole = False
    if not whole:
        raise ExportError(f"{path} is not an ncnn graph, or is damaged. Export it again.")
    for kind, texts in settings:
        # The number itself, or how many an array has: of any sign, as ncnn takes -2 * -2 for 4
        digits = [found[1] for text in texts if (found := re.match(r"[+-]?\d+=[+-]?(\d+)", text))]
        numbers = [int(text) if len(text) < 20 else 10**19 for text in digits]
        large = max(numbers, default=0) > max(weights_bytes, MOST_SETTING)
        if large or (
            kind == "MemoryData" and prod(max(number, 1) for number in numbers) > weights_bytes
        ):
            raise ExportError(
                f"{path} holds a {kind} that needs more weights than the file has. Export it again."
            )


def _load(graph: Path, weights: Path) -> Any:
    """-> ncnn.Net. Raises ExportError where ncnn refuses the pair."""
    ncnn: Any = require("ncnn", "ncnn", f"running {graph.name}")
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_vulkan_compute = False
    net.opt.use_bf16_storage = net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(graph)) != 0 or net.load_model(str(weights)) != 0:
        raise ExportError(
            f"{graph} cannot be run by ncnn {ncnn.__version__}: it refuses the graph or the weights."
        )
    return net
