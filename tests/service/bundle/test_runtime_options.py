"""The options of ONNX Runtime that an export measures with and a service runs with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from service.bundle.runtime_options import quick_run, session_options, takes_one_index
from tests.tiny_bundle import tiny_graph, tiny_schema


def test_one_thread_runs_a_graph_and_does_not_spin() -> None:
    options = session_options(onnxruntime)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


@pytest.mark.parametrize("kind", ["session", "without-an-inner-one"])
def test_a_quick_run_is_a_run_for_any_thread(kind: str) -> None:
    session = onnxruntime.InferenceSession(tiny_graph(tiny_schema()), session_options(onnxruntime))
    ids = np.zeros((3, tiny_schema().columns), np.int32)
    (expected,) = session.run(["logits"], {"ids": ids})
    run = quick_run(onnxruntime, session if kind == "session" else SimpleNamespace(run=session.run))
    del session  # the inner one needs no outer one
    with ThreadPoolExecutor(4) as pool:
        for (logits,) in pool.map(lambda _: run(["logits"], {"ids": ids}), range(200)):
            np.testing.assert_array_equal(logits, expected)
    # The public run names the input that is missing, the inner one the first that is wrong.
    for wrong, reason in (({"id": ids}, r"\bids?\b"), ({}, "ids"), ({"ids": ids[:, 1:]}, "dimensions")):
        with pytest.raises(Exception, match=reason):
            run(["logits"], wrong)


def test_an_index_is_known_by_its_name_and_its_axis() -> None:
    def asked(*inputs: tuple[str, list[str | int]]) -> bool:
        values = [SimpleNamespace(name=name, shape=shape) for name, shape in inputs]
        return takes_one_index(SimpleNamespace(get_inputs=lambda: values))

    assert asked(("candidate_ids", ["rows", 2]), ("request_index", ["one_or_rows"]))
    assert not asked(("candidate_ids", ["rows", 2]), ("request_index", ["rows"]))
    assert not asked(("request_index", ["rows"]), ("table", ["one_or_rows"]))
    assert not asked(("request_index", ["one_or_rows", 1]))
