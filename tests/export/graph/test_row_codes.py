"""Narrow rows: a graph decodes them as a loop over bits does, and layers behind it see the same codes."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph.editing import GraphEditor, constant_of
from export.graph.int8_tables import Forms, quantize_tables
from export.graph.onnx import export_onnx, serialize
from export.graph.quantize import quantize_int8
from export.graph.row_codes import WIDTHS, Form, codes_of, decoded, form_of, pack, row_bytes
from export.graph.row_widths import mixed_rows, narrow_rows
from export.graph.runtime import open_session, run_graph
from export.graph.table_lookups import large_tables
from export.graph.tables import tables_in
from export.judge.parity import check_batch_invariance
from models.fields import Field
from service.bundle.graph_check import check_graph
from tests.export.graph.sharing import check_shared, columns_of_context, random_ids
from tests.export.small_models import make_model

MIXED = (
    Field("ad", 290, role="candidate"),
    Field("site", 41),
    Field("history", 290, width=4, same_values_as="ad"),
    Field("hour", 5),
    Field("hashed", 64, storage="hashed", collisions=4, role="candidate"),
    Field("qr", 60, storage="qr", collisions=4),
)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_graph_decodes_rows_as_a_loop_over_bits_does(data: st.DataObject) -> None:
    columns, numbers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 11))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=columns, max_size=columns))
    widths = data.draw(st.lists(st.sampled_from(WIDTHS), min_size=columns, max_size=columns))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = draw.choice([0.0, 1e-3, 1.0, 300.0], (sum(sizes), 1))
    values = (draw.normal(size=(sum(sizes), numbers)) * scale).astype(np.float32)
    firsts = np.cumsum([0, *sizes])[:-1]
    forms = [
        form_of(np.abs(values[first : first + size]).max() * draw.choice([1.0, 0.4]), bits)
        for first, size, bits in zip(firsts, sizes, widths, strict=True)
    ]
    ids = draw.integers(0, sizes, (7, columns)).astype(np.int32)
    editor = GraphEditor.of_bytes(a_lookup(values, firsts.astype(np.int32)))
    quantize_tables(editor, {"table": forms})
    (found,) = open_session(serialize(editor.proto())).run(None, {"ids": ids})
    naive = [
        [naively_read(values[firsts[c] + row[c]], forms[c]) for c in range(columns)] for row in ids.tolist()
    ]
    assert np.array_equal(found, np.array(naive, np.float32))


def naively_read(row: NDArray[np.float32], form: Form) -> list[np.float32]:
    """Each number rounded to a whole number of steps, written into bits, and taken from them again."""
    size, mask = row_bytes(len(row), form.bits), (1 << form.bits) - 1
    words = [0] * size
    steps_of = []
    for at, number in enumerate(row):
        inverse = np.float32(1) / form.scale if form.scale else np.float32(0)
        steps = int(np.clip(round(float(np.float32(number * inverse) / form.step)), -form.limit, form.limit))
        part, byte = divmod(at, size)
        words[byte] |= (steps + form.limit + 1) << (8 - form.bits * (part + 1))
        steps_of.append(steps)
    read = []
    for at in range(len(row)):
        part, byte = divmod(at, size)
        read.append(((words[byte] >> (8 - form.bits * (part + 1))) & mask) - form.limit - 1)
    assert read == steps_of
    packed = pack(codes_of(row[None], form), form.bits)[0].tolist()
    assert [word | padding_of(byte, len(row), size, form.bits) for byte, word in enumerate(words)] == packed
    return [np.float32(steps * form.step) * form.scale for steps in read]


def padding_of(byte: int, numbers: int, size: int, bits: int) -> int:
    """The zero codes of a byte's places that no number has."""
    free = [part for part in range(8 // bits) if part * size + byte >= numbers]
    return sum((128 >> (8 - bits)) << (8 - bits * (part + 1)) for part in free)


def a_lookup(values: NDArray[np.float32], firsts: NDArray[np.int32]) -> bytes:
    """table[ids + firsts] + 0: the addition takes values, and no codes."""
    shape = [len(firsts), values.shape[1]]
    nodes = [
        helper.make_node("Add", ["ids", "firsts"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["found"]),
        helper.make_node("Add", ["found", "zeros"], ["logits"]),
    ]
    constants = {"table": values, "firsts": firsts, "zeros": np.zeros(shape, np.float32)}
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", len(firsts)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *shape])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    encoded: bytes = model.SerializeToString()
    return encoded


@functools.cache
def small_graph(name: str = "deep_fwfm") -> bytes:
    options = {"hidden_units": (64, 48)} if name == "deep_fwfm" else {}
    return export_onnx(make_model(name, MIXED, dim=10, **options), sum(field.width for field in MIXED))


IDS = random_ids(MIXED, 1200)


@pytest.mark.parametrize("widths", [(4,), (2, 8, 4)])
def test_int8_layers_see_the_codes_that_wide_rows_would_give_them(widths: tuple[int, ...]) -> None:
    """Rows that hold only multiples of the narrow step: written in bytes they must give the same logits."""
    forms = {
        table.name: [
            form_of(np.abs(table.values[table.rows_of(segment)]).max(), widths[segment % len(widths)])
            for segment in range(len(table.starts))
        ]
        for table in large_tables(GraphEditor.of_bytes(small_graph()))
    }
    rounded = with_rounded_rows(small_graph(), forms)
    bytes_ = {name: [Form(8, form.scale) for form in own] for name, own in forms.items()}
    narrow, wide = (quantize_int8(rounded, IDS[:400], one) for one in (forms, bytes_))
    assert narrow is not None
    assert wide is not None
    assert len(narrow) < len(wide)
    assert np.array_equal(run_graph(narrow, IDS), run_graph(wide, IDS))


def with_rounded_rows(graph: bytes, forms: Forms) -> bytes:
    editor = GraphEditor.of_bytes(graph)
    for table in large_tables(editor, 0.0):
        values = table.values.copy()
        for segment, form in enumerate(forms.get(table.name, ())):
            own = table.rows_of(segment)
            values[own] = decoded(codes_of(values[own], form), form)
        constant = numpy_helper.from_array(values, table.name)
        model = onnx.load_model_from_string(graph)
        (held,) = (one for one in model.graph.initializer if one.name == table.name)
        held.CopyFrom(constant)
        graph = model.SerializeToString()
    return graph


@pytest.mark.parametrize("name", ["deep_fwfm", "fwfm", "fm"])
def test_narrow_rows_do_as_wide_ones_in_any_batch_and_with_a_shared_context(name: str) -> None:
    graph = small_graph(name)
    for rows in (narrow_rows(graph, IDS, 4), mixed_rows(graph, IDS, 0.01)):
        int8 = quantize_int8(graph, IDS[:400], rows.forms)
        assert int8 is not None
        check_graph(int8, "model.int8.onnx")
        check_batch_invariance(int8, IDS[:300])
        check_shared(int8, columns_of_context(MIXED), MIXED)
        rounded = run_graph(with_rounded_rows(graph, rows.forms), IDS)
        assert np.corrcoef(run_graph(int8, IDS), rounded)[0, 1] > 0.999


def test_mixed_rows_save_bytes_within_the_loss_and_spare_what_matters() -> None:
    """The field whose rows are a twenty times larger loses most by narrow ones; zeros lose nothing."""
    fields = tuple(Field(f"f{number}", 400) for number in range(5))
    model = make_model("fwfm", fields, dim=12)
    model.embedding.table.weight.data[:400] *= 20.0
    model.embedding.table.weight.data[400:800] = 0.0
    graph, ids = export_onnx(model, 5), random_ids(fields, 1500)
    tight, loose = mixed_rows(graph, ids, 0.001), mixed_rows(graph, ids, 0.02)
    assert sum(one.bytes for one in loose.segments) < sum(one.bytes for one in tight.segments)
    assert tight.loss < loose.loss
    bits = {one.columns[0]: one.form.bits for one in loose.segments if one.numbers == 12}
    assert bits[1] == 2
    assert bits[0] == max(bits.values()) > 2
    assert mixed_rows(graph, ids, 0.02) == loose
    assert {one.form.bits for one in mixed_rows(graph, ids, 1e-9).segments if one.columns != (1,)} == {8}


def test_half_the_bytes_of_a_table_and_none_of_rows_of_one_number() -> None:
    fields = tuple(Field(f"f{number}", 3_000) for number in range(4))
    for name, share in (("fwfm", 0.51), ("lr", 1.0)):
        options = {"dim": 12} if name == "fwfm" else {}
        graph = export_onnx(make_model(name, fields, **options), 4)
        ids = random_ids(fields, 500)
        wide, narrow = (
            sum(
                constant_of(GraphEditor.of_bytes(one).graph.initializers[table]).nbytes
                for table in tables_in(one)
            )
            for one in (
                quantize_int8(graph, ids),
                quantize_int8(graph, ids, narrow_rows(graph, ids, 4).forms),
            )
        )
        assert narrow <= share * wide
        assert narrow >= (share - 0.02) * wide
