"""One connection, bounded from its first byte: in time, in pieces, and in what it leaves unread.

uvicorn's protocol for h11 does the work. What it leaves open is closed here: connections that say nothing, bodies that
nobody reads, bodies in tiny pieces, answers that are not fetched, and too many connections.
"""

import asyncio
import os
import time
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_FILES = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else -1  # without a limit it is -1 too
MOST_CONNECTIONS = min(512, _FILES // 2) if _FILES > 0 else 512
"""Above it the one that is worth least is closed: what says nothing must not use up the process' files."""

NEW_SECONDS = 1.0
"""A connection that says nothing yet is not closed for others that are slow to send for so long."""

HEADER_SECONDS = 10.0
"""For the head of a request to arrive, from the connection's first moment or from the answer before."""

DRAIN_SECONDS = 5.0
"""For the rest of a body that was refused: it is thrown away unread, so that the answer arrives."""

FREE_PIECES, PIECE_BYTES = 1000, 256
"""A body comes in at most so many pieces, and one more for each so many bytes."""


class _Counted(h11.Connection):
    """Refuses bodies in tiny pieces: each costs as much time as a large one."""

    pieces = size = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.pieces = self.size = 0
        elif isinstance(event, h11.Data):
            self.pieces, self.size = self.pieces + 1, self.size + len(event.data)
            if self.pieces > FREE_PIECES + self.size // PIECE_BYTES:
                raise h11.RemoteProtocolError("the body arrives in pieces that are too small")
        return event


class _Lingering:
    """A transport whose `close` lets an answer arrive although the client is still sending."""

    def __init__(self, transport: asyncio.Transport, protocol: "Connection") -> None:
        self._transport, self._protocol = transport, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._protocol.draining or self._transport.is_closing()

    def close(self) -> None:
        if self._protocol.is_receiving and not self._transport.is_closing():
            self._protocol.drain()
        else:
            self._transport.close()


class Connection(H11Protocol):
    """A connection of the service; `sweep` is to be called about every second."""

    conn: _Counted

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Counted(h11.SERVER)
        self.draining, self.since = False, time.monotonic()
        self.unfetched_since = float("inf")

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way, from its head to the end of its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_receiving(self) -> bool:
        """Whether the body of a request is still to come."""
        return self.cycle is not None and self.cycle.more_body

    def worth(self, now: float) -> tuple[int, float]:
        """The least is closed first: what says nothing, then what is slow to send, then what has only just come."""
        if not self.is_answering:
            return (0 if now - self.since > NEW_SECONDS else 2), self.since
        if self.is_receiving or self.unfetched_since <= now:
            return 1, (self.conn.size + 65_536) / (now - self.since + 0.1)
        return 3, self.since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain = cast(asyncio.Transport, transport)
        super().connection_made(plain)
        self.transport = cast(asyncio.Transport, _Lingering(plain, self))
        if len(self.connections) > MOST_CONNECTIONS:
            now = time.monotonic()
            min(cast("set[Connection]", self.connections), key=lambda one: one.worth(now)).abort()

    def data_received(self, data: bytes) -> None:
        if not self.draining:
            super().data_received(data)

    def pause_writing(self) -> None:
        self.unfetched_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unfetched_since = float("inf")
        super().resume_writing()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.since = time.monotonic()

    def send_400_response(self, msg: str) -> None:
        if self.is_answering:
            if self.cycle.response_started:
                self.abort()
                return
            self.cycle.disconnected = True  # whoever reads the body is told that it ends
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        if self.is_receiving and not self.transport.is_closing():
            self.drain()
        else:
            super().on_response_complete()

    def shutdown(self) -> None:
        if self.draining:
            self.abort()
        else:
            super().shutdown()

    def drain(self) -> None:
        """Send what is to be sent and no more, and throw away what comes."""
        self.draining, self.since = True, time.monotonic()
        self._unset_keepalive_if_required()
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        self.transport.abort()
        self.connections.discard(self)

    def is_late(self, now: float, seconds: float) -> bool:
        """Whether its time is over: for a head, for the rest of a refused body, or `seconds` for an unread answer."""
        if self.draining:
            return now - self.since > DRAIN_SECONDS
        if self.is_answering:  # the application sees to its time, but for that of an answer that nobody fetches
            return now - self.unfetched_since > seconds
        return now - self.since > (seconds if self.transport.get_write_buffer_size() else HEADER_SECONDS)


def sweep(connections: set[Any], seconds: float, most: int) -> None:
    """Close those whose time is over, and drop the oldest of unread answers of more than `most` bytes in all."""
    now, unread = time.monotonic(), 0
    for connection in sorted(connections, key=lambda one: -one.since):  # the newest first
        size = connection.transport.get_write_buffer_size()
        unread += size
        if connection.is_late(now, seconds) or (size and unread > most):
            connection.abort()
            unread -= size
