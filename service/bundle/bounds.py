"""The bounds of a bundle's numbers, in one place; it knows neither records nor files.

A bundle comes from elsewhere, so no number in it may decide alone how much memory or time a load takes. A
number is bounded here, or memory in proportion to it is also bytes of a file, whose size is bounded here.
The bounds are far above what an export writes: whoever meets one has a damaged or a forged bundle.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from service.bundle.errors import show

MAX_FILES: Final = 10_000
MAX_GRAPHS: Final = 16

# Bytes of a file. Protobuf, and so ONNX, ends at 2 GiB.
MAX_RECORD_BYTES: Final = 1 << 26  # each JSON file but the vocabularies
MAX_VOCABULARY_BYTES: Final = 1 << 30
MAX_FILE_BYTES: Final = (1 << 31) - 1  # any other file

MAX_FIELDS: Final = 4096
MAX_NAME_CHARACTERS: Final = 1000
MAX_COLUMNS: Final = 1 << 16  # ids a row, over all fields
MAX_BINS: Final = 1 << 16
# Ids are int32 in the graph.
MAX_CARDINALITY: Final = (1 << 31) - 1
MAX_SEED: Final = (1 << 32) - 1

MAX_GOLDEN_ROWS: Final = 10_000
# The greatest difference of a golden logit: ten times less moves a bid by 1 %.
MAX_LOGIT_TOLERANCE: Final = 0.1

MAX_KNOTS: Final = 1 << 16
MAX_SEGMENT_ID: Final = (1 << 24) - 1  # the offsets of a calibrator are an array by id
MAX_PRIOR_FIELDS: Final = 16
MAX_PRIOR_OFFSETS: Final = 1 << 16  # of each of these fields
MAX_DIMENSIONS: Final = 8
MAX_NODES: Final = 100_000
MAX_TREE_NODES: Final = 1 << 13  # ONNX Runtime descends a tree recursively

# JSON of any form, inside records: hyperparameters and golden values.
MAX_NESTING: Final = 8
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Number = Annotated[int, Meta(ge=_SMALLEST, le=_LARGEST)]
Real = Annotated[float, Meta(ge=-1e15, le=1e15)]
NotNegative = Annotated[float, Meta(ge=0.0, le=1e15)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Size = Annotated[int, Meta(ge=0, le=MAX_CARDINALITY)]
LogOdds = Annotated[float, Meta(ge=-1e6, le=1e6)]
Slope = Annotated[float, Meta(ge=0.0, le=1e6)]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARACTERS)]


def check_plain(value: Any, what: str, levels: int = MAX_NESTING) -> None:
    """Raises ValueError unless decoded JSON nests at most `levels` deep and has integers of 64 bits."""
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"'{what}' must hold integers of at most 64 bits (got {show(value)})")
    if not isinstance(value, dict | list):
        return
    if not levels:
        raise ValueError(f"'{what}' must not be nested deeper than {MAX_NESTING} levels (got {show(value)})")
    for each in value.values() if isinstance(value, dict) else value:
        check_plain(each, what, levels - 1)
