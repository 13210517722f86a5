"""Finds the best bundle of any model for each budget of microseconds and of bytes, on one log.

    python -m benchmarks.budgets --data LOG --schema SCHEMA --models all --out artifacts/budgets/shop
        [--budgets-us 1,2,5,10] [--budgets-bytes 100kB,1MB,10MB] [--trials 5] [--minutes 120] [--epochs 3]
    python -m benchmarks.budgets --show artifacts/budgets/shop [artifacts/budgets/other]

Each model is trained once on the same rows. Then each is made smaller in rounds, as `python -m export
compress` does it: first the presets, then students that it teaches, float graphs and INT8 trained on, then
points that are drawn for the budgets in turns. A trial is chosen by AUC on the validation part; the chosen
ones are judged on the test part. Each trial is timed beside the dense graph of its model, in a request of
--candidates whose context is computed once, and the dense graphs of all models in turns.

What is done is kept in the folder, a JSON a trial: the same command goes on where it stopped, also one with
more trials, models or minutes. budgets.json, budgets.md and budgets.html are written at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import torch

from benchmarks.budgets.chosen import best_for, entries_of
from benchmarks.budgets.page import budgets_page
from benchmarks.budgets.records import Budget, Table
from benchmarks.budgets.tables import as_markdown
from benchmarks.budgets.trials import Zoo
from benchmarks.command import Command, ended, machine
from export.budgets.plan import NONE, SAME, BudgetPlan
from export.cli.values import widths
from export.compare.compare import chosen_models, contenders_of
from export.compare.overrides import read_overrides
from export.compare.plan import ALL, ComparePlan
from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.data.progress import say
from export.errors import ExportError
from export.report.files import write_texts
from export.stages.fit_schema import kept_log
from export.stages.work import Work
from export.teach.lesson import Lesson
from export.train.choices import TrainChoice
from export.trials import Budget as Effort
from loadtest.arguments import a_file, a_folder, a_log, positive, whole
from models import MODELS
from service.bundle.json_files import encode_json

JSON, MARKDOWN, PAGE = "budgets.json", "budgets.md", "budgets.html"
UNITS = {"kB": 1000, "MB": 1_000_000, "B": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table as Markdown, and writes it as JSON and as a page too; the exit status."""
    options = _options(arguments)
    if options.show:
        print("\n".join(as_markdown(_read(folder)) for folder in options.show))
        return 0
    table = measure(options)
    texts = {
        JSON: encode_json(table).decode(),
        MARKDOWN: as_markdown(table),
        PAGE: budgets_page(table),
    }
    write_texts(options.out, texts)
    print(texts[MARKDOWN])
    return 0


def measure(options: argparse.Namespace) -> Table:
    """Trains and tries what is not kept, and chooses. Raises ExportError where no trial came through."""
    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    budgets = (Budget(), *options.budgets_us, *options.budgets_bytes)
    plan = ComparePlan(
        data=options.data,
        schema=options.schema,
        work=options.out / "work",
        out=options.out,
        models=options.models,
        common={"dim": options.dim, "hidden_units": options.hidden_units},
        overrides=read_overrides(options.settings, ()),
        training=TrainChoice(epochs=options.epochs, threads=options.threads),
    )
    names = chosen_models(plan.models)
    with Work(plan.work).held(new=True) as work:
        summary = kept_log(work, plan, say=say)
        zoo = Zoo(
            contenders=[one for name in names for one in contenders_of(plan, name, summary, work)],
            trials=options.trials,
            students=options.students,
            candidates=options.candidates,
            budgets=budgets[1:],
            lessons=Lesson,
            plan=partial(BudgetPlan, pruning=_schedule(options)),
        )
        tried, failures, complete = zoo.run(Effort.of(None, options.minutes, usual=sys.maxsize), say)
        log = open_log(work.path("log"))
        entries = entries_of(tried, log, options.candidates)
        if not entries:
            raise ExportError("at least one trial must come through (got none); give more --minutes")
        return Table(
            log=summary.source,
            split=summary.split,
            rows=summary.rows,
            clicks=summary.clicks,
            machine=machine(),
            candidates=options.candidates,
            epochs=options.epochs,
            models=tuple(one.model for one in tried if one.trials),
            seconds=time.perf_counter() - started,
            complete=complete,
            budgets=budgets,
            best=tuple(best_for(budgets, entries, tried, log)),
            entries=tuple(entries),
            failures=tuple(failures),
        )


def _schedule(options: argparse.Namespace) -> PruneChoice:
    """Of each trial. A trial is compared with those of other models, so no dense twin is trained."""
    return PruneChoice(
        prune_epochs=options.prune_epochs, finetune_epochs=options.finetune_epochs, dense_twin="skip"
    )


def _read(folder: Path) -> Table:
    try:
        return msgspec.json.decode((folder / JSON).read_bytes(), type=Table)
    except (OSError, msgspec.MsgspecError) as error:
        raise ExportError(
            f"'--show' must be a folder with {JSON} (got {folder}: {error}); measure first"
        ) from None


def _models(text: str) -> tuple[str, ...]:
    return _names(text, (ALL, *MODELS))


def _students(text: str) -> tuple[str, ...]:
    return tuple(one for one in _names(text, (SAME, NONE, *MODELS)) if one != NONE)


def _names(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"must be among {', '.join(known)} (got {min(unknown)!r})")
    return names


def _by_us(text: str) -> list[Budget]:
    return [Budget(microseconds=positive(one)) for one in text.split(",")]


def _by_bytes(text: str) -> list[Budget]:
    return [Budget(bytes=bytes_of(one)) for one in text.split(",")]


def bytes_of(text: str) -> int:
    """`100kB` -> 100,000. Raises ArgumentTypeError."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    number = text.removesuffix(unit)
    if not number.strip().replace(".", "", 1).isdecimal() or not (size := float(number)):
        raise argparse.ArgumentTypeError(f"must be a number of bytes, kB or MB (got {text!r})")
    return round(size * UNITS.get(unit, 1))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = Command("budgets", __doc__)
    add = command.add_argument
    add("--data", type=a_log, metavar="LOG", help="the log")
    add("--schema", metavar="SCHEMA", help="of the log: a name, a TOML file or a bundle")
    add("--models", type=_models, default=("all",), metavar="all|A,B", help="which ones [all]")
    add("--budgets-us", type=_by_us, default=_by_us("1,2,5,10"), metavar="US,..", help="[1,2,5,10]")
    add(
        "--budgets-bytes", type=_by_bytes, default=_by_bytes("100kB,1MB,10MB"), metavar="SIZE,..",
        help="[100kB,1MB,10MB]",
    )  # fmt: skip
    command.folder("--out", "artifacts/budgets")
    add(
        "--show", type=a_folder, nargs="+", metavar="FOLDER", help="print the tables of finished runs instead"
    )
    command.number("--trials", 5, "of each model; the first five have the presets")
    add("--minutes", type=positive, metavar="N", help="how long it may take [until --trials]")
    command.number("--candidates", 100, "of the request that is timed")
    command.number("--dim", 8, "of an embedding")
    add("--hidden-units", type=widths, default=(128, 64), metavar="N,..", help="[128,64]")
    add("--epochs", type=whole(1), metavar="N", help="of training at most [fitted to the model]")
    for name in ("prune", "finetune"):
        default = getattr(PruneChoice, f"{name}_epochs")
        add(f"--{name}-epochs", type=positive, default=default, metavar="N", help="[%(default)s]")
    add("--students", type=_students, default=("same",), metavar="NAME,..|none", help="as of compress [same]")
    add("--settings", type=a_file, metavar="FILE", help="of models, as TOML, as compare takes it")
    command.number("--threads", 1, "of torch")
    options = command.parse_args(arguments)
    if not options.show and (options.data is None or options.schema is None):
        command.error("--data and --schema must be given, or --show")
    return options


if __name__ == "__main__":
    sys.exit(ended(main))
