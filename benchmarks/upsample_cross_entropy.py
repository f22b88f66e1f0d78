"""Time the loss from logits: the fused kernel and interpolate + cross_entropy, also the oracle.

    python benchmarks/upsample_cross_entropy.py [--rounds 15] [--threads 1] [--json FILE]

Loss and gradient of a training step's logits in channels-last: 150 classes, 4 of 512x512 from 1/8;
19 classes, 2 of 512x1024 from 1/8 and from 1/4; 11 classes, 8 of 352x480 from 1/4. A twentieth of
the pixels is ignored. Then comes our kernel, compiled and in torch (which runs without a compiler).
All run in one process with one setting of malloc: ours by default, the system's with
FEATHERSEG_ALLOCATOR=off. Use --clock wall with more threads than one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import paired
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.types import IGNORE
from featherseg.kernels import library, native, portable, upsample_cross_entropy

MEMORY_GOAL, ERROR_GOAL = 0.05, 3e-7
COMPILED = library.kernels


class Case(NamedTuple):
    """A training step's logits: B x K at 1 / stride of the labels' size."""

    classes: int
    batch: int
    height: int
    width: int
    stride: int
    goal: float

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"{self.classes} classes, {self.batch} of {size} from 1/{self.stride}"


CASES = [
    Case(150, 4, 512, 512, 8, 12),
    Case(19, 2, 512, 1024, 8, 4),
    Case(19, 2, 512, 1024, 4, 4),
    Case(11, 8, 352, 480, 4, 4),
]


def usual(logits: Tensor, labels: Tensor) -> Tensor:
    """The scores at full resolution are written out, and what softmax makes of them."""
    size = (labels.shape[1], labels.shape[2])
    scores = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return F.cross_entropy(scores, labels, ignore_index=IGNORE)


def ours(logits: Tensor, labels: Tensor, code: object) -> Tensor:
    library.kernels = code  # type: ignore[assignment]
    return upsample_cross_entropy(logits, labels)


def scene(case: Case) -> tuple[Tensor, Tensor]:
    """Logits in channels-last and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(
        case.batch,
        case.classes,
        case.height // case.stride,
        case.width // case.stride,
        generator=generator,
    )
    labels = torch.randint(
        0, case.classes, (case.batch, case.height, case.width), generator=generator
    )
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = IGNORE
    return logits.contiguous(memory_format=torch.channels_last), labels


def gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.detach().requires_grad_()
    loss(leaf, labels).backward()
    assert leaf.grad is not None
    return leaf.grad


def print_errors(
    forms: Mapping[str, Callable[[Tensor, Tensor], Tensor]], logits: Tensor, labels: Tensor
) -> None:
    """Print each gradient's distance from float64 by its range, for one image to save memory."""
    logits, labels = logits[:1], labels[:1]
    exact = gradient(usual, logits.double(), labels)
    for name, loss in forms.items():
        error = float(
            (gradient(loss, logits, labels) - exact).abs().max() / (exact.max() - exact.min())
        )
        verdict = "" if name == "usual" else ": reached" if error <= ERROR_GOAL else ": MISSED"
        print(f"{name}: gradient within {error:.1e} of float64's range{verdict}")


def main() -> None:
    options = paired.parser(__doc__, rounds=15).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    forms = {"usual": usual, "ours in torch": lambda x, y: ours(x, y, portable)}
    if COMPILED is not portable:
        forms["ours"] = lambda x, y: ours(x, y, COMPILED)
    tables = {}
    for case in CASES:
        print(f"\n{case}; compiled for {native()}")
        logits, labels = scene(case)
        print_errors(forms, logits, labels)
        calls = {name: partial(gradient, loss, logits, labels) for name, loss in forms.items()}
        tables[str(case)] = table = paired.compare(
            calls, options.rounds, options.clock, memory=True
        )
        paired.print_table(table)
        if "ours" in table.names:
            paired.print_goal(table, "ours", case.goal)
            share = table.memory_mib["ours"] / table.memory_mib["usual"]
            verdict = "reached" if share <= MEMORY_GOAL else "MISSED"
            print(
                f"extra memory of ours: {share:.1%} of the usual, goal {MEMORY_GOAL:.0%}: {verdict}"
            )
    if options.json:
        paired.write_json(options.json, **tables)


if __name__ == "__main__":
    main()
