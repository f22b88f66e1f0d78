"""Time the confusion counts of one image: ours, np.bincount (the oracle), torch and torchmetrics.

    python benchmarks/confusion_counts.py [--rounds 30] [--threads 1] [--json FILE]

1024x2048 pixels of 19 classes, labels as bytes, 5 % ignored. The first labels are like those of
images, where neighbours agree: blobs predicted at 1/4 with mistakes. The second are random bytes.
"ours" is compiled; "ours in numpy" runs without a compiler. The goals are for the first labels.
"""

import argparse

import numpy as np
import paired
import torch
import torch.nn.functional as F

from featherseg.core.allocator import keep_freed_memory
from featherseg.kernels import confusion_counts, library, native, portable, upsample_argmax

CLASSES, SIZE, IGNORE = 19, (1024, 2048), 255
GOAL, NUMPY_GOAL, TORCHMETRICS_GOAL = 8, 3, 25
COMPILED = library.kernels


def usual(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The count that most evaluators hold: labelled pixels as one int64 number each."""
    known = (label >= 0) & (label < CLASSES)
    joint = CLASSES * label[known].astype(np.int64) + prediction[known]
    return np.bincount(joint, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def usual_torch(label: torch.Tensor, prediction: torch.Tensor) -> np.ndarray:
    known = (label >= 0) & (label < CLASSES)
    joint = CLASSES * label[known].long() + prediction[known]
    return torch.bincount(joint, minlength=CLASSES**2).view(CLASSES, CLASSES).numpy()


def torchmetrics_counts(label: torch.Tensor, prediction: torch.Tensor) -> np.ndarray:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(prediction, label, CLASSES, ignore_index=IGNORE).numpy()


def ours(label: np.ndarray, prediction: np.ndarray, code: object) -> np.ndarray:
    library.kernels = code  # type: ignore[assignment]
    return confusion_counts(label, prediction, CLASSES, IGNORE)


def of_images() -> tuple[np.ndarray, np.ndarray]:
    """Truth of blobs and its prediction, wrong along the contours: (H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, CLASSES, SIZE[0] // 64, SIZE[1] // 64, generator=generator)
    logits = F.interpolate(scores, scale_factor=16, mode="bilinear")  # (1, K, H/4, W/4)
    logits += 0.05 * torch.randn(logits.shape, generator=generator)
    unknown = upsample_argmax(
        torch.randn(1, 2, 32, 64, generator=generator) + torch.tensor([[[[1.6]], [[0.0]]]]), SIZE
    )
    label = upsample_argmax(scores, SIZE).masked_fill_(unknown == 1, IGNORE)
    return label[0].numpy(), upsample_argmax(logits, SIZE)[0].numpy()


def at_random() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, CLASSES, (2, *SIZE), dtype=np.uint8)
    label[rng.random(SIZE) < 0.05] = IGNORE
    return label, prediction


def compare(label: np.ndarray, prediction: np.ndarray, options: argparse.Namespace) -> paired.Table:
    tensors = torch.from_numpy(label), torch.from_numpy(prediction)
    functions = {
        "np.bincount": lambda: usual(label, prediction),
        "torch.bincount": lambda: usual_torch(*tensors),
        "torchmetrics": lambda: torchmetrics_counts(*tensors),
        "ours in numpy": lambda: ours(label, prediction, portable),
    }
    if COMPILED is not portable:
        functions["ours"] = lambda: ours(label, prediction, COMPILED)
    for name, count in functions.items():
        print(
            f"{name}: {int(np.abs(count() - usual(label, prediction)).sum())} "
            "pixels counted elsewhere"
        )
    table = paired.compare(functions, options.rounds, options.clock, memory=True)
    paired.print_table(table)
    return table


def main() -> None:
    options = paired.parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    tables = {}
    for name, labels in {"labels of images": of_images, "random bytes": at_random}.items():
        label, prediction = labels()
        right, ignored = 100 * (label == prediction).mean(), 100 * (label == IGNORE).mean()
        print(f"\n{name}: {right:.0f} % right, {ignored:.1f} % ignored")
        print(f"compiled for {native()}")
        tables[name] = compare(label, prediction, options)
    table = tables["labels of images"]
    for name, goal, base in (
        ("ours", GOAL, "np.bincount"),
        ("ours", TORCHMETRICS_GOAL, "torchmetrics"),
        ("ours in numpy", NUMPY_GOAL, "np.bincount"),
    ):
        if name in table.names:
            paired.print_goal(table, name, goal, base)
    if options.json:
        paired.write_json(options.json, **tables)


if __name__ == "__main__":
    main()
