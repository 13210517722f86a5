"""ONNX's operators, those that an export's graphs have, as PyTorch functions. It knows no graph.

Each takes a node's attributes and its inputs, None for one that is left out, and returns its only output, or
a tuple. Operators of integers with scales are in `torch_graph`, which knows how ONNX Runtime joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx import helper
from torch import Tensor, nn

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor | tuple[Tensor, ...]]


def _bit_shift(attributes: Attributes, x: Tensor, places: Tensor) -> Tensor:
    return x << places if attributes["direction"] == b"LEFT" else x >> places


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    dtype = helper.tensor_dtype_to_np_dtype(attributes["to"]).name
    return x.to(getattr(torch, dtype))


def _clip(_: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _gather(attributes: Attributes, x: Tensor, at: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.ndim
    found = x.index_select(axis, at.reshape(-1).to(torch.int64) % x.shape[axis])
    return found.reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product = (a.T if attributes.get("transA") else a) @ (b.T if attributes.get("transB") else b)
    product = product * attributes["alpha"] if attributes.get("alpha", 1.0) != 1.0 else product
    return product if c is None else product + c * attributes.get("beta", 1.0)


def _normalise(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", -1) % x.ndim
    return nn.functional.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def _mod(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if attributes.get("fmod") else torch.remainder(a, b)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not attributes.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")])


def _slice(
    _: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    on = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(on, starts.tolist(), ends.tolist(), by, strict=True):
        kept = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, kept.start, len(kept))
        else:
            x = x.index_select(axis, torch.tensor(kept, device=x.device))
    return x


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if sizes is not None:
        return torch.split(x, sizes.tolist(), axis)
    return torch.split(x, -(-x.shape[axis] // attributes["num_outputs"]), axis)


def _squeeze(_: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def _unsqueeze(_: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", range(x.ndim)[::-1]))


def _all_of(join: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def of(_: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = join(first, other)
        return first

    return of


def _plain(function: Callable[..., Tensor]) -> Operator:
    return lambda _, *inputs: function(*inputs)


# As PyTorch has them, by the same names.
_SAME = "Abs Add Atan Cos Exp Greater IsNaN Less Log Mul Neg Relu Sigmoid Sin Sub Tanh"

OPERATORS: Mapping[str, Operator] = {
    **{name: _plain(getattr(torch, name.lower())) for name in _SAME.split()},
    "BitShift": _bit_shift,
    "BitwiseAnd": _plain(torch.bitwise_and),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    # Integers are divided towards zero, as in C.
    "Div": lambda _, a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Equal": _plain(torch.eq),
    "Expand": lambda _, x, shape: x * torch.ones(shape.tolist(), dtype=x.dtype, device=x.device),
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _normalise,
    "LeakyRelu": lambda attributes, x: nn.functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "MatMul": _plain(torch.matmul),
    "Max": _all_of(torch.maximum),
    "Mod": _mod,
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "Range": lambda _, start, end, step: torch.arange(start.item(), end.item(), step.item()),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
