"""Compare the memory that `train` estimates on a CPU with the peak of the process.

python benchmarks/training_memory.py [MODEL CLASSES BATCH HxW [TABLE.KEY=VALUE ...]]
python benchmarks/training_memory.py --price ROUNDS MODEL CLASSES BATCH HxW fp32|bf16

Without a model the rows below are run. Each is a training of four steps on random images in its own
process. --price: the time of steps that keep the activations over that of steps that compute them
again, in turns.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS = """
frm-lite0 11 8 352x480 train.precision=bf16
frm-lite0 11 8 352x480 train.precision=fp32
frm-lite0 11 2 352x480 train.precision=bf16 train.accumulate=2
frm-lite0 11 8 352x480 train.precision=bf16 loss.contrast=0.5
frm-lite0 19 8 200x200 train.precision=bf16
frm-lite0 19 4 700x970 train.precision=bf16 loss.ohem_threshold=0.7
frm-lite0 150 8 512x512 train.precision=bf16
cgrseg-lite0 11 8 352x480 train.precision=bf16
rsp-lite0 11 8 352x480 train.precision=bf16
rsp-lite0-panoptic 11 4 352x480 train.precision=bf16
pidnet-s 19 4 512x512 train.precision=bf16 loss.auxiliary=0.4 loss.boundary=20
ddrnet-23-slim 19 8 512x512 train.precision=fp32 loss.auxiliary=0.4
cgrseg-t 150 4 512x512 train.precision=bf16
segformer-b0 150 4 512x512 train.precision=bf16 train.accumulate=2
frm-van-t 19 2 512x512 train.precision=fp32
frm-lite0 11 8 352x480 train.precision=bf16 train.checkpoint_activations=true
frm-lite0 19 4 1024x1024 train.precision=bf16
frm-lite0 19 4 1024x1024 train.precision=bf16 train.checkpoint_activations=true
frm-van-t 19 2 768x768 train.precision=fp32
frm-van-t 19 2 768x768 train.precision=fp32 train.checkpoint_activations=true
cgrseg-b 19 2 512x1024 train.precision=bf16
cgrseg-b 19 2 512x1024 train.precision=bf16 train.checkpoint_activations=true
"""
STEPS = 4


def serve(model: str, classes: int, batch: int, size: tuple[int, int], settings: list[str]) -> None:
    """Train, and print what the run's record says of the memory."""
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.core.types import ClassInfo, Sample
    from featherseg.training import Request, train
    from featherseg.training.objects import Objects

    class Random:
        """Images of noise, with squares of every class; those of the last three are objects."""

        def __init__(self, count: int) -> None:
            self.name, self.channels, self.licence = "random", 3, "CC0"
            self.classes = tuple(
                ClassInfo(f"class {i}", (0, 0, 0), thing=i >= classes - 3) for i in range(classes)
            )
            self.keys = [f"image {i}" for i in range(count)]

        def __len__(self) -> int:
            return len(self.keys)

        def label(self, index: int) -> np.ndarray:
            return self[index].label

        def __getitem__(self, index: int) -> Sample:
            rng = np.random.default_rng(index)
            squares = rng.integers(0, classes, [-(-side // 32) for side in size], dtype=np.uint8)
            label = squares.repeat(32, 0).repeat(32, 1)[: size[0], : size[1]]
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            return Sample(
                self.keys[index],
                image,
                label,
                np.where(label >= classes - 3, label + np.int32(1), 0),
            )

    class Silent:
        def message(self, *_: object) -> None: ...

        step = progress = message

    keep_freed_memory()
    fixed = [
        f"augment.crop={list(size)}",
        f"train.batch_size={batch}",
        "train.epochs=1",
        "model.pretrained=false",
    ]
    given = dict(text.split("=", 1) for text in settings)
    images = STEPS * batch * int(given.get("train.accumulate", 1))
    request = Request(
        model, overrides=(*fixed, *settings), objects=Objects(data=(Random(images), Random(2)))
    )
    with tempfile.TemporaryDirectory() as folder:
        run = train(request, Path(folder) / "run", Silent())
        gb = json.loads((run.path / "environment.json").read_text())["memory_gb"]
    estimated, measured = gb["estimated"], gb["measured"]
    print(
        f"estimated {estimated:5.2f} GB, measured {measured:5.2f} GB, "
        f"ratio {estimated / measured:.2f}"
    )


def main(rows: list[str]) -> None:
    for row in rows:
        command = [sys.executable, __file__, "--serve", *row.split()]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        print(f"{row:92}", found, end="", flush=True)


def price(
    rounds: int, name: str, classes: int, batch: int, size: tuple[int, int], precision: str
) -> None:
    """Time forward, loss and backward with and without checkpointed activations."""
    import paired
    import torch

    from featherseg import models
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.losses import CrossEntropy
    from featherseg.training.checkpointing import checkpoint_blocks
    from featherseg.training.module import compute_loss

    keep_freed_memory()
    built = [
        models.build(name, classes).train().to(memory_format=torch.channels_last) for _ in range(2)
    ]
    checkpoint_blocks(built[1])
    labels = torch.randint(0, classes, (batch, *size), dtype=torch.uint8)
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)

    def step(model: torch.nn.Module) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = compute_loss(model, CrossEntropy(), (images, labels))
        loss.backward()

    calls = {"kept": lambda: step(built[0]), "computed again": lambda: step(built[1])}
    paired.print_table(paired.compare(calls, rounds))


if __name__ == "__main__":
    arguments = [text for text in sys.argv[1:] if not text.startswith("--")]
    if "--price" in sys.argv:
        rounds, name, classes, batch, size, precision = arguments
        height, width = map(int, size.split("x"))
        price(int(rounds), name, int(classes), int(batch), (height, width), precision)
    elif "--serve" in sys.argv:
        name, classes, batch, size, *settings = arguments
        height, width = map(int, size.split("x"))
        serve(name, int(classes), int(batch), (height, width), settings)
    else:
        main([" ".join(arguments)] if arguments else ROWS.strip().splitlines())
