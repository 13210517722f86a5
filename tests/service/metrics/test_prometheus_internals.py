"""The internals of prometheus_client are what the service takes them for, and one file alone uses them."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from service.metrics.prometheus_internals import BulkHistogram, omit_created_series
from tests.running import REPOSITORY, read_metrics

INTERNALS = REPOSITORY / "service/metrics/prometheus_internals.py"
PRIVATE = {"_sum", "_buckets", "_upper_bounds", "_metrics", "_value", "_child_samples", "_samples"}

# One process that counts in files under a name, is followed by another of that name, and ends.
PROGRAM = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from service.metrics.prometheus_internals import *

folder, name, amount = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
count_in_files(str(folder))
assert counts_in_files()
write_metrics_as(name)
registry = CollectorRegistry()
Counter("c", "c", registry=registry).inc(amount)
for mode in ("livesum", "livemax"):
    Gauge(mode, mode, multiprocess_mode=mode, registry=registry).set(amount)
BulkHistogram("h", "h", buckets=(1.0, 2.0), registry=registry).observe(amount)
print(generate_latest(registry_of_all_processes()).decode())
print("#", sorted(path.name for path in folder.iterdir()))
drop_live_gauges_of(name)
print("#", sorted(path.name for path in folder.iterdir()))
count_in_memory()
assert not counts_in_files()
Counter("in_memory", "m", registry=CollectorRegistry()).inc()
assert "in_memory" not in generate_latest(registry).decode()
"""


def count_in(folder: Path, name: str, amount: float) -> tuple[dict[str, float], list[list[str]]]:
    """The totals that such a process reads, and its files before and after its live gauges are dropped."""
    command = [sys.executable, "-c", PROGRAM, str(folder), name, str(amount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.stderr == ""
    files = [ast.literal_eval(line[2:]) for line in done.stdout.splitlines() if line.startswith("# [")]
    return read_metrics(done.stdout), files


def test_processes_add_up_by_name(tmp_path: Path) -> None:
    first, files = count_in(tmp_path, "0", 1.5)
    assert first["c_total"] == first["livesum"] == first["livemax"] == 1.5
    assert files == [
        ["counter_0.db", "gauge_livemax_0.db", "gauge_livesum_0.db", "histogram_0.db"],
        ["counter_0.db", "histogram_0.db"],
    ]
    successor, _ = count_in(tmp_path, "0", 0.5)
    assert successor["c_total"] == 2.0
    assert successor["livesum"] == 0.5
    other, files = count_in(tmp_path, "supervisor", 3.0)
    assert other["c_total"] == 5.0
    assert [other[f'h_bucket{{le="{bound}"}}'] for bound in ("1.0", "2.0", "+Inf")] == [1, 2, 3]
    assert (other["h_sum"], other["h_count"]) == (5.0, 3)
    assert files[1] == ["counter_0.db", "counter_supervisor.db", "histogram_0.db", "histogram_supervisor.db"]


def test_a_histogram_has_a_sum_and_counts_that_are_not_cumulative() -> None:
    registry = CollectorRegistry()
    histogram = BulkHistogram("h", "h", ["arm"], buckets=(1.0, 2.0), registry=registry).labels("a")
    assert histogram.bounds.tolist() == [1.0, 2.0, np.inf]
    assert len(histogram._buckets) == 3
    histogram.add(np.array([2, 0, 3]), 40.5)
    found = read_metrics(generate_latest(registry).decode())
    assert [found[f'h_bucket{{arm="a",le="{bound}"}}'] for bound in ("1.0", "2.0", "+Inf")] == [2, 2, 5]
    assert (found['h_sum{arm="a"}'], found['h_count{arm="a"}']) == (40.5, 5)


def test_no_series_of_creation_times_is_exposed() -> None:
    omit_created_series()
    registry = CollectorRegistry()
    Counter("c", "c", registry=registry).inc()
    assert read_metrics(generate_latest(registry).decode()) == {"c_total": 1.0}


def test_the_library_is_capped_to_the_version_whose_internals_are_used() -> None:
    major, minor, *_ = importlib.metadata.version("prometheus-client").split(".")
    expected = f"prometheus-client>={major}.{minor},<{major}.{int(minor) + 1}"
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("service", "service-cuda"):
        assert expected in extras[extra]


def uses_of_internals(source: str) -> Iterator[str]:
    """What a file takes of prometheus_client beside the names that it publishes."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client"):
            for alias in node.names:
                if node.module != "prometheus_client" or alias.name not in prometheus_client.__all__:
                    yield f"{node.module}.{alias.name}"
                if alias.name == "disable_created_metrics":
                    yield alias.name
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("prometheus_client"))
        elif isinstance(node, ast.Constant) and node.value == "PROMETHEUS_MULTIPROC_DIR":
            yield node.value
        elif isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                yield node.attr
        elif isinstance(node, ast.ClassDef):
            metrics = {"Counter", "Gauge", "Histogram", "Summary"}
            yield from (base.id for base in node.bases if isinstance(base, ast.Name) and base.id in metrics)


@pytest.mark.parametrize(
    "source",
    [
        "from prometheus_client import values",
        "from prometheus_client.multiprocess import MultiProcessCollector",
        "import prometheus_client.mmap_dict",
        "histogram._sum.inc(1)",
        "class Own(Histogram): pass",
        "os.environ['PROMETHEUS_MULTIPROC_DIR']",
    ],
)
def test_a_use_of_internals_is_found(source: str) -> None:
    assert list(uses_of_internals(source))
    assert not list(uses_of_internals("from prometheus_client import Counter, CollectorRegistry"))


def test_one_file_alone_uses_internals() -> None:
    users = {
        path
        for path in (REPOSITORY / "service").rglob("*.py")
        if list(uses_of_internals(path.read_text(encoding="utf-8")))
    }
    assert users == {INTERNALS}
