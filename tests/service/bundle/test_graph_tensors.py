"""Tables read from the bytes of a graph equal those that the onnx package reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from service.bundle.graph_tensors import tables_of


def graph_of(*tensors: onnx.TensorProto) -> bytes:
    return helper.make_model(helper.make_graph([], "g", [], [], list(tensors))).SerializeToString()


@given(st.data())
def test_tables_are_what_was_written(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float16, np.uint8, np.int8]))
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    tables = {name: data.draw(hnp.arrays(dtype, shapes)) for name in ("table", "é", "")}
    graph = graph_of(*(numpy_helper.from_array(values, name) for name, values in tables.items()))
    found = tables_of(graph, ["table", "é"])
    assert found.keys() == {"table", "é"}
    for name, values in found.items():
        assert values.dtype == dtype
        assert not values.flags.writeable
        np.testing.assert_array_equal(values, tables[name])


def test_a_missing_or_invalid_table_is_named() -> None:
    table = numpy_helper.from_array(np.ones((2, 2), np.float32), "table")
    with pytest.raises(ValueError, match="no tensor is named other"):
        tables_of(graph_of(table), ["other"])
    short = onnx.TensorProto(name="table", data_type=1, dims=[3], raw_data=b"\0" * 8)
    numbers = helper.make_tensor("table", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    for wrong in (short, numbers, onnx.TensorProto(name="table", data_type=1, dims=[1])):
        with pytest.raises(ValueError, match="tensor table is no table of numbers"):
            tables_of(graph_of(wrong), ["table"])
