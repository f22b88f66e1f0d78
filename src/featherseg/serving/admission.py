"""How much may be under way at once: pictures by number, decoded ones by their pixels."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from featherseg.serving.refusal import Refused

RETRY_SECONDS = 1


class Slots:
    """At most `most` pictures between arrival and answer; more are refused at once. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def take(self, number: int = 1) -> Iterator[None]:
        """Hold `number` slots. Raises Refused (429) where they are not free."""
        if self.taken + number > self.most:
            raise Refused(
                429,
                "busy",
                f"The queue is full: {self.taken} of {self.most} pictures are under way. Try again in a moment.",
                {"Retry-After": str(RETRY_SECONDS)},
            )
        self.taken += number
        try:
            yield
        finally:
            self.taken -= number


class Budget:
    """At most `most` pixels decoded at a time; who comes first goes first. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, pixels: int) -> AsyncIterator[None]:
        """Wait until `pixels` (at most `most`) are free, hold them."""
        assert pixels <= self.most
        async with self._turn:
            while self.taken + pixels > self.most:
                self._freed.clear()
                await self._freed.wait()
            self.taken += pixels
        try:
            yield
        finally:
            self.taken -= pixels
            self._freed.set()
