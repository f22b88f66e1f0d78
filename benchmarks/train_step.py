"""Time one CPU training step, from plain PyTorch to what `train` does.

python benchmarks/train_step.py [ROUNDS] [MODEL] [bf16 or fp32] [BATCH]

A step is batch 8 of 352x480 in bf16, channels-last. Every row is a process; they take turns, so
that a machine that slows down slows all of them. The script prints the median of each row and its
median speed-ups with 95 % intervals over the rounds: over the third row, what `train` did before it
had kernels, and over the first. Larger is faster.
"""

import subprocess
import sys
import time

import numpy as np
import paired

ROWS = (
    "as it comes",
    "freed memory kept",
    "depthwise backward in fp32",
    "depthwise backward in one pass",
    "batch norm and activation in one",
    "resizing and RSP's relation",
    "loss inside the upsampling",
)
"""Each with everything of those before; the last is what `train` does."""
BEFORE = 2
SIZE = (352, 480)
CLASSES = 11


def leave_out(done: int) -> None:
    """Put torch's own operations where the kernels of the rows after row `done` are."""
    import torch.nn.functional as F

    from featherseg.kernels import depthwise
    from featherseg.layers import conv, resize
    from featherseg.models import rsp

    if done < 2:
        conv.depthwise_conv2d = lambda x, weight, bias, *geometry: F.conv2d(
            x,
            weight.to(x.dtype),
            None if bias is None else bias.to(x.dtype),
            *geometry,
            groups=len(weight),
        )
    if done < 3:
        depthwise._kernel_takes = lambda *_: False
    if done < 4:
        conv.takes = lambda _: False
    if done < 5:
        resize.trains_here = rsp.learns = lambda _: False


def serve(done: int, name: str, precision: str, batch: int) -> None:
    """Take a step for every line on stdin; answer with its seconds."""
    import torch
    import torch.nn.functional as F

    from featherseg import models
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.losses import CrossEntropy

    if done >= 1:
        keep_freed_memory()
    leave_out(done)
    torch.manual_seed(0)
    model = models.build(name, CLASSES).train().to(memory_format=torch.channels_last)
    optimizer, loss = torch.optim.AdamW(model.parameters(), 1e-3), CrossEntropy()
    images = torch.randn(batch, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch, *SIZE))
    for _ in sys.stdin:
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            out = model(images)
            if done >= 6:
                value = loss(out, labels)
            else:
                logits = F.interpolate(
                    out.logits, SIZE, mode="bilinear", align_corners=out.align_corners
                )
                value = F.cross_entropy(logits, labels, ignore_index=255)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        sys.stdout.write(f"{time.perf_counter() - begin}\n")
        sys.stdout.flush()


def main(rounds: int, model: str, precision: str, batch: int) -> None:
    command = [sys.executable, __file__, "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    rest = [model, precision, str(batch)]
    served = {
        name: subprocess.Popen([*command, str(done), *rest], **pipes)
        for done, name in enumerate(ROWS)
    }
    taken = np.empty((rounds + 2, len(ROWS)))
    for turn in taken:
        for row, process in enumerate(served.values()):
            process.stdin.write("step\n")
            process.stdin.flush()
            turn[row] = float(process.stdout.readline())
    seconds = taken[2:].T[:, None]  # (rows, 1, rounds), without the two to warm up
    for name, values in zip(ROWS, seconds, strict=True):
        over_before, over_first = (
            paired.ratio(base / values) for base in (seconds[BEFORE], seconds[0])
        )
        print(
            f"{name:34} {np.median(values):6.3f} s   "
            f"{str(over_before).replace('x', ''):>18}   {over_first}"
        )
        served[name].stdin.close()
        served[name].wait()


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve(int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5]))
    else:
        rounds, *names = [*sys.argv[1:], *["9", "frm-lite0", "bf16", "8"][len(sys.argv) - 1 :]]
        main(int(rounds), *names[:2], int(names[2]))
