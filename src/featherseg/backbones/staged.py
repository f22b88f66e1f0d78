"""What VAN, MiT and MSCAN share: four stages one after the other, whose parts their authors' code names alike."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from featherseg.layers.model import Backbone
from featherseg.layers.official_keys import rename_start


class StagedBackbone(Backbone):
    """images (B, C, H, W), normalised -> four stage maps, fine to coarse: 1/4, 1/8, 1/16, 1/32, sizes rounded up.

    official_embed says how the authors' names inside a patch embedding begin -> how ours inside a stage do,
    official_block the same inside a block.
    """

    stages: nn.ModuleList
    official_embed: Mapping[str, str]
    official_block: Mapping[str, str]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The authors' key names -> ours; -> (renamed state, keys that are not used: an ImageNet classifier's)."""
        unused = [key for key in state if key in ("head.weight", "head.bias")]
        return {
            self._rename(key): value for key, value in state.items() if key not in unused
        }, unused

    def _rename(self, key: str) -> str:
        """`block1.0.mlp.fc1.bias` -> `stages.0.blocks.0.feed_forward.expand.bias`; others stay as they are."""
        match = re.fullmatch(r"(?:(patch_embed|norm)(\d)|block(\d)\.(\d+))\.(.+)", key)
        if match is None:
            return key
        kind, number, block_of, block, rest = match.groups()
        if kind == "norm":
            return f"stages.{int(number) - 1}.norm.{rest}"
        names = self.official_embed if kind == "patch_embed" else self.official_block
        place = (
            f"stages.{int(number) - 1}" if kind else f"stages.{int(block_of) - 1}.blocks.{block}"
        )
        return f"{place}.{rename_start(rest, names)}" if rest.startswith(tuple(names)) else key
