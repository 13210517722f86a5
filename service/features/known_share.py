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

    `is_lost` while it knows less than the share 1 - `most_lost` of as many as were usual before.
    """

    def __init__(self, most_lost: float) -> None:
        self.is_lost = False
        self._most_lost = most_lost
        self._usual = 0.0
        self._known = self._asked = 0
        self._knew_any = True
        self._logged_at = float("-inf")

    def forget(self) -> None:
        """Take what the next lookups find as usual."""
        self.is_lost, self._usual = False, 0.0
        self._known = self._asked = 0

    def count(self, known: int, asked: int) -> None:
        """Count lookups that the store has answered, and those among them whose user it knows."""
        self._known += known
        self._asked += asked
        if self._asked >= LOOKUPS_JUDGED:
            self._judge(self._known / self._asked)
            self._known = self._asked = 0

    def _judge(self, share: float) -> None:
        usual = self._usual
        self.is_lost = usual >= LEAST_SHARE_KNOWN and share < (1.0 - self._most_lost) * usual
        if self.is_lost:
            self._log_loss()
        elif share or usual:
            self._usual = usual + _NEWEST * (share - usual) if usual else share
        elif self._knew_any:
            self._knew_any = False
            logger.warning("the feature store knows none of the %d users that were looked up", self._asked)

    def _log_loss(self) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            logger.error(
                "the feature store knows %d of the last %d users that were looked up, where %.0f%% were "
                "usual; see whether it was emptied, and fill it again, or have that accepted by SIGHUP or a "
                "restart",
                self._known,
                self._asked,
                100.0 * self._usual,
            )
