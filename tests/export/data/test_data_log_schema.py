"""The TOML description of a log: what is read from it, and the errors for mistakes."""

from pathlib import Path

import pytest

from export.data.errors import LogSchemaError
from export.data.log_schema import BUILT_IN, load_log_schema, parse_log_schema
from service.bundle.schema import Kind, Role

HEAD = """
name = "mine"
format = "csv"
[label]
column = "click"
"""
FIELD = """
[[field]]
name = "site"
kind = "categorical"
role = "context"
"""
SEQUENCE = '[[field]]\nname = "{}"\nkind = "sequence"\nrole = "context"\nmax_length = {}\n'


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_descriptions_load(name: str) -> None:
    schema = load_log_schema(name)
    assert schema.name == name
    assert {field.role for field in schema.fields} == {Role.CONTEXT, Role.CANDIDATE}


def test_criteo_is_as_published() -> None:
    schema = load_log_schema("criteo")
    assert len(schema.columns) == 40
    assert not schema.has_header
    assert [field.name for field in schema.fields if field.kind is Kind.NUMERIC] == [
        f"I{i}" for i in range(1, 14)
    ]
    assert [field.name for field in schema.fields if field.role is Role.CANDIDATE] == [
        f"C{i}" for i in range(19, 27)
    ]


def test_avazu_derives_time_fields_and_drops_the_row_id() -> None:
    schema = load_log_schema("avazu")
    derived = {field.name: field.column for field in schema.fields if field.derive}
    assert derived == {"hour_of_day": None, "day_of_week": None}
    assert "id" not in schema.used_columns


def test_defaults_by_kind() -> None:
    schema = parse_log_schema(
        HEAD + FIELD + '[[field]]\nname = "n"\nkind = "numeric"\nrole = "context"\n'
        '[[field]]\nname = "s"\nkind = "sequence"\nrole = "context"\n'
    )
    assert [field.encoding for field in schema.fields] == ["vocabulary", None, "vocabulary"]
    assert schema.separator == ","
    assert schema.quote == '"'
    assert schema.fields[2].max_length > 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_schemas_state_how_their_numbers_are_binned(name: str) -> None:
    assert all(field.encoding is not None for field in load_log_schema(name).fields)


def test_one_column_may_feed_two_fields() -> None:
    schema = parse_log_schema(HEAD + FIELD + FIELD.replace('"site"', '"site2"') + 'column = "site"\n')
    assert schema.used_columns == ("click", "site")


ITEM = """
[[field]]
name = "item"
kind = "categorical"
role = "candidate"
min_count = 3
"""
HISTORY = """
[[field]]
name = "history"
kind = "sequence"
role = "context"
same_values_as = "item"
"""


@pytest.mark.parametrize("order", [ITEM + HISTORY, HISTORY + ITEM])
def test_a_field_takes_the_encoding_of_the_one_it_names(order: str) -> None:
    fields = {field.name: field for field in parse_log_schema(HEAD + order).fields}
    assert (fields["history"].encoding, fields["history"].min_count) == ("vocabulary", 3)
    assert fields["history"].same_values_as == "item"
    hashed = order.replace("min_count = 3", 'encoding = "hashing"\nbuckets = 50\nseed = 4')
    fields = {field.name: field for field in parse_log_schema(HEAD + hashed).fields}
    history = fields["history"]
    assert (history.encoding, history.buckets, history.seed) == ("hashing", 50, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + FIELD.replace("categorical", "categoric"), "x.toml: field 'site': 'kind' must be one of"),
        (HEAD + FIELD.replace("context", "user"), "'role' must be one of context, candidate (got 'user')"),
        (HEAD + FIELD + "colour = 3\n", "'colour' must be a known key"),
        ("colour = 3\n" + HEAD + FIELD, "'colour' must be a known key"),
        (HEAD + FIELD + FIELD, "'field' must be names that occur once (got 'site')"),
        (HEAD, "'field' must be at least one [[field]] table"),
        (
            HEAD + "".join(FIELD.replace("site", f"site{number}") for number in range(4_097)),
            "'field' must be at most 4,096 [[field]] tables (got 4097)",
        ),
        (FIELD + 'name = "x"\n', "Cannot overwrite"),
        ('name = "mine"\nformat = "csv"\n' + FIELD, "'label' must be a table [label]"),
        (HEAD.replace('"csv"', '"xls"') + FIELD, "'format' must be one of csv, parquet, tsv (got 'xls')"),
        ("header = false\n" + HEAD + FIELD, "'columns' must be the columns in order"),
        ('columns = ["a"]\n' + HEAD + FIELD, "'columns' must be absent"),
        ('header = false\ncolumns = ["click"]\n' + HEAD + FIELD, "'columns' must be a list with 'site'"),
        ("header = 1\n" + HEAD + FIELD, "'header' must be true or false (got 1)"),
        ('separator = "::"\n' + HEAD + FIELD, "'separator' must be one ASCII character"),
        ('quote = ","\n' + HEAD + FIELD, "'quote' must be one ASCII character other than the separator"),
        (HEAD + 'click = ["1"]\nno_click = ["1"]\n' + FIELD, "'click' must be values that differ"),
        (HEAD + FIELD + "min_count = 0\n", "'min_count' must be an integer of at least 1 (got 0)"),
        (HEAD + FIELD + "buckets = 10\n", "'buckets' must be absent with encoding = \"vocabulary\""),
        (
            HEAD + FIELD + 'encoding = "criteo"\n',
            "'encoding' must be one of vocabulary, hashing (got 'criteo')",
        ),
        (HEAD + FIELD + "max_length = 3\n", "'max_length' must be absent with kind = \"categorical\""),
        (HEAD + FIELD + 'derive = "hour_of_day"\n', "'derive' must be used with a [timestamp] table"),
        (HEAD + FIELD + 'column = "click"\n', "'field' must be no column that tells the label"),
        (HEAD + '[timestamp]\ncolumn = "t"\nformat = "hours"\n' + FIELD, "'format' must be 'unix'"),
        (HEAD + "[label", "must be TOML"),
        (HEAD + 'present = true\nclick = ["1"]\n' + FIELD, "'click' must be absent with present = true"),
        (HEAD + HISTORY, "field 'history': 'same_values_as' must be another field, not numeric"),
        (HEAD + ITEM + HISTORY.replace('"item"', '"history"'), "'same_values_as' must be another field"),
        (
            HEAD
            + FIELD
            + '[[field]]\nname = "n"\nkind = "numeric"\nrole = "context"\nsame_values_as = "site"\n',
            "'same_values_as' must be absent in a numeric field",
        ),
        (HEAD + ITEM + HISTORY + "min_count = 2\n", "'min_count' must be absent, it is that of 'item'"),
        ("field = 3\n" + HEAD, "'field' must be a list of tables [[field]] (got 3)"),
        ("field = [3]\n" + HEAD, "'field' must be a list of tables [[field]] (got [3])"),
        ("label = 3\n" + HEAD.partition("[label]")[0] + FIELD, "'label' must be a table [label] (got 3)"),
        (HEAD.replace('"click"', "3") + FIELD, "x.toml: [label]: 'column' must be a text, not empty (got 3)"),
        (
            HEAD.replace('column = "click"', "") + FIELD,
            "[label]: 'column' must be a text, not empty (got nothing)",
        ),
        (HEAD + "colour = 3\n" + FIELD, "[label]: 'colour' must be a known key (column, click"),
        (HEAD + "click = [1]\n" + FIELD, "[label]: 'click' must be a list of texts (got [1])"),
        (HEAD + FIELD.replace('name = "site"', ""), "x.toml: field 1: 'name' must be a text, not empty"),
        (HEAD + FIELD + "min_count = true\n", "'min_count' must be an integer of at least 1 (got True)"),
        (
            HEAD + FIELD + 'encoding = "hashing"\nseed = -1\n',
            "'seed' must be an integer of at least 0 (got -1)",
        ),
        (
            HEAD + SEQUENCE.format("a", 65_537),
            "field 'a': 'max_length' must be an integer of at least 1 and at most 65536 (got 65537)",
        ),
        (
            HEAD + SEQUENCE.format("a", 40_000) + SEQUENCE.format("b", 40_000),
            "'field' must be of at most 65,536 ids a row together, by 'max_length' (got 80000)",
        ),
        (
            HEAD + FIELD + 'encoding = "hashing"\nbuckets = 3000000000\n',
            "'buckets' must be an integer of at least 1 and at most 2147483645 (got 3000000000)",
        ),
        (HEAD + FIELD.replace("site", "s" * 1001), "'name' must be a text, not empty, of at most 1,000 char"),
        (HEAD + FIELD + 'derive = "year"\n', "'derive' must be one of day_of_week, hour_of_day (got 'year')"),
        (HEAD + FIELD + 'separator = ";"\n', "'separator' must be absent with kind = \"categorical\""),
    ],
)
def test_a_mistake_is_one_line(text: str, told: str) -> None:
    with pytest.raises(LogSchemaError) as caught:
        parse_log_schema(text, file="x.toml")
    message = str(caught.value)
    assert told in message
    assert message.startswith("x.toml: ")
    assert "\n" not in message


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        LogSchemaError,
        match=r"'schema' must be one of criteo, .*, a TOML file or a bundle \(got 'critoe'\)",
    ):
        load_log_schema("critoe")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(LogSchemaError, match="UTF-8"):
        load_log_schema(binary)
