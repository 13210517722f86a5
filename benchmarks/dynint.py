"""Times a training step of xDeepInt and the DynInt models and counts their memory, in one run.

    python -m benchmarks.dynint [--sub-spaces 1 4] [--rows 1024] [--rounds 7]

Two models are measured twice: as the paper computes them (Yan & Li, "DynInt", DLP-KDD 2022, sections 3.5.1 to
3.5.4), and with the matrices of eq. 5 and 6 written out, one for each row. Weights and logits are the same,
which is checked first. 39 fields of dimension 16, three layers; a sub-space makes 39 parts. The rank of DGP
is a tenth of the parts, the paper's example; that of DWP is 2. Measured on one CPU thread:

step       milliseconds of processor time of forward, backward and Adam; median over interleaved rounds.
dynamic    megabytes generated for the rows: gates, Sigma, u and v, or the matrices written out. The ceiling,
           "as counted": parts, K x K, 2 x K x parts or parts x parts numbers a row and layer.
kept       megabytes of tensors saved for the backward pass, each storage once, without weights.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command import Command, ended, print_table
from benchmarks.saved_tensors import saved_bytes
from benchmarks.timing import median_in_turns
from loadtest.arguments import at_least_one
from models.dynint_da import DynIntDA
from models.dynint_dgp import DynIntDGP, GeneratedInteraction
from models.dynint_dwp import DynIntDWP, WeightedInteraction
from models.fields import Field
from models.xdeepint import XDeepInt

N_FIELDS, DIM, LAYERS, CARDINALITY, LATENT_RANK = 39, 16, 3, 1000, 2
MEGABYTE = 1e6
Figures = dict[str, dict[str, float]]


class WrittenOutDGP(nn.Module):
    """A layer of DGP computed as eq. 5 says, with a matrix [parts, parts] for each row."""

    def __init__(self, layer: GeneratedInteraction) -> None:
        super().__init__()
        self.layer = layer

    def matrices(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> W^(i) [batch, parts, parts]."""
        kernels = self.layer.kernels(embeddings)
        sigma = kernels.mT if self.layer.kernel == "full" else torch.diag_embed(kernels)
        return self.layer.left @ sigma @ self.layer.right.T

    def forward(self, x: Tensor, x0: Tensor, embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As the layer that it holds."""
        return x * (x0 @ self.matrices(embeddings).mT) + x, (self.layer.left.T, self.layer.right.T)


class WrittenOutDWP(nn.Module):
    """A layer of DWP computed as eq. 6 says, with a matrix [parts, parts] for each row."""

    def __init__(self, layer: WeightedInteraction) -> None:
        super().__init__()
        self.layer = layer

    def matrices(self, left: Tensor, right: Tensor) -> Tensor:
        """All u_p and all v_p, each [batch, rank, parts] -> G^(i) [batch, parts, parts]."""
        return left.mT @ right

    def forward(self, x: Tensor, x0: Tensor, embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As the layer that it holds."""
        left, right = self.layer.weights(embeddings)
        mixing: Any = self.layer.mixing  # a full matrix
        weighted = self.matrices(left, right) * mixing.weight
        return x * (x0 @ weighted.mT) + x, (left, right)


class Candidate(NamedTuple):
    """One row of the table; `dynamic` gives what one of its layers generates for a batch."""

    model: Any
    dynamic: Callable[[Any, Tensor], Sequence[Tensor]]


def candidates(sub_spaces: int) -> dict[str, Candidate]:
    """The static model, the dynamic ones, and DGP and DWP with all matrices written out."""
    fields = [Field(f"field_{number}", CARDINALITY) for number in range(N_FIELDS)]
    shape: dict[str, Any] = {"dim": DIM, "layers": LAYERS, "sub_spaces": sub_spaces}
    rank = max(1, N_FIELDS * sub_spaces // 10)
    dgp = DynIntDGP(fields, **shape, kernel_size=rank)
    diagonal = DynIntDGP(fields, **shape, kernel_size=rank, kernel="diagonal")
    dwp = DynIntDWP(fields, **shape, latent_rank=LATENT_RANK)
    return {
        "xdeepint, static": Candidate(XDeepInt(fields, **shape), lambda layer, embeddings: ()),
        "dynint_da": Candidate(
            DynIntDA(fields, **shape), lambda layer, embeddings: (layer.gate(embeddings),)
        ),
        "dynint_dgp": Candidate(dgp, lambda layer, embeddings: (layer.kernels(embeddings),)),
        "dynint_dgp, diagonal": Candidate(diagonal, lambda layer, embeddings: (layer.kernels(embeddings),)),
        "dynint_dgp, written out": Candidate(
            written_out(dgp, WrittenOutDGP), lambda layer, embeddings: (layer.matrices(embeddings),)
        ),
        "dynint_dwp": Candidate(dwp, lambda layer, embeddings: layer.weights(embeddings)),
        "dynint_dwp, written out": Candidate(
            written_out(dwp, WrittenOutDWP),
            lambda layer, embeddings: (layer.matrices(*layer.layer.weights(embeddings)),),
        ),
    }


def written_out(model: nn.Module, layer_type: Callable[[Any], nn.Module]) -> nn.Module:
    """The same model with other layers around its own."""
    other: Any = copy.deepcopy(model)
    other.layers = nn.ModuleList(layer_type(layer) for layer in other.layers)
    return other  # type: ignore[no-any-return]


class Step:
    """One training step on `rows` random rows."""

    def __init__(self, candidate: Candidate, rows: int) -> None:
        self.model, self.dynamic = candidate.model.train(), candidate.dynamic
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(CARDINALITY, (rows, N_FIELDS), generator=generator, dtype=torch.int32)
        self.labels = torch.randint(2, (rows,), generator=generator).float()

    def _loss(self) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self.model(self.ids), self.labels)
        penalty = getattr(self.model, "penalty", None)
        return loss if penalty is None else loss + penalty

    def milliseconds(self) -> float:
        """Processor time of one step."""
        start = time.process_time()
        self.optimizer.zero_grad()
        torch.autograd.backward(self._loss())
        self.optimizer.step()
        return (time.process_time() - start) * 1e3

    @torch.no_grad()
    def dynamic_bytes(self) -> int:
        """Bytes that all layers generate for the rows."""
        embeddings = self.model.embedding(self.ids)
        return sum(
            part.numel() * 4 for layer in self.model.layers for part in self.dynamic(layer, embeddings)
        )

    def kept_bytes(self) -> int:
        """Bytes that the forward pass saves for the backward pass."""
        return saved_bytes(self._loss, (self.ids, self.labels, *self.model.parameters()))


def measure(sub_spaces: int, rows: int, rounds: int) -> Figures:
    """The figures of every candidate at this number of sub-spaces."""
    torch.manual_seed(0)
    compared = candidates(sub_spaces)
    steps = {name: Step(candidate, rows) for name, candidate in compared.items()}
    for name in ("dynint_dgp", "dynint_dwp"):
        with torch.no_grad():
            found, expected = (step.model(step.ids) for step in (steps[name], steps[f"{name}, written out"]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    sizes = {name: (step.dynamic_bytes(), step.kept_bytes()) for name, step in steps.items()}
    times = median_in_turns({name: step.milliseconds for name, step in steps.items()}, rounds)
    return {
        name: {
            "step_ms": times[name],
            "dynamic_mb": sizes[name][0] / MEGABYTE,
            "kept_mb": sizes[name][1] / MEGABYTE,
            "parameters": sum(weights.numel() for weights in step.model.layers.parameters()),
        }
        for name, step in steps.items()
    }


def print_figures(sub_spaces: int, rows: int, figures: Figures) -> None:
    """A line a candidate, then the memory beside the paper's count."""
    parts = N_FIELDS * sub_spaces
    rank = max(1, parts // 10)
    print(
        f"{sub_spaces} sub-spaces, {parts} parts, {rows} rows a step; K = {rank} (DGP), {LATENT_RANK} (DWP)"
    )
    rows_of_text = [["", "step ms", "dynamic MB", "kept MB", "weights of the layers"]]
    for name, row in figures.items():
        cells = (f"{row['step_ms']:.1f}", f"{row['dynamic_mb']:.2f}", f"{row['kept_mb']:.1f}")
        rows_of_text.append([name, *cells, f"{row['parameters']:,.0f}"])
    print_table(rows_of_text)
    for name, dynamic in (("dynint_dgp", rank**2), ("dynint_dwp", 2 * LATENT_RANK * parts)):
        own, full = figures[name], figures[f"{name}, written out"]
        print(
            f"{name}, against written out: dynamic {own['dynamic_mb'] / full['dynamic_mb'] - 1:.1%} "
            f"(as counted {dynamic / parts**2 - 1:.1%}), kept {own['kept_mb'] / full['kept_mb'] - 1:.1%}, "
            f"step {full['step_ms'] / own['step_ms']:.1f}x as fast"
        )
    print()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table a number of sub-spaces and, on the last line, all of it as JSON."""
    command = Command("dynint", __doc__)
    command.add_argument(
        "--sub-spaces",
        type=at_least_one,
        nargs="+",
        choices=[number for number in range(1, DIM + 1) if DIM % number == 0],
        default=[1, 4],
        metavar="N",
        help=f"divisors of {DIM} [1 4]",
    )
    command.number("--rows", 1024, "of a step")
    command.number("--rounds", 7, "timed, after one to warm up")
    options = command.parse_args(arguments)
    torch.set_num_threads(1)
    points = []
    for sub_spaces in options.sub_spaces:
        figures = measure(sub_spaces, options.rows, options.rounds)
        print_figures(sub_spaces, options.rows, figures)
        points.append({"sub_spaces": sub_spaces, "rows": options.rows, "figures": figures})
    command.print_json(fields=N_FIELDS, dim=DIM, points=points)


if __name__ == "__main__":
    sys.exit(ended(main))
