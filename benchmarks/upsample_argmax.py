"""The mask from logits: the fused kernel beside interpolate + argmax, which is the oracle too.

    python benchmarks/upsample_argmax.py [--rounds 30] [--threads 1] [--json FILE]

19 classes to 1024x2048 from logits at 1/4 and at 1/8, one image. "usual" interpolates planes
(NCHW); the next row does so in channels-last. Then comes our kernel, compiled and in numpy (which
runs without a compiler). All run in one process with one setting of malloc: ours by default, the
system's with FEATHERSEG_ALLOCATOR=off.
"""

from collections.abc import Callable

import paired
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.allocator import keep_freed_memory
from featherseg.kernels import library, native, portable, upsample_argmax

CLASSES, SIZE, STRIDES = 19, (1024, 2048), (4, 8)
PLANES_GOAL, CHANNELS_LAST_GOAL, NUMPY_GOAL, MEMORY_GOAL_MB = 25, 8, 3, 8
COMPILED = library.kernels


def usual(logits: Tensor) -> Tensor:
    """(B, K, h, w) -> (B, H, W) int64; the scores at full resolution are written out."""
    return F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False).argmax(1)


def ours(logits: Tensor, code: object) -> Tensor:
    library.kernels = code  # type: ignore[assignment]
    return upsample_argmax(logits, SIZE)


def differing(mask: Tensor, logits: Tensor) -> int:
    """Pixels where the chosen class is below the best by more than 1e-5 of the logits' range."""
    scores = F.interpolate(logits.double(), size=SIZE, mode="bilinear", align_corners=False)
    taken = scores.gather(1, mask[:, None].long())[:, 0]
    return int((taken < scores.amax(1) - 1e-5 * (logits.max() - logits.min())).sum())


def variants(stride: int) -> dict[str, Callable[[], Tensor]]:
    logits = torch.randn(
        1, CLASSES, SIZE[0] // stride, SIZE[1] // stride, generator=torch.Generator().manual_seed(0)
    )
    last = logits.contiguous(memory_format=torch.channels_last)
    found = {
        "usual": lambda: usual(logits),
        "usual, channels-last": lambda: usual(last),
        "ours in numpy": lambda: ours(logits, portable),
        "ours in numpy, channels-last": lambda: ours(last, portable),
    }
    if COMPILED is not portable:
        found["ours"] = lambda: ours(logits, COMPILED)
        found["ours, channels-last"] = lambda: ours(last, COMPILED)
    for name, call in found.items():
        print(f"{name}: {differing(call(), logits)} pixels of another class")
    return found


def main() -> None:
    options = paired.parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    tables = {}
    for stride in STRIDES:
        print(f"\nlogits at 1/{stride}; compiled for {native()}")
        table = paired.compare(variants(stride), options.rounds, options.clock, memory=True)
        tables[f"x{stride}"] = table
        paired.print_table(table)
        if "ours" in table.names:
            paired.print_goal(table, "ours", PLANES_GOAL)
            paired.print_goal(
                table, "ours, channels-last", CHANNELS_LAST_GOAL, base="usual, channels-last"
            )
            print(
                f"extra memory of ours: {table.memory_mib['ours'] * 2**20 / 1e6:.1f} MB, "
                f"goal {MEMORY_GOAL_MB} MB"
            )
        paired.print_goal(table, "ours in numpy", NUMPY_GOAL)
    if options.json:
        paired.write_json(options.json, **tables)


if __name__ == "__main__":
    main()
