"""The backbones' ImageNet weights, listed and fetched, before any training asks for them.

It stands here because some backbones belong to a model; it needs no Lightning.
"""

from pathlib import Path
from typing import Any

import torch

from featherseg import backbones, models
from featherseg.backbones.weights import (
    PRETRAINED,
    DownloadedFile,
    find_pretrained,
    load_official,
    read_state,
    record_path,
    weights_folder,
)
from featherseg.core.download import download
from featherseg.core.errors import WeightsError
from featherseg.core.files import file_digest, write_json
from featherseg.core.types import Progress
from featherseg.layers.model import Backbone

MOST_BYTES = 2**30
"""Of a file of weights: the largest backbone here has a fifth of it."""


def pretrained_rows() -> list[dict[str, Any]]:
    """What there is of ImageNet weights, a row a backbone: where from, terms, where the file lies (None: not here).

    bytes: of the file where it is here, else about: of the backbone's own parameters at 4 bytes.
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
        own = {
            "here": path and str(path),
            "bytes": size,
            "licence": source.licence,
            "address": source.address,
        }
        rows.append({"backbone": name, "file": Path(source.file).name, **own})
    return rows


def fetch_pretrained(
    name: str, progress: Progress | None = None, *, loopback: bool = False
) -> tuple[Path, str]:
    """Fetch a backbone's ImageNet weights into `weights_folder()`; -> (the file, its sha256).

    The file takes its name once it is whole, has the published checksum as far as there is one, and fits the backbone;
    address, checksum and licence are recorded beside it. What is there already is checked, not fetched again.

    Args:
        name: The backbone, such as "van-b1".
        progress: Called with (file name, bytes done, bytes in all).
        loopback: Take an address of this machine too (for tests).

    Raises:
        WeightsError: There are no such weights, they come another way (it says which), or the file does not fit.
        DownloadError: The file could not be fetched; the same call goes on where it broke.
    """
    source = PRETRAINED.get(name)
    if not isinstance(source, DownloadedFile) or source.path() or not (source.fetched or loopback):
        path = find_pretrained(name)
        return path, file_digest(path)

    def check(part: Path) -> None:
        try:
            load_official(_build(name), read_state(part))
        except WeightsError as error:
            raise WeightsError(
                f"{source.address} gave a file that does not fit {name}, and it was removed: {error}"
            ) from None

    path = weights_folder() / source.file
    digest = download(
        source.address,
        path,
        most=MOST_BYTES,
        sha256=source.sha256,
        check=check,
        progress=progress,
        loopback=loopback,
    )
    known = {
        "backbone": name,
        "address": source.address,
        "sha256": digest,
        "licence": source.licence,
    }
    write_json(record_path(path), known)
    return path, digest


def _build(name: str) -> Backbone:
    """The untrained backbone, also one that only models have."""
    if name in backbones.BACKBONES:
        return backbones.build(name)
    return models.build(
        next(model for model, entry in models.MODELS.items() if entry.backbone == name), 2
    ).backbone
