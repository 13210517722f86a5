"""Counts names that clients send and no field has; it knows no request.

The first few names of all processes become labels, the others are counted together: nothing that clients send
makes more series. The labels stay as long as the service runs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from itertools import islice

from service.errors import shorten
from service.metrics.series import Counters
from service.metrics.tally import Tally

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
        self._labelled: dict[str, Tally] = {}
        self._others = 0

    def count(self, names: Collection[str]) -> None:
        """Count each name once."""
        labelled = self._labelled
        if len(labelled) < MAX_UNKNOWN_NAMES:
            for name in names:
                if name not in labelled and len(name) <= MAX_LABEL_CHARACTERS:
                    self._label(names)
                    break
        # Not a loop over the names: a client may send a hundred thousand.
        found = [tally for name, tally in labelled.items() if name in names]
        for tally in found:
            tally.inc()
        self._others += len(names) - len(found)

    def publish(self) -> None:
        """Add what was counted to the metric."""
        for tally in self._labelled.values():
            tally.publish()
        if self._others:
            self._counters.labels(self._arm, OTHER_NAMES).inc(self._others)
            self._others = 0

    def _label(self, names: Collection[str]) -> None:
        """Count names under their own labels from now on, as long as all processes have too few labels.

        Two processes that do this at the same moment can label more than that, once.
        """
        for arm, label in self._counters.labels_of_all_processes():
            if arm == self._arm and label not in (OTHER_NAMES, *self._labelled):
                self._labelled[label] = Tally(self._counters.labels(arm, label))
        new = (name for name in names if name not in self._labelled and len(name) <= MAX_LABEL_CHARACTERS)
        for name in islice(new, max(0, MAX_UNKNOWN_NAMES - len(self._labelled))):
            logger.warning("arm %s: no field is named %s; it is ignored", self._arm, shorten(repr(name), 64))
            label = shorten(name, MAX_LABEL_CHARACTERS)
            self._labelled[name] = Tally(self._counters.labels(self._arm, label))
