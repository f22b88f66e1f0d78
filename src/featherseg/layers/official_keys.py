"""Rename keys of the authors' checkpoints by their beginnings."""

from collections.abc import Mapping

BLOCK_PARTS = {
    "conv1": "branch.0",
    "bn1": "branch.1",
    "conv2": "branch.3",
    "bn2": "branch.4",
    "conv3": "branch.6",
    "bn3": "branch.7",
    "downsample.0": "shortcut.0",
    "downsample.1": "shortcut.1",
}
"""Names inside a residual block: torchvision's, which others use too -> ours."""


def rename_start(key: str, names: Mapping[str, str], blocks: tuple[str, ...] = ()) -> str:
    """Rename the beginning of a key: `layer1.0.conv1.weight` -> `coarse.0.branch.0.weight`.

    names: the authors' beginning -> ours; the first that fits counts. The tail after one of
    `blocks` is that of a residual block. Other keys stay.
    """
    for theirs, ours in names.items():
        if key.startswith(theirs):
            tail = key.removeprefix(theirs)
            return ours + (rename_block(tail) if blocks and theirs.startswith(blocks) else tail)
    return key


def rename_block(key: str) -> str:
    """Rename inside a residual block: `0.conv1.weight` -> `0.branch.0.weight`; other keys stay."""
    block, _, leaf = key.rpartition(".")
    for theirs, ours in BLOCK_PARTS.items():
        if block == theirs or block.endswith(f".{theirs}"):
            return f"{block.removesuffix(theirs)}{ours}.{leaf}"
    return key
