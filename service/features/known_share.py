"""Watches whether a store still knows the users that are looked up; it reads none."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("bidlight")

# Lookups of users that are judged together, and the share of them that a store must have known before: of
# fewer, half may be gone by chance.
LOOKUPS_JUDGED = 500
LEAST_SHARE_KNOWN = 0.2
LOG_SECONDS = 60.0
# How much of the share known the last lookups make up.
_NEWEST = 0.1


class KnownShare:
    """Watches whether the store still knows the users that are looked up.

    `is_lost` while it knows none of the last lookups, or less than the share 1 - `most_lost` of as many as it
    knew before.
    """

    def __init__(self, most_lost: float) -> None:
        self.is_lost = False
        self._most_lost = most_lost
        self._usual: float | None = None
        self._known = self._asked = 0
        self._logged_at = float("-inf")

    def forget(self) -> None:
        """Take what the next lookups find as usual."""
        self.is_lost, self._usual = False, None
        self._known = self._asked = 0

    def count(self, known: int, asked: int) -> None:
        """Count lookups that the store has answered, and those among them whose user it knows."""
        self._known += known
        self._asked += asked
        if self._asked >= LOOKUPS_JUDGED:
            self._judge()
            self._known = self._asked = 0

    def _judge(self) -> None:
        share, usual = self._known / self._asked, self._usual
        least = (1.0 - self._most_lost) * (usual or 0.0) if (usual or 0.0) >= LEAST_SHARE_KNOWN else 0.0
        self.is_lost = self._most_lost < 1.0 and (share < least or not share)
        if not self.is_lost:
            self._usual = share if usual is None else usual + _NEWEST * (share - usual)
        elif time.monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged_at = time.monotonic()
            logger.error(
                "the feature store knows %d of the last %d users that were looked up%s; see whether it was "
                "emptied, and fill it again, or accept what it has by SIGHUP or a restart",
                self._known,
                self._asked,
                "" if usual is None else f", where {usual:.0%} were usual",
            )
