"""The options of ONNX Runtime that an export measures with and a service runs with."""

from __future__ import annotations

import onnxruntime

from service.bundle.runtime_options import session_options


def test_one_thread_runs_a_graph_and_does_not_spin() -> None:
    options = session_options(onnxruntime)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"
