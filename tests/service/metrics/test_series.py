"""What a scrape shows is what prometheus_client would show, of one process or of several."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from service.metrics.memory import CountMemory
from service.metrics.series import FULL, UNREADABLE, Counters, Gauges, Histograms, Registry
from tests.running import REPOSITORY, read_metrics

BUCKETS = (0.00002, 0.5, 1.0, 4096.0)
LABELS = st.sampled_from(["a", 'odd "quoted"\n\\', "(other)", ""])
STEPS = st.lists(st.tuples(LABELS, st.sampled_from([0.0, 1e-5, 0.5, 0.7, 3.0, 1e7])), max_size=30)


class Process:
    """The families of one process, one of each kind, and what counts their faults."""

    def __init__(self, memory: CountMemory, number: int = 0) -> None:
        self.registry = registry = Registry(memory, number)
        self.faults = Counters("faults", "what is wrong", ["reason"], registry=registry)
        registry.faults = {reason: self.faults.labels(reason) for reason in (FULL, UNREADABLE)}
        self.counters = Counters("c", "how many", ["arm"], registry=registry)
        self.passing = Counters("p", "how many, for a while", ["field"], registry=registry, is_lasting=False)
        self.sums = Gauges("s", "now", ["arm"], registry=registry, of_processes="sum")
        self.largest = Gauges("m", "now", ["arm"], registry=registry, of_processes="max")
        self.smallest = Gauges("n", "now", ["arm"], registry=registry, of_processes="min")
        self.histograms = Histograms("h", "how large", ["arm"], registry=registry, buckets=BUCKETS)
        self.plain = Histograms("l", "without labels", registry=registry, buckets=BUCKETS)

    def text(self) -> str:
        exposed = CollectorRegistry()
        exposed.register(self.registry)
        return generate_latest(exposed).decode()

    def found(self) -> dict[str, float]:
        return read_metrics(self.text())


def shown_by_prometheus_client(steps: Sequence[tuple[str, float]]) -> list[str]:
    """The lines that its own metrics give."""
    registry = CollectorRegistry()
    counter = prometheus_client.Counter("c", "how many", ["arm"], registry=registry)
    gauge = prometheus_client.Gauge("s", "now", ["arm"], registry=registry)
    histogram = prometheus_client.Histogram("h", "how large", ["arm"], buckets=BUCKETS, registry=registry)
    plain = prometheus_client.Histogram("l", "without labels", buckets=BUCKETS, registry=registry)
    for arm, amount in steps:
        counter.labels(arm).inc(amount)
        gauge.labels(arm).set(amount)
        histogram.labels(arm).observe(amount)
        plain.observe(amount)
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@settings(deadline=None)
@given(STEPS)
def test_the_lines_of_one_process_are_those_of_prometheus_client(steps: list[tuple[str, float]]) -> None:
    process = Process(CountMemory())
    plain = process.plain.labels()
    for arm, amount in steps:
        process.counters.labels(arm).inc(amount)
        process.sums.labels(arm).set(amount)
        process.histograms.labels(arm).observe(amount)
        plain.observe(amount)
    expected = shown_by_prometheus_client(steps)
    assert set(expected) - set(process.text().splitlines()) == set()
    others = {line.split("{")[0] for line in set(process.text().splitlines()) - set(expected)}
    assert {line for line in others if not line.startswith("#")} == {"faults_total"}


@settings(deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=3))
def test_processes_add_up(counted: list[list[tuple[str, float]]]) -> None:
    memory = CountMemory(parts=4)
    for number, steps in enumerate(counted, start=1):
        process = Process(memory, number)
        for arm, amount in steps:
            process.counters.labels(arm).inc(amount)
            process.histograms.labels(arm).observe(amount)
    one = Process(CountMemory())
    for arm, amount in [step for steps in counted for step in steps]:
        one.counters.labels(arm).inc(amount)
        one.histograms.labels(arm).observe(amount)
    assert Process(memory).found() == pytest.approx(one.found())


def test_gauges_are_those_of_processes_that_live() -> None:
    memory = CountMemory(parts=3)
    first, second, reader = (Process(memory, number) for number in (1, 2, 0))
    for process, value in ((first, 5.0), (second, -3.0)):
        process.sums.labels("a").set(value)
        process.largest.labels("a").set(value)
        process.smallest.labels("a").set(value)
    assert [reader.found()[f'{name}{{arm="a"}}'] for name in "smn"] == [2.0, 5.0, -3.0]
    memory.end_tenure(1)
    assert (reader.found()['s{arm="a"}'], reader.found()['m{arm="a"}']) == (-3.0, -3.0)
    successor = Process(memory, 1)
    assert reader.found()['s{arm="a"}'] == -3.0
    successor.sums.labels("a")
    assert reader.found()['s{arm="a"}'] == -3.0
    memory.end_tenure(1)
    memory.end_tenure(2)
    assert "s{" not in reader.text()


def test_series_that_no_process_uses_are_shown_no_more_and_go_on_where_they_were() -> None:
    memory = CountMemory(parts=3)
    one, other = Process(memory, 1), Process(memory, 2)
    for process in (one, other):
        for field in ("site", "hour"):
            process.passing.labels(field).inc(2)
    one.passing.retain({("hour",)})
    assert one.found()['p_total{field="site"}'] == 4  # the other process still uses it
    other.passing.retain({("hour",), ("never seen",)})
    assert 'field="site"' not in one.text()
    assert one.found()['p_total{field="hour"}'] == 4
    one.passing.labels("site").inc()
    assert other.found()['p_total{field="site"}'] == 5


def test_reloads_without_end_leave_room_for_what_is_served() -> None:
    process = Process(CountMemory(half_bytes=4096))
    for number in range(500):
        served = (f"bundle-{number}",)
        process.passing.labels(*served).inc()
        process.largest.labels(*served).set(1.0)
        process.passing.retain({served})
        process.largest.retain({served})
        process.counters.labels("a").inc()
    found = process.found()
    assert {name: found[name] for name in found if name.startswith(("p_total", "m{"))} == {
        'p_total{field="bundle-499"}': 1.0,
        'm{arm="bundle-499"}': 1.0,
    }
    assert found['c_total{arm="a"}'] == 500
    assert found['faults_total{reason="full"}'] == 0


def test_a_series_without_room_is_told_and_changes_no_other(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(CountMemory(half_bytes=4096))
    with caplog.at_level(logging.ERROR):
        for number in range(200):
            process.counters.labels(f"arm-{number}").inc()
            process.histograms.labels(f"arm-{number}").add(np.full(5, 2), 1.0)
    found = process.found()
    counted = [name for name in found if name.startswith("c_total")]
    assert 1 < len(counted) < 200
    assert all(found[name] == 1.0 for name in counted)
    assert found['faults_total{reason="full"}'] == 400 - len(counted) - len(
        [name for name in found if name.startswith("h_sum")]
    )
    assert len(caplog.records) == 1
    assert "there is no room to count" in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        b"no msgpack",
        b"\x92\xa1c\xa1\xff",  # a label that is not UTF-8
        b"\x91\xa1c",  # a counter without its label
        b"\x92\xa7unknown\xa1a",
        b"\x92\xa1h\xa1a",  # a histogram of one number
    ],
)
def test_what_cannot_be_read_is_told_and_the_rest_is_shown(
    key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    memory = CountMemory(parts=3)
    broken, other, reader = (Process(memory, number) for number in (1, 2, 0))
    for process in (broken, other):
        process.counters.labels("a").inc(2)
    broken.registry.part.place(key, 1, is_lasting=True)
    broken.counters.labels("behind it").inc()
    with caplog.at_level(logging.ERROR):
        reader.text()
        found = reader.found()
    assert found['c_total{arm="a"}'] == 4
    assert 'c_total{arm="behind it"}' not in found
    assert found['faults_total{reason="unreadable"}'] == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the counts of process 1 cannot be read to their end"
    ]


def uses_of_internals(source: str) -> Iterator[str]:
    """What a file takes of prometheus_client beside the names that it publishes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client"):
            for alias in node.names:
                if node.module != "prometheus_client" or alias.name not in prometheus_client.__all__:
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("prometheus_client"))
        elif isinstance(node, ast.Constant) and node.value == "PROMETHEUS_MULTIPROC_DIR":
            yield node.value


@pytest.mark.parametrize(
    "source",
    [
        "from prometheus_client import values",
        "from prometheus_client.multiprocess import MultiProcessCollector",
        "import prometheus_client.mmap_dict",
        "os.environ['PROMETHEUS_MULTIPROC_DIR']",
    ],
)
def test_a_use_of_internals_is_found(source: str) -> None:
    assert list(uses_of_internals(source))
    assert not list(uses_of_internals("from prometheus_client import Counter, CollectorRegistry"))


def test_no_file_uses_internals() -> None:
    files = list((REPOSITORY / "service").rglob("*.py"))
    assert files
    assert not [path for path in files if list(uses_of_internals(path.read_text(encoding="utf-8")))]
