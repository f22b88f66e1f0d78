"""Compare our kernels on a GPU (Triton or torch) with torch's and with our compiled CPU kernels.

    python benchmarks/gpu_kernels.py [--rounds 30] [--device cuda]

Masks of 19 classes at 1024x2048 from logits at 1/4 and 1/8, batch 1 and 8; pixel counts of 19
classes at that size. Times are wall time until the device is done. Prints a Markdown table with the
share of results on which GPU and CPU agree.
"""

import argparse
from collections.abc import Callable

import paired
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.allocator import keep_freed_memory
from featherseg.kernels import joint_counts, native, upsample_argmax

CLASSES = 19


def usual(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, h, w) -> (B, H, W) int64; the scores at full resolution are written out."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)


def print_row(name: str, calls: dict[str, Callable[[], Tensor]], rounds: int) -> None:
    """Median ms of each; "torch" is the baseline."""
    results = {key: call().cpu().long() for key, call in calls.items()}
    same = float((results["ours"] == results["ours on the CPU"]).double().mean())
    table = paired.compare(calls, rounds, "wall")
    medians = dict(zip(table.names, table.p50_ms(), strict=True))
    figures = " | ".join(f"{medians[key]:.3f}" for key in calls)
    print(f"| {name} | {figures} | {table.ratio('ours')} | {same:.6%} |", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    asked = parser.parse_args()
    keep_freed_memory()
    size, generator = tuple(asked.size), torch.Generator().manual_seed(0)

    def until_done(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def timed() -> Tensor:
            result = call()
            if asked.device == "cuda":
                torch.cuda.synchronize()
            return result

        return timed

    print(
        f"| {asked.device}; CPU kernels: {native()} | torch, ms | ours, ms | ours on the CPU, ms "
        "| over torch | same |"
    )
    print("|---|---|---|---|---|---|")
    for batch in (1, 8):
        for stride in (4, 8):
            logits = torch.randn(
                batch, CLASSES, size[0] // stride, size[1] // stride, generator=generator
            )
            there = logits.to(asked.device, memory_format=torch.channels_last)
            calls = {
                "torch": until_done(lambda x=there: usual(x, size)),
                "ours": until_done(lambda x=there: upsample_argmax(x, size)),
                "ours on the CPU": lambda x=logits: upsample_argmax(x, size),
            }
            print_row(f"mask from 1/{stride}, batch {batch}", calls, asked.rounds)
    pair = [
        torch.randint(0, CLASSES, size, dtype=torch.uint8, generator=generator) for _ in range(2)
    ]
    there = [x.to(asked.device) for x in pair]
    calls = {
        "torch": until_done(
            lambda: torch.bincount((there[0].long() * 20 + there[1]).flatten(), minlength=400).view(
                20, 20
            )
        ),
        "ours": until_done(lambda: torch.from_numpy(joint_counts(*there, CLASSES)[0].ravel())),
        "ours on the CPU": lambda: torch.from_numpy(joint_counts(*pair, CLASSES)[0].ravel()),
    }
    print_row("pixel counts", calls, asked.rounds)


if __name__ == "__main__":
    main()
