"""Time our dilated depthwise 7x7 of VAN's attention against torch's convolution (goal: 8x).

    python benchmarks/dilated_depthwise.py [--threads 1] [--rounds 30] [--json FILE]

The baseline and the oracle is nn.Conv2d on maps in torch's default layout. The sizes are those of
VAN-S's four stages at 512x1024. The allocator setting is on, as in our own programs.
"""

from functools import partial

import paired
import torch
from torch import nn

from featherseg.core.allocator import keep_freed_memory
from featherseg.layers.dilated_depthwise import PhaseSplitConv2d

STAGES = ((64, 128, 256), (128, 64, 128), (320, 32, 64), (512, 16, 32))
"""(channels, height, width)."""

GOAL = 8


def variants(channels: int, height: int, width: int) -> dict[str, tuple[nn.Conv2d, torch.Tensor]]:
    """Name -> convolution and the map it is given; all have the same weights."""
    torch.manual_seed(0)
    options = {"padding": 9, "dilation": 3, "groups": channels}
    usual, last, ours = (
        kind(channels, channels, 7, **options) for kind in (nn.Conv2d, nn.Conv2d, PhaseSplitConv2d)
    )
    for conv in (last, ours):
        conv.load_state_dict(usual.state_dict())
        conv.to(memory_format=torch.channels_last)
    x = torch.randn(1, channels, height, width)
    there = x.contiguous(memory_format=torch.channels_last)
    return {"usual": (usual, x), "usual, channels-last": (last, there), "ours": (ours, there)}


def main() -> None:
    options = paired.parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    tables = {}
    with torch.inference_mode():
        for stage in STAGES:
            name = "x".join(map(str, stage))
            print(f"\n{name}")
            pairs = variants(*stage)
            expected = pairs["usual"][0](pairs["usual"][1])
            apart = [float((conv(x) - expected).abs().max()) for conv, x in pairs.values()]
            calls = {kind: partial(conv, x) for kind, (conv, x) in pairs.items()}
            table = paired.compare(calls, options.rounds, options.clock)
            paired.print_table(table, {"difference": [f"{value:.1e}" for value in apart]})
            tables[name] = table
    paired.print_goal(tables["64x128x256"], "ours", GOAL)
    if options.json:
        paired.write_json(options.json, **tables)


if __name__ == "__main__":
    main()
