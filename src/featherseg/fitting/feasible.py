"""Which candidates keep the limit: timed in turn, those first that are to be compared."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from PIL import Image

from featherseg.core.errors import ConfigError, ExportError, RunError
from featherseg.core.types import Reporter, SegmentationData, Size
from featherseg.core.wording import counted
from featherseg.fitting.candidates import Offer, in_line
from featherseg.fitting.halving import MOST, SPARE
from featherseg.fitting.latency import Timing, guess_speed
from featherseg.fitting.plan import FitConfig

TIMING = 0.07
"""The share of the hours that timing candidates may take; with the later timings of one it is a
tenth in all."""

CALIBRATION = 8
"""The training images that calibrate a quantised candidate that is timed."""

REFUSING = 55.0
"""The seconds after which it is reported that no candidate keeps the limit, once the cheapest is
timed."""

GUESSES = 2
"""The candidates over the limit after which the cheapest is tried."""

GROWTH = 0.5
"""The power of the multiply-accumulates by which larger images are expected to take longer: much
else takes the time of small ones (0.5 on NEU-Seg's 200x200, docs/log.md). A guess too low costs a
timing, one too high the candidate."""


def time_offers(
    choice: Sequence[Offer],
    config: FitConfig,
    size: Size,
    measure: Callable[[Offer], Timing],
    alone: Callable[[Timing], bool],
    began: float,
    reporter: Reporter,
) -> list[Timing]:
    """Time the candidates that would be compared, the best guess first; return the timings in turn.

    The latency of others is expected from the same model at another scale, if that was measured, or
    else from the others; at first from how fast this machine multiplies. A candidate is timed if
    less than the limit is expected; a measurement must be `SPARE` below it. If none keeps the
    limit, the cheapest are tried for REFUSING seconds. A model that cannot be exported or timed is
    left out.

    Args:
        choice: The candidates, those with the fewest multiply-accumulates first.
        size: (height, width) of the images to predict.
        measure: Times a candidate.
        alone: Whether the time is too short to compare a best guess with any other. Then no other
            is timed.
        began: When the hours began, by time.monotonic.

    Raises:
        ExportError, RunError: No model can be exported and timed.
    """
    macs, guess = {offer.name: offer.macs * math.prod(size) for offer in choice}, guess_speed()
    timings, failed, left = list[Timing](), list[ExportError | RunError](), list(choice)
    while left:
        # What each is expected to take
        kept = {t.name: t for t in timings if t.keeps(*config.limits)}
        expected = dict[str, float]()
        for offer in left:
            known = [t for t in timings if t.model == offer.model] or timings
            times = [(macs[offer.name] / macs[t.name], t.latency(config.percentile)) for t in known]
            scaled = [ms * more ** (GROWTH if more > 1 else 1) for more, ms in times]
            expected[offer.name] = median(scaled or [macs[offer.name] * guess])

        # Those to compare that are not timed yet, if there is time for another timing
        below = kept.keys() | {name for name, ms in expected.items() if ms <= config.max_ms}
        line = in_line([offer for offer in choice if offer.name in below], size)
        wanted = [offer for offer in line[:MOST] if offer in left]
        tried, elapsed = len(timings) + len(failed), time.monotonic() - began
        a_timing = elapsed / max(1, tried)
        if tried and elapsed > 3600 * config.hours:
            break
        if kept:
            if not wanted or elapsed + a_timing > TIMING * 3600 * config.hours:
                break
            best = line[0].name
            if best in kept and alone(kept[best]):
                reporter.message(
                    f"the time is too short to compare {best} with others, so that they are not "
                    "timed"
                )
                break
            offer = wanted[0]
        elif wanted and (not tried or (tried < GUESSES and elapsed + 2 * a_timing <= REFUSING)):
            offer = wanted[0]
        elif choice[0] not in left and elapsed + a_timing > REFUSING:
            break
        else:
            offer = left[0]

        # Its timing
        left.remove(offer)
        reporter.progress("timing candidates", tried, len(choice))
        try:
            timings.append(measure(offer))
        except (ExportError, RunError) as error:
            failed.append(error)
            left = [one for one in left if one.model != offer.model]
            reporter.message(f"{offer.model} is left out: {error}")
        else:
            reporter.message(f"{offer.name}: {timings[-1].latency(config.percentile):.1f} ms")
    if failed and not timings:
        raise failed[-1]
    return timings


def image_of(data: SegmentationData, size: Size, place: float = 0.5) -> np.ndarray:
    """Return an image of the dataset, (H, W, C) uint8, resized to (height, width).

    Args:
        place: 0..1, which one: 0 is the first.
    """
    image = data[int(place * len(data))].image
    if image.dtype != np.uint8:
        image = (image // 257).astype(np.uint8)
    if image.shape[:2] == size:
        return image
    planes = (Image.fromarray(image[..., i]) for i in range(image.shape[2]))
    return np.stack(
        [np.asarray(p.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for p in planes],
        axis=-1,
    )


def calibration_of(train: SegmentationData, size: Size) -> list[np.ndarray]:
    """Return images from everywhere in the dataset, resized to (height, width)."""
    return [image_of(train, size, i / CALIBRATION) for i in range(CALIBRATION)]


def no_candidate(config: FitConfig, timings: Sequence[Timing]) -> ConfigError:
    """Return the error of a fit in which no candidate keeps the limits."""
    limits = f"{config.max_ms:g} ms (p{config.percentile}, with {SPARE:.0%} to spare)"
    limits += f" and {config.max_mib:g} MiB" if config.max_mib is not None else ""
    if not timings:
        return ConfigError(
            f"no candidate was timed as {config.format}: there is nothing to choose from."
        )
    fastest = min(timings, key=lambda t: t.latency(config.percentile))
    memory = "" if fastest.memory_mib is None else f" and {fastest.memory_mib:.0f} MiB"
    return ConfigError(
        f"none of {counted(len(timings), 'candidate')} that were timed keeps {limits}. The fastest "
        f"is {fastest.name} with {fastest.latency(config.percentile):.1f} ms{memory}. Allow more, "
        "or try another --format or smaller images (--image-size)."
    )
