"""Graphs of every APG model: equal to PyTorch, in any batch, in INT8, with shared context."""

from __future__ import annotations

import pytest

from tests.export.graph.zoo import (  # noqa: F401
    ADAPTIVE,
    Graphs,
    check_that_equal_weights_give_equal_bytes,
    graphs,
    test_a_service_accepts_the_graphs,
    test_dynamic_int8_is_near_float_alone_and_in_company,
    test_int8_in_torch_is_the_same_and_can_be_trained,
    test_int8_is_near_float_and_keeps_its_auc,
    test_no_bit_depends_on_the_batch,
    test_the_graph_equals_torch,
    test_the_graph_is_the_model_and_nothing_else,
    test_the_shared_context_graph_equals_it,
)

CASES = [(name, "all-kinds") for name in ADAPTIVE]
EXPORTED_TWICE = ("apg_dnn",)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def zoo(request: pytest.FixtureRequest) -> Graphs:
    """Module-scoped, so all tests of one model run together."""
    return graphs(*request.param)


@pytest.mark.parametrize("zoo", [(name, "all-kinds") for name in EXPORTED_TWICE], indirect=True, ids="-".join)
def test_equal_weights_give_equal_bytes(zoo: Graphs) -> None:
    check_that_equal_weights_give_equal_bytes(zoo)
