"""How long networks take, measured side by side: one process, one size, their passes taking turns.

Networks that are timed one after the other are timed on two machines: clocks, caches and neighbours change within
seconds. Here every round runs each network once, so that a ratio is taken between neighbours in time. What is timed is
the network's forward on one picture, up to logits at its own stride; reading, normalising and resizing are not in it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from time import perf_counter

import numpy as np
import torch

from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.core.wording import counted
from featherseg.evaluation.bootstrap import LEVEL, student_quantile
from featherseg.inference.runtimes import Runtime

ROUNDS = 60
WARM_UP_ROUNDS = 5
BLOCKS = 10
"""Stretches of rounds whose medians a ratio's interval is taken from."""


@dataclass(frozen=True)
class Ratio:
    """Time of network `first` over that of `second` (indices) and its 95 % interval, for all pairs together."""

    first: int
    second: int
    value: float
    low: float
    high: float

    @property
    def faster(self) -> int | None:
        """The faster network, None where the interval includes 1."""
        return self.first if self.high < 1 else self.second if self.low > 1 else None

    def words(self, names: Sequence[str]) -> str:
        """`a is 1.52 times as fast as b` where the interval says so, else that no difference is shown."""
        if self.faster is None:
            return f"no difference in time between {names[self.first]} and {names[self.second]} is shown"
        slower = self.first + self.second - self.faster
        factor = max(self.value, 1 / self.value)
        return f"{names[self.faster]} is faster than {names[slower]}: {factor:.2f} times as fast"


@dataclass(frozen=True)
class SideBySide:
    """times_ms (rounds, S) of S networks at one size (height, width); `machine` says device and threads in words."""

    names: tuple[str, ...]
    size: Size
    machine: str
    times_ms: np.ndarray

    @property
    def p50_ms(self) -> np.ndarray:
        """The median of each network, (S,)."""
        return np.percentile(self.times_ms, 50, axis=0)

    @property
    def p95_ms(self) -> np.ndarray:
        """What 95 of 100 passes stay within, (S,)."""
        return np.percentile(self.times_ms, 95, axis=0)

    def ratios(self) -> list[Ratio]:
        """Every pair of networks, see `paired_ratios`."""
        return paired_ratios(self.times_ms)


def time_side_by_side(runtimes: Sequence[Runtime], size: Size, rounds: int = ROUNDS) -> SideBySide:
    """Time S networks on one random picture of (height, width), batch of one, after WARM_UP_ROUNDS untimed rounds.

    A turn is an untimed pass, which takes back caches and cores from the network before, and a timed one. The order of
    the turns moves on by one each round. Raises ConfigError for no network, a size below 1 or fewer than 2 * BLOCKS
    rounds.
    """
    if not runtimes or min(size) < 1 or rounds < 2 * BLOCKS:
        raise ConfigError(
            f"{len(runtimes)} networks at {size[0]}x{size[1]} over {rounds} rounds: expected one network or more, "
            f"a size of 1 or more, and {2 * BLOCKS} rounds or more."
        )
    pictures = [_picture(runtime, size) for runtime in runtimes]
    times = np.empty((rounds, len(runtimes)))
    for turn in range(-WARM_UP_ROUNDS, rounds):
        for i in np.roll(np.arange(len(runtimes)), -turn).tolist():
            _pass_ms(runtimes[i], pictures[i])
            milliseconds = _pass_ms(runtimes[i], pictures[i])
            if turn >= 0:
                times[turn, i] = milliseconds
    return SideBySide(tuple(r.name for r in runtimes), size, device_in_words(runtimes), times)


def paired_ratios(times_ms: np.ndarray) -> list[Ratio]:
    """Every pair of networks from (rounds, S) times of which each row was taken together; rounds of 2 * BLOCKS or more.

    The ratio is the geometric mean over BLOCKS stretches of consecutive rounds, of each the median of its rounds'
    ratios: neighbouring rounds are alike and some are far out. The interval is Student's on the stretches' logarithms,
    its level divided among the pairs (Bonferroni).
    """
    pairs = list(combinations(range(times_ms.shape[1]), 2))
    if not pairs:
        return []
    t = float(student_quantile(1 - (1 - LEVEL) / 2 / len(pairs), np.array([BLOCKS - 1.0]))[0])
    ratios = []
    for a, b in pairs:
        logs = np.log(times_ms[:, a] / times_ms[:, b])  # (rounds,)
        medians = np.array([np.median(stretch) for stretch in np.array_split(logs, BLOCKS)])
        middle, reach = medians.mean(), t * medians.std(ddof=1) / BLOCKS**0.5
        ratios.append(Ratio(a, b, *np.exp([middle, middle - reach, middle + reach]).tolist()))
    return ratios


def device_in_words(runtimes: Sequence[Runtime]) -> str:
    """Device and threads: `cpu, 2 cores; torch on 1 thread`; exported files run on as many as torch."""
    devices = sorted({str(r.device) for r in runtimes})
    return f"{' and '.join(devices)}, {os.cpu_count()} cores; torch on {counted(torch.get_num_threads(), 'thread')}"


def _picture(runtime: Runtime, size: Size) -> torch.Tensor:
    """Normalised noise, (1, C, H, W), the same for every network, where the runtime takes its input."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, runtime.channels, *size, generator=generator).to(runtime.device)


def _pass_ms(runtime: Runtime, picture: torch.Tensor) -> float:
    """One pass in milliseconds; a GPU is waited for before and after."""
    _wait(runtime.device)
    start = perf_counter()
    runtime(picture)
    _wait(runtime.device)
    return 1000 * (perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
