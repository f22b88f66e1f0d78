"""How much may be under way at once: images by number, what they hold by its bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from featherseg.serving.refusal import Refused

RETRY_SECONDS = 1


class Slots:
    """At most `most` images between arrival and answer; more are refused at once. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def take(self, number: int = 1) -> Iterator[None]:
        """Hold `number` slots. Raises Refused (429) where they are not free."""
        self.check(number)
        self.taken += number
        try:
            yield
        finally:
            self.taken -= number

    def check(self, number: int = 1) -> None:
        """Raises Refused (429) where `number` slots are not free."""
        if self.taken + number > self.most:
            raise busy(f"The queue is full: {self.taken} of {self.most} images are in flight.")


class Budget:
    """At most `most` bytes held at a time; who comes first goes first. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` bytes (at most `most`) are free, hold them."""
        assert size <= self.most
        async with self._turn:
            while self.taken + size > self.most:
                self._freed.clear()
                await self._freed.wait()
            self.taken += size
        try:
            yield
        finally:
            self.taken -= size
            self._freed.set()


class Body:
    """What one request has sent so far. `arriving` until its last byte is there; given up, its time is over."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.deadline, self.began = deadline, asyncio.get_running_loop().time()
        self.size, self.arriving = 0, True

    def give_up(self) -> None:
        """Its time is over now."""
        self.arriving = False
        if not self.deadline.expired():  # else it is over already, only its task has not heard of it
            self.deadline.reschedule(asyncio.get_running_loop().time())

    def rate(self, now: float) -> float:
        """Bytes a second so far; what has hardly begun counts as fast."""
        return (self.size + 65_536) / (now - self.began + 0.1)


class Bodies:
    """At most `most` bytes of requests held at a time, from the first byte until the answer. For one event loop.

    Where they run out the slowest that is still arriving is given up: senders that wait on purpose shut nobody out.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._held: set[Body] = set()

    @contextmanager
    def hold(self, body: Body) -> Iterator[Body]:
        """Count `body` until its request is answered."""
        self._held.add(body)
        try:
            yield body
        finally:
            self._held.discard(body)
            self.taken -= body.size

    def give_up(self) -> None:
        """End the time of all that are still arriving."""
        for body in self._held:
            if body.arriving:
                body.give_up()

    def grow(self, body: Body, size: int) -> None:
        """`size` bytes more of it are here. Raises Refused (429) where there is no room and nobody else to give up."""
        body.size += size
        self.taken += size
        now = asyncio.get_running_loop().time()
        excess = self.taken - self.most
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
    """429, with the time after which to try again."""
    return Refused(429, "busy", f"{what} Try again in a moment.", {"Retry-After": str(RETRY_SECONDS)})
