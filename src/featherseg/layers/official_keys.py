"""Key names of the authors' checkpoints -> ours, by how they begin."""

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
"""Names inside a residual block, torchvision's and of those who follow it -> ours."""


def rename_start(key: str, names: Mapping[str, str], blocks: tuple[str, ...] = ()) -> str:
    """`layer1.0.conv1.weight` -> `coarse.0.branch.0.weight`: what it begins with, by the first of `names` that fits.

    names: theirs -> ours. What follows one that begins with one of `blocks` is of residual blocks. Other keys stay as
    they are.
    """
    for theirs, ours in names.items():
        if key.startswith(theirs):
            rest = key.removeprefix(theirs)
            return ours + (rename_block(rest) if blocks and theirs.startswith(blocks) else rest)
    return key


def rename_block(key: str) -> str:
    """`0.conv1.weight` -> `0.branch.0.weight`; a key that is not of a residual block stays as it is."""
    block, _, leaf = key.rpartition(".")
    for theirs, ours in BLOCK_PARTS.items():
        if block == theirs or block.endswith(f".{theirs}"):
            return f"{block.removesuffix(theirs)}{ours}.{leaf}"
    return key
