"""Counts names that clients send and no field has; it knows no request.

The first few names of all processes become labels, the others are counted together: nothing that clients send
makes more series. The labels stay as long as the service runs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import islice

from service.errors import shorten
from service.metrics.series import Counter, Counters

logger = logging.getLogger("bidlight")

MAX_UNKNOWN_NAMES = 20
OTHER_NAMES = "(other)"
# A longer name gets no label of its own.
MAX_LABEL_CHARACTERS = 64


class UnknownNames:
    """The unknown names of one arm; `counters` have the labels arm and name."""

    def __init__(self, counters: Counters, arm: str) -> None:
        self._counters = counters
        self._arm = arm
        self._labelled: dict[str, Counter] = {}

    def count(self, names: Collection[str]) -> None:
        """Count each name once."""
        labelled = self._labelled
        if len(labelled) < MAX_UNKNOWN_NAMES:
            new = (name for name in names if name not in labelled and len(name) <= MAX_LABEL_CHARACTERS)
            self._label(list(islice(new, MAX_UNKNOWN_NAMES)))
        # Not a loop over the names: a client may send a hundred thousand.
        found = [counter for name, counter in labelled.items() if name in names]
        for counter in found:
            counter.inc()
        others = len(names) - len(found)
        if others:
            self._counters.labels(self._arm, OTHER_NAMES).inc(others)

    def _label(self, names: Sequence[str]) -> None:
        """Count names under their own labels from now on, unless all processes have enough labels by now.

        Two processes that do this at the same moment can label more than that, once.
        """
        if not names:
            return
        for arm, label in self._counters.labels_of_all_processes():
            if arm == self._arm and label not in (OTHER_NAMES, *self._labelled):
                self._labelled[label] = self._counters.labels(arm, label)
        for name in names:
            if name not in self._labelled and len(self._labelled) < MAX_UNKNOWN_NAMES:
                logger.warning(
                    "arm %s: no field is named %s; it is ignored", self._arm, shorten(repr(name), 64)
                )
                label = shorten(name, MAX_LABEL_CHARACTERS)
                self._labelled[name] = self._counters.labels(self._arm, label)
