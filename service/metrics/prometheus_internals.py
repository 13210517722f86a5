"""Every private or version-dependent part of prometheus_client that the service uses; no other file uses one.

pyproject.toml caps the library to the versions these parts were read in; a test fails when one changes.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# The library reads it at import and whenever it opens a file of a process or collects all of them.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def count_in_memory() -> None:
    """Keep metrics in this process, whatever the environment says; call it before any metric is created."""
    os.environ.pop(_FOLDER_VARIABLE, None)
    values.ValueClass = values.MutexValue


def count_in_files(folder: str) -> None:
    """Keep metrics in files in `folder`, a set for each process; each then calls `write_metrics_as`."""
    os.environ[_FOLDER_VARIABLE] = folder


def counts_in_files() -> bool:
    """Whether several processes count together."""
    return _FOLDER_VARIABLE in os.environ


def write_metrics_as(name: str) -> None:
    """Name this process's files; it continues the counts of an earlier process of that name."""
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]


def drop_live_gauges_of(name: str) -> None:
    """Remove the gauges that count live processes only, after the process of that name has ended."""
    mark_process_dead(name)  # type: ignore[no-untyped-call]


def registry_of_all_processes() -> CollectorRegistry:
    """A registry that adds up the files of all processes when it is collected."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def omit_created_series() -> None:
    """Expose no `_created` series: Prometheus ignores them, yet each counter and histogram has one."""
    disable_created_metrics()  # type: ignore[no-untyped-call]


class BulkHistogram(Histogram):
    """A histogram that takes many values at once."""

    def add(self, counts: NDArray[np.int64], total: float) -> None:
        """Add `counts` [buckets], the number of values in each bucket; `total` is the sum of the values."""
        self._sum.inc(total)
        for index in np.flatnonzero(counts).tolist():
            self._buckets[index].inc(int(counts[index]))

    @property
    def bounds(self) -> NDArray[np.float64]:
        """The upper bounds of the buckets; the last is infinite."""
        return np.array(self._upper_bounds, np.float64)
