"""Fields and schemas: what they refuse, how renumberings compose, and the round trip through files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.errors import BundleError
from service.bundle.schema import (
    FIRST_ID,
    Bins,
    Field,
    Hashing,
    Kind,
    Role,
    Schema,
    Vocabulary,
)
from service.bundle.schema_files import schema_from_files, schema_to_files
from service.bundle.spelling import Spelling

AB = Vocabulary(("a", "b"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def categorical(name: str = "C1", encoding: Any = AB, **more: Any) -> Field:
    return Field(name, Kind.CATEGORICAL, Role.CONTEXT, encoding, **more)


@st.composite
def fields(draw: st.DrawFn, name: str) -> Field:
    kind = draw(st.sampled_from(Kind))
    encoding: Vocabulary | Hashing | Bins
    if kind is Kind.NUMERIC:
        edges = draw(
            st.sets(st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0), max_size=8)
        )
        encoding = Bins(tuple(sorted(edges)))
    elif draw(st.booleans()):
        encoding = Vocabulary(tuple(draw(st.lists(TEXT, unique=True, max_size=8))))
    else:
        encoding = Hashing(draw(st.integers(1, 20)), draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(1, 4)) if kind is Kind.SEQUENCE else 1
    field = Field(name, kind, draw(st.sampled_from(Role)), encoding, length)
    if draw(st.booleans()):
        rest = st.integers(FIRST_ID, field.base_cardinality - 1)
        count = field.base_cardinality - FIRST_ID
        ids = [0, 1, *draw(st.lists(rest, min_size=count, max_size=count))] if count else [0, 1]
        field = Field(name, kind, field.role, encoding, length, np.array(ids))
    return field


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(TEXT, min_size=1, max_size=5, unique=True))
    return Schema(tuple(draw(fields(name)) for name in names))


@given(schemas())
def test_files_give_back_the_schema(schema: Schema) -> None:
    files = schema_to_files(schema)
    again = schema_from_files(files.__getitem__)
    assert again.columns == schema.columns
    for before, after in zip(schema.fields, again.fields, strict=True):
        assert (before.name, before.kind, before.role, before.encoding, before.max_length) == (
            after.name,
            after.kind,
            after.role,
            after.encoding,
            after.max_length,
        )
        assert before.cardinality == after.cardinality
        if before.renumbering is None:
            assert after.renumbering is None
        else:
            np.testing.assert_array_equal(before.renumbering, after.renumbering)
    assert schema_to_files(again) == files


def test_files_are_numbered_and_readable(schema: Schema) -> None:
    files = schema_to_files(schema)
    assert set(files) == {
        "schema.json",
        "vocabulary/0.json",
        "vocabulary/1.json",
        "vocabulary/1.renumbering.npy",
        "vocabulary/2.renumbering.npy",
        "vocabulary/4.json",
    }
    record = json.loads(files["schema.json"])
    assert (record["missing_id"], record["oov_id"], record["first_id"]) == (0, 1, 2)
    assert [field["name"] for field in record["fields"]] == ["site", "../ad", "hour", "campaign", "seen ☃"]
    assert json.loads(files["vocabulary/0.json"]) == ["a", "b", "7", "\u2028"]
    assert "☃" in files["schema.json"].decode()


def test_columns_follow_the_order_of_fields(schema: Schema) -> None:
    assert schema.columns == 7
    assert schema.column_slices["campaign"] == slice(3, 4)
    assert schema.column_slices["seen ☃"] == slice(4, 7)
    assert schema.field("hour").base_cardinality == 7
    assert schema.field("hour").cardinality == 5


def test_renumberings_compose() -> None:
    schema = Schema((categorical(encoding=Vocabulary(tuple("abcdef"))), categorical("C2")))
    once = schema.renumbered({"C1": np.array([0, 1, 2, 3, 2, 4, 5, 6])})
    twice = once.renumbered({"C1": np.array([0, 1, 2, 2, 3, 4, 4])})
    assert twice.field("C1").renumbering.tolist() == [0, 1, 2, 2, 2, 3, 4, 4]
    assert (once.field("C1").cardinality, twice.field("C1").cardinality) == (7, 5)
    assert twice.field("C2").renumbering is None
    with pytest.raises(ValueError, match=r"of shape \(7,\)"):
        once.renumbered({"C1": np.arange(8)})
    with pytest.raises(ValueError, match="'C9'"):
        once.renumbered({"C9": np.arange(8)})


def sharing() -> Schema:
    """A history before the field with the same values, and a field with its own values."""
    encoding = Vocabulary(tuple("abcd"))
    ids = np.array([0, 1, 2, 3, 2, 4])
    return Schema(
        (
            Field("history", Kind.SEQUENCE, Role.CONTEXT, encoding, 3, ids, "item"),
            categorical("site"),
            Field("item", Kind.CATEGORICAL, Role.CANDIDATE, encoding, renumbering=ids),
        )
    )


def test_fields_with_the_same_values_are_stored_and_loaded_once() -> None:
    files = schema_to_files(sharing())
    assert set(files) == {
        "schema.json",
        "vocabulary/1.json",
        "vocabulary/2.json",
        "vocabulary/2.renumbering.npy",
    }
    schema = schema_from_files(files.__getitem__)
    history, item = schema.field("history"), schema.field("item")
    assert [field.name for field in schema.fields] == ["history", "site", "item"]
    assert (history.kind, history.role, history.max_length) == (Kind.SEQUENCE, Role.CONTEXT, 3)
    assert (history.same_values_as, item.same_values_as) == ("item", None)
    assert history.encoding is item.encoding
    assert history.renumbering.tolist() == item.renumbering.tolist() == [0, 1, 2, 3, 2, 4]
    assert schema_to_files(schema) == files


def test_a_schema_without_shared_values_does_not_mention_them(schema: Schema) -> None:
    assert b"same_values_as" not in schema_to_files(schema)["schema.json"]


SPELLING = Spelling(
    missing=("NA", "\\N"),
    separators={"history": "|"},
    columns={"item": "item_id"},
    format="csv",
    delimiter=";",
    quote="'",
)


def test_how_the_log_wrote_its_values_is_kept() -> None:
    schema = replace(sharing(), spelling=SPELLING)
    files = schema_to_files(schema)
    assert schema_from_files(files.__getitem__).spelling == SPELLING
    assert schema.renumbered({"item": np.arange(5)}).spelling == SPELLING
    assert json.loads(files["schema.json"])["spelling"] == {
        "missing": ["NA", "\\N"],
        "separators": {"history": "|"},
        "columns": {"item": "item_id"},
        "format": "csv",
        "delimiter": ";",
        "quote": "'",
    }


def test_a_schema_of_before_does_not_say_how_the_log_wrote_its_values(schema: Schema) -> None:
    files = schema_to_files(schema)
    assert b"spelling" not in files["schema.json"]
    assert schema_from_files(files.__getitem__).spelling is None


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ({"separators": {"item": "|"}}, "'separators' must name sequences .*'item'"),
        ({"columns": {"ad": "ad_id"}}, "'columns' must name fields .*'ad'"),
        ({"format": "csv"}, "'format' must be given with"),
        ({"format": "xls", "delimiter": ",", "quote": ""}, "format"),
        ({"format": "csv", "delimiter": "\n", "quote": ""}, "'delimiter' must be one ASCII character"),
        ({"format": "csv", "delimiter": "", "quote": ""}, "'delimiter' must be one ASCII character"),
        ({"format": "csv", "delimiter": ",", "quote": ","}, "'quote' must be another ASCII character"),
        ({"missing": [1]}, "missing"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_an_invalid_spelling_is_refused(spelling: dict[str, Any], words: str) -> None:
    files = schema_to_files(sharing())
    record = {**json.loads(files["schema.json"]), "spelling": spelling}
    files["schema.json"] = msgspec.json.encode(record)
    with pytest.raises(BundleError, match=words):
        schema_from_files(files.__getitem__)


def test_renumbering_a_field_renumbers_those_with_its_values() -> None:
    step = np.array([0, 1, 2, 2, 3])
    for named in ({"item": step}, {"item": step, "history": step}):
        schema = sharing().renumbered(named)
        assert schema.field("history").renumbering.tolist() == [0, 1, 2, 2, 2, 3]
        assert schema.field("item").renumbering.tolist() == [0, 1, 2, 2, 2, 3]
    for named in ({"history": step}, {"item": step, "history": np.array([0, 1, 2, 3, 3])}):
        with pytest.raises(ValueError, match="'renumbering' of field 'history' must be that of 'item'"):
            sharing().renumbered(named)


def test_a_renumbering_is_copied_and_read_only() -> None:
    mine = np.array([0, 1, 2, 3])
    field = categorical(renumbering=mine)
    mine[3] = 2
    assert field.renumbering.tolist() == [0, 1, 2, 3]
    assert field.renumbering.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        field.renumbering[3] = 2


@pytest.mark.parametrize(
    ("renumbering", "words"),
    [
        ([1, 0, 2, 3], "0 at 0 and 1 at 1"),
        ([0, 0, 2, 3], "0 at 0 and 1 at 1"),
        ([0, 1, 1, 2], "from 2 to 3"),
        ([0, 1, 2, 0], "from 2 to 3"),
        ([0, 1, 2, 4], "from 2 to 3"),
        ([0, 1, 2, -1], "from 2 to 3"),
        ([0, 1, 2], r"of shape \(4,\)"),
        ([[0, 1, 2, 3]], r"of shape \(4,\)"),
        ([0.0, 1.0, 2.0, 3.0], "array of integers"),
    ],
)
def test_a_wrong_renumbering_is_refused(renumbering: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        categorical(renumbering=np.array(renumbering))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Vocabulary(("a", "b", "a")), "unique .*'a'"),
        (lambda: Vocabulary(("a", "")), "not empty"),
        (lambda: Vocabulary((1,)), "strings"),
        (lambda: Vocabulary(("\ud800",)), "surrogate"),
        (lambda: Hashing(0), "buckets"),
        (lambda: Hashing(2**31), "buckets"),
        (lambda: Hashing(5, -1), "seed"),
        (lambda: Hashing(5, 2**32), "seed"),
        (lambda: Bins((1.0, 1.0)), "increase"),
        (lambda: Bins((0.0, -0.0)), "increase"),
        (lambda: Bins((2.0, 1.0)), "increase"),
        (lambda: Bins((float("nan"),)), "finite"),
        (lambda: Bins((float("inf"),)), "finite"),
        (lambda: categorical(""), "name"),
        (lambda: categorical(encoding=Bins((1.0,))), "Vocabulary or Hashing"),
        (lambda: Field("I1", Kind.NUMERIC, Role.CONTEXT, AB), "Bins"),
        (lambda: categorical(max_length=2), "max_length"),
        (lambda: Field("s", Kind.SEQUENCE, Role.CONTEXT, AB, 0), "max_length"),
        (lambda: Schema(()), "at least one"),
        (lambda: Schema((categorical(), categorical())), "unique .*'C1'"),
        (lambda: Schema((categorical(same_values_as="C2"),)), "'same_values_as' of field 'C1' .*'C2'"),
        (lambda: Schema((categorical(same_values_as="C1"),)), "'same_values_as' of field 'C1'"),
        (
            lambda: Schema((categorical(), categorical("C2", Vocabulary(("a",)), same_values_as="C1"))),
            "'encoding' of field 'C2' must be that of 'C1'",
        ),
        (
            lambda: Field("I1", Kind.NUMERIC, Role.CONTEXT, Bins(()), same_values_as="C1"),
            "absent in a numeric",
        ),
    ],
)
def test_contradictory_arguments_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(array))
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def huge_header() -> bytes:
    data = npy(np.arange(11, dtype=np.int32))
    return data.replace(b"(11,), ", b"(9999999999999,), ").replace(b" " * 12 + b"\n", b"\n")


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("vocabulary/1.json", b'["a0","a1"]'),
        ("vocabulary/1.json", b'["a0","a1","a2","a3","a4","a5","a6","a7","a7"]'),
        ("vocabulary/1.json", b'["a0"'),
        ("vocabulary/1.json", b'{"a0": 1}'),
        ("vocabulary/1.json", b"\xff"),
        ("vocabulary/1.renumbering.npy", b""),
        ("vocabulary/1.renumbering.npy", b"\x93NUMPY"),
        ("vocabulary/1.renumbering.npy", b"not an array"),
        ("vocabulary/1.renumbering.npy", npy(np.arange(10, dtype=np.int32))),
        ("vocabulary/1.renumbering.npy", npy(np.arange(11, dtype=np.int64))),
        ("vocabulary/1.renumbering.npy", npy(np.arange(11, dtype=np.float32))),
        ("vocabulary/1.renumbering.npy", npy(np.arange(11, dtype=">i4"))),
        ("vocabulary/1.renumbering.npy", npy(np.arange(11, dtype=np.int32))[:-1]),
        ("vocabulary/1.renumbering.npy", npy(np.arange(11, dtype=np.int32)) + b"\0"),
        ("vocabulary/1.renumbering.npy", npy(np.full(11, 1, np.int32))),
        ("vocabulary/1.renumbering.npy", pickled()),
        ("vocabulary/1.renumbering.npy", huge_header()),
    ],
)
def test_an_invalid_file_is_named(schema: Schema, file: str, data: bytes) -> None:
    files = {**schema_to_files(schema), file: data}
    with pytest.raises(BundleError) as caught:
        schema_from_files(files.__getitem__)
    assert caught.value.file == file
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(first_id=1), "missing, oov and first ids"),
        (lambda record: record.update(fields=[]), "at least one field"),
        (lambda record: record["fields"].append(record["fields"][2] | {"renumbering": None}), "cardinality"),
        (lambda record: record["fields"].append(record["fields"][3]), "unique"),
        (lambda record: record["fields"][0].update(colour="red"), "unknown field `colour`"),
        (lambda record: record["fields"][0].update(kind="text"), "kind"),
        (lambda record: record["fields"][0]["encoding"].update(file="../../etc/passwd"), "vocabulary/0.json"),
        (
            lambda record: record["fields"][1].update(renumbering="vocabulary/2.renumbering.npy"),
            "1.renumbering",
        ),
        (lambda record: record["fields"][0]["encoding"].update(values=3), "number of values"),
        (lambda record: record["fields"][0].update(cardinality=9), "cardinality"),
        (lambda record: record["fields"][2]["encoding"].update(edges=[3, 2]), "increase"),
        (lambda record: record["fields"][3]["encoding"].update(buckets=0), "buckets"),
        (lambda record: record["fields"][0].update(max_length=2), "max_length"),
    ],
)
def test_an_invalid_schema_is_refused(schema: Schema, change: Any, words: str) -> None:
    files = schema_to_files(schema)
    record = json.loads(files["schema.json"])
    change(record)
    files["schema.json"] = msgspec.json.encode(record)
    with pytest.raises(BundleError, match=words):
        schema_from_files(files.__getitem__)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["fields"][0].update(same_values_as="nobody"), "of its own .*'nobody'"),
        (lambda record: record["fields"][0].update(same_values_as="history"), "of its own .*'history'"),
        (lambda record: record["fields"][0]["encoding"].update(values=3), "'encoding' of field 'history'"),
        (lambda record: record["fields"][0].update(renumbering=None), "'renumbering' of field 'history'"),
        (lambda record: record["fields"][0].update(cardinality=4), "'cardinality' of field 'history'"),
        (lambda record: record["fields"][0].update(same_values_as="site"), "'encoding' of field 'history'"),
    ],
)
def test_invalid_shared_values_are_refused(change: Any, words: str) -> None:
    files = schema_to_files(sharing())
    record = json.loads(files["schema.json"])
    change(record)
    files["schema.json"] = msgspec.json.encode(record)
    with pytest.raises(BundleError, match=words):
        schema_from_files(files.__getitem__)
