"""Limits on concurrent work: images by number, request bodies and decoded images by bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from featherseg.serving.refusal import Refused

RETRY_SECONDS = 1


class Slots:
    """At most `most` images between arrival and answer; more are refused. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.in_use = most, 0

    @contextmanager
    def take(self, number: int = 1) -> Iterator[None]:
        """Hold `number` slots. Raises Refused (429) if they are not free."""
        self.check(number)
        self.in_use += number
        try:
            yield
        finally:
            self.in_use -= number

    def check(self, number: int = 1) -> None:
        """Raise Refused (429) if `number` slots are not free."""
        if self.in_use + number > self.most:
            raise busy(f"The queue is full: {self.in_use} of {self.most} images are in flight.")


class Budget:
    """At most `most` bytes in use at a time, first come, first served. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.in_use = most, 0
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` bytes (at most `most`) are free, and hold them during the block."""
        assert size <= self.most
        async with self._turn:
            while self.in_use + size > self.most:
                self._freed.clear()
                await self._freed.wait()
            self.in_use += size
        try:
            yield
        finally:
            self.in_use -= size
            self._freed.set()


class Body:
    """The part of a request body received so far.

    `arriving` is true until its last byte. A body that is given up has its deadline moved to now.
    """

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.deadline, self.began = deadline, asyncio.get_running_loop().time()
        self.size, self.arriving = 0, True

    def give_up(self) -> None:
        """Move the deadline to now."""
        self.arriving = False
        if not self.deadline.expired():  # else the task is about to notice it itself
            self.deadline.reschedule(asyncio.get_running_loop().time())

    def rate(self, now: float) -> float:
        """Return bytes per second so far; a body that has hardly begun counts as fast."""
        return (self.size + 65_536) / (now - self.began + 0.1)


class Bodies:
    """At most `most` bytes of request bodies, from the first byte to the answer.

    For one event loop. When the bytes run out, the slowest body that is still arriving is given up,
    so that clients that send slowly on purpose block nobody.
    """

    def __init__(self, most: int) -> None:
        self.most, self.in_use = most, 0
        self._held: set[Body] = set()

    @contextmanager
    def hold(self, body: Body) -> Iterator[Body]:
        """Count `body` until its request is answered."""
        self._held.add(body)
        try:
            yield body
        finally:
            self._held.discard(body)
            self.in_use -= body.size

    def give_up(self) -> None:
        """Give up all bodies that are still arriving."""
        for body in self._held:
            if body.arriving:
                body.give_up()

    def grow(self, body: Body, size: int) -> None:
        """Count `size` more bytes of a body.

        Raises Refused (429) if there is no room and no other body to give up.
        """
        body.size += size
        self.in_use += size
        now = asyncio.get_running_loop().time()
        excess = self.in_use - self.most
        for slow in sorted((b for b in self._held if b.arriving), key=lambda b: b.rate(now)):
            if excess <= 0:
                return
            if slow is body:
                break
            slow.give_up()
            excess -= slow.size
        if excess > 0:
            raise busy("The memory for requests is in use.")


def busy(what: str) -> Refused:
    """Return a refusal with status 429 and the time after which to try again."""
    return Refused(
        429, "busy", f"{what} Try again in a moment.", {"Retry-After": str(RETRY_SECONDS)}
    )
