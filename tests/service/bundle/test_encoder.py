"""The four entry points of the encoder agree with each other and with a naive encoder, for any value."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.lookups import CACHED_TEXTS, MANY
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary

EDGES = (-1e300, -1.0, 0.0, 0.1, 7.0, 2.0**53, 2.0**53 + 2, 1e308)
VALUES = ("a", "b", "7", "-3", "True", "None", "nan", "\0", "é", "\u2028", str(10**40))


def _fields(role: Role) -> list[Field]:
    """Every kind and encoding, without and with a renumbering."""
    plain = [
        Field(f"{role} vocabulary", Kind.CATEGORICAL, role, Vocabulary(VALUES)),
        Field(f"{role} bins", Kind.NUMERIC, role, Bins(EDGES)),
        Field(f"{role} list", Kind.SEQUENCE, role, Vocabulary(VALUES), max_length=3),
        Field(f"{role} hashing", Kind.CATEGORICAL, role, Hashing(13, seed=5)),
        Field(f"{role} hashed list", Kind.SEQUENCE, role, Hashing(13), max_length=1),
    ]
    draw = np.random.default_rng(0)
    renumbered = []
    for field in plain:
        ids = np.r_[0, 1, draw.integers(2, field.base_cardinality, field.base_cardinality - 2)]
        renumbered.append(
            Field(f"{field.name} renumbered", field.kind, role, field.encoding, field.max_length, ids)
        )
    return plain + renumbered


SCHEMA = Schema(
    tuple(
        field for pair in zip(_fields(Role.CONTEXT), _fields(Role.CANDIDATE), strict=True) for field in pair
    )
)
ENCODER = Encoder(SCHEMA)


class RefusedError(Exception):
    """The naive encoder has no id for a value."""


def naive_ids(field: Field, value: Any) -> list[int]:
    """The specification, value by value."""
    if value is None or value == "":
        return [0] * field.max_length
    if field.kind is Kind.SEQUENCE:
        if not isinstance(value, list):
            raise RefusedError
        kept = value[-field.max_length :]
        return [naive_id(field, each) for each in kept] + [0] * (field.max_length - len(kept))
    return [naive_id(field, value)]


def naive_id(field: Field, value: Any) -> int:
    """The id of one element."""
    if isinstance(field.encoding, Bins):
        if type(value) not in (int, float) or abs(value) > sys.float_info.max or math.isnan(value):
            raise RefusedError
        base = 2 + sum(edge <= float(value) for edge in field.encoding.edges)
    elif value is None or value == "":
        base = 0
    elif type(value) is not str and (type(value) is not int or abs(value) >= 2**2048):
        raise RefusedError
    elif isinstance(field.encoding, Hashing):
        text = str(value).encode("utf-8", "surrogatepass")
        base = 2 + crc32(text, field.encoding.seed) % field.encoding.buckets
    else:
        text = str(value)
        base = 2 + field.encoding.values.index(text) if text in field.encoding.values else 1
    return base if field.renumbering is None else int(field.renumbering[base])


scalars = st.one_of(
    st.none(),
    st.sampled_from(VALUES),
    st.text(max_size=4),
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    st.integers(-10, 10),
    st.integers(),
    st.integers(0, 3).map(lambda power: 2**53 + power),
    st.sampled_from([10**400, -(10**400), 10**5000, 2**2048, 2**2048 - 1, 2**64, 10**40]),
    st.sampled_from(EDGES),
    st.floats(),
    st.booleans(),
)
lists = st.lists(st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=6)
odd = st.one_of(
    scalars, lists, st.tuples(st.just([])), st.dictionaries(st.text(max_size=1), scalars, max_size=1)
)
likely = {
    Kind.CATEGORICAL: st.one_of(st.none(), st.sampled_from(VALUES), st.text(), st.integers()),
    Kind.NUMERIC: st.one_of(
        st.none(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(2**70), 2**70),
        st.sampled_from(EDGES),
    ),
    Kind.SEQUENCE: st.one_of(
        st.none(),
        st.lists(st.one_of(st.sampled_from(VALUES), st.text(max_size=2), st.integers()), max_size=6),
    ),
}


def encode_columns(encoder: Encoder, context: Any, columns: Any, rows: int) -> np.ndarray:
    """ids [rows, columns] of a request whose candidates come as columns."""
    return encoder.join(encoder.encode_context(context), encoder.encode_candidate_columns(columns, rows))


def outcome(call: Callable[[], np.ndarray]) -> Any:
    """The ids as lists, or which field and row were refused."""
    try:
        ids = call()
    except InvalidValue as error:
        message = error.message
        assert "\n" not in message
        assert 0 < len(message.encode()) < 1000
        return error.field, error.row
    assert ids.dtype == np.int32
    assert ids.flags.c_contiguous
    return ids.tolist()


@given(st.data())
def test_all_entry_points_agree_on_any_values(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(SCHEMA.fields))
    values = data.draw(st.lists(st.one_of(likely[field.kind], odd), min_size=1, max_size=MANY + 4))
    expected: Any = []
    for row, value in enumerate(values):
        try:
            expected.append(naive_ids(field, value))
        except RefusedError:
            expected = (field.name, row)
            break
    place = SCHEMA.column_slices[field.name]

    def column_of(ids: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(ids[..., place])

    assert outcome(lambda: ENCODER.encode_column(field.name, values)) == expected
    refused_row = expected[1] if isinstance(expected, tuple) else None
    for row, value in enumerate(values):
        alone = {field.name: value}
        try:
            ids: Any = naive_ids(field, value)
        except RefusedError:
            ids = None
        row_ids = outcome(lambda alone=alone: column_of(ENCODER.encode_row(alone)))
        assert row_ids == (ids if ids is not None else (field.name, None))
        if field.role is Role.CONTEXT:
            for rows in (1, 2):
                refused = (field.name, None)
                both = [ids] * rows if ids is not None else refused
                assert outcome(lambda a=alone, n=rows: column_of(ENCODER.encode_request(a, [{}] * n))) == both
                assert outcome(lambda a=alone, n=rows: column_of(encode_columns(ENCODER, a, {}, n))) == both
        if row == refused_row:
            break
    if field.role is Role.CANDIDATE:
        candidates = [{field.name: value} for value in values]
        assert outcome(lambda: column_of(ENCODER.encode_request({}, candidates))) == expected
        columns = {field.name: values}
        assert outcome(lambda: column_of(encode_columns(ENCODER, {}, columns, len(values)))) == expected


@given(st.data(), st.integers(0, MANY + 4))
def test_whole_requests_agree(data: st.DataObject, rows: int) -> None:
    def mapping(role: Role) -> dict[str, Any]:
        names = {field.name: likely[field.kind] for field in SCHEMA.fields if field.role is role}
        return data.draw(st.fixed_dictionaries({}, optional=names))

    context = mapping(Role.CONTEXT)
    different = [mapping(Role.CANDIDATE) for _ in range(min(rows, 3))]
    candidates = [different[row % 3] for row in range(rows)]
    by_row = [ENCODER.encode_row({**context, **candidate}) for candidate in candidates]
    expected = np.array(by_row, np.int32).reshape(rows, SCHEMA.columns)
    columns = {name: [each.get(name) for each in candidates] for name in ENCODER.candidate_names}
    np.testing.assert_array_equal(ENCODER.encode_request(context, candidates), expected)
    np.testing.assert_array_equal(encode_columns(ENCODER, context, columns, rows), expected)
    for field in SCHEMA.fields:
        values = columns.get(field.name, [context.get(field.name)] * rows)
        ids = ENCODER.encode_column(field.name, values)
        np.testing.assert_array_equal(ids, expected[:, SCHEMA.column_slices[field.name]])
        assert not ids.size or 0 <= ids.min() <= ids.max() < field.cardinality


def test_a_field_is_read_only_from_the_mapping_of_its_role() -> None:
    schema = Schema(
        (
            Field("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("a",))),
            Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(("a",))),
        )
    )
    encoder = Encoder(schema)
    assert (encoder.context_names, encoder.candidate_names) == ({"site"}, {"ad"})
    everywhere = {"site": "a", "ad": "a", "unknown": object()}
    assert encoder.encode_request({"ad": "a"}, [{"site": "a"}]).tolist() == [[0, 0]]
    assert encoder.encode_request(everywhere, [everywhere]).tolist() == [[2, 2]]
    columns = {"site": ["a"], "ad": ["a"], "unknown": [1, 2, 3]}
    assert encode_columns(encoder, everywhere, columns, 1).tolist() == [[2, 2]]


def test_an_integer_and_its_digits_are_one_feature() -> None:
    assert ENCODER.encode_column("context vocabulary", [7, "7", -3, "-3", 8, "07"])[:, 0].tolist() == [
        4,
        4,
        5,
        5,
        1,
        1,
    ]


@pytest.mark.parametrize("encoding", [Vocabulary(VALUES), Hashing(13)])
def test_fields_with_the_same_values_agree_and_share_memory(encoding: Vocabulary | Hashing) -> None:
    ids = np.r_[0, 1, np.random.default_rng(1).integers(2, 2 + encoding.size, encoding.size)]
    encoder = Encoder(
        Schema(
            (
                Field("history", Kind.SEQUENCE, Role.CONTEXT, encoding, 2, ids, same_values_as="item"),
                Field("item", Kind.CATEGORICAL, Role.CANDIDATE, encoding, renumbering=ids),
            )
        )
    )
    for value in (*VALUES, 7, "never seen", None, ""):
        found = encoder.encode_request({"history": [value]}, [{"item": value}])
        assert found[0, 0] == found[0, 2]
    history, item = (encoder._columns[name].lookup for name in ("history", "item"))
    assert history.ids is item.ids
    with pytest.raises(InvalidValue, match=r"^'history' must be a list of .* \(got 1.5 in it\)") as caught:
        encoder.encode_request({"history": ["a", 1.5]}, [{}])
    assert caught.value.field == "history"


def test_one_and_true_are_not_one_feature() -> None:
    encoder = Encoder(Schema((Field("C", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("1", "True"))),)))
    assert encoder.encode_column("C", [1, "1", "True"]).tolist() == [[2], [2], [3]]
    for value in (True, 1.0):
        with pytest.raises(InvalidValue, match="string or an integer"):
            encoder.encode_column("C", ["1", value])


def test_hashes_beyond_the_cache_are_the_same() -> None:
    field = Field("C", Kind.CATEGORICAL, Role.CONTEXT, Hashing(1000))
    encoder = Encoder(Schema((field,)))
    values = [str(number) for number in range(CACHED_TEXTS + 1000)] + ["long " * 100]
    first, again = encoder.encode_column("C", values), encoder.encode_column("C", values)
    np.testing.assert_array_equal(first, again)
    assert first[:, 0].tolist() == [2 + crc32(value.encode()) % 1000 for value in values]


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize(
    ("name", "value", "expected", "found", "remedy"),
    [
        ("bins", "twelve", "a number", "'twelve'", "leave it out when it is missing"),
        ("bins", 10**400, "a finite number", "an integer of 1329 bits", "leave it out when it is missing"),
        ("vocabulary", 1.5, "a string or an integer", "1.5", "send it as a string"),
        ("vocabulary", ["a"], "a string or an integer", "a list of 1", "send it as a string"),
        ("list", "a", "a list of strings and integers", "'a'", "put even a single element in a list"),
        (
            "list",
            ["a", {"id": 1}],
            "a list of strings and integers",
            "an object of 1 in it",
            "send it as a string",
        ),
    ],
)
def test_a_refusal_names_field_row_and_reason(
    name: str, value: Any, expected: str, found: str, remedy: str, rows: int
) -> None:
    candidates: list[dict[str, Any]] = [{} for _ in range(rows)]
    candidates[1] = {f"candidate {name}": value}
    with pytest.raises(InvalidValue) as caught:
        ENCODER.encode_request({}, candidates)
    assert (caught.value.field, caught.value.row) == (f"candidate {name}", 1)
    assert caught.value.message == f"'candidate {name}' must be {expected} (got {found}); {remedy}"


@pytest.mark.parametrize("values", [["a"], ["a", "b", "7"], [], "ab", 5, {"a": "b"}])
def test_a_column_of_another_length_is_refused(values: Any) -> None:
    with pytest.raises(InvalidValue, match="a list of 2 values, one a candidate") as caught:
        encode_columns(ENCODER, {}, {"candidate vocabulary": values}, 2)
    assert (caught.value.field, caught.value.row) == ("candidate vocabulary", None)


def test_long_sequences_keep_their_end() -> None:
    ids = ENCODER.encode_column(
        "context list", [["a"] * 1_000_000 + ["b", "7", "a"], ["a", "b"], [], None, ""]
    )
    assert ids.tolist() == [[3, 4, 2], [2, 3, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from service.bundle.encoder import Encoder
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
fields = (
    Field("h", Kind.CATEGORICAL, Role.CONTEXT, Hashing(1_000_000, seed=1)),
    Field("v", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("x", "é", "7"))),
    Field("n", Kind.NUMERIC, Role.CONTEXT, Bins((0.1, 0.30000000000000004))),
)
print(Encoder(Schema(fields)).encode_row({{"h": "68fd1e64", "v": "é", "n": 0.1 + 0.2}}).tolist())
"""


def test_ids_are_the_same_in_every_process(pytestconfig: pytest.Config) -> None:
    program = PROGRAM.format(root=str(pytestconfig.rootpath))
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        # The first id is crc32("68fd1e64", 1) % 1_000_000 + 2.
        assert (done.stdout, done.stderr) == ("[850111, 3, 4]\n", "")


@pytest.mark.parametrize("role", Role)
def test_fields_may_all_be_of_one_role(role: Role) -> None:
    encoder = Encoder(Schema(tuple(_fields(role))))
    values = {f"{role} vocabulary": "a", f"{role} bins": 0.5, f"{role} list": ["7", "b"]}
    context, candidate = (values, {}) if role is Role.CONTEXT else ({}, values)
    expected = encoder.encode_row(values).tolist()
    for rows in (1, 2, 20):
        assert encoder.encode_request(context, [candidate] * rows).tolist() == [expected] * rows
        columns = {name: [value] * rows for name, value in candidate.items()}
        by_column = encoder.encode_candidate_columns(columns, rows)
        assert encoder.join(encoder.encode_context(context), by_column).tolist() == [expected] * rows
