"""The options of ONNX Runtime that an export measures with and a service runs with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from service.bundle.runtime_options import quick_run, session_options
from tests.tiny_bundle import tiny_graph, tiny_schema


def test_one_thread_runs_a_graph_and_does_not_spin() -> None:
    options = session_options(onnxruntime)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


def test_a_quick_run_is_a_run() -> None:
    session = onnxruntime.InferenceSession(tiny_graph(tiny_schema()), session_options(onnxruntime))
    ids = np.zeros((3, tiny_schema().columns), np.int32)
    expected = session.run(["logits"], {"ids": ids})
    for given in (session, SimpleNamespace(run=session.run)):  # the second has nothing within
        run = quick_run(onnxruntime, given)
        for _ in range(2):
            (logits,) = run(["logits"], {"ids": ids})
            np.testing.assert_array_equal(logits, expected[0])
        with pytest.raises(Exception, match="ids"):
            run(["logits"], {"id": ids})
