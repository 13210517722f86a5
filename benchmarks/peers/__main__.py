"""Measures the accuracy of Bidlight's models, by default and tuned, beside other libraries' on the same ids.

    python -m benchmarks.peers --work WORK --out artifacts/peers [--by default scikit-learn] [--models lr fm]
    python -m benchmarks.peers --data LOG --schema SCHEMA --out artifacts/peers
    python -m benchmarks.peers --show artifacts/peers

The others are scikit-learn, LightGBM and FuxiCTR; `make peers` installs the last two into `.peers`, apart
from the environment. All read the rows that fit-schema encoded. Settings of a grid are chosen by LogLoss on
the validation part, with the first seed; the best are fitted with each seed and judged on the test part,
before calibration. What is fitted is kept in the folder: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.command import Command, ended, machine
from benchmarks.peers.contender import DEFAULT, FUXICTR, LIGHTGBM, SCIKIT, TUNED, Contender
from benchmarks.peers.figures import Fits, Table, lines
from benchmarks.peers.grid import GRIDS, Shape, shared_batch
from benchmarks.peers.kept import Cabinet, digest_of
from benchmarks.peers.markdown import as_markdown
from benchmarks.peers.summary import as_summary
from export.data.encoded import EncodedLog, Part, open_log
from export.errors import ExportError
from export.stages.fit_schema import kept_log
from export.stages.plan import LogPlan
from export.stages.work import Work
from loadtest.arguments import a_file, a_folder, a_log, whole
from loadtest.processes.server import REPOSITORY
from service.bundle.json_files import encode_json

INSTALLED = REPOSITORY / ".peers"
MODELS = (*GRIDS, "gbdt_lr")
# By name: the package to import, and the module here that fits its models.
PEERS = {
    "scikit-learn": ("sklearn", "scikit"),
    "lightgbm": ("lightgbm", "boosting"),
    "fuxictr": ("fuxictr", "fuxi"),
}
BY = {"default": DEFAULT, "tuned": TUNED, "scikit-learn": SCIKIT, "lightgbm": LIGHTGBM, "fuxictr": FUXICTR}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table and writes it as Markdown and JSON; the exit status."""
    options = _options(arguments)
    if options.show is not None:
        return _show(options.show)
    see_installed_peers()
    table = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{table.log}.json").write_bytes(encode_json(table))
    print(as_markdown(table))
    return 0


def see_installed_peers() -> None:
    """Lets Python import what `make peers` installed, after the environment's own packages."""
    if INSTALLED.is_dir() and str(INSTALLED) not in sys.path:
        sys.path.append(str(INSTALLED))


def measure(options: argparse.Namespace) -> Table:
    """Fits what is not kept, and judges all. Raises ExportError for a log or a peer that cannot be had."""
    import torch
    from threadpoolctl import threadpool_limits

    log = thinned(_log(options), options.training_rows)
    shape = Shape(options.dim, tuple(options.hidden_units), shared_batch(len(log.parts["train"])))
    contenders = _contenders(options, shape)
    cabinet = Cabinet(options.out / "kept", digest_of(log))
    torch.set_num_threads(1)
    with threadpool_limits(1):
        fits = [fit_best(one, cabinet, log, options.seeds) for one in contenders]
    labels = np.asarray(log.parts["test"].labels)
    return Table(
        log=options.name,
        split=log.split,
        rows={name: len(part) for name, part in log.parts.items()},
        clicks={name: part.clicks for name, part in log.parts.items()},
        dim=shape.dim,
        hidden_units=shape.hidden_units,
        batch_size=shape.batch_size,
        resamples=options.resamples,
        machine=machine(),
        lines=lines(labels, fits, resamples=options.resamples),
    )


def _log(options: argparse.Namespace) -> EncodedLog:
    if options.work is None:
        with Work(options.out / f"{options.name}.work").held(new=True) as work:
            kept_log(work, LogPlan(data=options.data, schema=options.schema), say=_tell)
            return open_log(work.path("log"))
    return open_log(Work(options.work).path("log"))


def thinned(log: EncodedLog, most: int | None) -> EncodedLog:
    """The log with at most this many training rows, evenly spaced; other parts and ids stay as they are."""
    training = log.parts["train"]
    if most is None or len(training) <= most:
        return log
    rows = np.linspace(0, len(training) - 1, most).astype(np.int64)
    part = Part(np.asarray(training.ids[rows]), np.asarray(training.labels[rows]), None, None)
    return replace(log, parts={**log.parts, "train": part})


def _contenders(options: argparse.Namespace, shape: Shape) -> list[Contender]:
    """By model, and of each model in the order of BY."""
    found: list[Contender] = []
    if {"default", "tuned"} & set(options.by):
        from benchmarks.peers import ours

        found += ours.contenders(options.models, shape, settings_file=options.settings)
    for name in options.by:
        if name in PEERS:
            found += peer(name).contenders(options.models, shape)
    wanted = [BY[name] for name in BY if name in options.by]
    chosen = [one for one in found if one.by in wanted]
    return sorted(chosen, key=lambda one: (options.models.index(one.model), wanted.index(one.by)))


def peer(name: str) -> Any:
    """The module that fits a peer's models. Raises ExportError where its package is not installed."""
    package, module = PEERS[name]
    if importlib.util.find_spec(package) is None:
        raise ExportError(f"'by' must name installed libraries (got {name!r}); `make peers` installs it")
    return importlib.import_module(f"benchmarks.peers.{module}")


def fit_best(contender: Contender, cabinet: Cabinet, log: EncodedLog, seeds: int) -> Fits:
    """The settings with the least validation LogLoss, with every seed."""
    points = contender.points
    tried = [cabinet.run(contender, log, point, 0, _tell) for point in points]
    best = min(range(len(points)), key=lambda place: tried[place].kept.logloss["validation"])
    others = range(1, seeds if contender.seeded else 1)
    runs = [tried[best], *(cabinet.run(contender, log, points[best], seed, _tell) for seed in others)]
    return Fits(contender, runs, tried)


def _show(folder: Path) -> int:
    """Prints the tables that a folder holds, under one of all."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ExportError(f"'--show' must be a folder with tables (got {folder}); measure first")
    try:
        tables = [msgspec.json.decode(file.read_bytes(), type=Table) for file in files]
    except msgspec.MsgspecError as error:
        raise ExportError(
            f"'--show' must be a folder with tables of this version ({error}); measure again"
        ) from None
    print(as_summary(tables))
    for table in tables:
        print(as_markdown(table))
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = Command("peers", __doc__)
    add = command.add_argument
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--work", type=a_folder, metavar="FOLDER", help="a work folder of fit-schema")
    source.add_argument("--data", type=a_log, metavar="FILE", help="a raw log; with --schema")
    source.add_argument("--show", type=a_folder, metavar="FOLDER", help="print the tables that it holds")
    add("--schema", metavar="NAME|FILE", help="of the raw log")
    add("--name", metavar="NAME", help="of the log, in the table [the folder's or the file's]")
    command.folder("--out", "artifacts/peers")
    add("--models", nargs="+", choices=MODELS, default=MODELS, metavar="NAME", help=" ".join(MODELS))
    add("--by", nargs="+", choices=BY, default=list(BY), metavar="NAME", help=" ".join(BY))
    add(
        "--settings",
        type=a_file,
        metavar="FILE",
        help="TOML as compare takes it; Bidlight's tuned models that it names use it in place of the grid",
    )
    command.number("--seeds", 3, "each model is fitted with")
    command.number("--dim", 8, "of an embedding")
    command.numbers("--hidden-units", [128, 64], "widths of the hidden layers")
    command.number("--resamples", 400, "of the test rows, for intervals")
    add("--training-rows", type=whole(1), metavar="N", help="at most, evenly spaced [all]")
    options = command.parse_args(arguments)
    if (options.data is None) != (options.schema is None):
        command.error("--data and --schema must be given together")
    if options.name is None and options.show is None:
        options.name = options.work.name if options.work else options.data.name.partition(".")[0]
    return options


if __name__ == "__main__":
    sys.exit(ended(main))
