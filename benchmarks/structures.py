"""Measures AUC against microseconds a row of one model with weights, whole parts, or both pruned.

    python -m benchmarks.structures --work artifacts/structures [--recipes D99 N75 D99N75]
    python -m benchmarks.structures --work artifacts/cin --model xdeepfm --recipes D90 D90I90

A recipe is written as in the paper: D99 prunes 99 % of the DNN's weights, N75 removes 75 % of its neurons,
I90 90 % of what the model has beside it (pairs, rows, heads), K50 half of the embeddings' dimensions, D99N75
does both. All prune field pairs and embeddings as the preset low-latency does (R-95 %, F-40 %), and D0
nothing else, so the difference from D0 is the cost of pruning the DNN. The log is synthetic; the ceiling of
AUC, that of its true click probability, is printed. Models are kept in the work folder: a second run
continues where the first one stopped, or adds recipes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import check_same_options, make_log, train_dense
from export.compress.choice import PruneChoice
from export.compress.recipes import RECIPES, Recipe
from export.data.encoded import Part, open_log
from export.data.synthetic import SyntheticConfig
from export.graph.runtime import BATCHES, microseconds_a_row, own_rows_scorer
from export.judge.bootstrap import interval, resampled_aucs
from export.judge.metrics import auc
from export.stages.plan import GraphPlan
from export.stages.prune import prune
from export.stages.quantize import quantize
from export.stages.records import Trained
from export.stages.to_onnx import to_onnx
from export.stages.variants import DENSE, INT8, PRUNED, read_variants
from export.stages.work import Work
from export.train.build import hyperparameters_of
from export.train.choices import TrainChoice
from loadtest.arguments import positive
from models import MODELS

DEFAULT = ("D0", "D90", "D99", "N50", "N75", "N90", "D99N50", "D99N75", "D99N90")
LETTERS = {"D": "dnn", "N": "neurons", "I": "interactions", "K": "dimensions"}
DENSE_NAME = "dense"
RESAMPLES = 200
FRONT_BATCH = "64"


class Kept(msgspec.Struct, frozen=True):
    """One model, whose graphs and logits are in files beside this record."""

    name: str
    live_neurons: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Contender:
    """The files of one model: by graph ("float32", "int8") its bytes and its logits of the test part."""

    kept: Kept
    graphs: dict[str, bytes]
    logits: dict[str, NDArray[np.float32]]
    ids: NDArray[np.int32]  # rows to time the graphs with, as they take them


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command, options = _options(arguments)
    folder: Path = options.work
    recipes = {name: parse_recipe(name) for name in options.recipes}
    not_kept = ("work", "recipes", "threads")
    check_same_options(folder, {name: value for name, value in vars(options).items() if name not in not_kept})
    with Work(folder / "export").held(new=True) as work:
        _make_dense(work, options)
        made = []
        for name, recipe in {DENSE_NAME: None, **recipes}.items():
            if not (folder / "kept" / name / "kept.json").exists():
                print(f"{name}: pruning" if recipe else name)
                _keep(work, _make(work, name, recipe, options), folder / "kept" / name)
            made.append(_read(folder / "kept" / name))
        test = open_log(work.path("log")).parts["test"]
        labels = np.asarray(test.labels)
    rows = _figures(made, labels)
    ceiling = None if test.true_pctr is None else auc(labels, np.asarray(test.true_pctr))
    print(f"{options.rows:,} rows, tested on {len(labels):,}; {machine()}")
    print_table(_table(rows))
    print(f"*: no other graph has both a higher AUC and fewer microseconds a row at {FRONT_BATCH} rows")
    if ceiling is not None:
        print(f"AUC of the true click probability, which no model can beat: {ceiling:.4f}")
    command.print_json(rows=options.rows, auc_of_true_pctr=ceiling, graphs=rows)


def parse_recipe(text: str) -> Recipe:
    """D90, N75, D99N75 -> a recipe that treats pairs and embeddings as low-latency does."""
    found = re.fullmatch("(?=.)" + "".join(rf"(?:{letter}(\d+(?:\.\d+)?))?" for letter in LETTERS), text)
    if found is None or any(float(share or 0) >= 100 for share in found.groups()):
        raise argparse.ArgumentTypeError(f"must be like D90, N75 or D99N75, below 100 (got {text!r})")
    shares = [float(share or 0) / 100 for share in found.groups()]
    rates = dict(zip(LETTERS.values(), shares, strict=True))
    return replace(RECIPES["low-latency"], name=text, **rates)  # type: ignore[arg-type]


def _recipe_name(text: str) -> str:
    return parse_recipe(text).name


def _options(arguments: Sequence[str] | None) -> tuple[Command, argparse.Namespace]:
    command = Command("structures", __doc__)
    add = command.add_argument
    command.folder("--work", "artifacts/structures")
    add("--recipes", type=_recipe_name, nargs="+", default=DEFAULT, metavar="NAME", help=" ".join(DEFAULT))
    add("--model", choices=[*MODELS], default="deep_fwfm", metavar="NAME", help="[%(default)s]")
    command.number("--rows", 1_500_000, "of the log")
    command.number("--features", 1_000_000, "of the log")
    command.number("--seed", 1, "of the log", least=0)
    command.numbers("--hidden-units", [400, 400, 400], "widths of the hidden layers")
    command.number("--epochs", 10, "of dense training at most")
    for name in ("prune", "finetune"):
        default = getattr(PruneChoice, f"{name}_epochs")
        add(f"--{name}-epochs", type=positive, default=default, metavar="N", help="[%(default)s]")
    command.number("--threads", 1, "of torch")
    return command, command.parse_args(arguments)


def _make_dense(work: Work, options: argparse.Namespace) -> None:
    """WORK/log and dense.pt, unless they are there."""
    make_log(work, SyntheticConfig(rows=options.rows, seed=options.seed, features=options.features))
    if not work.has("train.json"):
        choice = TrainChoice(epochs=options.epochs, threads=options.threads)
        known = hyperparameters_of(options.model)
        sizes = {"hidden_units": tuple(options.hidden_units)} if "hidden_units" in known else {}
        train_dense(work, options.model, choice, sizes)


def _make(work: Work, name: str, recipe: Recipe | None, options: argparse.Namespace) -> Contender:
    """Pruned by the recipe (None: not at all), exported, quantized, and scored on the test part."""
    choice = PruneChoice(
        prune_epochs=options.prune_epochs, finetune_epochs=options.finetune_epochs, dense_twin="skip"
    )
    pruned = prune(work, choice, recipe=recipe or RECIPES["none"])
    to_onnx(work)
    quantize(work, GraphPlan(ship="pruned" if pruned else "auto"))
    trained = work.read_record("train", Trained)
    log = open_log(work.path("log"))
    variants = read_variants(work, log.schema)
    graphs = {"float32": variants[PRUNED if pruned else DENSE], "int8": variants[INT8]}
    return Contender(
        kept=Kept(
            name=name,
            live_neurons=pruned.live_neurons
            if pruned
            else tuple(trained.hyperparameters.get("hidden_units", ())),
            parameters=pruned.parameters[1] if pruned else trained.parameters,
        ),
        graphs={kind: one.graph for kind, one in graphs.items()},
        logits={kind: one.score(log.parts["test"]) for kind, one in graphs.items()},
        ids=graphs["int8"].ids(_first_rows(log.parts["test"])),
    )


def _first_rows(part: Part) -> NDArray[np.int32]:
    return np.resize(part.ids[: max(BATCHES)], (max(BATCHES), part.ids.shape[1]))


def _keep(work: Work, contender: Contender, folder: Path) -> None:
    """Write a model's files; kept.json comes last and says that all are there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kind, graph in contender.graphs.items():
        (folder / f"{kind}.onnx").write_bytes(graph)
    arrays: dict[str, Any] = {"ids": contender.ids, **contender.logits}
    np.savez(folder / "rows.npz", **arrays)
    (folder / "kept.json").write_bytes(msgspec.json.encode(contender.kept))


def _read(folder: Path) -> Contender:
    with np.load(folder / "rows.npz", allow_pickle=False) as arrays:
        rows = dict(arrays)
    ids = rows.pop("ids")
    kept = msgspec.json.decode((folder / "kept.json").read_bytes(), type=Kept)
    return Contender(kept, {kind: (folder / f"{kind}.onnx").read_bytes() for kind in rows}, rows, ids)


def _figures(made: Sequence[Contender], labels: NDArray[np.integer]) -> list[dict[str, Any]]:
    """A row for each graph: quality compared with the dense float32 graph, size, and interleaved times."""
    graphs = [(one, kind) for one in made for kind in one.graphs]
    aucs = resampled_aucs(labels, [one.logits[kind] for one, kind in graphs], resamples=RESAMPLES)
    times = microseconds_a_row(
        {f"{one.kept.name} {kind}": own_rows_scorer(one.graphs[kind], one.ids) for one, kind in graphs},
        made[0].ids,
    )
    rows: list[dict[str, Any]] = []
    for (one, kind), resampled in zip(graphs, aucs, strict=True):
        delta = resampled - aucs[0]
        rows.append(
            {
                "recipe": one.kept.name,
                "graph": kind,
                "live_neurons": one.kept.live_neurons,
                "parameters": one.kept.parameters,
                "bytes": len(one.graphs[kind]),
                "auc": float(resampled[0]),
                "auc_delta": float(delta[0]),
                "auc_interval": interval(delta[1:]),
                "microseconds_a_row": times[f"{one.kept.name} {kind}"],
            }
        )
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    head = ["recipe", "live neurons", "parameters", "graph", "bytes", "AUC", "to dense", "95 % interval"]
    lines = [[*head, *(f"us/row @{batch}" for batch in BATCHES), "front"]]
    for row in rows:
        low, high = row["auc_interval"]
        lines.append(
            [
                row["recipe"],
                "-".join(map(str, row["live_neurons"])),
                f"{row['parameters']:,}",
                row["graph"],
                f"{row['bytes']:,}",
                f"{row['auc']:.4f}",
                f"{row['auc_delta']:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                *(f"{row['microseconds_a_row'][str(batch)]:.2f}" for batch in BATCHES),
                "*" if is_on_front(row, rows) else "",
            ]
        )
    return lines


def is_on_front(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether no other row has both a higher AUC and fewer microseconds."""

    def beats(other: dict[str, Any]) -> bool:
        times = [one["microseconds_a_row"][FRONT_BATCH] for one in (other, row)]
        return bool(other["auc"] > row["auc"] and times[0] < times[1])

    return not any(beats(other) for other in rows)


if __name__ == "__main__":
    sys.exit(ended(main))
