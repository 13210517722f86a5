"""What a teacher is worth to a student: the same student taught and alone, with paired intervals.

    python -m benchmarks.distillation --data FILE --schema FILE [--teacher deep_fwfm:400,400,400@16]
        [--students dnn:16,16@8 lr] [--alphas 0.5 0.9] [--temperatures 1 4] [--seeds 3] [--together]
        [--crossed] [--faults]

A model is NAME, NAME:WIDTHS, NAME@DIM or NAME:WIDTHS@DIM. With each seed the teacher is trained, then each
student alone and with every alpha and temperature, on the same rows and with the same initial weights.
Judged on the test part: AUC, and LogLoss after a line that is fitted to the calibration part. Each is the
mean over the seeds; a difference to the student alone has a 95 % interval over rows and, by Student's t,
seeds, and beside it how many seeds it was positive in.

together   a teacher more: those of all seeds, averaged.
crossed    teachers that have not seen the rows that they teach: each row is taught by one that was trained on
           the other half of the training part.
faults     what a published implementation does, one fault a line (docs/distillation.md): `teacher in training
           mode` has dropout and batch statistics in what it says; `softmax over the batch` compares the rows'
           shares of a batch's probabilities, not the probabilities of a row.

What is done is kept in the work folder, a JSON a cell: a second run goes on where the first one stopped, and
more seeds, students or settings add cells.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import check_same_log, check_same_options
from export.cli.values import reader
from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.judge.bootstrap import Delta, resampled_aucs, resampled_loglosses
from export.judge.metrics import auc, logloss, sigmoid
from export.judge.seeds import over_seeds
from export.knobs import declared
from export.stages.calibration_methods import fit_platt
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.taught import taught_log
from export.stages.train import new_network
from export.stages.work import Work, silent
from export.teach.lesson import Lesson
from export.train.build import check_model
from export.train.checkpoint import load_checkpoint, save_checkpoint
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from export.train.loop import predict_logits, train
from export.train.losses import Loss, distilled
from loadtest.arguments import a_log, at_least_one, whole

ALONE, TOGETHER, CROSSED = "alone", "taught by all seeds' teachers", "teachers of the other half"
BETTER = "the better by validation"  # of a way and alone
TRAINING_MODE, BATCH_SOFTMAX = "teacher in training mode", "softmax over the batch"
RESAMPLES = 400


@dataclass(frozen=True)
class Student:
    """A model as the command line names it: `dnn:16,16@8`."""

    text: str
    model: str
    hyperparameters: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Student:
        head, _, dim = text.partition("@")
        model, _, widths = head.partition(":")
        try:
            given: dict[str, Any] = {"dim": at_least_one(dim)} if dim else {}
            if widths:
                given["hidden_units"] = [at_least_one(width) for width in widths.split(",")]
            check_model(model, given)
        except (argparse.ArgumentTypeError, ExportError) as error:
            raise argparse.ArgumentTypeError(f"must be NAME:WIDTHS@DIM (got {text!r}): {error}") from None
        return cls(text, model, given)


@dataclass(frozen=True)
class Way:
    """How a student is trained; without `alpha` there is no teacher."""

    name: str
    alpha: float | None = None
    temperature: float = 1.0


class Cell(msgspec.Struct, frozen=True):
    """A trained model with one seed, on the test part."""

    model: str
    way: str
    seed: int
    parameters: int
    auc: float
    logloss: float
    validation: float | None = None  # LogLoss, by which weights were kept
    epochs: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Bench:
    """The models on one log; all files are in the folder of --work."""

    folder: Path
    log: EncodedLog
    options: argparse.Namespace

    @property
    def work(self) -> Work:
        return Work(self.folder / "log")

    def config(self, model: str, seed: int, way: Way) -> TrainConfig:
        part = self.log.parts["train"]
        given = {} if way.alpha is None else {"distill_alpha": way.alpha}
        choice = TrainChoice(threads=1, seed=seed, distill_temperature=way.temperature, **given)
        return choice.config(len(part), part.clicks, model=model)

    def teacher(self, seed: int) -> Path:
        """The checkpoint of the teacher of a seed, trained unless that is done."""
        path = self.folder / "teachers" / f"{seed}.pt"
        if not path.exists():
            one: Student = self.options.teacher
            # A teacher with the weights that its student begins with would be no other model.
            network, *_ = self._trained(one, 1000 + seed, Way(ALONE), self.log)
            path.parent.mkdir(exist_ok=True)
            save_checkpoint(path, network, one.model, one.hyperparameters)
        return path

    def cell(self, one: Student, seed: int, way: Way) -> Cell:
        """A student trained in a way, or what is kept of it."""
        record = self._kept(one.text, way.name, seed).with_suffix(".json")
        if record.exists():
            return msgspec.json.decode(record.read_bytes(), type=Cell)
        started = time.process_time()
        network, best, epochs = self._trained(one, seed, way, self._lesson(seed, way))
        found = self._judged(network, one.text, way.name, seed)
        seconds = time.process_time() - started
        found = msgspec.structs.replace(found, validation=best, epochs=epochs, seconds=seconds)
        record.write_bytes(msgspec.json.encode(found))
        return found

    def teacher_cell(self, seed: int) -> Cell:
        network = load_checkpoint(self.teacher(seed), self.log.schema).model
        return self._judged(network, self.options.teacher.text, "the teacher", seed)

    def _lesson(self, seed: int, way: Way) -> EncodedLog:
        if way.alpha is None:
            return self.log
        if way.name == TRAINING_MODE:
            return self.log.with_taught(_said_in_training(self.teacher(seed), self.log))
        if way.name == CROSSED:
            return self.log.with_taught(self._said_of_others(seed))
        seeds = range(self.options.seeds) if way.name == TOGETHER else (seed,)
        lesson = Lesson(tuple(self.teacher(one) for one in seeds))
        config = self.config(self.options.teacher.model, seed, way)
        return taught_log(self.work, self.log, lesson(self.work, config, say=silent))

    def _said_of_others(self, seed: int) -> NDArray[np.float32]:
        """What teachers say of training rows that they have not seen, kept once they are trained."""
        path = self.folder / "teachers" / f"{seed}.crossed.npy"
        if not path.exists():
            one: Student = self.options.teacher
            part = self.log.parts["train"]
            is_first = np.random.default_rng(seed).random(len(part)) < 0.5
            said = np.empty(len(part), np.float32)
            for rows in (is_first, ~is_first):
                seen = replace(part, ids=part.ids[rows], labels=part.labels[rows], timestamps=None)
                half = replace(self.log, parts=self.log.parts | {"train": replace(seen, true_pctr=None)})
                network, *_ = self._trained(one, 1000 + seed, Way(ALONE), half)
                said[~rows] = predict_logits(network, part.ids[~rows])
            np.save(path, said)
        found: NDArray[np.float32] = np.load(path)
        return found

    def _trained(self, one: Student, seed: int, way: Way, log: EncodedLog) -> tuple[nn.Module, float, float]:
        """A model, its LogLoss on the validation part, and the epochs of its weights."""
        config = self.config(one.model, seed, way)
        network = new_network(log, one.model, one.hyperparameters, config)
        loss = _over_the_batch if way.name == BATCH_SOFTMAX else distilled
        result = train(network, log, config, taught_loss=loss, report=silent)
        best = result.best or result.history[-1]
        return network, best.logloss, best.step / result.steps_an_epoch

    def _judged(self, network: nn.Module, model: str, way: str, seed: int) -> Cell:
        fitted, test = self.log.parts["calibration"], self.log.parts["test"]
        line = fit_platt(predict_logits(network, fitted.ids).astype(np.float64), np.asarray(fitted.labels))
        pctr = sigmoid(line.logits(predict_logits(network, test.ids)))
        np.save(self._kept(model, way, seed), pctr.astype(np.float32))
        return Cell(
            model=model,
            way=way,
            seed=seed,
            parameters=sum(weights.numel() for weights in network.parameters()),
            auc=auc(test.labels, pctr),
            logloss=logloss(test.labels, pctr),
        )

    def _kept(self, model: str, way: str, seed: int) -> Path:
        """Where the pCTRs of a cell are kept; its record is beside them."""
        stem = hashlib.sha256(f"{model} {way} {seed}".encode()).hexdigest()[:16]
        return self.folder / "cells" / f"{stem}.npy"

    def change(self, mine: Sequence[Cell], others: Sequence[Cell]) -> tuple[Delta, Delta]:
        """AUC and LogLoss of cells minus those of others, means over seeds.

        Intervals hold rows and seeds, and only rows where the two have not the same seeds.
        """
        labels = np.asarray(self.log.parts["test"].labels)
        scores = [np.load(self._kept(one.model, one.way, one.seed)) for one in (*mine, *others)]
        found = []
        for resampled in (resampled_aucs, resampled_loglosses):
            of_scores = resampled(labels, scores, resamples=RESAMPLES)
            own, other = of_scores[: len(mine)], of_scores[len(mine) :]
            if [one.seed for one in mine] == [one.seed for one in others]:
                found.append(over_seeds(own - other))
            else:
                found.append(over_seeds((own.mean(axis=0) - other.mean(axis=0))[None]))
        return found[0], found[1]


def _said_in_training(teacher: Path, log: EncodedLog) -> NDArray[np.float32]:
    """What a teacher in training mode says of the training rows, batch by batch, once."""
    network = load_checkpoint(teacher, log.schema).model.train()
    ids = log.parts["train"].ids
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        said = [network(torch.from_numpy(np.array(ids[at : at + 2048]))) for at in range(0, len(ids), 2048)]
    return torch.cat(said).numpy()


def _over_the_batch(
    hard: Loss, logits: Tensor, labels: Tensor, taught: Tensor, *, alpha: float, temperature: float
) -> Tensor:
    """The loss of xsDeepFwFM's table: KL of the softmax of probabilities over the batch, and its mean."""
    student, teacher = torch.sigmoid(logits) / temperature, torch.sigmoid(taught) / temperature
    soft = F.kl_div(F.log_softmax(student, 0), F.softmax(teacher, 0), reduction="none").mean()
    loss: Tensor = (1 - alpha) * hard(logits, labels) + alpha * temperature**2 * soft
    return loss


def ways(options: argparse.Namespace) -> list[Way]:
    """Alone first, then the grid, then what was asked for beside it."""
    grid = [
        Way(f"alpha {alpha:g}, T {temperature:g}", alpha, temperature)
        for alpha, temperature in itertools.product(options.alphas, options.temperatures)
    ]
    alpha, temperature = options.alphas[0], options.temperatures[0]
    more = [Way(TOGETHER, alpha, temperature)] if options.together else []
    more += [Way(CROSSED, alpha, temperature)] if options.crossed else []
    faults = [Way(name, alpha, temperature) for name in (TRAINING_MODE, BATCH_SOFTMAX)]
    return [Way(ALONE), *grid, *more, *(faults if options.faults else [])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a cell, a table of all students and ways, and the same as JSON."""
    command, options = _options(arguments)
    varied = ("work", "seeds", "students", "alphas", "temperatures", "together", "crossed", "faults")
    check_same_options(
        options.work, {name: str(value) for name, value in vars(options).items() if name not in varied}
    )
    check_same_log(options.work, options.data, options.schema)
    torch.set_num_threads(1)
    work = Work(options.work / "log")
    if not work.has("fit-schema.json"):
        with work.held(new=True):
            plan = LogPlan(data=options.data, schema=options.schema, split=options.split)
            fit_schema(work, plan, say=silent)
    (options.work / "cells").mkdir(exist_ok=True)
    bench = Bench(options.work, open_log(work.path("log")), options)
    rows = {name: len(part) for name, part in bench.log.parts.items()}
    print(f"{options.data.name}: {rows['train']:,} training rows, {rows['test']:,} test rows; {machine()}")
    cells = [*_run(bench)]
    table, changes = _table(bench, cells)
    print()
    print_table(table)
    command.print_json(
        data=options.data.name,
        rows=rows,
        cells=[_without_nothing(cell) for cell in cells],
        changes=changes,
    )


def _run(bench: Bench) -> Iterator[Cell]:
    """All cells, a line each; seeds outermost, so that what a teacher says is asked once."""
    options = bench.options
    for seed in range(options.seeds):
        found = [bench.teacher_cell(seed)]
        for one, way in itertools.product(options.students, ways(options)):
            if way.name != TOGETHER:
                found.append(bench.cell(one, seed, way))
                _say(found[-1])
        yield from found
    for seed, one in itertools.product(range(options.seeds), options.students):
        for way in ways(options):
            if way.name == TOGETHER:
                cell = bench.cell(one, seed, way)
                _say(cell)
                yield cell


def _without_nothing(cell: Cell) -> dict[str, Any]:
    """A cell as data; of a teacher, how it was trained is not told."""
    return {name: value for name, value in msgspec.structs.asdict(cell).items() if value is not None}


def _say(cell: Cell) -> None:
    print(
        f"{cell.model}  {cell.way}  seed {cell.seed}  AUC {cell.auc:.5f}  LogLoss {cell.logloss:.5f}",
        flush=True,
    )


HEAD = [
    "model",
    "how",
    "parameters",
    "AUC",
    "LogLoss",
    "AUC, taught - alone",
    "LogLoss",
    "seeds better",
    "epochs",
]


def _table(bench: Bench, cells: Sequence[Cell]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """A row for the teacher, and one for each student and way; the differences as data."""
    options = bench.options
    teachers = [cell for cell in cells if cell.way == "the teacher"]
    rows = [HEAD, [*_figures(teachers), "", "", "", ""]]
    changes: list[dict[str, Any]] = []
    for one in options.students:
        alone, *others = ways(options)
        by_way = {
            way.name: [cell for cell in cells if (cell.model, cell.way) == (one.text, way.name)]
            for way in (alone, *others)
        }
        rows.append([*_figures(by_way[ALONE]), "", "", "", _epochs(by_way[ALONE])])
        rows += [_line(bench, by_way[way.name], by_way[ALONE], changes) for way in others]
        first = by_way[others[0].name] if others else by_way[ALONE]
        kept = [
            min(pair, key=lambda cell: cell.validation or 0.0)
            for pair in zip(first, by_way[ALONE], strict=True)
        ]
        rows.append(_line(bench, kept, by_way[ALONE], changes, f"{first[0].way}: {BETTER}"))
    return rows, changes


def _line(
    bench: Bench, mine: Sequence[Cell], alone: Sequence[Cell], changes: list[dict[str, Any]], name: str = ""
) -> list[str]:
    """A row of the table, with its differences to the student alone, which go to `changes` too."""
    auc_change, logloss_change = bench.change(mine, alone)
    better = sum(one.auc > other.auc for one, other in zip(mine, alone, strict=True))
    way = name or mine[0].way
    named = {"model": mine[0].model, "way": way, "better": better}
    changes.append({**named, "auc": vars(auc_change), "logloss": vars(logloss_change)})
    figures = _figures(mine)
    told = (_told(auc_change), _told(logloss_change), f"{better} of {len(alone)}")
    return [figures[0], way, *figures[2:], *told, _epochs(mine)]


def _figures(cells: Sequence[Cell]) -> list[str]:
    first, aucs, losses = cells[0], [cell.auc for cell in cells], [cell.logloss for cell in cells]
    size = f"{first.parameters:,}"
    return [first.model, first.way, size, f"{np.mean(aucs):.4f}", f"{np.mean(losses):.4f}"]


def _epochs(cells: Sequence[Cell]) -> str:
    return f"{np.mean([cell.epochs or 0.0 for cell in cells]):.1f}"


def _told(change: Delta) -> str:
    return f"{change.delta:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def _options(arguments: Sequence[str] | None) -> tuple[Command, argparse.Namespace]:
    command = Command("distillation", __doc__)
    add = command.add_argument
    add("--data", type=a_log, required=True, metavar="FILE", help="the log")
    add("--schema", required=True, metavar="NAME|FILE", help="the schema that describes it")
    command.folder("--work", "artifacts/distillation")
    add("--teacher", type=Student.parse, default="deep_fwfm", metavar="MODEL", help="[%(default)s]")
    about = "which are taught"
    add("--students", type=Student.parse, nargs="+", default=["dnn:16,16@8"], metavar="MODEL", help=about)
    training = declared(TrainConfig)
    alpha, temperature = (reader(training[f"distill_{name}"]) for name in ("alpha", "temperature"))
    add("--alphas", type=alpha, nargs="+", default=[0.5], metavar="X", help="what the teacher counts")
    add("--temperatures", type=temperature, nargs="+", default=[1.0], metavar="X", help="of both logits")
    shares = reader(declared(LogPlan)["split"])
    add("--split", type=shares, default=LogPlan.split, metavar="A,B,C,D", help="shares of the parts")
    add("--seeds", type=whole(1), default=3, metavar="N", help="[%(default)s]")
    add("--together", action="store_true", help="the teachers of all seeds together, too")
    add("--crossed", action="store_true", help="teachers that have not seen what they teach, too")
    add("--faults", action="store_true", help="the faults of a published implementation, too")
    options = command.parse_args(arguments)
    options.students = [Student.parse(one) if isinstance(one, str) else one for one in options.students]
    return command, options


if __name__ == "__main__":
    sys.exit(ended(main))
