"""The bytes that a process holds are at most so many, and the requests that take longest give way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.http.intake import Arrival, Intake
from service.settings import Settings


class Client:
    """An arrival that counts how often it had to yield."""

    def __init__(self, intake: Intake) -> None:
        self.yielded = 0
        self.arrival = Arrival(intake, self._yield)

    def _yield(self) -> None:
        self.yielded += 1


def test_the_one_that_began_first_yields_first() -> None:
    intake = Intake(100)
    clients = [Client(intake) for _ in range(4)]
    for client in clients[:3]:
        client.arrival.hold(30)
    clients[0].arrival.hold(35)  # more of it does not make it younger
    assert intake.held_bytes == 95
    clients[3].arrival.hold(20)
    assert [client.yielded for client in clients] == [1, 0, 0, 0]
    assert intake.held_bytes == 80
    clients[1].arrival.hold(0)  # it is complete
    intake.take(70)
    assert [client.yielded for client in clients] == [1, 0, 1, 0]
    assert intake.held_bytes == 90


def test_a_request_that_is_answered_yields_to_none() -> None:
    intake = Intake(100)
    intake.take(90)
    client = Client(intake)
    with pytest.raises(Overloaded, match="100 bytes at most"):
        intake.take(11)
    client.arrival.hold(20)
    assert (client.yielded, intake.held_bytes) == (1, 90)
    intake.give_back(90)
    client.arrival.hold(20)
    assert (client.yielded, intake.held_bytes) == (1, 20)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40))
def test_what_is_held_is_what_the_arrivals_hold(steps: list[tuple[int, int]]) -> None:
    intake, held = Intake(100), [0] * 5

    def make(number: int) -> Arrival:
        return Arrival(intake, lambda: held.__setitem__(number, 0))

    arrivals = [make(number) for number in range(5)]
    for number, size in steps:
        held[number] = size
        arrivals[number].hold(size)
        assert intake.held_bytes == sum(held) <= 100
    intake.make_room(100)
    assert intake.held_bytes == sum(held) == 0


def test_a_body_that_may_be_sent_can_be_held() -> None:
    with pytest.raises(ValueError, match="'max_body_bytes' must be at most max_held_bytes, 1000"):
        Settings(arms=("a=b",), max_held_bytes=1000)
    assert Settings(arms=("a=b",), max_held_bytes=1000, max_body_bytes=1000).max_held_bytes == 1000
