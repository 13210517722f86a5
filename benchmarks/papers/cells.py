"""How a paper's table is written down: its rows, what each one trains, and the figures that are printed.

It knows no paper, no log, and nothing of how a model is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Quantization = Literal["", "static", "qat", "dynamic"]

# Stand in hyperparameters for fields of the log, which are known when a log is.
USER, ITEM, CONTEXT, FEW = "<user>", "<item>", "<context>", "<few>"


@dataclass(frozen=True, kw_only=True)
class Build:
    """All that one model is made by, but its seed and its log.

    training        knobs that are this build's own, beside those of all
    paper_training  knobs that the paper gives this model alone, where training is as in the paper
    rates           share pruned, by part of `export.compress.recipes`
    trained_on      dense, and trained on for as long as a pruning takes, if that makes it better
    teacher         what it is taught by; `training` has alpha and temperature
    target          which of a made log's labels it learns; empty for the log that is given
    """

    model: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    embedding: Literal["full", "qr", "hashed"] = "full"
    collisions: int = 4
    pooling: Literal["mean", "sum"] = "mean"
    training: Mapping[str, Any] = field(default_factory=dict)
    paper_training: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    trained_on: bool = False
    quantization: Quantization = ""
    teacher: Build | None = None
    target: str = ""

    @property
    def trained(self) -> Build:
        """The same model as training leaves it: dense, float32."""
        return replace(self, rates={}, trained_on=False, quantization="")

    @property
    def is_trained_alone(self) -> bool:
        """Whether nothing follows the training."""
        return self == self.trained


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a paper printed in a row; None where it printed nothing. `milliseconds` are by rows a batch."""

    auc: float | None = None
    logloss: float | None = None
    prauc: float | None = None
    rce: float | None = None
    parameters: int | None = None
    megabytes: float | None = None
    layer_megabytes: float | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of a table. Of several builds the figures are means.

    paper    its figures by the paper's log; without any the row is ours, and the paper has none like it
    of       the paper's logs to which the row belongs; by default those of its figures, else all
    against  the row that it is compared with
    rival    another such row, which the paper puts beside it
    note     how it differs from the paper's
    """

    row: str
    builds: tuple[Build, ...]
    paper: Mapping[str, Figures] = field(default_factory=dict)
    of: tuple[str, ...] = ()
    against: str = ""
    rival: str = ""
    note: str = ""

    def belongs_to(self, log: str) -> bool:
        """Whether the row is printed beside that log of the paper."""
        return log in (self.of or self.paper or (log,))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a paper.

    name     as the command line has it: its number, or a word where it has none
    where    the section that prints it
    log      the paper's only log for this table; else the one like the log that is given
    batches  rows a batch that are timed; none: nothing is timed
    differs  what is not as in the paper, whatever the log
    made     its log is made here (`benchmarks.papers.twitter_rows`), since none can be had
    """

    name: str
    title: str
    where: str
    cells: tuple[Cell, ...]
    log: str = ""
    batches: tuple[int, ...] = ()
    differs: tuple[str, ...] = ()
    made: bool = False

    def cells_beside(self, log: str) -> tuple[Cell, ...]:
        """The rows that are printed beside a log of the paper."""
        return tuple(cell for cell in self.cells if cell.belongs_to(self.log or log))


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper: its logs, its tables, and how it trained.

    logs      by name the schemas of logs like it; the first one is shown beside a log that is none of these
    training  its settings of training, for those who want them in place of such that fit the log
    steps     of the tables, those that time training steps and train nothing (`benchmarks.papers.steps`)
    """

    name: str
    title: str
    logs: Mapping[str, tuple[str, ...]]
    tables: tuple[Table, ...]
    training: Mapping[str, Any]
    differs: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    def log_like(self, schema: str) -> tuple[str, bool]:
        """The paper's log that a log of this schema is shown beside, and whether it is of the same data."""
        for log, schemas in self.logs.items():
            if schema in schemas:
                return log, True
        return next(iter(self.logs)), False
