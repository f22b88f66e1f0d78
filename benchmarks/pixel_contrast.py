"""Time pixel contrast, forward and backward: ours and the usual loop, which is also the oracle.

    python benchmarks/pixel_contrast.py [--rounds 15] [--threads 1] [--json FILE]

4 images of 1024x1024 with 19 classes, maps at 1/4 (256x256) of 128 channels, at most 1024 samples
and 100 views. The usual form loops over images and classes. Each layout of the maps has two rows:
"embedded", where both start from a map that is embedded and has unit length, and "features", where
the usual form embeds the whole map and ours only the drawn pixels. In timed runs each side draws
its own pixels, equally many; for the differences both get the same pixels. Both run in one process
with one setting of malloc: ours by default, the system's with FEATHERSEG_ALLOCATOR=off.
"""

import paired
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.types import SegOutput
from featherseg.losses import PixelContrast
from featherseg.losses.pixel_contrast import contrast, mistakes, pick, sample_pixels

CLASSES, SAMPLES, VIEWS, TEMPERATURE = 19, 1024, 100, 0.1
GOAL, GRADIENT_GOAL = 25, 1e-6
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}

Drawn = list[tuple[int, int, Tensor]]
"""Image, class, positions (n,) of its pixels in the flattened image."""


def usual_draw(labels: Tensor, predicted: Tensor) -> Drawn:
    """Draw pixels from labels, predicted (B, h, w): as many per class and image, half wrong."""
    pairs = [
        (i, int(c))
        for i, one in enumerate(labels)
        for c in one.unique()
        if (one == c).sum() > VIEWS
    ]
    views, drawn = min(SAMPLES // len(pairs), VIEWS), []
    for image, cls in pairs:
        label, guess = labels[image].flatten(), predicted[image].flatten()
        hard = ((label == cls) & (guess != cls)).nonzero()[:, 0]
        easy = ((label == cls) & (guess == cls)).nonzero()[:, 0]
        take = views - len(easy) if len(easy) < views / 2 else views // 2
        take = len(hard) if len(hard) < views / 2 else take
        hard = hard[torch.randperm(len(hard))[:take]]
        easy = easy[torch.randperm(len(easy))[: views - take]]
        drawn.append((image, cls, torch.cat([hard, easy])))
    return drawn


def usual_loss(embedded: Tensor, drawn: Drawn) -> Tensor:
    """Return Eq. 6 for a map (B, D, h, w) by a gather per image and class, all written out."""
    flat = embedded.permute(0, 2, 3, 1).flatten(1, 2)  # (B, h w, D)
    anchors = torch.cat([flat[image, positions] for image, _, positions in drawn])  # (M, D)
    classes = torch.cat([torch.full((len(positions),), cls) for _, cls, positions in drawn])[
        :, None
    ]
    same = (classes == classes.mT).float()  # (M, M)
    scores = anchors @ anchors.mT / TEMPERATURE
    scores = scores - scores.max(dim=1, keepdim=True).values.detach()
    negatives = (scores.exp() * (1 - same)).sum(1, keepdim=True)
    positive = same * (1 - torch.eye(len(same)))
    log_share = scores - torch.log(scores.exp() + negatives)
    return -((positive * log_share).sum(1) / positive.sum(1)).mean()


def usual(embedded: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """As it is commonly written: from the embedded map on."""
    small = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest")[
        :, 0
    ].long()
    return usual_loss(embedded, usual_draw(small, logits.argmax(1)))


def ours_draw(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return `PixelContrast`'s pixels: (positions in the flattened batch, classes), each (M,)."""
    small = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest")[
        :, 0
    ].long()
    index = sample_pixels(small, mistakes(logits, small), CLASSES, SAMPLES, VIEWS)
    return index, small.flatten()[index]


def ours(embedded: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The parts of `PixelContrast` from the embedded map on."""
    index, classes = ours_draw(logits, labels)
    return contrast(pick(embedded, index), classes, TEMPERATURE)


def whole_map(loss: PixelContrast, features: Tensor) -> Tensor:
    """The head over the whole map, (B, C, h, w) -> (B, D, h, w), of unit length."""
    return F.normalize(loss.embed(features), dim=1)


def as_drawn(index: Tensor, classes: Tensor, pixels: int) -> Drawn:
    """Our pixels as the usual form takes them."""
    pairs = sorted(set(zip((index // pixels).tolist(), classes.tolist(), strict=True)))
    return [(p, c, index[(index // pixels == p) & (classes == c)] % pixels) for p, c in pairs]


def scene(layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (4, 128, 256, 256), logits (4, 19, 256, 256), mostly right, and labels."""
    torch.manual_seed(0)
    blocks = torch.randint(0, CLASSES, (4, 16, 16))
    labels = blocks.repeat_interleave(64, 1).repeat_interleave(64, 2)  # (4, 1024, 1024)
    features, logits = torch.randn(4, 128, 256, 256), torch.randn(4, CLASSES, 256, 256)
    logits.scatter_add_(1, labels[:, None, ::4, ::4], torch.full((4, 1, 256, 256), 2.5))
    return (
        features.contiguous(memory_format=layout),
        logits.contiguous(memory_format=layout),
        labels,
    )


def check_same(loss: PixelContrast, features: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Print how far value and gradients are apart where both forms get the same pixels."""
    torch.manual_seed(1)
    size = tuple(logits.shape[2:])
    value = loss(SegOutput(logits, size, size, False, features), labels)
    torch.manual_seed(1)
    drawn = as_drawn(*ours_draw(logits, labels), labels[0, ::4, ::4].numel())
    expected = usual_loss(whole_map(loss, features), drawn)
    wanted = [features, *loss.parameters()]
    pairs = list(
        zip(torch.autograd.grad(value, wanted), torch.autograd.grad(expected, wanted), strict=True)
    )
    apart, largest = (
        max(float(x.abs().max()) for x in xs)
        for xs in ([a - b for a, b in pairs], [b for _, b in pairs])
    )
    print(
        f"{sum(len(d) for _, _, d in drawn)} samples of {len(drawn)} classes of images; "
        "the same for both:"
    )
    print(
        f"  loss {value.item():.6f}, usual {expected.item():.6f}; "
        f"gradients differ by {apart:.1e} at most"
    )
    print(
        f"  (the largest gradient is {largest:.1e}): "
        f"{'reached' if apart <= GRADIENT_GOAL else 'MISSED'}"
    )


def main() -> None:
    arguments = paired.parser(__doc__, rounds=15).parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    tables = {}
    for name, layout in LAYOUTS.items():
        features, logits, labels = scene(layout)
        features.requires_grad_()
        loss = PixelContrast(128, CLASSES, dim=128, max_samples=SAMPLES, max_views=VIEWS)
        embedded = (
            whole_map(loss, features).detach().contiguous(memory_format=layout).requires_grad_()
        )
        check_same(loss, features, logits, labels)

        def step(form, leaf, arguments=(logits, labels)):
            def run() -> None:
                leaf.grad = None
                form(leaf, *arguments).backward()

            return run

        rows = {
            "embedded": {"usual": step(usual, embedded), "ours": step(ours, embedded)},
            "features": {
                "usual": step(
                    lambda x, *inputs, loss=loss: usual(whole_map(loss, x), *inputs), features
                ),
                "ours": step(loss, features),
            },
        }
        for start, functions in rows.items():
            print(f"\n{name} maps, from the {start} on")
            tables[f"{name}, {start}"] = table = paired.compare(
                functions, arguments.rounds, arguments.clock, memory=True
            )
            paired.print_table(table)
            paired.print_goal(table, "ours", GOAL)
    if arguments.json:
        paired.write_json(arguments.json, **tables)


if __name__ == "__main__":
    main()
