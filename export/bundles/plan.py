"""The options of the commands for finished bundles, with their defaults. It runs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.data.errors import OnMalformed
from export.data.log_schema import BUILT_IN
from export.errors import ExportError
from export.knobs import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE_SHARE, check, described, knob


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """Which log, and how it is read."""

    data: Path = field(metadata=described("the log: TSV, CSV (also .gz) or Parquet", unit="FILE"))
    schema: str | None = knob(
        None,
        f"how the log is read: {', '.join(BUILT_IN)} or a TOML file",
        unit="NAME|FILE",
        otherwise="as the bundle's own log",
    )
    on_malformed: OnMalformed = knob(
        "error", "what a malformed row does: end the command, or be skipped and counted"
    )
    quiet: bool = False

    def __post_init__(self) -> None:
        check(self)


def _sampling_rate(otherwise: str) -> float | None:
    """A knob: in which distribution pCTRs are judged."""
    about = "share of the non-clicks that this log kept; 1: all of them"
    return knob(None, about, POSITIVE_SHARE, otherwise=otherwise)


@dataclass(frozen=True, kw_only=True)
class BundlePlan(ReadPlan):
    """Which bundle reads the log, and which of its graphs scores it."""

    bundle: Path = field(metadata=described("the bundle's folder", unit="FOLDER"))
    variant: str | None = knob(
        None, "which graph scores", unit="NAME", otherwise="the one that the bundle serves"
    )


@dataclass(frozen=True, kw_only=True)
class ScorePlan(BundlePlan):
    """Where the scores of the log go."""

    out: Path = field(
        metadata=described("the scores: .parquet or .csv; a file that is there is replaced", unit="FILE")
    )
    keep: tuple[str, ...] = knob(
        (),
        "columns of the log that scores keep, such as the ids of requests and ads",
        unit="COLUMN,..",
        otherwise="none",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluatePlan(BundlePlan):
    """By what the bundle is judged on the log."""

    out: Path | None = knob(
        None, "where to write evaluate.json and evaluate.html", unit="FOLDER", otherwise="nowhere"
    )
    by: tuple[str, ...] = knob(
        (),
        "fields, or other columns of the log, by whose values the rows are judged too",
        unit="FIELD,..",
        otherwise="none",
    )
    sampling_rate: float | None = _sampling_rate("as the bundle's own log")


@dataclass(frozen=True, kw_only=True)
class ExplainPlan(BundlePlan):
    """By which rows of the log the bundle is explained, and which of them itself."""

    out: Path | None = knob(
        None, "where to write explain.json and explain.html", unit="FOLDER", otherwise="nowhere"
    )
    row: int | None = knob(
        None,
        "a row of the log to explain: the line of a text file, the row of Parquet, from 1",
        AT_LEAST_ONE,
        otherwise="none",
    )
    rows: int = knob(10_000, "rows that fields are shuffled among, drawn by chance", AT_LEAST_ONE, "ROWS")
    seed: int = knob(0, "of the rows that are drawn and of the shuffles", NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class DiffPlan(ReadPlan):
    """Which two bundles are compared on the log; the first one is the reference."""

    bundles: tuple[Path, ...]  # --bundle, twice
    out: Path | None = knob(
        None, "where to write diff.json and diff.html", unit="FOLDER", otherwise="nowhere"
    )
    variants: tuple[str, ...] = knob(
        (),
        "which graph of each bundle, or of both",
        unit="NAME[,NAME]",
        otherwise="those that the bundles serve",
    )
    sampling_rate: float | None = _sampling_rate("as the bundles' own logs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.bundles) != 2:
            raise ExportError(
                f"'--bundle' must be given twice (got {len(self.bundles)} of them); "
                "the first one is the reference"
            )
        if len(self.variants) > 2:
            raise ExportError(
                f"'variants' must be one, for both bundles, or two (got {','.join(self.variants)})"
            )
