"""Times the graphs of models with and without the interactions and dimensions that a pruning takes out.

    python -m benchmarks.interactions [--models pnn fibinet] [--interactions 0.9] [--dimensions 0.5]

The weights are random, so which units are the least important is too: this is about time and bytes only, and
`python -m benchmarks.structures --model NAME --recipes D90 D90I90` about AUC. Nothing else is pruned, so the
perceptron is as wide as in a dense model: the more of it goes, the more these ratios grow.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.command import Command, ended, print_table
from export.cli.values import share_below_one
from export.compress.compact import compact
from export.compress.parts import find_units
from export.compress.recipes import RECIPES, Recipe
from export.compress.whole_units import WholeUnits
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import BATCHES, Scorer, graph_scorer, microseconds_a_row
from export.train.build import hyperparameters_of
from models import MODELS
from models.fields import Field

DEFAULT = ("pnn", "fibinet", "xdeepfm", "dcn_v2", "autoint")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("interactions", __doc__)
    add = command.add_argument
    add("--models", nargs="+", choices=[*MODELS], default=DEFAULT, metavar="NAME", help=" ".join(DEFAULT))
    for part, share in (("interactions", 0.9), ("dimensions", 0.0)):
        about = f"of them to prune [{share:g}]"
        add(f"--{part}", type=share_below_one, default=share, metavar="SHARE", help=about)
    command.number("--fields", 39, "of the models", least=2)
    command.number("--rows", 10_000, "of the embedding table")
    command.number("--rounds", 11, "timed, interleaved")
    options = command.parse_args(arguments)
    recipe = RECIPES["none"].with_units(interactions=options.interactions, dimensions=options.dimensions)
    cardinality = max(2, options.rows // options.fields)
    fields = tuple(Field(f"f{number}", cardinality) for number in range(options.fields))
    ids = np.random.default_rng(0).integers(0, cardinality, (4096, options.fields)).astype(np.int32)
    graphs: dict[str, bytes] = {}
    for name in options.models:
        graphs |= {f"{name} {form}": graph for form, graph in graphs_of(name, fields, recipe, ids).items()}
    scorers: dict[str, Scorer] = {name: graph_scorer(graph) for name, graph in graphs.items()}
    figures = microseconds_a_row(scorers, ids, rounds=options.rounds)
    sizes = {name: len(graph) for name, graph in graphs.items()}
    print_table(_table(figures, sizes))
    print("x: times faster, or smaller, than the same model's dense graph of that kind")
    command.print_json(unit="microseconds a row", recipe=recipe.rates, figures=figures, bytes=sizes)


def graphs_of(
    name: str, fields: tuple[Field, ...], recipe: Recipe, ids: NDArray[np.int32]
) -> dict[str, bytes]:
    """The float32 and INT8 graphs of a model with random weights, dense and compacted."""
    hyperparameters = hyperparameters_of(name)
    torch.manual_seed(0)
    dense = MODELS[name](fields, **hyperparameters).eval()
    for table in (module for module in dense.modules() if isinstance(module, nn.Embedding)):
        nn.init.normal_(table.weight, std=0.1)  # a new one's logits are too even to be quantized
    graphs = _both("dense", dense, ids)
    units = WholeUnits(find_units(dense, recipe))
    units.silence(lambda part: recipe.rates[part])
    with torch.no_grad():
        for weight, kept in units.masks():
            weight.mul_(kept)
    return graphs | _both("pruned", compact(dense, hyperparameters).model, ids)


def _both(form: str, model: nn.Module, ids: NDArray[np.int32]) -> dict[str, bytes]:
    float32 = export_onnx(model, ids.shape[1])
    int8 = quantize_int8(float32, ids[:1000])
    return {f"{form} float32": float32} | ({} if int8 is None else {f"{form} int8": int8})


def _table(figures: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> list[list[str]]:
    rows = [
        [
            "microseconds a row, by batch",
            *(cell for batch in BATCHES for cell in (str(batch), "")),
            "bytes",
            "",
        ]
    ]
    for name, by_batch in figures.items():
        dense = name.replace(" pruned ", " dense ")
        cells = [
            cell for batch in BATCHES for cell in _beside(figures[dense][str(batch)], by_batch[str(batch)])
        ]
        rows.append([name, *cells, f"{sizes[name]:,}", f"{sizes[dense] / sizes[name]:.1f}x"])
    return rows


def _beside(dense: float, value: float) -> tuple[str, str]:
    return f"{value:.2f}", f"{dense / value:.1f}x"


if __name__ == "__main__":
    sys.exit(ended(main))
