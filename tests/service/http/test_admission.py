"""Overload sheds load: in a model of the service whose clock is given, and for any order of events."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.admission import LEAST_SHARE, SLICE_SHARE, WAIT_SHARE, Admission
from service.http.intake import Intake
from service.http.ladder import PRIOR_SHARE, Ladder

MAX_QUEUE_SECONDS = 0.05
MAX_BYTES = 67_108_864
# Seconds in the model: to receive a request, write an answer, decode and encode, run a batch.
RECEIVE, RECEIVE_BYTE, WRITE = 4e-6, 0.4e-9, 4e-6
READ, READ_BYTE = 8e-6, 8.5e-9
BATCH, ROW, ANSWER, ANSWER_ROW = 60e-6, 1e-6, 8e-6, 0.45e-6
MAX_BATCH_ROWS = 256
# The status, in the model, of an answer without the model of the service.
BY_PRIOR = 203
BODY_BYTES = {1: 800, 100: 17_000, 500: 85_000}


@dataclass(eq=False)
class Asked:
    """A request in the model."""

    service: Model
    client: int
    sent: float
    size: int
    arrived: float = 0.0
    work: int = 0
    rows: int = 0

    def done(self) -> bool:
        return False

    def begin(self) -> None:
        model = self.service
        self.work = model.admission.start(self.size)
        model.now += READ + READ_BYTE * self.size
        model.admission.heed(model.tmax_ms)
        if self.is_late():
            model.end(self, 429)
        else:
            self.rows = model.candidates
            model.batches.append(self)
            model.schedule_batch()

    def begin_unscored(self) -> None:
        model, began = self.service, self.service.now
        model.now += READ + READ_BYTE * self.size + ANSWER + ANSWER_ROW * model.candidates
        assert model.ladder is not None
        model.ladder.spend(model.now - began)
        model.end(self, 429 if self.is_late() else BY_PRIOR)

    def is_late(self) -> bool:
        tmax_ms = self.service.tmax_ms
        return tmax_ms is not None and self.service.now - self.arrived > tmax_ms / 1000

    def give_up(self) -> None: ...

    def refuse(self) -> None:
        self.service.now += WRITE
        self.service.end(self, 429)


@dataclass
class Answer:
    """When a request was sent, for how long its client waited, and the status that it got."""

    sent: float
    seconds: float
    status: int


@dataclass
class Model:
    """An event loop in virtual time: it reads all sockets, then runs what is scheduled; one batch a turn.

    Clients send at `rate(now)` a second, or if that is None as soon as they can, each one request at a time.
    """

    candidates: int
    clients: int
    rate: Callable[[float], float | None]
    tmax_ms: float | None = None
    has_ladder: bool = False
    now: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    batches: deque[Asked] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.ready: deque[Callable[[], None]] = deque()
        self.ladder: Ladder | None = None
        if self.has_ladder:
            self.ladder = Ladder(SLICE_SHARE * MAX_QUEUE_SECONDS, lambda: self.now)
        self.admission = Admission(
            Intake(MAX_BYTES), MAX_QUEUE_SECONDS, lambda: self.now, self.ready.append, self.ladder
        )
        self.free = list(range(self.clients))
        self.sockets: list[Asked] = []
        self.has_batch = False
        self.draw = random.Random(1)
        self.due = 0.0

    def run(self, seconds: float) -> list[Answer]:
        while self.now < seconds:
            for _ in range(len(self.ready)):
                self.ready.popleft()()
            self.send()
            if not self.ready and not self.sockets:
                self.now = max(self.now, self.due)
                self.send()
            received, self.sockets = self.sockets, []
            self.now += 5e-6
            for request in received:
                self.now += RECEIVE + RECEIVE_BYTE * request.size
                request.arrived = self.admission.arrived()
                if self.admission.is_open:
                    request.begin()
                else:
                    self.admission.wait(request)
        return self.answers

    def send(self) -> None:
        """What clients have sent until now."""
        while self.due <= self.now:
            rate = self.rate(self.due)
            if rate is None:
                for client in self.free:
                    self.sockets.append(Asked(self, client, self.now, BODY_BYTES[self.candidates]))
                self.free.clear()
                break
            if self.free:
                size = BODY_BYTES[self.candidates]
                self.sockets.append(Asked(self, self.free.pop(), self.due, size))
            self.due += self.draw.expovariate(rate)

    def schedule_batch(self) -> None:
        if not self.has_batch:
            self.has_batch = True
            self.ready.append(self.batch)

    def batch(self) -> None:
        room, answered, late = MAX_BATCH_ROWS, list[Asked](), list[Asked]()
        while self.batches and room:
            first = self.batches[0]
            if first.is_late():
                late.append(self.batches.popleft())
            elif first.rows <= room:
                room -= first.rows
                answered.append(self.batches.popleft())
            elif not answered:
                first.rows -= room
                room = 0
            else:
                break
        self.now += BATCH + ROW * (MAX_BATCH_ROWS - room)
        for request in answered:
            self.now += ANSWER + ANSWER_ROW * self.candidates
            self.admission.has_worked = True
            self.end(request, 200)
        for request in late:
            self.now += WRITE
            self.end(request, 429)
        self.has_batch = False
        if self.batches:
            self.schedule_batch()

    def end(self, request: Asked, status: int) -> None:
        if request.work:
            self.admission.stop(request.work)
        self.free.append(request.client)
        self.answers.append(Answer(request.sent, self.now - request.sent, status))


def goodput(answers: list[Answer], seconds: float) -> float:
    return sum(answer.status == 200 for answer in answers) / seconds


def p99(answers: list[Answer]) -> float:
    waits = sorted(answer.seconds for answer in answers if answer.status == 200)
    return waits[int(0.99 * len(waits))]


def peak(candidates: int, seconds: float) -> float:
    """Answers a second of a closed loop."""
    return goodput(Model(candidates, 32, lambda _: None).run(seconds), seconds)


@pytest.mark.parametrize("tmax_ms", [None, 50.0])
@pytest.mark.parametrize(
    ("candidates", "clients", "seconds"), [(1, 1000, 0.2), (100, 1000, 0.4), (500, 300, 0.6)]
)
@pytest.mark.parametrize("times", [3, 10])
def test_goodput_does_not_depend_on_how_much_is_asked(
    tmax_ms: float | None, candidates: int, clients: int, seconds: float, times: int
) -> None:
    most = peak(candidates, seconds)
    answers = Model(candidates, clients, lambda _: times * most, tmax_ms).run(seconds)
    assert goodput(answers, seconds) > 0.9 * most
    assert p99(answers) < MAX_QUEUE_SECONDS
    assert sum(answer.status == 429 for answer in answers) > 0 or candidates == 1


@pytest.mark.parametrize("tmax_ms", [None, 50.0])
@pytest.mark.parametrize(("candidates", "clients", "seconds"), [(100, 1000, 0.4), (500, 300, 0.6)])
def test_a_ladder_answers_more_and_leaves_the_model_its_time(
    tmax_ms: float | None, candidates: int, clients: int, seconds: float
) -> None:
    most = peak(candidates, seconds)
    without, answers = (
        Model(candidates, clients, lambda _: 3 * most, tmax_ms, has_ladder).run(seconds)
        for has_ladder in (False, True)
    )
    assert goodput(answers, seconds) > (1 - PRIOR_SHARE - 0.02) * goodput(without, seconds)
    assert goodput(answers, seconds) > 0.9 * most
    by_prior = [answer for answer in answers if answer.status == BY_PRIOR]
    assert len(by_prior) / seconds > 0.6 * PRIOR_SHARE * most
    assert max(answer.seconds for answer in by_prior) < MAX_QUEUE_SECONDS
    assert sum(answer.status == 429 for answer in answers) > 0  # what remains


def test_a_closed_loop_of_many_clients_gets_as_much_as_one_of_few() -> None:
    few, many = (goodput(Model(100, clients, lambda _: None).run(0.5), 0.5) for clients in (100, 3000))
    assert many > 0.9 * few


def test_all_that_can_be_served_in_time_is_served_in_order() -> None:
    """Twice as much as a slice of work at once, but not more than can wait: nobody is refused."""
    answers = Model(100, 64, lambda _: None).run(0.3)
    assert {answer.status for answer in answers} == {200}
    assert p99(answers) < MAX_QUEUE_SECONDS


def test_after_overload_requests_are_answered_as_before_it() -> None:
    most = peak(100, 0.5)
    model = Model(100, 1000, lambda now: most * (0.5 if now < 0.3 or now > 1.3 else 5))
    answers = model.run(3.0)
    before = [answer for answer in answers if answer.sent < 0.3]
    after = [answer for answer in answers if answer.sent > 2.3]
    assert {answer.status for answer in after} == {200}
    assert p99(after) < 2 * p99(before) + 0.001
    assert model.admission.waiting == 0


class Client:
    """A request of the property test; it notes what happens to it."""

    def __init__(self, world: World, size: int, arrived: float) -> None:
        self.world, self.size, self.arrived = world, size, arrived
        self.work = 0
        self.has_left = self.is_given_up = self.waits = False
        self.ends = list[str]()

    def done(self) -> bool:
        return self.has_left

    def begin(self) -> None:
        assert not self.has_left
        assert not self.is_given_up
        if self.waits:
            assert self.world.now - self.arrived <= MAX_QUEUE_SECONDS * WAIT_SHARE
        self.ends.append("begun")
        self.work = self.world.admission.start(self.size)
        self.world.working.append(self)

    def begin_unscored(self) -> None:
        raise AssertionError("there is no ladder")

    def give_up(self) -> None:
        self.is_given_up = True

    def refuse(self) -> None:
        assert self.is_given_up
        assert not self.has_left
        self.ends.append("refused")


class World:
    """An admission, its clock, and the requests that it was given."""

    def __init__(self, max_bytes: int) -> None:
        self.now = 100.0
        self.ready: list[Callable[[], None]] = []
        self.intake = Intake(max_bytes)
        self.admission = Admission(self.intake, MAX_QUEUE_SECONDS, lambda: self.now, self.ready.append)
        self.working: list[Client] = []
        self.clients: list[Client] = []

    def arrive(self, size: int) -> None:
        client = Client(self, size, self.admission.arrived())
        self.clients.append(client)
        if self.admission.is_open:
            client.begin()
        else:
            client.waits = True
            self.admission.wait(client)

    def finish(self) -> None:
        if self.working:
            self.admission.stop(self.working.pop(0).work)

    def turn(self) -> None:
        ready, self.ready[:] = [*self.ready], []
        for each in ready:
            each()


STEPS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 200_000)),
    st.tuples(st.just("wait"), st.floats(0.0, 0.03)),
    st.tuples(st.sampled_from(["finish", "turn", "leave"]), st.just(0)),
)


@given(st.lists(STEPS, max_size=80), st.sampled_from([300_000, MAX_BYTES]))
def test_each_request_begins_in_time_or_is_refused_once(
    steps: list[tuple[str, float]], max_bytes: int
) -> None:
    world = World(max_bytes)
    for step, value in steps:
        if step == "arrive":
            world.arrive(int(value))
        elif step == "wait":
            world.now += value
        elif step == "finish":
            world.finish()
        elif step == "turn":
            world.turn()
        elif world.clients:
            world.clients[len(world.clients) // 2].has_left = True
        assert world.intake.held_bytes <= max_bytes
        assert world.admission.waiting == 0 or world.ready or world.working
    for _ in range(3 * len(world.clients) + 3):  # nobody is forgotten, whoever waits
        world.finish()
        world.turn()
        world.now += 0.001
    assert not world.ready
    assert (world.admission.waiting, world.intake.held_bytes) == (0, 0)
    assert all(len(client.ends) == 1 for client in world.clients if not client.has_left)


def full(world: World, *sizes: int) -> list[Client]:
    """Requests that wait behind one that takes all the room."""
    world.arrive(10_000_000)
    for size in sizes:
        world.arrive(size)
    return world.clients[1:]


def order_of(world: World) -> list[int]:
    """The order in which those that wait begin."""
    began = list[int]()
    for _ in range(200):
        world.finish()
        world.turn()
        began += [
            world.clients.index(each) for each in world.working if world.clients.index(each) not in began
        ]
    return began


def test_first_come_first_served_if_there_is_time_for_all() -> None:
    world = World(MAX_BYTES)
    full(world, *[1000] * 10)
    assert order_of(world) == list(range(1, 11))


def test_the_newest_first_if_there_is_not() -> None:
    world = World(MAX_BYTES)
    waiting = full(world, *[200_000] * 20)  # 80 ms of work
    order = order_of(world)
    assert order[0] == 20
    # What fits into the time that is left is served in order again.
    assert order[-1] > order[-2] or order[-1] == 1
    assert all(client.ends == ["begun"] for client in waiting)


def test_those_that_are_given_up_keep_no_bytes() -> None:
    world = World(MAX_BYTES)
    waiting = full(world, *[100_000] * 30)
    assert world.intake.held_bytes == 3_000_000
    world.now += 1.0
    world.finish()
    world.turn()
    assert world.intake.held_bytes == 0
    assert all(client.is_given_up for client in waiting)


def test_if_bytes_are_short_the_oldest_are_given_up() -> None:
    world = World(300_000)
    waiting = full(world, 100_000, 100_000, 100_000, 100_000)
    assert [client.is_given_up for client in waiting] == [True, False, False, False]
    world.intake.take(150_000)
    assert [client.is_given_up for client in waiting] == [True, True, True, False]


def test_refusals_wait_while_there_are_answers_to_give() -> None:
    """A hundred are owed and a fresh request waits: in a turn there is time for a few refusals only."""
    world = World(MAX_BYTES)
    waiting = full(world, *[1000] * 2000)
    world.now += 1.0
    world.arrive(300_000)
    world.arrive(1000)
    world.finish()
    world.turn()
    refused = sum(client.ends == ["refused"] for client in waiting)
    assert refused < 1000
    while world.ready or world.working:
        world.finish()
        world.turn()
    assert all(client.ends == ["refused"] for client in waiting)


def test_bytes_that_come_while_the_loop_works_are_half_as_old_as_its_last_look() -> None:
    world = World(MAX_BYTES)
    admission = world.admission
    world.arrive(1000)
    world.now += 0.004  # decoding, then a batch
    admission.has_worked = True
    assert admission.arrived() == pytest.approx(100.002)  # a request is under way: the loop has not paused
    world.now += 0.003
    admission.has_worked = True
    assert admission.arrived() == pytest.approx(100.0055)
    world.finish()
    admission.has_worked = True
    world.now += 5.0
    assert admission.arrived() == world.now  # idle: it came just now


def test_clients_that_wait_for_less_shorten_the_wait_of_all_but_not_without_end() -> None:
    world = World(MAX_BYTES)
    least = LEAST_SHARE * WAIT_SHARE * MAX_QUEUE_SECONDS
    for tmax_ms, wait, is_given_up in (
        (0.001, 0.9 * least, False),
        (0.001, 1.1 * least, True),
        (None, 0.03, False),
    ):
        for _ in range(2000):
            world.admission.heed(tmax_ms)
        world.now += 60.0
        (waiting,) = full(world, 1000)
        world.now += wait
        world.finish()
        world.turn()
        assert waiting.is_given_up is is_given_up
        world.finish()
        world.turn()
        world.clients.clear()


def test_a_turn_begins_no_more_than_a_slice_even_if_all_fail_at_once() -> None:
    world = World(MAX_BYTES)
    waiting = full(world, *[10_000] * 500)
    for client in waiting:
        client.begin = lambda client=client: (
            client.ends.append("begun")
            or world.admission.stop(  # type: ignore
                world.admission.start(client.size)
            )
        )
    world.finish()
    world.turn()
    begun = sum(bool(client.ends) for client in waiting)
    slice_bytes = MAX_QUEUE_SECONDS * SLICE_SHARE / 20e-9
    assert 0 < begun <= slice_bytes / 11_000 + 1
    assert world.ready
