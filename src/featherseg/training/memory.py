"""The memory of a training, estimated before its first step."""

import copy
import math
import sys
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
from featherseg.data.panoptic.targets import PanopticTargets
from featherseg.inference.memory import LiveBytes, peak_bytes_per_pixel
from featherseg.layers.model import SegmentationModel
from featherseg.layers.sizes import resize_factor
from featherseg.recipe.tables import Recipe
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.loss import build_loss, compute_loss
from featherseg.training.optimisers import optimiser_of
from featherseg.training.resolve import MEMORY_MARGIN

SIDES = (128, 192)
"""Sides of the square images of the two trials in pixels: multiples of 64, so all maps are even."""

HELD, HELD_CHECKPOINTED, HELD_CUDA = 1.35, 2.5, 1.1
"""Bytes held per byte of living tensors: small blocks keep freed large ones from being reused.

Measured with glibc: 1.2 to 1.6, and 2.1 to 3 if blocks are computed again (benchmarks/tables). For
CUDA it is assumed."""

PROCESS = 40e6
"""Bytes by which the process grows besides its tensors."""

LIGHTNING = 180e6
"""Bytes of Lightning, which is imported after the estimate (measured with 2.6 on Linux)."""

CGROUP = Path("/sys/fs/cgroup")
"""The control group of a container."""

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Estimate:
    """The memory of a training on one device, in bytes.

    available: What is free now.
    resident: What this process holds now.
    lasting: What is added and stays, such as the optimiser's moments.
    between: What validation needs between two steps.
    held: Bytes held per byte of living tensors.
    fixed, linear, quadratic (N,): The living tensors after each of N operations of a step: of
        constant size, per pixel of a batch, and per squared pixel of an image.
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
        """Return the bytes added at the peak by steps of `images` images per device."""
        pixels = math.prod(crop)
        living = self.fixed + images * pixels * (self.linear + pixels * self.quadratic)
        return self.lasting + self.held * max(float(living.max()), self.between)


def estimate_memory(
    model: SegmentationModel, recipe: Recipe, image_size: Size, *, own_loss: bool = False
) -> Estimate | None:
    """Take two training steps with small images on a copy of the model, and count living tensors.

    Nothing is changed, including random states.

    Args:
        model: The model to train.
        recipe: With its crop, precision and optimiser resolved.
        image_size: (height, width) of the images to validate on.
        own_loss: A loss was given as an object; cross-entropy replaces it.

    Returns:
        The estimate; None if the model takes no such images.

    Raises:
        ConfigError: not even the weights, gradients and moments fit.
    """
    settings, crop, device = recipe.train, recipe.augment.crop, pick_device(recipe.train.device)
    assert crop is not None
    weights = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    learning = float(
        sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    )
    sharing = 1 if device.type == "cuda" else settings.devices

    # What stays: moments, EMA, the model on a GPU, buffers by which devices exchange gradients
    moments = optimiser_of(settings).moments(settings) * learning
    lasting = moments + weights * (
        (max(settings.ema, settings.ema_share) > 0) + (device.type == "cuda")
    )
    lasting += learning * (settings.devices * settings.nodes > 1)
    if device.type != "cuda":
        # A checkpoint is written in memory first; about half of it fits into freed memory
        lasting += PROCESS + (weights + lasting) / 2
    # The trial has a copy of the weights, and gradients
    if 2 * weights + lasting + 2 * learning > available_memory(device) / sharing:
        raise ConfigError(f"{recipe.model.name} alone takes more memory than is free on {device}.")

    # Two steps: with images of two sizes or, if crops are small, with two numbers of images
    small = math.prod(crop) <= SIDES[1] ** 2
    trials = [(2, crop), (4, crop)] if small else [(2, (side, side)) for side in SIDES]
    try:
        counts = _count_steps(model, recipe, trials, device, own_loss=own_loss)
    except FeathersegError:
        raise
    except Exception:  # a model given as an object may be made for one size, and may raise anything
        return None
    events, (fewer, more) = (
        np.array(counts[1].events),
        (np.array(live.sizes, float) for live in counts),
    )
    if len(fewer) != len(more):  # the operations differ: only their peaks can be compared
        events, fewer, more = np.ones(1, int), *(np.array([float(live.peak)]) for live in counts)
    few, many = (images * math.prod(size) for images, size in trials)

    # The size of every tensor: constant, or proportional to pixels or to their square (attention)
    squared = (more > fewer * (many / few) ** 1.5) & (not small)
    linear = np.where(squared, 0, (more - fewer) / (many - few))
    quadratic = np.where(squared, more / (many * math.prod(trials[1][1])), 0)
    fixed = np.where(squared, 0, more - linear * many)
    order, signs = np.abs(events) - 1, np.sign(events)

    # Validation has its own model, which sees whole images; smaller ones take less than a step
    factor = resize_factor(image_size, recipe.data.test_resize)
    val_pixels, between = math.prod(image_size) * factor**2, 0.0
    if val_pixels > math.prod(crop):
        try:
            between = learning + 3 * weights + peak_bytes_per_pixel(model) * val_pixels
        except FeathersegError:
            raise
        except Exception:  # as above
            return None
    return_freed_memory()
    return Estimate(
        available=available_memory(device) / sharing,
        resident=0.0 if device.type == "cuda" else _resident_bytes(),
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


def _resident_bytes() -> float:
    """Return the bytes that this process holds, with Lightning even before it is imported."""
    missing = 0.0 if "lightning" in sys.modules else LIGHTNING
    return psutil.Process().memory_info().rss + missing


def _count_steps(
    model: SegmentationModel,
    recipe: Recipe,
    sizes: list[tuple[int, Size]],
    device: torch.device,
    *,
    own_loss: bool,
) -> list[LiveBytes]:
    """Return the living tensors of a training step, for each of sizes (number, (height, width))."""
    trial: Any = copy.deepcopy(model).train()
    model = trial.to(device, memory_format=torch.channels_last)
    counts, kind = [], HALF.get(recipe.train.precision)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        stand_in = partial(F.cross_entropy, ignore_index=IGNORE) if own_loss else None
        loss = build_loss(None, recipe, model, stand_in).to(device)
        if recipe.train.checkpoint_activations:
            checkpoint_blocks(model)
        parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
        for images, size in sizes:
            with LiveBytes() as live:
                batch = blank_batch(model, images, size, device)
                for parameter in parameters:  # the gradients of the step before
                    parameter.grad = torch.zeros_like(parameter)
                with torch.autocast(device.type, dtype=kind, enabled=kind is not None):
                    total = compute_loss(model, loss, batch)[0]
                if recipe.train.accumulate == 1:
                    for parameter in parameters:
                        parameter.grad = None
                total.backward()
                del total, batch
            counts.append(live)
    return counts


def blank_batch(model: SegmentationModel, images: int, size: Size, device: torch.device) -> Any:
    """Return a black batch with two classes side by side, and targets for a panoptic model."""
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
    return batch


def check_memory(estimate: Estimate | None, recipe: Recipe, on_message: OnMessage) -> float | None:
    """Tell the user the memory of a step, and return what the process will hold, in GB.

    Crop and batch size are numbers in the recipe; None if there is no estimate. Raises ConfigError
    if it cannot fit, with settings that fit.
    """
    settings, crop = recipe.train, recipe.augment.crop
    if estimate is None:
        on_message(
            WarningText(
                "the memory of a step is unknown: the model takes no small images to try with"
            )
        )
        return None
    assert isinstance(settings.batch_size, int)
    assert crop is not None
    ranks = settings.devices * settings.nodes
    rank_batch, free = settings.batch_size // ranks, estimate.available
    added = estimate.added(rank_batch, crop)
    need = (
        f"a step of {counted(rank_batch, 'image')} of {size_text(crop)} takes about "
        f"{added / 1e9:.1f} GB of memory"
    )
    supply = f"{free / 1e9:.1f} GB are free on {pick_device(settings.device)}"

    # Too much: the largest batch that fits and divides this one, else the largest crop
    if added > MEMORY_MARGIN * free:
        parts = [
            n
            for n in range(rank_batch, 0, -1)
            if rank_batch % n == 0 and MEMORY_MARGIN * estimate.added(n, crop) <= free
        ]
        if parts:
            remedy = f"--set train.batch_size={parts[0] * ranks} --set train.accumulate="
            remedy += str(rank_batch // parts[0] * settings.accumulate)
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
        raise ConfigError(f"{need}, and {supply}.", f"{hint}What fits: {remedy}.")
    may_fail = MEMORY_MARGIN * added > free
    warning = (
        ": it may not fit. A smaller train.batch_size or augment.crop needs less"
        if may_fail
        else ""
    )
    peak_gb = round((estimate.resident + added) / 1e9, 2)
    text = f"{need}, {supply}{warning}; this process will hold about {peak_gb} GB"
    on_message(WarningText(text) if may_fail else text)
    return peak_gb


def peak_held(recipe: Recipe) -> float | None:
    """Return this process's peak memory on its device in bytes; None if it is unknown."""
    device = pick_device(recipe.train.device)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def available_memory(device: torch.device | None) -> float:
    """Return the free bytes of a GPU, or of the main memory within a container's limit."""
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = float(psutil.virtual_memory().available)
    try:  # cgroup v2, if it has a limit; it counts cached files as used, and they make room
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
