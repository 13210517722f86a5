"""The format of times, guessed from some of them: what [timestamp] may say of a column. It reads no file."""

from __future__ import annotations

from typing import Final

import polars as pl

from export.data.times import parsed_times, seconds_of

_EARLIEST, _LATEST = 788_918_400, 2_524_608_000
"""1995 and 2050: no click log is older, and none comes from so far ahead."""

# Of two patterns that read all texts, the first is the guess.
_CLOCKS: Final = ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_DATES: Final = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d/%b/%Y",
    "%d-%b-%Y",
    "%b %d %Y",
)
_OFFSETS: Final = ("", "%z", " %z", " UTC")
_BETWEEN: Final = (" ", "T", ":")
_SPELLED: Final = (
    *(
        f"{date}{between}{clock}{offset}"
        for date in _DATES
        for between in _BETWEEN
        for clock in _CLOCKS
        for offset in _OFFSETS
    ),
    *_DATES,
)
_DIGITS: Final = {17: "%Y%m%d%H%M%S%f", 14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 10: "%Y%m%d%H", 8: "%Y%m%d"}
_SHORT_DIGITS: Final = {12: "%y%m%d%H%M%S", 10: "%y%m%d%H%M", 8: "%y%m%d%H", 6: "%y%m%d"}
_LOOKS_SPELLED: Final = r"\d.*[-/.: ].*\d.*[-/.: ].*\d"
_TRIED: Final = 1_000


def guess_format(cells: pl.Series) -> str | None:
    """The `format` of a [timestamp] that reads all cells (text or numbers; null: no time); None: none does.

    A thousand cells decide which format, all of them whether it holds. `23/04` before `04/23` is a guess
    where no day is above 12.
    """
    present = cells.drop_nulls()
    if not len(present):
        return None
    texts = present.cast(pl.String)
    head = texts.unique(maintain_order=True).head(_TRIED)
    return next((one for one in _possible(head) if _reads(one, head) and _reads(one, texts)), None)


def finer_than_ms(cells: pl.Series) -> str | None:
    """`microseconds` or `nanoseconds`, if all cells (text or numbers) count these since 1970, else None."""
    numbers = cells.drop_nulls().cast(pl.Float64, strict=False)
    for unit, in_second in (("microseconds", 1e6), ("nanoseconds", 1e9)):
        in_range = (numbers / in_second).is_between(_EARLIEST, _LATEST).fill_null(False)
        if len(numbers) and in_range.all():
            return unit
    return None


def _possible(head: pl.Series) -> tuple[str, ...]:
    lengths = head.str.len_chars()
    if not head.str.contains(r"^\d+(\.\d*)?$").all():
        return _SPELLED if head.head(1).str.contains(_LOOKS_SPELLED).item() else ()
    width = int(lengths[0])
    digits = [of[width] for of in (_DIGITS, _SHORT_DIGITS) if width in of and (lengths == width).all()]
    return ("unix", "unix_ms", *digits)


def _reads(format_: str, texts: pl.Series) -> bool:
    """Whether all texts are times of this format that a click log may have."""
    if format_ not in ("unix", "unix_ms"):
        first = texts.head(1)
        # Most patterns end here. The parser takes no heed of spaces, as Python does.
        if first.item().count(" ") != format_.count(" ") or parsed_times(first, format_).null_count():
            return False
    seconds = seconds_of(texts, format_)
    return bool(seconds.is_between(_EARLIEST, _LATEST).fill_null(False).all())
