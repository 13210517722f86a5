"""What an answer rests on: the model; a click rate that is the same for all candidates; nothing."""

from __future__ import annotations

FULL, PRIOR, NO_BID = QUALITIES = "full", "prior", "no-bid"
