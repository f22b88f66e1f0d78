"""RSP's relation at one level: the fused kernel beside unfolded windows, which are the oracle too.

    python benchmarks/pixel_to_region.py [--rounds 30] [--threads 1] [--json FILE]

The usual code unfolds windows of keys and values (einsum, softmax). Ours are
`models.rsp.PixelToRegion`, block by block, as it is exported, and the kernel, compiled and in numpy
(which runs without a compiler). The maps are those of rsp-lite0's levels at 512x1024 in
channels-last, 64 channels, 8 heads, windows of 5 x 5 cells, without the convolutions before and
after. The allocator setting is on, as in our own programs.
"""

from collections.abc import Callable

import paired
import torch
from torch import Tensor

from featherseg.core.allocator import keep_freed_memory
from featherseg.kernels import library, native, pixel_to_region, portable
from featherseg.models.rsp import PixelToRegion

CHANNELS, LEVELS = 64, ((64, 128), (32, 64), (16, 32))
"""(height, width) of the coarse maps."""
COMPILED = library.kernels


def ours(code: object, *arguments: Tensor) -> Tensor:
    library.kernels = code  # type: ignore[assignment]
    return pixel_to_region(*arguments)


def variants(height: int, width: int) -> dict[str, Callable[[], Tensor]]:
    torch.manual_seed(0)
    relation = PixelToRegion(CHANNELS).eval()
    query, key, value = (
        torch.randn(1, channels, rows, columns).contiguous(memory_format=torch.channels_last)
        for channels, rows, columns in (
            (CHANNELS // 2, 2 * height, 2 * width),
            (CHANNELS // 2, height, width),
            (CHANNELS, height, width),
        )
    )
    prior = relation.priors()
    found = {"usual": lambda: relation.gather_unfolded(query, key, value)}
    found["ours in blocks"] = lambda: relation.gather(query, key, value)
    found["ours in numpy"] = lambda: ours(portable, query, key, value, prior)
    if COMPILED is not portable:
        found["ours"] = lambda: ours(COMPILED, query, key, value, prior)
    return found


def main() -> None:
    options = paired.parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    tables = {}
    with torch.inference_mode():
        for level in LEVELS:
            name = "x".join(map(str, level))
            print(f"\ncoarse map of {name}; compiled for {native()}")
            calls = variants(*level)
            expected = calls["usual"]()
            apart = [f"{float((call() - expected).abs().max()):.1e}" for call in calls.values()]
            tables[name] = paired.compare(calls, options.rounds, options.clock, memory=True)
            paired.print_table(tables[name], {"difference": apart})
    if options.json:
        paired.write_json(options.json, **tables)


if __name__ == "__main__":
    main()
