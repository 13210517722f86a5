"""The rungs that an answer may stand on: the model; the bundle's prior by a few fields; nothing."""

from __future__ import annotations

FULL, PRIOR, NO_BID = QUALITIES = "full", "prior", "no-bid"
# Why an answer stands on another rung than FULL: its arm is killed; it waited unread for too long; the queue
# was full; its deadline left no time for a batch.
KILLED, TIME, QUEUE, DEADLINE = REASONS = "killed", "time", "queue", "deadline"
