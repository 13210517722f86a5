"""The columns of examples beside those of the fields: what the service writes, and the export reads.

A column of a field has its name, so no field may have one of these. See service.examples.
"""

from __future__ import annotations

from typing import Final

TIME: Final = "_time_ms"
"""When it was answered, Unix time in milliseconds."""
CLICKED: Final = "_clicked"
SHOWN: Final = "_shown"
CLICK_DELAY: Final = "_click_delay_ms"
LOG_ODDS: Final = "_log_odds"
"""Of the bundle's own pCTR."""
PCTR: Final = "_pctr"
"""As it was answered."""
BID: Final = "_bid"
VALUE_PER_CLICK: Final = "_value_per_click"
ARM: Final = "_arm"
BUNDLE: Final = "_bundle"
REVISION: Final = "_calibration_revision"
EXPLORED: Final = "_explored"
"""Whether it was bid for whatever its pCTR was: what became of it is not selected by pCTRs."""
REQUEST_ID: Final = "_request_id"
USER_ID: Final = "_user_id"
CANDIDATE_ID: Final = "_candidate_id"
WEIGHT: Final = "_weight"
"""Of how many rows it stands for: one over the share that was logged."""

RESERVED: Final = (
    *(TIME, CLICKED, SHOWN, CLICK_DELAY, LOG_ODDS, PCTR, BID, VALUE_PER_CLICK, ARM, BUNDLE, REVISION),
    *(EXPLORED, REQUEST_ID, USER_ID, CANDIDATE_ID, WEIGHT),
)
