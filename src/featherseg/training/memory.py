"""What a training takes of the memory, estimated before its first step."""

import copy
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from featherseg.core.allocator import return_freed_memory
from featherseg.core.errors import ConfigError, FeathersegError
from featherseg.core.machine import pick_device
from featherseg.core.types import IGNORE, OnMessage, Size
from featherseg.core.wording import WarningText, counted, size_text
from featherseg.costs.latency import peak_memory
from featherseg.data.cache.teacher_outputs import Grid, TeacherLogits
from featherseg.data.panoptic.targets import PanopticTargets
from featherseg.inference.memory import LiveBytes, peak_bytes_per_pixel
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import resize_factor
from featherseg.recipe.tables import Recipe
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.loss import build_loss, compute_loss
from featherseg.training.optimisers import optimiser_of
from featherseg.training.resolve import MEMORY_MARGIN

SIDES = (128, 192)
"""Pixels, of the square images of the two trials: other sides than multiples of 64 leave maps of odd sizes."""
HELD, HELD_CHECKPOINTED, HELD_CUDA = 1.35, 2.5, 1.1
"""What is held for a byte of living tensors: small blocks keep large ones that were freed from being used again.

Measured with glibc (1.2 to 1.6, where blocks are computed again 2.1 to 3; benchmarks/tables), for CUDA assumed."""
PROCESS = 40e6
"""Bytes that the process grows by beside its tensors."""
CGROUP = Path("/sys/fs/cgroup")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Estimate:
    """What a training of one device is going to take, in bytes, and what of it is free.

    resident: what this process holds now; lasting: what is added to it and stays, as the optimiser's moments; between:
    what is needed between two steps, for validation. fixed, linear and quadratic (N,) follow the living tensors of one
    step from operation to operation: those whose size is always the same, those that grow with the pixels of a batch
    and, in bytes an image, with the square of an image's pixels.
    """

    available: float
    resident: float
    lasting: float
    between: float
    held: float
    fixed: np.ndarray
    linear: np.ndarray
    quadratic: np.ndarray

    def added(self, images: int, crop: Size) -> float:
        """What the process will hold at its peak beyond what it holds now, for so many images of a device and step."""
        pixels = math.prod(crop)
        living = self.fixed + images * pixels * (self.linear + pixels * self.quadratic)
        return self.lasting + self.held * max(float(living.max()), self.between)


def estimate_memory(
    model: SegmentationModel, recipe: Recipe, image_size: Size, *, own_loss: bool = False
) -> Estimate | None:
    """Take two training steps with small images on a copy of the model, and count what lives in them.

    Nothing is changed, random states included. crop is a number in the recipe; image_size is that of the images that it
    is validated on; in place of a loss of one's own (own_loss) stands cross-entropy. None where the model takes no such
    images. Raises ConfigError where not even the weights and what belongs to them have room.
    """
    settings, crop, device = recipe.train, recipe.augment.crop, pick_device(recipe.train.device)
    assert crop is not None
    weights = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    learning = float(
        sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    )
    sharing = 1 if device.type == "cuda" else settings.devices
    copies = optimiser_of(settings).moments(settings) * learning
    lasting = copies + weights * (
        (max(settings.ema, settings.ema_share) > 0) + (device.type == "cuda")
    )
    lasting += learning * (
        settings.devices * settings.nodes > 1
    )  # what the devices exchange gradients by
    if (
        device.type != "cuda"
    ):  # a checkpoint is written in memory first; about half of it finds a place that is free
        lasting += PROCESS + (weights + lasting) / 2
    if (
        2 * weights + lasting + 2 * learning > available_memory(device) / sharing
    ):  # with the trial's copy
        raise ConfigError(f"{recipe.model.name} alone takes more memory than is free on {device}.")

    # Two steps: with images of two sizes, or where they are small anyway, with two numbers of them
    small = math.prod(crop) <= SIDES[1] ** 2
    trials = [(2, crop), (4, crop)] if small else [(2, (side, side)) for side in SIDES]
    try:
        counts = _count_steps(model, recipe, trials, device, own_loss=own_loss)
    except FeathersegError:
        raise
    except Exception:  # a model of one's own may be made for one size, and fails as it likes
        return None
    events, (fewer, more) = (
        np.array(counts[1].events),
        (np.array(live.sizes, float) for live in counts),
    )
    if len(fewer) != len(more):  # other operations: their peaks alone can be compared
        events, fewer, more = np.ones(1, int), *(np.array([float(live.peak)]) for live in counts)
    few, many = (images * math.prod(size) for images, size in trials)

    # What every tensor takes: always the same, or in proportion to the pixels, or to their square (attention)
    squared = (more > fewer * (many / few) ** 1.5) & (not small)
    linear = np.where(squared, 0, (more - fewer) / (many - few))
    quadratic = np.where(squared, more / (many * math.prod(trials[1][1])), 0)
    fixed = np.where(squared, 0, more - linear * many)
    order, signs = np.abs(events) - 1, np.sign(events)

    # Validation has a model of its own, which sees whole images
    factor = resize_factor(image_size, recipe.data.test_resize)
    seen, between = math.prod(image_size) * factor**2, 0.0
    if seen > math.prod(crop):  # else a step takes more
        try:
            between = learning + 3 * weights + peak_bytes_per_pixel(model) * seen
        except FeathersegError:
            raise
        except Exception:  # as above
            return None
    return_freed_memory()
    return Estimate(
        available=available_memory(device) / sharing,
        resident=0.0 if device.type == "cuda" else float(psutil.Process().memory_info().rss),
        lasting=lasting,
        between=between,
        held=HELD_CUDA
        if device.type == "cuda"
        else HELD_CHECKPOINTED
        if settings.checkpoint_activations
        else HELD,
        fixed=(fixed[order] * signs).cumsum(),
        linear=(linear[order] * signs).cumsum(),
        quadratic=(quadratic[order] * signs).cumsum(),
    )


def _count_steps(
    model: SegmentationModel,
    recipe: Recipe,
    sizes: list[tuple[int, Size]],
    device: torch.device,
    *,
    own_loss: bool,
) -> list[LiveBytes]:
    """What lives in a training step on images of each of the sizes (number, (height, width))."""
    model = copy.deepcopy(model).train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found, kind = [], HALF.get(recipe.train.precision)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        own = partial(F.cross_entropy, ignore_index=IGNORE) if own_loss else None
        loss = build_loss(None, recipe, model, own).to(device)
        if recipe.train.checkpoint_activations:
            checkpoint_blocks(model)
        parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
        for images, size in sizes:
            grid = logits_grid(model, size) if recipe.teacher.runs else None
            with LiveBytes() as live:
                batch = blank_batch(model, images, size, device, grid)
                for parameter in parameters:  # the gradients of the step before
                    parameter.grad = torch.zeros_like(parameter)
                with torch.autocast(device.type, dtype=kind, enabled=kind is not None):
                    total = compute_loss(model, loss, batch)[0]
                if recipe.train.accumulate == 1:
                    for parameter in parameters:
                        parameter.grad = None
                total.backward()
                del total, batch
            found.append(live)
    return found


def blank_batch(
    model: SegmentationModel,
    images: int,
    size: Size,
    device: torch.device,
    taught: Grid | None = None,
) -> Any:
    """A batch for trials, black, in which two classes lie beside each other; with targets for a panoptic model.

    taught: the places of the model's logits, where teachers have something to say of them.
    """
    labels = torch.zeros(images, *size, dtype=torch.uint8, device=device)
    labels[:, :, size[1] // 2 :] = model.classes - 1
    batch: Any = [
        torch.zeros(images, len(model.mean), *size, dtype=torch.uint8, device=device),
        labels,
    ]
    if model.panoptic:
        maps = [(2, *size) if name == "offset" else size for name in PanopticTargets._fields]
        batch.append(
            PanopticTargets(*(torch.ones(images, *shape, device=device) for shape in maps))
        )
    if taught:
        logits = torch.zeros(
            images, model.classes, *taught.size, dtype=torch.float16, device=device
        )
        batch.append(
            TeacherLogits(logits, torch.ones(images, *taught.size, dtype=torch.bool, device=device))
        )
    return batch


def logits_grid(model: SegmentationModel, size: Size) -> Grid:
    """The places of a model's logits over images of `size`."""
    with torch.inference_mode():
        out = copy.deepcopy(model).eval().cpu()(torch.zeros(1, len(model.mean), *size))
    height, width = out.logits.shape[2:]
    return Grid((height, width), out.padded_size, out.align_corners)


def check_memory(estimate: Estimate | None, recipe: Recipe, on_message: OnMessage) -> float | None:
    """Say what the training will take of the memory, and what of it is free; -> what the process will hold, in GB.

    Crop and batch size are numbers in the recipe. Raises ConfigError where it cannot fit, with what does.
    """
    settings, crop = recipe.train, recipe.augment.crop
    if estimate is None:
        on_message(
            WarningText(
                "what a step takes of the memory is not known: the model takes no small images to try with"
            )
        )
        return None
    assert isinstance(settings.batch_size, int)
    assert crop is not None
    ranks = settings.devices * settings.nodes
    own, free = settings.batch_size // ranks, estimate.available  # images of one device
    added = estimate.added(own, crop)
    takes = f"a step of {counted(own, 'image')} of {size_text(crop)} takes"
    there = f"{free / 1e9:.1f} GB are free on {pick_device(settings.device)}"
    if added > MEMORY_MARGIN * free:
        parts = [
            n
            for n in range(own, 0, -1)
            if own % n == 0 and MEMORY_MARGIN * estimate.added(n, crop) <= free
        ]
        if parts:
            remedy = f"--set train.batch_size={parts[0] * ranks} --set train.accumulate="
            remedy += str(own // parts[0] * settings.accumulate)
        else:
            shares = (share / 20 for share in range(19, 0, -1))
            lengths = ([max(32, int(side * share) // 32 * 32) for side in crop] for share in shares)
            smaller = [(height, width) for height, width in lengths]
            fits = next(
                (size for size in smaller if MEMORY_MARGIN * estimate.added(1, size) <= free),
                smaller[-1],
            )
            remedy = f"--set train.batch_size={ranks} --set augment.crop={list(fits)}"
        hint = (
            ""
            if settings.checkpoint_activations
            else "--set train.checkpoint_activations=true takes less. "
        )
        found = f"{takes} about {added / 1e9:.1f} GB of memory, and {there}."
        raise ConfigError(found, f"{hint}What fits: {remedy}.")
    doubt = (
        ": it may not fit. A smaller train.batch_size or augment.crop needs less"
        if MEMORY_MARGIN * added > free
        else ""
    )
    peak = round((estimate.resident + added) / 1e9, 2)
    text = f"{takes} about {added / 1e9:.1f} GB of memory, {there}{doubt}; this process will hold about {peak} GB"
    on_message(WarningText(text) if doubt else text)
    return peak


def peak_held(recipe: Recipe) -> float | None:
    """The most that this process has held of its device's memory, in bytes; None where the system does not tell."""
    device = pick_device(recipe.train.device)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def available_memory(device: torch.device) -> float:
    """Bytes that may still be taken: of a GPU its free memory, else the main memory, within a container's limit."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = float(psutil.virtual_memory().available)
    try:  # cgroup v2, where it has a limit; files that are cached count as used there, and make room when asked
        limit, used = (
            int((CGROUP / f"memory.{name}").read_text(encoding="ascii"))
            for name in ("max", "current")
        )
        counts = dict(
            line.split()
            for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return min(free, float(limit - used + int(counts["inactive_file"])))
    except (OSError, ValueError, KeyError):
        return free
