"""Seconds of one CPU training step of frm-lite0 (batch 8 of 352x480, bf16), without and with what makes it faster.

python benchmarks/train_step.py [ROUNDS]

Three processes take turns, so that a machine that slows down slows all of them; the median of each is printed, with the
median of its ratios to the first.
"""

import os
import statistics
import subprocess
import sys
import time

VARIANTS = {
    "as it comes": {"FEATHERSEG_ALLOCATOR": "off", "PLAIN_DEPTHWISE": "1"},
    "freed memory kept": {"PLAIN_DEPTHWISE": "1"},
    "and depthwise backward in fp32": {},
}
SIZE = (352, 480)


def serve() -> None:
    """Take a step for every line on stdin; answer with its seconds."""
    import torch

    from featherseg import models
    from featherseg.backbones import efficientnet
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.layers.resize import to_image
    from featherseg.losses import CrossEntropy

    keep_freed_memory()
    if os.environ.get("PLAIN_DEPTHWISE"):
        efficientnet.convolve = lambda conv, x: conv(x)
    torch.manual_seed(0)
    net = models.build("frm-lite0", 11).train().to(memory_format=torch.channels_last)
    optimizer, loss = torch.optim.AdamW(net.parameters(), 1e-3), CrossEntropy()
    images = torch.randn(8, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 11, (8, *SIZE))
    for _ in sys.stdin:
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(to_image(net(images), SIZE), labels)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        sys.stdout.write(f"{time.perf_counter() - begin}\n")
        sys.stdout.flush()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    command = [sys.executable, __file__, "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    served = {name: subprocess.Popen(command, env=os.environ | env, **pipes) for name, env in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 2):  # two to warm up
        for name, process in served.items():
            process.stdin.write("step\n")
            process.stdin.flush()
            taken = float(process.stdout.readline())
            if number >= 2:
                seconds[name].append(taken)
    first = seconds["as it comes"]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, values, strict=True))
        print(f"{name:32} {statistics.median(values):6.3f} s   {ratio:.2f}x")
        served[name].stdin.close()
        served[name].wait()


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
