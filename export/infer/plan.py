"""The options of the command infer-schema, with their defaults. It runs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.errors import ExportError
from export.knobs import AT_LEAST_ONE, check, described, knob

Header = Literal["auto", "yes", "no"]


@dataclass(frozen=True, kw_only=True)
class InferPlan:
    """Which log, how much of it is read, and where the guess goes."""

    data: Path = field(metadata=described("the log: TSV, CSV (also .gz) or Parquet", unit="FILE"))
    out: Path | None = knob(
        None,
        "the schema file; one that is there stays, without --overwrite",
        unit="FILE",
        otherwise="printed",
    )
    rows: int = knob(100_000, "how many of the first rows are read", AT_LEAST_ONE, "ROWS")
    label: str | None = knob(
        None, "the column that tells clicks", unit="COLUMN", otherwise="by names and values"
    )
    header: Header = knob(
        "auto", "whether the first line of a text file names the columns: auto, yes or no", unit="WHEN"
    )
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.overwrite and self.out is None:
            raise ExportError("'overwrite' must be left out without --out (got True); give both or none")
