"""The base of VAN, MiT and MSCAN: four stages whose parts their authors name alike."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from featherseg.layers.model import Backbone
from featherseg.layers.official_keys import rename_start


class StagedBackbone(Backbone):
    """Four stages in a row.

    official_embed maps the authors' names inside a patch embedding to ours inside a stage,
    official_block those inside a block.
    """

    stages: nn.ModuleList
    official_embed: Mapping[str, str]
    official_block: Mapping[str, str]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        x = images
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: the ImageNet classifier)."""
        unused = [key for key in state if key in ("head.weight", "head.bias")]
        return {
            self._rename(key): value for key, value in state.items() if key not in unused
        }, unused

    def _rename(self, key: str) -> str:
        """Rename `block1.0.mlp.fc1.` to `stages.0.blocks.0.feed_forward.expand.`, and so on."""
        match = re.fullmatch(r"(?:(patch_embed|norm)(\d)|block(\d)\.(\d+))\.(.+)", key)
        if match is None:
            return key
        kind, number, block_of, block, tail = match.groups()
        if kind == "norm":
            return f"stages.{int(number) - 1}.norm.{tail}"
        names = self.official_embed if kind == "patch_embed" else self.official_block
        place = (
            f"stages.{int(number) - 1}" if kind else f"stages.{int(block_of) - 1}.blocks.{block}"
        )
        return f"{place}.{rename_start(tail, names)}" if tail.startswith(tuple(names)) else key
