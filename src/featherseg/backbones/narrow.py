"""Narrower EfficientNet-Lites (ours) that start from a wide one's weights: of every layer the strongest channels.

Nobody publishes weights of EfficientNet-Lite0 at a part of its width. Which channels stay is decided by magnitude (Li
et al., "Pruning filters for efficient ConvNets", ICLR 2017), with the scale of the batch norm behind the weights (Liu
et al., "Learning efficient convolutional networks through network slimming", ICCV 2017).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from featherseg.backbones.efficientnet import STEM_CHANNELS, EfficientNetLite, build_lite, round_channels

WIDTHS = {"efficientnet-lite0-075": 0.75, "efficientnet-lite0-050": 0.5, "efficientnet-lite0-035": 0.35}
"""Name -> the part of EfficientNet-Lite0's channels; of its stem too, which Google's rows never scale."""


MOMENTUM = 0.1
"""Of the running statistics; the wide one's 0.01 keeps them for hundreds of steps."""


class NarrowLite(EfficientNetLite):
    """EfficientNet-Lite0 with a part of its channels; the four stages of `EfficientNetLite`."""

    def __init__(self, width: float) -> None:
        super().__init__(width, 1.0, stem_channels=round_channels(STEM_CHANNELS * width))
        for norm in self.modules():  # the wide one's statistics are not those of fewer channels: forgotten in 30 steps
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = MOMENTUM

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The official keys of the wide one -> those of ours with the channels that are kept, and what is not used."""
        renamed, unused = super().rename_official(state)
        wide = build_lite("efficientnet-lite0").state_dict()
        known = [key for key in wide if not key.endswith("num_batches_tracked")]
        if any(key not in renamed or renamed[key].shape != wide[key].shape for key in known):
            return renamed, unused  # a narrow one's own weights, or another file: whoever copies it names the keys
        return self._strongest(renamed), unused

    def _strongest(self, wide: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the wide network, its channels chosen layer by layer."""
        own, found = self.state_dict(), dict[str, Tensor]()

        def keep(layer: str, outs: Tensor, ins: Tensor | None) -> None:
            """A convolution with its norm; ins: None where each channel is by itself (depthwise) or the image's."""
            weight = wide[f"{layer}.0.weight"][outs]  # (C_out, C_in, k, k)
            found[f"{layer}.0.weight"] = weight if ins is None else weight[:, ins]
            for name in ("weight", "bias", "running_mean", "running_var"):
                found[f"{layer}.1.{name}"] = wide[f"{layer}.1.{name}"][outs]

        def strength(layer: str) -> Tensor:
            return wide[f"{layer}.1.weight"].abs()  # (C_out,) the deviation of each channel behind the norm

        stream = _largest(strength("stem"), len(own["stem.0.weight"]))
        keep("stem", stream, None)
        for number, group in enumerate(self.groups):
            blocks = [f"groups.{number}.{i}" for i, _ in enumerate(group.children())]
            # All blocks of a group add to one stream, so they keep the same channels
            total = torch.stack([strength(f"{block}.project") for block in blocks]).sum(dim=0)
            out = _largest(total, len(own[f"{blocks[0]}.project.0.weight"]))
            for block in blocks:
                # A hidden channel is worth how far it moves what is kept of the block's output; the first group expands
                # nothing: its hidden channels are the stem's
                hidden = stream
                if f"{block}.expand.0.weight" in own:
                    reach = wide[f"{block}.project.0.weight"][out].abs().sum(dim=(0, 2, 3))
                    hidden = _largest(strength(f"{block}.depthwise") * reach, len(own[f"{block}.expand.0.weight"]))
                    keep(f"{block}.expand", hidden, stream)
                keep(f"{block}.depthwise", hidden, None)
                keep(f"{block}.project", out, hidden)
                stream = out
        return found


def _largest(values: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, in order."""
    return values.argsort(descending=True, stable=True)[:count].sort().values


def build_narrow(name: str) -> NarrowLite:
    """A row of WIDTHS, untrained."""
    return NarrowLite(WIDTHS[name])
