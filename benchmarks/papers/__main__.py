"""Runs what a paper's tables ran, on a log that is given, and prints the paper's rows beside ours.

    python -m benchmarks.papers deeplight|xsdeepfwfm|apg|dynint --data LOG --schema SCHEMA --out FOLDER
        [--table N ...] [--seeds 0,1,2] [--rows N] [--epochs N] [--cells PATTERN] [--list]

Cells are named TABLE/ROW, as --list shows them. What is made is kept, a JSON a cell and seed: the same
command goes on where it stopped, and more tables, rows or seeds add cells. It makes one after another, all of
the first seed first, and writes PAPER.html, .md and .json after each seed and at the end.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.papers import apg, deeplight, dynint, xsdeepfwfm
from benchmarks.papers.cells import Paper, Table
from benchmarks.papers.judge import Row, judged
from benchmarks.papers.latency import TORCH, milliseconds
from benchmarks.papers.page import Shown, as_json, html_page, markdown_page
from benchmarks.papers.results import Refused
from benchmarks.papers.running import Options, Run
from benchmarks.papers.steps import step_rows
from benchmarks.papers.tables import differences, log_line
from export.report.files import write_texts
from loadtest.arguments import a_folder_to_write, a_log, failed, whole
from service.bundle.folders import locked
from service.bundle.json_files import encode_json

PAPERS: dict[str, Paper] = {
    module.PAPER.name: module.PAPER for module in (deeplight, xsdeepfwfm, apg, dynint)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; the exit status."""
    command = _command()
    given = command.parse_args(arguments)
    options = _options(command, given)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(options.out, wait=False):
            return _run(options, given.list, _words(given, options))
    except BlockingIOError:
        return failed(
            command.prog, f"'--out' must be a folder that no other run uses (got {options.out}); wait for it"
        )


def _run(options: Options, only_list: bool, words: str) -> int:
    run = Run.of(options, _tell)
    if only_list:
        _list(run)
        return 0
    for number in range(len(options.seeds)):
        run.make(number, _tell)
        if number + 1 < len(options.seeds):
            _write(run, words, with_times=False)
    shown = _write(run, words, with_times=True)
    for one in shown:
        print(f"\n{one.title} ({one.log})")
        for head, rows in one.grids:
            print_table([list(head), *rows])
    print(f"\nwrote {options.paper.name}.html, .md and .json in {options.out}")
    return 0


def _write(run: Run, words: str, *, with_times: bool) -> list[Shown]:
    """The page as far as it is made."""
    paper = run.options.paper
    shown = [_shown(run, table, with_times) for table in run.tables]
    name, where = paper.name, machine()
    texts = {
        f"{name}.html": html_page(paper, shown, words, where),
        f"{name}.md": markdown_page(paper, shown, words, where),
        f"{name}.json": encode_json(
            {"paper": name, "command": words, "machine": where, "tables": [as_json(one) for one in shown]}
        ).decode(),
    }
    write_texts(run.options.out, texts)
    return shown


def _shown(run: Run, table: Table, with_times: bool) -> Shown:
    paper = run.options.paper
    differs = differences(run, table)
    if table.name in paper.steps:
        steps = step_rows(run.options.out / "steps", _tell) if with_times else ()
        return Shown(table=table, log="No log is needed", rows=(), differs=table.differs, steps=steps)
    rows = judged(run, table)
    if with_times:
        times = milliseconds(run, table, _tell)
        rows = [_timed(row, times) for row in rows]
    return Shown(table=table, log=log_line(run, table), rows=rows, differs=differs)


def _timed(row: Row, times: Any) -> Row:
    return msgspec.structs.replace(
        row,
        milliseconds=dict(times.get(row.row, {})),
        torch_milliseconds=dict(times.get(f"{row.row}{TORCH}", {})),
    )


def _list(run: Run) -> None:
    """A line a cell, with what there is of each seed."""
    cabinet = run.maker.cabinet
    rows = [["cell", *(f"seed {seed}" for seed in run.options.seeds)]]
    for table in run.tables:
        for cell in run.cells(table):
            states = []
            for number in range(len(run.options.seeds)):
                found = [cabinet.read(job) for job in run.jobs(cell)[number :: len(run.options.seeds)]]
                refused = [one for one in found if isinstance(one, Refused)]
                states.append(refused[0].reason if refused else "" if None in found else "kept")
            rows.append([f"{table.name}/{cell.row}", *states])
    print_table(rows)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command() -> Command:
    command = Command("papers", __doc__)
    add = command.add_argument
    add("paper", choices=sorted(PAPERS), help="whose tables")
    add("--data", type=a_log, required=True, metavar="LOG", help="TSV, CSV or Parquet")
    add("--schema", required=True, metavar="NAME|FILE", help="the schema that describes it")
    add(
        "--out", type=a_folder_to_write, required=True, metavar="FOLDER", help="of all that is made and found"
    )
    add("--table", nargs="+", default=[], metavar="N", help="only these, by number or name")
    add("--seeds", type=_seeds, default=(0,), metavar="N,..", help="each cell is made with [0]")
    add("--rows", type=whole(1), metavar="N", help="of the log at most, evenly spaced [all]")
    add("--epochs", type=whole(1), metavar="N", help="of a training at most [as it fits the log]")
    add(
        "--cells", default="*", metavar="PATTERN", help="only cells like it, with those that they are against"
    )
    add(
        "--training", choices=("fitted", "paper"), default="fitted", help="settings of training [%(default)s]"
    )
    add(
        "--conditions",
        type=_names,
        default=(),
        metavar="USER,ITEM,CONTEXT,COARSE",
        help="fields that stand for them in apg [guessed]",
    )
    add("--beside", metavar="NAME", default="", help="the paper's log to show ours beside [the one like it]")
    command.number("--most-parameters", 60_000_000, "that a model may have")
    add("--list", action="store_true", help="show the cells and what is kept of them, and make none")
    return command


def _options(command: Command, given: argparse.Namespace) -> Options:
    paper = PAPERS[given.paper]
    names = [table.name for table in paper.tables]
    if unknown := set(given.table) - set(names):
        command.error(f"'--table' must be among {', '.join(names)} (got {min(unknown)!r})")
    known = {log for table in paper.tables for cell in table.cells for log in cell.paper}
    if given.beside and given.beside not in known:
        command.error(f"'--beside' must be among {', '.join(sorted(known))} (got {given.beside!r})")
    return Options(
        paper=paper,
        data=given.data,
        schema=given.schema,
        out=given.out,
        tables=given.table,
        pattern=given.cells,
        seeds=given.seeds,
        rows=given.rows,
        epochs=given.epochs,
        as_paper=given.training == "paper",
        conditions=given.conditions,
        beside=given.beside,
        most_parameters=given.most_parameters,
    )


def _words(given: argparse.Namespace, options: Options) -> str:
    """The command that makes the same, without folders of this machine."""
    words = ["python -m benchmarks.papers", given.paper, "--data", given.data.name]
    words += ["--schema", Path(given.schema).name, "--out", "FOLDER"]
    if given.table:
        words += ["--table", *given.table]
    words += ["--seeds", ",".join(map(str, options.seeds))]
    for name, value in (("rows", given.rows), ("epochs", given.epochs)):
        words += [] if value is None else [f"--{name}", str(value)]
    if options.pattern != "*":
        words += ["--cells", options.pattern]
    if options.as_paper:
        words += ["--training", "paper"]
    if options.conditions:
        words += ["--conditions", ",".join(options.conditions)]
    return f"{words[0]} {shlex.join(words[1:])}"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(one) for one in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"must be whole numbers from 0, with commas between (got {text!r})")
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


if __name__ == "__main__":
    sys.exit(ended(main))
