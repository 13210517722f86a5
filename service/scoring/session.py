"""Runs a bundle's graphs with ONNX Runtime: ids -> logits [n]; no other module imports it.

One thread and no spinning: a service runs one process a core, and a second thread makes the tail latency
worse. It knows no schema, no calibration and no request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Read at import: official builds (since 1.31) have a thread that reports to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from service.bundle.errors import BundleError
from service.bundle.graph_check import check_graph
from service.bundle.manifest import Graph, SharedContext, Tensor
from service.bundle.runtime_options import quick_run, session_options, takes_one_index
from service.errors import BadConfiguration

logger = logging.getLogger("bidlight")

Array = NDArray[Any]
NO_TABLES: Mapping[str, Array] = {}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# TF32, the GPU's default, keeps 10 of float32's 23 bits; golden rows must give the logits of the CPU.
CUDA_OPTIONS = {"use_tf32": "0"}


class NoCuda(BadConfiguration):
    """A GPU is required and cannot be used; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"'device' must be cpu or cuda here (got 'cuda-required'); {reason}")
        self.reason = reason


class Session:
    """One graph, made from verified bytes, so that no file can change in between.

    Single rows need no padding: ONNX Runtime 1.31 gives bit-identical logits for a row alone and in a batch
    (Gemm and MatMul of 96 to 400 columns, float32 and static INT8; tests/service/scoring checks this).

    `device` is `cpu`, `cuda` (falls back to the CPU with a warning) or `cuda-required`. The CPU uses `tables`
    in place, without a copy, for initializers and inputs of these names. A GPU keeps its own tables: the
    initializers of the graph (ONNX Runtime ignores external ones there), and inputs that are copied to it
    once. The copy needs I/O binding, which gains nothing if all inputs are new in every call. `io_binding`
    None binds only for tables on a GPU; True and False bind always and never. A bound session runs one call
    at a time.

    `takes_one_index` says that one entry of `request_index` does for all rows of one request.

    Raises BundleError for a graph that `check_graph` refuses, that does not load, or does not match the
    manifest; NoCuda for a GPU that is required and absent.
    """

    def __init__(
        self,
        graph: bytes,
        description: Graph | SharedContext,
        device: str = "cpu",
        tables: Mapping[str, Array] = NO_TABLES,
        io_binding: bool | None = None,
    ) -> None:
        file, inputs = description.file, description.inputs
        depends_on_batch = isinstance(description, Graph) and description.is_batch_dependent
        check_graph(graph, file, depends_on_batch=depends_on_batch)
        self._file = file
        given = {tensor.name for tensor in inputs}
        providers = _providers(device)
        self._tables = {name: table for name, table in tables.items() if name in given}
        # The session reads them in place and does not keep them alive: without these references it crashes.
        self._initializers = {
            name: ort.OrtValue.ortvalue_from_numpy(table)
            for name, table in tables.items()
            if name not in given and providers == [CPU]
        }
        self._session = _open(graph, file, providers, self._initializers)
        self.provider = self._session.get_providers()[0]
        self._run = quick_run(ort, self._session) if self.provider == CPU else self._session.run
        if CUDA in providers and self.provider != CUDA:
            _without_cuda(device, "ONNX Runtime could not start CUDA (no driver, or none of its libraries)")
        _check_tensors(self._session.get_inputs(), inputs, file, "input")
        _check_tensors(self._session.get_outputs(), description.outputs, file, "output")
        self._inputs = [
            (tensor.name, np.dtype(tensor.dtype)) for tensor in inputs if tensor.name not in self._tables
        ]
        self._outputs = [tensor.name for tensor in description.outputs]
        self.takes_one_index = takes_one_index(self._session)
        if io_binding is None:
            io_binding = self.provider == CUDA and bool(self._tables)
        self._binding: ort.IOBinding | None = self._session.io_binding() if io_binding else None
        if self._binding is not None:
            for name, table in self._tables.items():
                self._binding.bind_cpu_input(name, table)

    def run(self, *inputs: NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits [n] of the inputs other than tables, in the order of the manifest."""
        if self._binding is not None:
            return self._run_bound(self._binding, inputs)
        feeds: dict[str, Array] = {
            name: values.astype(dtype, copy=False)
            for (name, dtype), values in zip(self._inputs, inputs, strict=True)
        }
        feeds.update(self._tables)
        logits: NDArray[np.float32] = self._run(self._outputs, feeds)[0]
        return logits

    def _run_bound(self, binding: ort.IOBinding, inputs: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Run with I/O binding: binding copies the inputs to the device, where the tables already are."""
        for (name, dtype), values in zip(self._inputs, inputs, strict=True):
            binding.bind_cpu_input(name, np.ascontiguousarray(values, dtype))
        for name in self._outputs:  # at every call: the previous binding holds the previous logits
            binding.bind_output(name, "cpu")
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return logits

    def try_run(self, *inputs: NDArray[np.int32], rows: int) -> None:
        """Run so many rows before traffic comes; raises BundleError unless each gives one logit."""
        try:
            logits = self.run(*inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base class
            found = " ".join(str(error).split())
            raise BundleError(self._file, "a graph that runs", found, "build the bundle again") from None
        if logits.shape != (rows,):
            expected = f"a graph that gives {rows} logits for {rows} rows"
            raise BundleError(self._file, expected, str(logits.shape), "build the bundle again")


def _open(
    graph: bytes, file: str, providers: Sequence[str], initializers: Mapping[str, ort.OrtValue]
) -> ort.InferenceSession:
    options = session_options(ort)
    for name, values in initializers.items():
        options.add_initializer(name, values)
    options_by_provider = [CUDA_OPTIONS if provider == CUDA else {} for provider in providers]
    try:
        return ort.InferenceSession(graph, options, providers, options_by_provider)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        reason = " ".join(str(error).split())
        raise BundleError(file, "a graph that ONNX Runtime loads", reason, "build the bundle again") from None


def _providers(device: str) -> list[str]:
    if device == "cpu":
        return [CPU]
    if CUDA in ort.get_available_providers():
        return [CUDA, CPU]
    _without_cuda(
        device, "this onnxruntime is built without CUDA; install the extra service-cuda in its place"
    )
    return [CPU]


def _without_cuda(device: str, reason: str) -> None:
    if device == "cuda-required":
        raise NoCuda(reason)
    logger.warning("running on the CPU although device is cuda: %s", reason)


def _check_tensors(found: Sequence[Any], expected: tuple[Tensor, ...], file: str, what: str) -> None:
    """Raises BundleError unless the graph's inputs or outputs are those of the manifest."""
    described = [
        _describe(tensor.name, f"tensor({_ort_type(tensor.dtype)})", tensor.shape) for tensor in expected
    ]
    actual = [_describe(node.name, node.type, node.shape) for node in found]
    if not actual or actual != described:
        number = f"the {what}s" if len(described) > 1 else f"the one {what}"
        raise BundleError(
            file,
            f"a graph with {number} {', '.join(described) or '(none)'}",
            ", ".join(actual) or "none",
            "build the bundle again",
        )


def _ort_type(dtype: str) -> str:
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)


def _describe(name: str, kind: str, shape: Sequence[int | str | None]) -> str:
    sizes = ", ".join(str(size) if isinstance(size, int) else "batch" for size in shape)
    return f"{name}: {kind} [{sizes}]"
