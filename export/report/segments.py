"""What the report says of a calibrator's offsets by the values of one field: a sentence and a table."""

from __future__ import annotations

from export.report.findings import SegmentFindings, SegmentGain

HEAD = ("value", "rows", "clicks", "offset", "PCOC of the graph", "calibrated as a whole", "by value")


def gain_in_words(gain: SegmentGain) -> str:
    """What the offsets gain on rows they were not fitted on, and whether they are used."""
    about = f"offsets by the {gain.values:,} values of {gain.field}"
    if not gain.spread:
        return f"{about} are left out: no value deviates from the whole beyond noise"
    evidence = (
        f"LogLoss {-gain.gain:+.5f} (standard error {gain.error:.5f}) on rows that they were not fitted on"
    )
    if not gain.used:
        return f"{about} are left out: {evidence} is no gain beyond noise"
    return (
        f"{about} are used: {evidence}; they are shrunk to 0 as if drawn with a standard deviation of "
        f"{gain.spread:.2f} in log-odds"
    )


def segments_table(found: SegmentFindings) -> tuple[list[str], list[list[object]]]:
    """Head and rows of the values with the most test rows; columns of offsets only where these are used."""
    rows: list[list[object]] = [
        [one.value, one.rows, one.clicks, one.offset, one.pcoc_before, one.pcoc_of_all, one.pcoc_after]
        for one in found.rows
    ]
    shown = range(len(HEAD)) if found.gain.used else (0, 1, 2, 4, 5)
    return [HEAD[column] for column in shown], [[row[column] for column in shown] for row in rows]
