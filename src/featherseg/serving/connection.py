"""One connection with limits from its first byte: on time, pieces, and unread answers.

uvicorn's h11 protocol does the work. Here are the limits it lacks: idle connections, bodies that
the application does not read, bodies in tiny pieces, answers that are not fetched, and too many
connections.
"""

import asyncio
import os
import time
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_FILES = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else -1  # -1 also means no limit
MOST_CONNECTIONS = min(512, _FILES // 2) if _FILES > 0 else 512
"""Most connections; above, the least useful is closed, so that idle ones cannot use all files."""

NEW_SECONDS = 1.0
"""Seconds in which an idle connection is not closed in favour of slow senders."""

HEADER_SECONDS = 10.0
"""Seconds for the head of a request to arrive, from the connection or the previous answer on."""

DRAIN_SECONDS = 5.0
"""Seconds for the rest of a refused body: it is discarded, so that the answer arrives."""

FREE_PIECES, PIECE_BYTES = 1000, 256
"""A body may have this many pieces, and one more per this many bytes."""


class _Counted(h11.Connection):
    """Refuses bodies in tiny pieces: each piece costs as much time as a large one."""

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
    """A transport whose `close` lets an answer arrive while the client is still sending."""

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
    """A connection of the service; `sweep` must be called about every second."""

    conn: _Counted

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Counted(h11.SERVER)
        self.draining, self.since = False, time.monotonic()
        self.unfetched_since = float("inf")

    @property
    def is_answering(self) -> bool:
        """Whether a request is in progress, from its head to the end of its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_receiving(self) -> bool:
        """Whether the body of a request is still arriving."""
        return self.cycle is not None and self.cycle.more_body

    def worth(self, now: float) -> tuple[int, float]:
        """Return a sort key, the lowest is closed first: idle, then slow, then new connections."""
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
            self.cycle.disconnected = True  # tells the reader of the body that it ends
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
        """Send what is buffered and discard what arrives."""
        self.draining, self.since = True, time.monotonic()
        self._unset_keepalive_if_required()
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Close at once and drop unsent data."""
        self.transport.abort()
        self.connections.discard(self)

    def is_late(self, now: float, seconds: float) -> bool:
        """Whether the connection is late.

        It has a limited time for a head and for the rest of a refused body, and `seconds` for an
        answer that the client does not read.
        """
        if self.draining:
            return now - self.since > DRAIN_SECONDS
        if self.is_answering:  # the application limits its time, except for fetching the answer
            return now - self.unfetched_since > seconds
        return now - self.since > (
            seconds if self.transport.get_write_buffer_size() else HEADER_SECONDS
        )


def sweep(connections: set[Any], seconds: float, most: int) -> None:
    """Close late connections, and the oldest unread answers beyond `most` bytes in total."""
    now, unread = time.monotonic(), 0
    for connection in sorted(connections, key=lambda one: -one.since):  # newest first
        size = connection.transport.get_write_buffer_size()
        unread += size
        if connection.is_late(now, seconds) or (size and unread > most):
            connection.abort()
            unread -= size
