"""List and fetch the ImageNet weights of the backbones.

It is in this folder because some backbones belong to a model; it needs no Lightning.
"""

from pathlib import Path
from typing import Any

import torch

from featherseg import backbones, models
from featherseg.backbones.weights import (
    PRETRAINED,
    DownloadedFile,
    find_pretrained,
    load_trunk,
    published,
    record_path,
    refuse_unsafe_torch,
    weights_folder,
)
from featherseg.core.download import download
from featherseg.core.errors import WeightsError
from featherseg.core.files import file_digest, write_json
from featherseg.core.types import Progress
from featherseg.layers.model import Backbone

MOST_BYTES = 2**30
"""Largest file of weights that is fetched; the largest backbone has a fifth of it."""


def pretrained_rows() -> list[dict[str, Any]]:
    """Return a row per backbone: the origin of its ImageNet weights, their licence and their file.

    here: The path of the file; None if it is not on this machine.
    bytes: Of the file, or about: 4 per parameter of the backbone.
    """
    rows: list[dict[str, Any]] = []
    for name, source in PRETRAINED.items():
        path = source.path()
        if path is not None and path.is_file():
            size = path.stat().st_size
        else:
            path = None
            with torch.device("meta"):
                size = 4 * sum(parameter.numel() for parameter in _build(name).parameters())
        facts = {
            "here": path and str(path),
            "bytes": size,
            "licence": source.licence,
            "address": source.address,
        }
        rows.append({"backbone": name, "file": Path(source.file).name, **facts})
    return rows


def fetch_pretrained(
    name: str, progress: Progress | None = None, *, loopback: bool = False
) -> tuple[Path, str]:
    """Fetch a backbone's ImageNet weights into `weights_folder()`; return (the file, its sha256).

    The file gets its name once it is complete, has the published checksum (if there is one) and
    fits the backbone (`load_trunk`). Address, checksum and licence are recorded beside it. A file
    that is there is checked, not fetched again.

    Args:
        name: The backbone, such as "van-b1" or "timm:mobilenetv4_conv_small".
        progress: Called with (file name, bytes done, total bytes).
        loopback: Accept an address of this machine too (for tests).

    Raises:
        WeightsError: there are no such weights, they come another way (it says which), or the file
            does not fit.
        DownloadError: the file could not be fetched; the same call continues where it stopped.
    """
    source = published(name)
    if not isinstance(source, DownloadedFile) or source.path() or not (source.fetched or loopback):
        path = find_pretrained(name)
        return path, file_digest(path)

    def check(part: Path) -> None:
        try:
            load_trunk(_build(name), part, name)
        except WeightsError as error:
            raise WeightsError(
                f"the file from {source.address} does not fit {name} and was removed: {error}"
            ) from None

    path = weights_folder() / source.file
    if not source.sha256:
        refuse_unsafe_torch(path)
    digest = download(
        source.address,
        path,
        most=MOST_BYTES,
        sha256=source.sha256,
        check=check,
        progress=progress,
        loopback=loopback,
    )
    record = {
        "backbone": name,
        "address": source.address,
        "sha256": digest,
        "licence": source.licence,
    }
    write_json(record_path(path), record)
    return path, digest


def _build(name: str) -> Backbone:
    """Return the untrained backbone, also one that only models have."""
    if name in backbones.BACKBONES or name.startswith(backbones.PREFIX):
        return backbones.build(name)
    return models.build(
        next(model for model, entry in models.MODELS.items() if entry.backbone == name), 2
    ).backbone
