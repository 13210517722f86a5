"""Runs a bundle's graph with ONNX Runtime, the only file that imports it: ids [n, columns] -> logits [n].

One thread, no spinning: a service is one process a core, and a second thread costs the tail more than it
gains. It knows no schema, no calibration and no request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.bundle.errors import BundleError, show
from service.bundle.manifest import Graph, Tensor
from service.errors import BadConfiguration
from service.graph_tensors import tensors_of

logger = logging.getLogger("bidlight")

WARM_UP_ROWS = (1, 2, 16, 128)


class Session:
    """One graph, made from bytes that were verified before, so that no file can change in between.

    No padding of lone rows: ONNX Runtime 1.31 gives bit-identical logits for a row alone and among others
    (Gemm and MatMul of 96 to 400 columns, float32 and static INT8), which tests/service holds.

    `device` is `cpu`, `cuda` (the CPU with a warning, where there is no GPU to be had) or `cuda-required`.
    Raises BundleError for a graph that does not load, is not what the manifest says, reads a file or holds
    weights that are no numbers; BadConfiguration for a GPU that is required and absent.
    """

    def __init__(self, graph: bytes, description: Graph, device: str = "cpu") -> None:
        _check_weights(graph, description.file)
        self._file = description.file
        self._session = _open(graph, description, device)
        self.provider = self._session.get_providers()[0]
        _check_tensors(self._session.get_inputs(), description.inputs, description.file, "input")
        _check_tensors(self._session.get_outputs(), description.outputs, description.file, "output")
        self._input = description.inputs[0].name
        self._outputs = [description.outputs[0].name]
        self._dtype = np.dtype(description.inputs[0].dtype)
        columns = description.inputs[0].shape[1]
        self.columns: int = columns if columns is not None else 0

    def run(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits [n] of ids [n, columns]."""
        logits: NDArray[np.float32] = self._session.run(
            self._outputs, {self._input: ids.astype(self._dtype, copy=False)}
        )[0]
        return logits

    def warm_up(self, max_rows: int, largest_ids: Sequence[int]) -> None:
        """Run batches of all sizes: no request pays for what is done once; raises BundleError.

        The rows hold the largest id of every column, [columns]: a table that is too short shows at once.
        """
        row = np.array(largest_ids, np.int32)
        for rows in sorted({min(rows, max_rows) for rows in (*WARM_UP_ROWS, max_rows)}):
            try:
                logits = self.run(np.tile(row, (rows, 1)))
            except Exception as error:  # ONNX Runtime's errors have no class of their own in common
                found = " ".join(str(error).split())
                raise BundleError(self._file, "a graph that runs", found, "build the bundle again") from None
            if logits.shape != (rows,):
                expected = f"a graph that gives {rows} logits for {rows} rows"
                raise BundleError(self._file, expected, str(logits.shape), "build the bundle again")


def _check_weights(graph: bytes, file: str) -> None:
    """Raises BundleError for a tensor that lies in a file of its own, or holds what is no number."""
    try:
        for tensor in tensors_of(graph):
            if tensor.is_external:
                expected, found = "a graph that holds all its data", "in a file of its own"
                remedy = "export it without external data"
            elif not tensor.is_finite:
                expected, found = "a graph of finite weights", "with nan or infinite numbers"
                remedy = "train and export again"
            else:
                continue
            raise BundleError(file, expected, f"tensor {show(tensor.name)} {found}", remedy)
    except ValueError as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(file, "an ONNX graph", str(error), "build the bundle again") from None


def _open(graph: bytes, description: Graph, device: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(graph, options, providers=_providers(device))
    except BadConfiguration:
        raise
    except Exception as error:  # ONNX Runtime's errors have no class of their own in common
        reason = " ".join(str(error).split())
        raise BundleError(
            description.file, "a graph that ONNX Runtime loads", reason, "build the bundle again"
        ) from None
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        _without_cuda(device, "ONNX Runtime could not start CUDA (its libraries or the driver are missing)")
    return session


def _providers(device: str) -> list[str]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in ort.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    _without_cuda(
        device, "this onnxruntime is built without CUDA; install the extra service-cuda in its place"
    )
    return ["CPUExecutionProvider"]


def _without_cuda(device: str, reason: str) -> None:
    if device == "cuda-required":
        raise BadConfiguration(f"'device' must be cpu or cuda here (got 'cuda-required'); {reason}")
    logger.warning("running on the CPU although device is cuda: %s", reason)


def _check_tensors(found: Sequence[Any], expected: tuple[Tensor, ...], file: str, what: str) -> None:
    """Raises BundleError unless the graph's inputs or outputs are those of the manifest, one of each."""
    described = [
        _describe(tensor.name, f"tensor({_ort_type(tensor.dtype)})", tensor.shape) for tensor in expected
    ]
    actual = [_describe(node.name, node.type, node.shape) for node in found]
    if len(actual) != 1 or actual != described:
        raise BundleError(
            file,
            f"a graph with the one {what} {', '.join(described) or '(none)'}",
            ", ".join(actual) or "none",
            "build the bundle again",
        )


def _ort_type(dtype: str) -> str:
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)


def _describe(name: str, kind: str, shape: Sequence[int | str | None]) -> str:
    sizes = ", ".join(str(size) if isinstance(size, int) else "batch" for size in shape)
    return f"{name}: {kind} [{sizes}]"
