"""Which candidates keep the limit: timed one after the other, those first that will probably just keep it."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from PIL import Image

from featherseg.core.errors import ConfigError
from featherseg.core.types import Reporter, SegmentationData, Size
from featherseg.core.wording import counted
from featherseg.fitting.candidates import Offer
from featherseg.fitting.latency import SPARE, Timing, guess_speed
from featherseg.fitting.plan import MOST
from featherseg.fitting.record import FitConfig

TIMING = 0.1
"""The share of the time that timing candidates may take."""

REFUSING = 40.0
"""Seconds from which no further candidate is tried where none has kept the limit yet."""


def time_offers(
    choice: Sequence[Offer],
    config: FitConfig,
    size: Size,
    measure: Callable[[Offer], Timing],
    began: float,
    reporter: Reporter,
) -> list[Timing]:
    """Time candidates until as many keep the limit as may train, those first that will probably just keep it.

    The first guess comes from how fast this machine multiplies, all others from what was measured by then. Where none
    keeps the limit the cheapest are tried, for REFUSING seconds. -> timings, in the order in which they were taken.
    """
    macs, speed = {offer.name: offer.macs * math.prod(size) for offer in choice}, guess_speed()
    timings: list[Timing] = []
    left = list(choice)
    while left:
        now = time.monotonic()
        kept = [t for t in timings if t.keeps(*config.limits)]
        if timings:
            speed = median(t.p50 / macs[t.name] for t in timings)
        aim = config.max_ms * (1 - SPARE if timings else 0.5)
        within = [offer for offer in left if macs[offer.name] * speed <= aim]
        a_timing = (now - began) / max(1, len(timings))
        if kept and (len(kept) == MOST or not within or now + a_timing - began > TIMING * 3600 * config.hours):
            break
        if not kept and choice[0] not in left and now - began > REFUSING:
            break
        offer = within[-1] if within and (kept or not timings) else left[0]
        left.remove(offer)
        reporter.progress("timing candidates", len(timings), len(choice))
        timings.append(measure(offer))
        reporter.message(f"{offer.name}: {timings[-1].latency(config.percentile):.1f} ms")
    return timings


def image_of(data: SegmentationData, size: Size, place: float = 0.5) -> np.ndarray:
    """An image of the dataset, (H, W, C) uint8, at this (height, width); place: 0..1, how far from its first."""
    image = data[int(place * len(data))].image
    if image.dtype != np.uint8:
        image = (image // 257).astype(np.uint8)
    if image.shape[:2] == size:
        return image
    planes = (Image.fromarray(image[..., i]) for i in range(image.shape[2]))
    return np.stack([np.asarray(p.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for p in planes], axis=-1)


def no_candidate(config: FitConfig, timings: Sequence[Timing]) -> ConfigError:
    limits = f"{config.max_ms:g} ms (p{config.percentile}, with {SPARE:.0%} to spare)"
    limits += f" and {config.max_mib:g} MiB" if config.max_mib is not None else ""
    if not timings:
        return ConfigError(f"no candidate was timed as {config.format}: there is nothing to choose from.")
    fastest = min(timings, key=lambda t: t.latency(config.percentile))
    memory = "" if fastest.memory_mib is None else f" and {fastest.memory_mib:.0f} MiB"
    return ConfigError(
        f"none of {counted(len(timings), 'candidate')} that were timed keeps {limits}. The fastest is {fastest.name} "
        f"with {fastest.latency(config.percentile):.1f} ms{memory}. Allow more, or try another "
        "--format or smaller images (--image-size)."
    )
