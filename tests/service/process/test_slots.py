"""The slots of workers: their cores, and their sockets when a start fails."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from service.errors import BadConfiguration
from service.process.slots import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, bind_slots, cores_of_workers
from service.settings import Settings

CORES = sorted(os.sched_getaffinity(0))


def test_workers_keep_to_a_core_where_there_is_one_each() -> None:
    def cores(workers: int, pin: str) -> list[int | None]:
        return cores_of_workers(Settings(workers=workers, pin_workers=pin))  # type: ignore[arg-type]

    count = len(CORES)
    assert cores(count, "auto") == cores(count, "on") == CORES
    assert cores(count, "off") == [None] * count
    assert cores(count + 1, "auto") == [None] * (count + 1)
    assert cores(1, "on") == CORES[:1]
    if count > 1:
        assert cores(count - 1, "auto") == [None] * (count - 1)
    with pytest.raises(BadConfiguration, match=f"at most the cores of this process, {count}"):
        cores(count + 1, "on")


def test_a_slot_without_a_worker_gets_a_new_socket_and_a_longer_pause_each_time() -> None:
    (slot,) = bind_slots("127.0.0.1", 0, [None])
    address, old = slot.socket.getsockname(), slot.socket
    with closing(old):
        assert slot.may_start
        slot.back_off(keep_socket=True)
        assert slot.socket is old
        assert not slot.may_start
        slot.back_off(keep_socket=False)
    with closing(slot.socket):
        assert old.fileno() == -1
        assert slot.socket.getsockname() == address
        assert slot.retry_seconds == 4 * FIRST_RETRY_SECONDS
        for _ in range(10):
            slot.back_off(keep_socket=True)
        assert slot.retry_seconds == LONGEST_RETRY_SECONDS
        slot.pause(0.0)
        assert slot.may_start
