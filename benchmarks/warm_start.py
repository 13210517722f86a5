"""What a warm start each day is worth beside training anew: AUC, LogLoss, time and vocabularies, day by day.

    python -m benchmarks.warm_start --data FILE --schema FILE [--days 10] [--model NAME] [--window 3]

After each day (UTC) of a log in Parquet, models are trained, and judged on the rows of the next day: `anew`
on all rows so far, `window` on those of the last days; `warm` goes on from its weights of the day before with
the rows since; `first` is the first day's model, left as it was. All hold out the same rows, the last ones of
the day, for validation; `warm` trains on those of the day before, so each row is in one run. pCTRs are not
calibrated. Times are the processor's, of reading, encoding and training. What is done is kept in the work
folder: a second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import check_same_log, check_same_options
from export.cli.values import assignment
from export.data.encode import encode_chunk
from export.data.encoded import open_log
from export.data.growth import FORGET_AFTER
from export.data.log_schema import LogSchema, load_log_schema
from export.data.readers import LogChunk, read_log
from export.errors import ExportError
from export.judge.bootstrap import Delta, paired_changes
from export.judge.metrics import auc, logloss, sigmoid
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.records import Trained
from export.stages.train import train
from export.stages.warm_start import read_warm_start
from export.stages.work import Work, silent
from export.train.checkpoint import load_checkpoint
from export.train.choices import TrainChoice
from export.train.loop import predict_logits
from export.train.prior import corrected_logits
from loadtest.arguments import a_log
from models import MODELS
from service.bundle.encoder import Encoder

DAY_SECONDS = 86_400
ANEW, WINDOW, WARM, FIRST = "anew", "window", "warm", "first"
CONTENDERS = (ANEW, WINDOW, WARM, FIRST)

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]  # [n]


class Kept(msgspec.Struct, frozen=True):
    """One model after one day: its training rows of that day, its ids, and the processor seconds it took."""

    rows: int
    ids: int
    seconds: float


class Day(msgspec.Struct, frozen=True):
    """One contender after one day, on the rows of the next."""

    day: int
    contender: str
    auc: float
    logloss: float
    kept: Kept


@dataclass(frozen=True, eq=False)
class Log:
    """A log in Parquet, with the second and the day of each row, [n]; days count from the first one in use.

    The last `held_out` share of the rows of a day validates.
    """

    frame: pl.DataFrame
    schema: LogSchema
    seconds: NDArray[np.int64]
    days: NDArray[np.int64]
    held_out: float

    @classmethod
    def read(cls, options: argparse.Namespace) -> Log:
        """Ends the benchmark for a log that is not Parquet, has no time, or too few days."""
        schema = load_log_schema(options.schema)
        if schema.format != "parquet" or schema.timestamp is None:
            raise ExportError(f"'schema' must describe a log in Parquet with a timestamp (got {schema.name})")
        times = [chunk.timestamps for chunk in read_log(options.data, schema)]
        seconds = np.concatenate([each for each in times if each is not None])
        found, days = np.unique(seconds // DAY_SECONDS, return_inverse=True)
        needed = options.skip + options.days + 1
        if len(found) < needed:
            raise ExportError(f"'days' must be at most {len(found) - 1 - options.skip} (got {options.days})")
        return cls(
            pl.read_parquet(options.data), schema, seconds, days - options.skip, options.held_out / 100
        )

    def between(self, first: int, last: int) -> Rows:
        return (self.days >= first) & (self.days <= last)

    def cut(self, day: int) -> int:
        """The second from which on the rows of a day are held out."""
        return int(np.quantile(self.seconds[self.days == day], 1 - self.held_out))

    def chunks_of(self, day: int, folder: Path) -> list[LogChunk]:
        """The rows of a day, typed."""
        return list(read_log(self.write(self.days == day, folder / f"{day}.parquet"), self.schema))

    def write(self, rows: Rows, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frame.filter(pl.Series(rows)).write_parquet(path)
        return path


@dataclass(frozen=True)
class Race:
    """The contenders on a log; their folders are in that of --work."""

    log: Log
    options: argparse.Namespace

    def folder(self, name: str, day: int) -> Path:
        """Where a contender of a day lies. On the first day they are all one, and a wide window sees all."""
        if day == 0 or name == FIRST:
            name, day = ANEW, 0
        elif name == WINDOW and day < self.options.window:
            name = ANEW
        return Path(self.options.work) / f"{name}-{day}"

    def rows(self, name: str, day: int) -> Rows:
        """The rows that a contender is given after a day."""
        if name == WARM and day:
            return self.log.between(0, day) & (self.log.seconds >= self.log.cut(day - 1))
        first = day + 1 - self.options.window if name == WINDOW else 0
        return self.log.between(max(0, first), day)

    def make(self, name: str, day: int) -> Kept:
        """Trains a contender after a day, unless that is done."""
        folder = self.folder(name, day)
        record = folder / "kept.json"
        if not record.exists():
            kept = self._train(name, day, folder)
            record.write_bytes(msgspec.json.encode(kept))
        return msgspec.json.decode(record.read_bytes(), type=Kept)

    def _train(self, name: str, day: int, folder: Path) -> Kept:
        rows = self.rows(name, day)
        held = (rows & (self.log.seconds >= self.log.cut(day))).sum() / rows.sum()
        data = self.log.write(rows, folder / "log.parquet")
        plan = LogPlan(data=data, schema=self.options.schema, split=(1 - held, held / 2, held / 4, held / 4))
        warm = read_warm_start(self.folder(name, day - 1) / "work") if name == WARM and day else None
        choice, model = TrainChoice(threads=1, seed=self.options.seed), self.options.model
        started = time.process_time()
        with Work(folder / "work").held(new=True) as work:
            growth = None if warm is None else warm.growth(self.options.forget_after)
            log = fit_schema(work, plan, growth=growth, say=silent)
            size, clicks = log.rows["train"], log.clicks["train"]
            config = choice.config(size, clicks, model=model, earlier_rows=log.earlier_rows)
            train(work, model, dict(self.options.hyperparameter), config, warm=warm, say=silent)
        seconds = time.process_time() - started
        data.unlink()
        return Kept(size, sum(field.cardinality for field in log.fields), seconds)

    def pctr(self, name: str, day: int, chunks: Sequence[LogChunk]) -> Floats:
        """What a contender of a day says of rows, [n]."""
        work = Work(self.folder(name, day) / "work")
        schema = open_log(work.path("log")).schema
        network = load_checkpoint(work.path("dense.pt"), schema).model
        encoder = Encoder(schema)
        ids = np.concatenate([encode_chunk(encoder, chunk.fields) for chunk in chunks])
        config = work.read_record("train", Trained).config
        return sigmoid(corrected_logits(predict_logits(network, ids), config))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each day and contender, a table of all days, and the same as JSON."""
    command, options = _options(arguments)
    kept = {name: str(value) for name, value in vars(options).items() if name not in ("work", "days")}
    check_same_options(options.work, kept)
    check_same_log(options.work, options.data, str(options.schema))
    log = Log.read(options)
    race = Race(log, options)
    print(f"{options.model}, {options.data.name}, {options.days} days; {machine()}")
    print("  ".join(HEAD))
    days: list[Day] = []
    labels: list[NDArray[np.uint8]] = []
    pctrs: dict[str, list[Floats]] = {name: [] for name in CONTENDERS}
    for day in range(options.days):
        chunks = log.chunks_of(day + 1, options.work / "next")
        labels.append(np.concatenate([chunk.labels for chunk in chunks if chunk.labels is not None]))
        for name in CONTENDERS:
            made = race.make(name, day)
            pctrs[name].append(race.pctr(name, day, chunks))
            score = auc(labels[-1], pctrs[name][-1]), logloss(labels[-1], pctrs[name][-1])
            days.append(Day(day + 1, name, *score, made))
            print("  ".join(_cells(days[-1])), flush=True)
    changes = _changes(labels, pctrs)
    print()
    print_table(_summary(days, changes))
    command.print_json(
        model=options.model,
        data=options.data.name,
        days=[msgspec.to_builtins(one) for one in days],
        warm_minus={
            name: {"auc": vars(found[0]), "logloss": vars(found[1])} for name, found in changes.items()
        },
    )


HEAD = ("day", "model", "training rows", "ids", "seconds", "AUC of the next day", "LogLoss")


def _options(arguments: Sequence[str] | None) -> tuple[Command, argparse.Namespace]:
    command = Command("warm_start", __doc__)
    add = command.add_argument
    add("--data", type=a_log, required=True, metavar="FILE", help="the log, in Parquet and with a time")
    add("--schema", required=True, metavar="FILE", help="the schema file that describes it")
    command.folder("--work", "artifacts/warm-start")
    add("--model", choices=[*MODELS], default="deep_fwfm", metavar="NAME", help="[%(default)s]")
    about = "one of the model's; the value is JSON, or text; may be given several times"
    add("--hyperparameter", type=assignment, action="append", default=[], metavar="NAME=VALUE", help=about)
    command.number("--days", 10, "days after which models are trained; one more is judged on")
    command.number("--skip", 0, "days of the log before the first one", least=0)
    command.number("--window", 3, "days that `window` is trained on")
    command.number("--held-out", 20, "percent of a day's rows that validate")
    command.number("--forget-after", FORGET_AFTER, "runs without a value, after which `warm` forgets it")
    command.number("--seed", 0, "of all trainings", least=0)
    return command, command.parse_args(arguments)


def _changes(
    labels: Sequence[NDArray[np.uint8]], pctrs: Mapping[str, Sequence[Floats]]
) -> dict[str, tuple[Delta, Delta]]:
    """AUC and LogLoss of `warm` minus those of each other contender, over the rows of all days."""
    y = np.concatenate(labels)
    warm = np.concatenate(pctrs[WARM])
    others = {name: np.concatenate(found) for name, found in pctrs.items() if name != WARM}
    return {name: paired_changes(y, (other, warm), (other, warm)) for name, other in others.items()}


def _cells(day: Day) -> list[str]:
    kept = day.kept
    return [
        f"{day.day:>3}",
        f"{day.contender:>6}",
        f"{kept.rows:>13,}",
        f"{kept.ids:>8,}",
        f"{kept.seconds:>8.1f}",
        f"{day.auc:.4f}",
        f"{day.logloss:.4f}",
    ]


def _summary(days: Sequence[Day], changes: Mapping[str, tuple[Delta, Delta]]) -> list[list[str]]:
    """A line for each contender; times are of all days but the first, which is the same for all."""
    lines = [["model", "AUC", "LogLoss", "warm: AUC", "warm: LogLoss", "seconds", "ids at last"]]
    for name in CONTENDERS:
        own = [one for one in days if one.contender == name]
        seconds = sum(one.kept.seconds for one in own[1:]) if name != FIRST else 0.0
        told = [_told(change) for change in changes[name]] if name in changes else ["", ""]
        mean = [float(np.mean([getattr(one, what) for one in own])) for what in ("auc", "logloss")]
        scores = [f"{value:.4f}" for value in mean]
        lines.append([name, *scores, *told, f"{seconds:.0f}", f"{own[-1].kept.ids:,}"])
    return lines


def _told(change: Delta) -> str:
    return f"{change.delta:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


if __name__ == "__main__":
    sys.exit(ended(main))
