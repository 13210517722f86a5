"""The bytes of requests that a process holds, over all connections, and who yields when they are too many.

It knows neither HTTP nor what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable

from service.errors import NoRoom


class Intake:
    """At most `max_bytes` of requests are held at once: of those that arrive, and of those that are answered.

    A request that has arrived is taken or refused at once, and given back when it ends. One that is still
    arriving, or waits behind another on its connection, is an `Arrival`. When bytes are short, arrivals
    yield, the oldest first: it has had the longest time, so clients that send slowly, or nothing more, keep
    nobody else out.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._arrivals: dict[Arrival, None] = {}  # in the order of their first byte

    def take(self, size: int) -> None:
        """Hold `size` bytes of a request that is answered now. Raises NoRoom."""
        if self.held_bytes + size > self.max_bytes:
            self.make_room(size)
            if self.held_bytes + size > self.max_bytes:
                raise self.refusal()
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Hold these bytes no more."""
        self.held_bytes -= size

    def make_room(self, size: int) -> None:
        """Let arrivals yield, the oldest first, until there is room for `size` bytes or none is left."""
        while self._arrivals and self.held_bytes + size > self.max_bytes:
            next(iter(self._arrivals)).leave()

    def begin(self, arrival: Arrival) -> None:
        """Put the arrival behind all others."""
        self._arrivals[arrival] = None

    def end(self, arrival: Arrival) -> None:
        """The arrival holds nothing more."""
        self._arrivals.pop(arrival, None)

    def refusal(self) -> NoRoom:
        """Why a request is refused."""
        return NoRoom(f"requests under way must have {self.max_bytes} bytes at most; try again soon")


# Shorter parts of a body are put together as they come.
LONG_PART_BYTES = 4096


class Parts:
    """A body that arrives in parts.

    Long parts are joined at the end: a buffer that grows by them takes three times as long. Many short ones
    would take a multiple of their bytes if they were kept apart.
    """

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes | bytearray] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        """Take the next part."""
        self.size += len(part)
        parts = self._parts
        if len(part) >= LONG_PART_BYTES:
            parts.append(part)
        elif parts and isinstance(parts[-1], bytearray):
            parts[-1] += part
        else:
            parts.append(bytearray(part))

    def joined(self) -> bytes:
        """All parts."""
        return b"".join(self._parts)


class Arrival:
    """The bytes of one connection's request that is still arriving.

    `yield_room` is called when it must yield; it holds nothing by then.
    """

    __slots__ = ("_intake", "_size", "_yield_room")

    def __init__(self, intake: Intake, yield_room: Callable[[], object]) -> None:
        self._intake = intake
        self._yield_room = yield_room
        self._size = 0

    def hold(self, size: int) -> None:
        """Hold so many bytes now, 0 to end. It may have yielded when this returns."""
        intake, before = self._intake, self._size
        if size and not before:
            intake.begin(self)
        elif before and not size:
            intake.end(self)
        self._size = size
        intake.held_bytes += size - before
        if size > before and intake.held_bytes > intake.max_bytes:
            intake.make_room(0)

    def leave(self) -> None:
        """Hold nothing more, and tell the owner."""
        self.hold(0)
        self._yield_room()
