"""Compares the logits of Bidlight's models with those of FuxiCTR's, with the same weights, on random ids.

    make peers
    git clone https://github.com/reczoo/FuxiCTR
    python -m benchmarks.peers.parity --fuxictr FuxiCTR [--models afn bst]

The package that `make peers` installs has layers and no models, so a checkout of its repository is needed.
Weights are random, and so are batch statistics. In float64 equal formulas differ by rounding alone.

logits       their standard deviation over the rows
float64      the largest difference of two logits of a row
float32      the same, as models train and serve
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.command import Command, ended, print_table
from benchmarks.peers.__main__ import peer, see_installed_peers
from benchmarks.peers.copied import COPIES, Target
from export.errors import ExportError
from export.train.build import build_model
from loadtest.arguments import a_folder
from models.embedding import FeaturesEmbedding
from models.eulernet import EulerNet
from models.fields import first_rows
from models.layers import BatchNorm
from service.bundle.schema import MISSING_ID, Bins, Field, Kind, Role, Schema, Vocabulary

DIM, WEIGHT_STD, LENGTH, HIDDEN = 6, 0.4, 5, [12, 8]
SITES, ADS = (Vocabulary(tuple(map(str, range(count)))) for count in (20, 30))
# A field that shares another's embeddings comes last, as in FuxiCTR.
SCHEMA = Schema(
    (
        Field("site", Kind.CATEGORICAL, Role.CONTEXT, SITES),
        Field("price", Kind.NUMERIC, Role.CONTEXT, Bins((1.0, 2.0))),
        Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, ADS),
        Field("history", Kind.SEQUENCE, Role.CONTEXT, ADS, max_length=LENGTH, same_values_as="ad"),
    )
)
SITE, AD, HISTORY = "field_0", "field_2", "field_3"  # as FuxiCTR's features are named
COMPILED = {"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["AUC"], "verbose": 0}


@dataclass(frozen=True)
class Variant:
    """A model here, and the one of FuxiCTR that should have the same logits."""

    model: str
    options: Mapping[str, Any]
    file: str  # in the folder of FuxiCTR's models
    name: str  # of the class in it
    their_options: Mapping[str, Any]
    without_gaps: bool = False  # histories have all their elements


def _bst(outputs: str, pooling: str, *, layers: int = 1, without_gaps: bool = False) -> Variant:
    theirs = {
        "dnn_hidden_units": HIDDEN,
        "seq_pooling_type": pooling,
        "stacked_transformer_layers": layers,
        "bst_target_field": [AD],
        "bst_sequence_field": [HISTORY],
    }
    ours = {"hidden_units": HIDDEN, "outputs": outputs, "layers": layers}
    return Variant("bst", ours, "BST/src/BST.py", "BST", theirs, without_gaps)


def _final_mlp(heads: int, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Variant:
    streams = {"mlp1_hidden_units": [*HIDDEN, 4], "mlp2_hidden_units": [12, 4], "fs_hidden_units": [7]}
    sizes = {"hidden_units": HIDDEN, "second_units": [12], "stream_units": 4, "gate_units": 7}
    return Variant(
        "final_mlp",
        {**sizes, "heads": heads, **ours},
        "FinalMLP/src/FinalMLP.py",
        "FinalMLP",
        {**streams, "num_heads": heads, **theirs},
    )


def _masknet(structure: str, kind: str) -> Variant:
    ours = {"hidden_units": HIDDEN, "structure": structure, "blocks": 2, "block_units": 9}
    theirs = {"dnn_hidden_units": HIDDEN, "parallel_num_blocks": 2, "parallel_block_dim": 9}
    file = "MaskNet/src/MaskNet.py"
    return Variant("masknet", ours, file, "MaskNet", {**theirs, "model_type": kind})


def _afn(*, ensemble: bool) -> Variant:
    ours = {"hidden_units": HIDDEN, "second_units": HIDDEN, "neurons": 5, "ensemble": ensemble}
    theirs = {"dnn_hidden_units": HIDDEN, "afn_hidden_units": HIDDEN, "logarithmic_neurons": 5}
    others = {"ensemble_dnn": ensemble, "batch_norm": False}
    return Variant("afn", ours, "AFN/src/AFN.py", "AFN", {**theirs, **others})


def _eulernet(*order_vectors: int) -> Variant:
    theirs = {"shape": list(order_vectors), "layer_norm": True}
    return Variant(
        "eulernet", {"order_vectors": order_vectors}, "EulerNet/src/EulerNet.py", "EulerNet", theirs
    )


VARIANTS = (
    Variant(
        "final",
        {"hidden_units": HIDDEN},
        "FINAL/src/FINAL.py",
        "FINAL",
        {"block1_hidden_units": HIDDEN, "block2_hidden_units": HIDDEN, "residual_type": "sum"},
    ),
    Variant(
        "dcn_v3",
        {"exponential_layers": 2, "linear_layers": 3},
        "DCNv3/src/DCNv3.py",
        "DCNv3",
        {"num_deep_cross_layers": 2, "num_shallow_cross_layers": 3},
    ),
    *(
        Variant(
            "gdcn",
            {"hidden_units": HIDDEN, "structure": structure},
            "GDCN/src/GDCN.py",
            name,
            {"dnn_hidden_units": HIDDEN},
        )
        for structure, name in (("stacked", "GDCN"), ("parallel", "GDCNP"))
    ),
    _final_mlp(2, {}, {}),
    _final_mlp(1, {"first_gate": "site", "second_gate": "ad"}, {"fs1_context": [SITE], "fs2_context": [AD]}),
    _masknet("stacked", "SerialMaskNet"),
    _masknet("parallel", "ParallelMaskNet"),
    _afn(ensemble=False),
    _afn(ensemble=True),
    _eulernet(3),
    _eulernet(4, 5),
    _bst("ad", "target"),
    _bst("ad", "target", layers=2),
    _bst("mean", "mean", layers=2),
    _bst("all", "concat", without_gaps=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table and, on the last line, the same as JSON; the exit status."""
    command = Command("peers.parity", __doc__)
    add = command.add_argument
    add(
        "--fuxictr", type=a_folder, required=True, metavar="FOLDER", help="a checkout of FuxiCTR's repository"
    )
    add("--models", nargs="+", choices=COPIES, default=list(COPIES), metavar="NAME", help=" ".join(COPIES))
    command.number("--rows", 500, "of random ids")
    options = command.parse_args(arguments)
    see_installed_peers()
    chosen = [variant for variant in VARIANTS if variant.model in options.models]
    figures = [compare(variant, options.fuxictr, options.rows) for variant in chosen]
    print_table([list(figures[0]), *([_shown(cell) for cell in row.values()] for row in figures)])
    command.print_json(rows=options.rows, figures=figures)
    return 0


def compare(variant: Variant, checkout: Path, rows: int) -> dict[str, Any]:
    """A line of the table. Raises ExportError without the package or the file of the model."""
    torch.manual_seed(0)
    ours = _with_random_weights(build_model(variant.model, SCHEMA, {"dim": DIM, **variant.options}))
    ids = _random_ids(rows, gaps=not variant.without_gaps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of FuxiCTR and what it imports
        theirs = _their_model(variant, checkout, folder)
    # A sum of two biases, or a half of one, is as exact as the logits that are compared.
    target = Target(theirs.double(), [f"field_{position}" for position in range(len(SCHEMA.fields))])
    COPIES[variant.model](ours.double(), target)
    target.check()
    exact, rounded = (_logits(ours, theirs, ids, dtype) for dtype in (torch.float64, torch.float32))
    return {
        "model": variant.model,
        "options": " ".join(
            f"{name}={value}" for name, value in variant.options.items() if "units" not in name
        ),
        "logits": float(exact[0].std()),
        "float64": float((exact[0] - exact[1]).abs().max()),
        "float32": float((rounded[0] - rounded[1]).abs().max()),
    }


def _with_random_weights(model: nn.Module) -> nn.Module:
    """In evaluation mode. FuxiCTR takes an embedding of zeros for padding, so that of the padding is one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=WEIGHT_STD)
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
            if isinstance(module, FeaturesEmbedding):
                module.table.weight[first_rows(module.fields)[-1] + MISSING_ID] = 0.0
            if isinstance(module, EulerNet):
                module.modulus.abs_()  # below 0 its angles differ from FuxiCTR's by design
    return model.eval()


def _random_ids(rows: int, *, gaps: bool) -> Tensor:
    """[rows, columns]; a history ends with its padding, and may have nothing else."""
    columns = [torch.randint(field.cardinality, (rows, 1)) for field in SCHEMA.fields[:-1]]
    history = torch.randint(MISSING_ID + 1, SCHEMA.fields[-1].cardinality, (rows, LENGTH))
    lengths = torch.randint(LENGTH + 1, (rows, 1)) if gaps else torch.tensor(LENGTH)
    return torch.cat([*columns, history.where(torch.arange(LENGTH) < lengths, MISSING_ID)], dim=1)


def _their_model(variant: Variant, checkout: Path, folder: str) -> Any:
    """FuxiCTR's model, without a sigmoid at its end."""
    features = peer("fuxictr").feature_map(SCHEMA, DIM, folder)
    if variant.model == "bst":
        features.features[HISTORY].pop("feature_encoder")  # it reads the elements
    of = getattr(_module(checkout / "model_zoo" / variant.file), variant.name)
    options = {"embedding_dim": DIM, **COMPILED, "model_root": folder, **variant.their_options}
    return of(features, task="regression", **options).eval()


def _module(file: Path) -> Any:
    """A Python file as a module. Raises ExportError where there is none."""
    if not file.is_file():
        raise ExportError(
            f"'fuxictr' must be a checkout of github.com/reczoo/FuxiCTR (got no {file}); clone it"
        )
    spec = importlib.util.spec_from_file_location(f"fuxictr_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ExportError(f"'{file}' must be a Python file (got another)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _logits(ours: nn.Module, theirs: Any, ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both models' logits [rows]."""
    inputs = peer("fuxictr").by_feature(SCHEMA, ids)
    with torch.no_grad():
        own: Tensor = copy.deepcopy(ours).to(dtype)(ids)
        found: Tensor = copy.deepcopy(theirs).to(dtype)(inputs)["y_pred"]
    return own, found.squeeze(1)


def _shown(cell: float | str) -> str:
    return cell if isinstance(cell, str) else f"{cell:.2g}"


if __name__ == "__main__":
    sys.exit(ended(main))
