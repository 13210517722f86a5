"""A draft of a schema from the first rows of a log: what is guessed, what is left out, and that it reads."""

from __future__ import annotations

import datetime as dt
import gzip
import random
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from export.data.errors import LogError
from export.data.log_schema import LogField, LogSchema, load_log_schema, parse_log_schema
from export.data.readers import read_log
from export.errors import ExportError
from export.infer.infer import infer_schema
from export.infer.plan import InferPlan
from service.bundle.example_columns import RESERVED, TIME

ROWS = 1_200
START = 1_735_689_600


def rows() -> Iterator[dict[str, Any]]:
    """Requests of four ads each: what a shop's log may hold, and what it should not learn from."""
    draw = random.Random(1)
    users = {f"u{i}": (draw.choice(["de", "us", "NA"]), draw.randrange(18, 70)) for i in range(60)}
    ads = {f"a{i:02}": (draw.choice(["toys", "food"]), draw.randrange(1, 40_000)) for i in range(30)}
    for number in range(ROWS // 4):
        user = draw.choice(list(users))
        country, age = users[user]
        seen = draw.sample(list(ads), 3)
        for place, ad in enumerate(draw.sample(list(ads), 4)):
            category, price = ads[ad]
            click = int(draw.random() < 0.3)
            yield {
                "row": f"r{number}-{place}",
                "request_id": f"q{number}",
                "click": click,
                "shown_at": START + number * 6_000,
                "user_id": user,
                "country": country,
                "age": age,
                "history": "|".join(seen),
                "ad_id": ad,
                "ad_category": category,
                "price": price / 100,
                "slot": place,
                "site": draw.choice(["x.com", "y.com"]),
                "clicked_at": str(START + number) if click else "",
                "bought": click if draw.random() < 0.999 else 1 - click,
                "version": "7",
            }


FRAME = pl.DataFrame(list(rows()))


def written(path: Path, frame: pl.DataFrame = FRAME, *, separator: str = ",", header: bool = True) -> Path:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
        return path
    content = frame.write_csv(separator=separator, include_header=header).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def inferred(data: Path, **options: Any) -> LogSchema:
    """The schema as a person would load it, which reads all of the log."""
    out = data.with_name("guess.toml")
    infer_schema(InferPlan(data=data, out=out, overwrite=True, **options), say=lambda _: None)
    schema = load_log_schema(out)
    assert sum(len(chunk) for chunk in read_log(data, schema)) > 0
    return schema


def text_of(data: Path) -> str:
    lines: list[str] = []
    infer_schema(InferPlan(data=data), say=lines.append)
    return "\n".join(lines)


def by_name(schema: LogSchema) -> dict[str, LogField]:
    return {field.name: field for field in schema.fields}


@pytest.mark.parametrize(
    ("name", "separator"),
    [("log.csv", ","), ("log.tsv", "\t"), ("log.csv.gz", ";"), ("log.txt", "|"), ("log.parquet", "")],
)
def test_the_guess_for_a_shop_is_what_a_person_would_write(tmp_path: Path, name: str, separator: str) -> None:
    frame = (
        FRAME.with_columns(pl.col("history").str.replace_all("|", ",", literal=True))
        if separator == "|"
        else FRAME
    )
    schema = inferred(written(tmp_path / name, frame, separator=separator or ","))
    assert schema.format == ("parquet" if name.endswith("parquet") else "tsv" if separator == "\t" else "csv")
    assert schema.separator == separator
    assert schema.label is not None
    assert (schema.label.column, schema.label.click, schema.label.no_click) == ("click", ("1",), ("0",))
    assert schema.timestamp is not None
    assert (schema.timestamp.column, schema.timestamp.format) == ("shown_at", "unix")
    assert schema.missing == ("NA",)
    fields = by_name(schema)
    kinds = {name: str(field.kind) for name, field in fields.items()}
    assert kinds == {
        "hour_of_day": "categorical",
        "day_of_week": "categorical",
        "user_id": "categorical",
        "country": "categorical",
        "age": "numeric",
        "history": "sequence",
        "ad_id": "categorical",
        "ad_category": "categorical",
        "price": "numeric",
        "slot": "categorical",
        "site": "categorical",
    }
    candidates = {name for name, field in fields.items() if field.role == "candidate"}
    # What differs among the rows of a request is the ad's, whatever it is called.
    assert candidates == {"ad_id", "ad_category", "price", "slot", "site"}
    assert fields["history"].same_values_as == "ad_id"
    assert fields["history"].max_length == 3
    assert fields["history"].separator == ("," if separator == "|" else "|")


def test_what_leaks_and_what_tells_nothing_is_left_out_with_the_reason(tmp_path: Path) -> None:
    text = text_of(written(tmp_path / "log.csv"))
    left_out = text.partition("# Left out")[2]
    for column, reason in {
        "row": "its values differ from row to row",
        "request_id": "a request's id",
        "clicked_at": "known only after the click",
        "bought": "it tells the label: alone it ranks rows with an AUC of 0.99",
        "version": "it is '7' in each of these rows",
    }.items():
        assert f"# - {column}: " in left_out
        assert reason in " ".join(left_out.replace("#", "").split()), column


def test_each_field_stands_under_its_evidence(tmp_path: Path) -> None:
    text = text_of(written(tmp_path / "log.csv"))
    assert "all 1,200 rows of log.csv" in text
    country = text.partition('name = "country"')[0].rpartition("\n\n")[2]
    share = FRAME["country"].eq("NA").mean()
    assert f"# 2 distinct, {share:.1%} missing; the most frequent is" in country
    assert "# context: it is the same within 100% of 300 requests of several rows" in country
    price = text.partition('name = "price"')[0].rpartition("\n\n")[2]
    assert f"from {FRAME['price'].min():.10g} to {FRAME['price'].max():.10g}" in price
    assert "# the user's id, as it seems" in text
    assert '# "NA" is in country.' in text


def test_roles_without_requests_follow_users_and_ads(tmp_path: Path) -> None:
    frame = FRAME.drop("request_id").with_columns(shown_at=START + pl.int_range(ROWS) * 60)
    schema = by_name(inferred(written(tmp_path / "log.csv", frame)))
    assert (schema["age"].role, schema["ad_category"].role, schema["price"].role) == (
        "context",
        "candidate",
        "candidate",
    )
    assert schema["site"].role == "context"
    text = text_of(tmp_path / "log.csv")
    assert "# context: it follows from user_id" in text
    assert "# candidate: it follows from ad_id" in text


def test_rows_of_one_user_and_second_are_a_request(tmp_path: Path) -> None:
    text = text_of(written(tmp_path / "log.csv", FRAME.drop("request_id")))
    assert "(the same user_id and shown_at)" in text


def test_a_log_without_a_header_gets_names(tmp_path: Path) -> None:
    frame = FRAME.select("click", "country", "price", "ad_id")
    schema = inferred(written(tmp_path / "log.tsv", frame, separator="\t", header=False))
    assert not schema.has_header
    assert schema.columns == ("c1", "c2", "c3", "c4")
    assert schema.label is not None
    assert schema.label.column == "c1"
    assert list(by_name(schema)) == ["c2", "c3", "c4"]


def test_the_header_may_be_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("yes,toys\n" + "yes,food\nno,toys\n" * 50, encoding="utf-8")
    assert not inferred(path, header="no").has_header
    assert list(by_name(inferred(path, header="yes"))) == ["toys"]


def test_only_the_first_rows_are_read_and_that_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv")
    lines: list[str] = []
    infer_schema(InferPlan(data=path, out=tmp_path / "guess.toml", rows=400), say=lines.append)
    assert "by the first 400 rows" in lines[0]
    assert any("later rows were not looked at: --rows reads more" in line for line in lines)
    assert "the first 400 rows alone of log.csv" in (tmp_path / "guess.toml").read_text()


def labelled(values: Sequence[Any], path: Path, name: str = "label") -> Path:
    repeats = 200 // len(values)
    frame = pl.DataFrame(
        {name: [*values] * repeats, "site": [f"s{i % 3}" for i in range(repeats * len(values))]}
    )
    return written(path, frame)


@pytest.mark.parametrize(
    ("name", "values", "click", "no_click"),
    [
        ("clicked", ["true", "false"], ("true",), ("false",)),
        ("is_click", ["Y", "N"], ("Y",), ("N",)),
        ("label", ["1", "-1"], ("1",), ("-1",)),
        ("label", [True, False], ("1",), ("0",)),
        ("label", [1.0, 0.0], ("1",), ("0",)),
        ("rating", [1, 2, 3, 4, 5], ("4", "5"), ("1", "2", "3")),
        ("rating", [0.5, 2.5, 4.5, 5.0], ("4.5", "5"), ("0.5", "2.5")),
        ("outcome", ["0", "1"], ("1",), ("0",)),
    ],
)
def test_labels_of_many_words(
    tmp_path: Path, name: str, values: list[Any], click: tuple[str, ...], no_click: tuple[str, ...]
) -> None:
    label = inferred(labelled(values, tmp_path / "log.parquet", name)).label
    assert label is not None
    assert (label.column, label.click, label.no_click) == (name, click, no_click)


def test_a_label_that_is_a_time_or_nothing(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "clicked_at": [f"{START + i}" if i % 5 == 0 else None for i in range(300)],
            "ad": [f"a{i % 7}" for i in range(300)],
        }
    )
    label = inferred(written(tmp_path / "log.csv", frame)).label
    assert label is not None
    assert (label.column, label.present) == ("clicked_at", True)


def test_a_label_of_yes_or_nothing_has_any_value_for_a_click(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"click": ["TRUE", "", "", ""] * 40, "site": [f"s{i % 3}" for i in range(160)], "n": range(160)}
    )
    path = written(tmp_path / "log.csv", frame)
    label = inferred(path).label
    assert label is not None
    assert (label.column, label.present) == ("click", True)
    assert "25.00% of the rows have one" in text_of(path)


@pytest.mark.parametrize(
    ("column", "made", "reason"),
    [
        ("time", lambda at: at * 10**6, "a time in microseconds; turn it into milliseconds"),
        ("ts", lambda at: at * 10**9, "a time in nanoseconds; turn it into milliseconds"),
        (
            "time",
            lambda at: f"{at // 60 % 60}m{at % 60} past {at // 3600}",
            "by its name a time, in no usual",
        ),
        (
            "score1",
            lambda at: "inf" if at % 997 == 0 else str(at / 7),
            "numbers but for 1 rows, such as 'inf'",
        ),
    ],
)
def test_a_column_that_could_be_mended_says_so(
    tmp_path: Path, column: str, made: Callable[[int], object], reason: str
) -> None:
    times = [START + 61 * i for i in range(300)]
    columns = {"click": [0, 1] * 150, "site": [f"s{i % 3}" for i in range(300)]}
    frame = pl.DataFrame(columns | {column: list(map(made, times))})
    text = " ".join(text_of(written(tmp_path / "log.csv", frame)).replace("\n#", " ").split())
    assert f"- {column}: {reason}" in text


def test_more_columns_than_a_model_takes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.infer.infer.MAX_FIELDS", 3)
    with pytest.raises(LogError, match=r"log.csv: must have columns for at most 3 fields \(got \d+\); leave"):
        inferred(written(tmp_path / "log.csv"))


def test_the_command_that_is_told_can_be_pasted(tmp_path: Path) -> None:
    said: list[str] = []
    data = written(tmp_path / "my log.csv")
    infer_schema(InferPlan(data=data, out=tmp_path / "my log.toml"), say=said.append)
    words = shlex.split(said[-1])
    assert words[:4] == ["python", "-m", "export", "run"]
    assert words[4:8] == ["--data", str(data), "--schema", str(tmp_path / "my log.toml")]


def test_a_log_without_a_label_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", FRAME.select("user_id", "ad_id", "price"))
    with pytest.raises(
        LogError, match=r"found none among 'user_id', 'ad_id', 'price'\); name it with --label"
    ):
        inferred(path)
    with pytest.raises(
        LogError, match=r"'label' must be a column of log.csv \(got 'clicks'\); it has 'user_id'"
    ):
        inferred(path, label="clicks")
    with pytest.raises(
        LogError, match=r"of yes and no .* of ratings, .* \(got 'price' with 30 distinct values"
    ):
        inferred(path, label="price")


@pytest.mark.parametrize(
    ("texts", "format_"),
    [
        ("14102100 14102123", "%y%m%d%H"),
        ("20141021 20141122", "%Y%m%d"),
        ("1735689600000 1735689999000", "unix_ms"),
        ("2024-01-31T10:00:00Z 2024-02-01T10:00:00Z", "%Y-%m-%dT%H:%M:%S%z"),
        ("20130606000104008 20130607000104008", "%Y%m%d%H%M%S%f"),
        ("31.01.2024 01.02.2024", "%d.%m.%Y"),
        ("01/31/2024 02/01/2024", "%m/%d/%Y"),
    ],
)
def test_the_format_of_the_time(tmp_path: Path, texts: str, format_: str) -> None:
    frame = pl.DataFrame(
        {"click": [0, 1] * 60, "time": texts.split() * 60, "site": [f"s{i % 3}" for i in range(120)]}
    )
    timestamp = inferred(written(tmp_path / "log.csv", frame)).timestamp
    assert timestamp is not None
    assert timestamp.format == format_


def test_words_for_missing_and_codes_are_no_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "click": ["0", "1"] * 100,
            "price": ["1.5", "-", "2.5", "\\N"] * 50,
            "zip": ["01234", "98765"] * 100,
            "weight": ["1.5", "2,5", "3.5", "4.5"] * 50,
        }
    )
    schema = inferred(written(tmp_path / "log.csv", frame))
    assert set(schema.missing) == {"-", "\\N"}
    kinds = {name: str(field.kind) for name, field in by_name(schema).items()}
    assert kinds == {"price": "numeric", "zip": "categorical", "weight": "categorical"}


def test_types_of_parquet_that_no_field_reads_are_left_out(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "click": [0, 1] * 100,
            "site": [f"s{i % 3}" for i in range(200)],
            "flag": [True, False, None, True] * 50,
            "vector": [[0.5, 1.5]] * 200,
            "tags": [["a", "b"], ["b"], [], ["c"]] * 50,
            "inside": [{"a": 1}, {"a": 2}] * 100,
            "uploaded": [dt.date(2024, 1, 1), None] * 100,
            "seconds": [dt.timedelta(1), None] * 100,
            "bytes": [b"\xff", b"a"] * 100,
            "ratio": [1.5, float("inf")] * 100,
            "share": [0.25, float("nan"), 0.5, None] * 50,
        }
    )
    text = text_of(written(tmp_path / "log.parquet", frame))
    for column in ("flag", "vector", "inside", "uploaded", "seconds", "bytes", "ratio", "share"):
        assert f"# - {column}: " in text
    assert 'name = "tags"\nkind = "sequence"' in text
    numbers = frame.select("click", "site", pl.col("share").alias("cost"))
    schema = inferred(written(tmp_path / "log.parquet", numbers))
    assert (schema.missing, by_name(schema)["cost"].kind) == (("NaN",), "numeric")


def test_names_that_toml_must_quote_are_read_back(tmp_path: Path) -> None:
    names = ['a "b"', "c\\d", "über", "tab\tname", "x\x7fy"]
    frame = pl.DataFrame(
        {"click": [0, 1] * 100} | {name: [f"v{i % 4}" for i in range(200)] for name in names}
    )
    assert list(by_name(inferred(written(tmp_path / "log.parquet", frame)))) == names


def test_recbole_headers_lose_their_types(tmp_path: Path) -> None:
    path = tmp_path / "ml.inter"
    lines = [f"{i % 40}\t{i % 30}\t{1 + i % 5}\t{881_250_949 + i}\tOne Two\n" for i in range(400)]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tgenres:token_seq\n"
    path.write_text(head + "".join(lines), encoding="utf-8")
    schema = inferred(path)
    fields = by_name(schema)
    assert fields["user_id"].column == "user_id:token"
    assert (fields["item_id"].kind, fields["item_id"].role) == ("categorical", "candidate")
    assert schema.label is not None
    assert schema.label.click == ("4", "5")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "must hold rows"),
        (b"click,site\n", "must hold rows"),
        (b"\x00\xff\xfe\x80" * 100 + b"\n", "must be UTF-8 text, plain or gzip, or Parquet"),
        (b"\x1f\x8b\x08rest", r"^log: must be a whole gzip file \(.*; copy it again$"),
        (b"PAR1 and no more", "must be a readable Parquet file"),
        (b"click,site,site\n1,a,b\n0,b,a\n", "column names must differ"),
        (b"click\n" + b"1\n0\n" * 50, "must have columns to make fields of"),
        (b'{"click": 1}\n{"click": 0}\n', r"must be a table \(got JSON"),
        (b"click,v\n" + b"1,7\n0,7\n" * 60, r"beside the label; 'v' is left out, it is '7' in each"),
    ],
)
def test_a_file_that_is_no_log_is_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(LogError, match=told) as caught:
        inferred(path)
    assert "\n" not in str(caught.value)
    assert (
        "convert it" not in str(caught.value) or "UTF-8" in told or "JSON" in told
    )  # a gzip is copied again
    with pytest.raises(LogError, match="'data' must be a readable file"):
        inferred(tmp_path / "nowhere.csv")


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path, out = written(tmp_path / "log.csv"), tmp_path / "mine.toml"
    out.write_text("# mine\n")
    with pytest.raises(ExportError, match=r"'out' must be a new file .* --overwrite"):
        infer_schema(InferPlan(data=path, out=out), say=lambda _: None)
    assert out.read_text() == "# mine\n"
    with pytest.raises(ExportError, match=r"'out' must be a file \(got the folder"):
        infer_schema(InferPlan(data=path, out=tmp_path, overwrite=True), say=lambda _: None)
    with pytest.raises(ExportError, match="'out' must not be the log itself"):
        infer_schema(InferPlan(data=path, out=path, overwrite=True), say=lambda _: None)
    assert path.read_bytes().startswith(b"row,")
    infer_schema(InferPlan(data=path, out=out, overwrite=True), say=lambda _: None)
    assert load_log_schema(out).name == "log"


def test_the_built_in_schema_that_fits_is_named(tmp_path: Path) -> None:
    names = load_log_schema("avazu").used_columns
    frame = pl.DataFrame({name: [f"{i % 3}" for i in range(60)] for name in names}).with_columns(
        pl.Series("click", ["0", "1"] * 30), pl.Series("hour", ["14102100", "14102101"] * 30)
    )
    assert "built-in schema avazu reads these rows too" in text_of(written(tmp_path / "log.csv", frame))


def test_what_a_service_writes_beside_the_fields_is_no_field(tmp_path: Path) -> None:
    """Among it are the delay of the click, which tells it, and what the model in service said."""
    rows = 400
    columns = {"site": [f"s{i % 7}" for i in range(rows)], "_clicked": [i % 3 == 0 for i in range(rows)]}
    reserved = [name for name in RESERVED if name not in columns and name != TIME]
    frame = pl.DataFrame({**columns, **{name: [f"{i % 5}.5" for i in range(rows)] for name in reserved}})
    text = text_of(written(tmp_path / "log.csv", frame))
    assert [field.name for field in parse_log_schema(text).fields] == ["site"]
    assert text.count("a service's join writes it beside the fields") == len(reserved)
