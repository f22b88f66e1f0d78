"""Time the scoring of an image without the model's forward: classes, counts, boundaries.

    python benchmarks/evaluator.py [--size 1024x2048] [--classes 19] [--rounds 15] [--threads 1]
                                   [--json FILE]

The logits are at a quarter of the size; the labels are blocks with an ignored rim. "usual" is what
evaluators commonly do: upsample the logits and take the argmax, then np.bincount over int64. The
kernels run compiled or, with FEATHERSEG_NO_EXT=1, in numpy; the machine's row says which. Differing
pixels of the masks are counted; they may differ where rounding decides between two highest scores.
"""

import argparse

import numpy as np
import paired
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.types import SegOutput
from featherseg.evaluation.boundary import BoundaryF
from featherseg.evaluation.iou import Confusion
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.sliding_window import Window
from featherseg.inference.test_time_augmentation import Pass, masks_of
from featherseg.kernels import confusion_counts, native, upsample_argmax


def usual_mask(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(1, K, h, w) -> (H, W) int64: every score at full size, then the highest."""
    return (
        F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)[0].numpy()
    )


def usual_counts(label: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """Count one image, label and mask (H, W), into (K, K) with one bincount, as is usual."""
    known = label < classes
    joint = classes * label[known].astype(np.int64) + mask[known]
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)


def our_mask(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """As the evaluator makes it of one run over the whole image: (1, K, h, w) -> (H, W) uint8."""
    out = SegOutput(logits, size, size, False)
    return masks_of([Pass(Window(0, 0, *size), out, flipped=False)], size, InferenceSettings())[0]


def our_counts(label: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """As the evaluator counts: (H, W) uint8 each -> (K, K)."""
    confusion = Confusion(classes)
    confusion.update(label, mask)
    return confusion.matrix


def scene(size: tuple[int, int], classes: int) -> tuple[Tensor, np.ndarray]:
    """Return logits (1, K, H/4, W/4), mostly right, and their ground truth (H, W) uint8."""
    torch.manual_seed(0)
    blocks = torch.randint(0, classes, (1, 1, 16, 32)).float()
    label = F.interpolate(blocks, size=size, mode="nearest")[0, 0].to(torch.uint8)  # (H, W)
    small = F.interpolate(blocks, size=(size[0] // 4, size[1] // 4), mode="nearest").long()
    logits = torch.randn(1, classes, *small.shape[2:])
    logits.scatter_add_(1, small, torch.full(small.shape, 3.0))
    label[-size[0] // 16 :] = 255
    return logits, label.numpy()


def main(arguments: argparse.Namespace) -> None:
    height, width = map(int, arguments.size.split("x"))
    size, classes = (height, width), arguments.classes
    logits, label = scene(size, classes)
    nhwc = logits.contiguous(memory_format=torch.channels_last)
    usual, mask = usual_mask(logits, size), our_mask(logits, size)
    print(
        f"kernels: {native() or 'numpy'}; "
        f"masks differ at {int((usual != mask).sum())} of {mask.size} pixels;"
    )
    equal = (usual_counts(label, mask, classes) == our_counts(label, mask, classes)).all()
    print(f"counts of one mask are {'equal' if equal else 'NOT EQUAL'}")
    contours = BoundaryF(classes)
    steps = {
        "classes": {
            "usual": lambda: usual_mask(logits, size),
            "usual, channels-last": lambda: usual_mask(nhwc, size),
            "evaluator": lambda: our_mask(logits, size),
            "evaluator, channels-last": lambda: our_mask(nhwc, size),
            "kernel": lambda: upsample_argmax(logits, size),
        },
        "counts": {
            "usual": lambda: usual_counts(label, mask, classes),
            "evaluator": lambda: our_counts(label, mask, classes),
            "kernel": lambda: confusion_counts(label, mask, classes, 255),
        },
        "all": {
            "usual, no boundaries": lambda: usual_counts(label, usual_mask(logits, size), classes),
            "evaluator, no boundaries": lambda: our_counts(label, our_mask(logits, size), classes),
            "boundaries alone": lambda: contours.update(label, mask),
        },
    }
    tables = {}
    for name, functions in steps.items():
        print(f"\n{name}, an image of {arguments.size}, {classes} classes")
        tables[name] = paired.compare(functions, arguments.rounds, arguments.clock, memory=True)
        paired.print_table(tables[name])
    if arguments.json:
        paired.write_json(arguments.json, **tables)


if __name__ == "__main__":
    parser = paired.parser(__doc__, rounds=15)
    parser.add_argument("--size", default="1024x2048", help="height x width")
    parser.add_argument("--classes", type=int, default=19)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    main(given)
