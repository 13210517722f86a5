"""iPinYou's featurised log -> the values behind its features, the same as the joined log says."""

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from export.data.errors import LogError
from export.data.ipinyou import COLUMNS, FIELDS, convert_ipinyou
from export.data.log_schema import load_log_schema
from export.data.readers import read_log
from tests.export.data.public_logs import IPINYOU_COLUMNS, ipinyou_features, ipinyou_log
from tests.export.memory_log import quiet


def write(folder: Path, packed: bool = False, **changes: str) -> Path:
    """A campaign's folder; a change is named `train`, `test` or `featindex`."""
    folder.mkdir(exist_ok=True)
    for name, text in ipinyou_features().items():
        text = changes.get(name.split(".")[0], text)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def converted(folder: Path, out: Path, **options: Any) -> pl.DataFrame:
    assert convert_ipinyou(folder, out, report=quiet, **options) == out.with_suffix(".toml")
    return pl.read_parquet(out)


@pytest.mark.parametrize("packed", [False, True])
def test_the_values_are_those_of_the_joined_log(tmp_path: Path, packed: bool) -> None:
    joined = tmp_path / "train.log.txt"
    joined.write_text(ipinyou_log(), encoding="utf-8")
    (chunk,) = read_log(joined, load_log_schema("ipinyou"))
    log = converted(write(tmp_path / "1458", packed), tmp_path / "log.parquet")
    assert log["click"].to_list() == [0, 1, 0]
    assert log["payprice"].to_list() == [202, 77, 12]
    for name in set(FIELDS) - {"slotprice"}:
        assert log[name].to_list()[:2] == chunk.fields[name].to_list()
    assert log["slotprice"].to_list() == ["51-100", "1-10", "51-100"]
    assert log["city"].to_list() == ["217", "107", "other"]  # a value that the training period had not


def test_the_log_reads_through_its_description(tmp_path: Path) -> None:
    out = tmp_path / "log.parquet"
    converted(write(tmp_path / "1458"), out)
    schema = load_log_schema(out.with_suffix(".toml"))
    assert "payprice" not in schema.used_columns
    assert {field.name for field in schema.fields} == set(FIELDS)
    (chunk,) = read_log(out, schema)
    assert chunk.labels.tolist() == [0, 1, 0]
    assert chunk.fields["usertag"].to_list()[:2] == [["10006", "10063", "11278"], None]


def test_only_the_training_file_is_needed(tmp_path: Path) -> None:
    folder = write(tmp_path / "1458")
    (folder / "test.yzx.txt").unlink()
    assert len(converted(folder, tmp_path / "log.parquet")) == 2


def test_features_are_those_of_the_published_columns() -> None:
    assert tuple(IPINYOU_COLUMNS) == COLUMNS
    assert (COLUMNS[8], COLUMNS[23]) == ("IP", "payprice")


TRAIN = ipinyou_features()["train.yzx.txt"]
INDEX = ipinyou_features()["featindex.txt"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": "2" + TRAIN[1:]}, "train.yzx.txt, line 1: column 'click' must be 0 or 1 (got '2')"),
        (
            {"train": TRAIN.replace("1 77 ", "1 dear ")},
            "line 2: column 'payprice' must be a whole number of 0 or more (got 'dear')",
        ),
        (
            {"train": TRAIN + "0 5 0:1 9999:1\n"},
            "line 3: column 'features' must be of featindex.txt, with ':1' after each number (got '9999:1')",
        ),
        ({"train": TRAIN + "0 5 0:1 27:2\n"}, "line 3: column 'features' must be of featindex.txt"),
        ({"train": TRAIN + "0 5 0:1 a:1\n"}, "line 3: column 'features' must be of featindex.txt"),
        (
            {"train": TRAIN + "0 5 0:1 27:1 27:1\n"},
            "line 3: column 'features' must be one for each column but usertag (got '27:1')",
        ),
        ({"test": "1\n"}, "test.yzx.txt, line 1: column 'payprice' must be a whole number of 0 or more"),
        ({"featindex": INDEX + "8:1.2.3.*\n"}, "featindex.txt, line"),
        ({"featindex": INDEX + "8:1.2.3.*\t3\n"}, "a unique number (columns 1 to 26) (got b'8:1.2.3.*"),
        ({"featindex": INDEX + "27:x\t9999\n"}, "the row must be like '8:115.45.195.*'"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    with pytest.raises(LogError) as caught:
        convert_ipinyou(write(tmp_path / "1458", **changes), tmp_path / "log.parquet", report=quiet)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["1458"]


def test_malformed_rows_are_skipped_and_counted_where_asked(tmp_path: Path) -> None:
    said: list[str] = []
    folder = write(tmp_path / "1458", train="\n2 5\n0 5 a:1 b:1\n" + TRAIN)
    convert_ipinyou(folder, tmp_path / "log.parquet", on_malformed="skip", report=said.append)
    assert pl.read_parquet(tmp_path / "log.parquet")["payprice"].to_list() == [202, 77, 12]
    assert said[-1].endswith(", 2 malformed rows skipped")


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"'data' must be a folder with featindex.txt"):
        convert_ipinyou(tmp_path, tmp_path / "log.parquet")
