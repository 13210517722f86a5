"""`python -m service.load_features`: CSV and Parquet into either store; errors name the line of a file."""

from __future__ import annotations

import gzip
import io
import re
import struct
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bundle.spelling import Spelling
from service.features.files import FileProblem, rows_of
from service.features.load import main
from service.features.shape import Shape
from service.features.store import unpack
from tests.feature_stores import ads_of
from tests.redis_server import RedisServer
from tests.running import REPOSITORY
from tests.tiny_bundle import tiny_schema, write_tiny_bundle

CSV = 'id,site,hour,history,ad\na1,s1,11.5,a1 a2,x\na2,,6,,"y, z"\na3,"s\n2",,a9,\n'
EXPECTED: dict[str, dict[str, Any]] = {
    "a1": {"id": "a1", "site": "s1", "hour": 11.5, "history": ["a1", "a2"], "ad": "x"},
    "a2": {"id": "a2", "hour": 6, "ad": "y, z"},
    "a3": {"id": "a3", "site": "s\n2", "history": ["a9"]},
}


def features_of_ads(url: str) -> dict[str, dict[str, Any]]:
    return {name: unpack(value) for name, value in ads_of(url).items()}


@pytest.mark.parametrize("name", ["ads.csv", "ads.csv.gz", "ads.tsv"])
def test_a_text_file_into_a_store(
    url: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CSV if "csv" in name else CSV.replace('"y, z"', "y; z").replace(",", "\t").replace(";", ",")
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    options = ["ads", str(path), "--store", url, "--key", "id", "--number", "hour", "--list", "history"]
    assert main(options) == 0
    assert capsys.readouterr().out == f"loaded 3 ads from {path}\n"
    assert features_of_ads(url) == EXPECTED


def test_a_bundle_tells_what_the_columns_are(url: str, tmp_path: Path, bundles: dict[str, Path]) -> None:
    path = tmp_path / "ads.csv"
    path.write_text(CSV.replace("ad\n", "not_a_field\n"))
    assert main(["ads", str(path), "--store", url, "--key", "id", "--bundle", str(bundles["alpha"])]) == 0
    assert features_of_ads(url) == {
        name: {field: value for field, value in features.items() if field != "ad"}
        for name, features in EXPECTED.items()
    }


SPELLED = Spelling(missing=("NA", "nan"), separators={"history": "|"}, format="csv", delimiter=";", quote="'")


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says how its log was written."""
    schema = replace(tiny_schema(), spelling=SPELLED)
    return write_tiny_bundle(tmp_path_factory.mktemp("spelled"), schema=schema)


@pytest.mark.parametrize("options", [[], ["--delimiter", ",", "--quote", '"', "--separator", " "]])
def test_a_bundle_tells_how_its_log_was_written(
    url: str, tmp_path: Path, spelled: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\ufeffsite;id;hour;history;colour\nNA;NA;nan;'a1|NA;|a2';red\n's''1';u2;7.0;NA;red\n"
    if options:
        text = text.replace(";", ",").replace("s''1", 's"1').replace("'", '"').replace('s"1', 's""1')
        text = text.replace("|", " ")
    path = tmp_path / "ads.csv"
    path.write_text(text, encoding="utf-8")
    assert main(["ads", str(path), "--store", url, "--key", "id", "--bundle", str(spelled), *options]) == 0
    assert features_of_ads(url) == {
        "NA": {"id": "NA", "history": ["a1", "NA,", "a2"] if options else ["a1", "NA;", "a2"]},
        "u2": {"id": "u2", "site": 's"1' if options else "s'1", "hour": 7},
    }
    assert capsys.readouterr().out == (
        f"loaded 2 ads from {path}\nleft out columns that are no field of the bundle: colour\n"
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_a_field_of_the_bundle_is_refused(
    url: str, tmp_path: Path, spelled: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Misspelt columns would be left out one and all, and the store would know nothing of anybody."""
    path = tmp_path / f"ads.{kind}"
    if kind == "csv":
        path.write_text("id;sites\nu1;s1\n")
    else:
        pq.write_table(pa.table({"id": ["u1"], "sites": ["s1"]}), path)
    assert main(["ads", str(path), "--store", url, "--key", "id", "--bundle", str(spelled)]) == 1
    told = capsys.readouterr().err
    assert f"error: ads.{kind}" in told
    assert ": a column must be a field of the bundle (got id, sites); its fields are site, " in told


@pytest.mark.parametrize("name", ["ads.csv", "ads.tsv", "ads.csv.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(url: str, tmp_path: Path, name: str) -> None:
    content = "\ufeffsite,id\ns1,a1\n".replace(",", "," if "csv" in name else "\t").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert main(["ads", str(tmp_path / name), "--store", url, "--key", "id"]) == 0
    assert features_of_ads(url) == {"a1": {"site": "s1", "id": "a1"}}


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ({"site": [1.0, 2.5]}, "users.parquet: column 'site' must be text or integers for a categorical"),
        ({"site": [True, None]}, "users.parquet: column 'site' must be text or integers"),
        ({"hour": [True, None]}, "users.parquet: column 'hour' must be numbers for a numeric field"),
        ({"history": [[1.5], []]}, "column 'history' must be lists of text or of integers"),
        ({"history": [1, 2]}, "column 'history' must be lists of text or of integers"),
        ({"hour": [1.0, float("inf")]}, "users.parquet, row 2: 'hour' must be a finite number"),
        ({"hour": ["1", "seven"]}, "users.parquet, row 2: 'hour' must be a finite number"),
    ],
)
def test_what_the_service_would_refuse_is_refused_before_anything_is_written(
    tmp_path: Path, redis: RedisServer, spelled: Path, column: dict[str, Any], reason: str
) -> None:
    redis.call("FLUSHALL")
    pq.write_table(pa.table({"id": ["u1", "u2"], **column}), tmp_path / "users.parquet")
    command = ["users", str(tmp_path / "users.parquet"), "--key", "id", "--bundle", str(spelled)]
    for store in (redis.url, f"lmdb:{tmp_path / 'store'}"):
        errors = io.StringIO()
        with redirect_stderr(errors):
            assert main([*command, "--store", store]) == 1
        assert reason in errors.getvalue()
        assert errors.getvalue().count("\n") == 1
    assert redis.call("DBSIZE") == 0
    assert not list(tmp_path.glob("store/*"))


@pytest.mark.parametrize("kind", ["users", "ads"])
@pytest.mark.parametrize("scheme", ["redis", "lmdb"])
def test_a_fault_in_the_last_of_many_rows_leaves_the_store_as_it_was(
    tmp_path: Path, redis: RedisServer, scheme: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def contents() -> dict[str, bytes]:
        if scheme == "redis":
            return {key: redis.call("DUMP", key) for key in sorted(redis.call("KEYS", "*"))}
        return {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}

    redis.call("FLUSHALL")
    store = redis.url if scheme == "redis" else f"lmdb:{tmp_path / 'store'}"
    command = [kind, str(tmp_path / "a.csv"), "--key", "id", "--number", "hour", "--store", store]
    (tmp_path / "a.csv").write_text("id,hour\nu,1\n")
    assert main(command) == 0
    before = contents()
    (tmp_path / "a.csv").write_text("id,hour\n" + "u,2\n" * 2500 + "u,x\n")
    assert main(command) == 1
    assert "a.csv, line 2502: 'hour' must be a finite number (got 'x')" in capsys.readouterr().err
    assert contents() == before


def test_an_id_that_is_no_key_of_a_store_is_refused_with_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users.csv").write_text(f"id\n{'é' * 255}\n{'é' * 256}\n")
    command = ["users", str(tmp_path / "users.csv"), "--key", "id", "--store", f"lmdb:{tmp_path / 'store'}"]
    assert main(command) == 1
    assert "users.csv, line 3: column 'id' must be an id of at most 511 bytes" in capsys.readouterr().err
    assert not list(tmp_path.glob("store/*"))


def test_parquet_into_a_store(url: str, tmp_path: Path) -> None:
    columns = {
        "id": pa.array([1, 2, 3], pa.int64()),
        "site": pa.array(["s1", None, "s3"]).dictionary_encode(),
        "hour": pa.array([11.5, None, 6.0]),
        "history": pa.array([["a", "b"], [], None], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), tmp_path / "users.parquet")
    assert main(["ads", str(tmp_path / "users.parquet"), "--store", url, "--key", "id"]) == 0
    assert features_of_ads(url) == {
        "1": {"id": 1, "site": "s1", "hour": 11.5, "history": ["a", "b"]},
        "2": {"id": 2, "history": []},
        "3": {"id": 3, "site": "s3", "hour": 6.0},
    }


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("", [], "must hold rows"),
        ("id,x,x\n", [], "column 'x' must occur once"),
        ("id,x\n1,2\n3\n", [], r"line 3: the row must be 2 columns wide \(got 1 columns\)"),
        ("id,x\n1,2\n\n3,y\n", ["--number", "x"], "line 4: 'x' must be a finite number"),
        ("id,x\n1,nan\n", ["--number", "x"], "line 2: 'x' must be a finite number"),
        ("id,x\n1,2\n", ["--list", "y"], "must have column 'y'"),
        ("name,x\n1,2\n", [], "'--key' must be a column .*; ads.csv has name, x"),
        ("id,x\n1,2\n,3\n", [], "line 3: column 'id' must be an id, .*"),
        ('id,x\n1,"2\n', [], r"line 2: the row must be well quoted .*end of data\) \(got b'1,\"2'\)"),
        ("id,x\n1,\udcff\n", [], r"line 2: column 'x' must be valid UTF-8 \(got b'\\xff'\)"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_and_nothing_is_replaced(
    tmp_path: Path, text: str, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, path = f"lmdb://{tmp_path / 'store'}", tmp_path / "ads.csv"
    path.write_text("id\nold\n")
    assert main(["ads", str(path), "--store", store, "--key", "id"]) == 0
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["ads", str(path), "--store", store, "--key", "id", *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(reason, error)
    assert features_of_ads(store) == {"old": {"id": "old"}}


def test_parquet_columns_that_no_field_could_be_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "when": pa.array([0], pa.timestamp("s"))}), tmp_path / "a.parquet")
    with pytest.raises(FileProblem, match="column 'when' must be of text, numbers"):
        next(rows_of(tmp_path / "a.parquet", Shape()))
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(FileProblem, match=r"b\.parquet: "):
        next(rows_of(tmp_path / "b.parquet", Shape()))
    with pytest.raises(FileProblem, match=r"must end in \.csv"):
        rows_of(tmp_path / "c.txt", Shape())


def test_parquet_text_that_is_no_utf_8_is_refused_with_its_row(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(struct.pack("<4i", 0, 1, 2, 4)), pa.py_buffer(b"ab\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 3, [None, offsets, data])
    for columns in ({"id": broken}, {"id": ["u", "v", "w"], "site": broken}):
        pq.write_table(pa.table(columns), tmp_path / "users.parquet")
        place = f"users.parquet, row 3: column '{list(columns)[-1]}' must be valid UTF-8"
        with pytest.raises(FileProblem, match=place):
            list(rows_of(tmp_path / "users.parquet", Shape(), "id"))


def test_without_pyarrow_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FileProblem, match=r"pip install 'bidlight\[parquet\]'"):
        next(rows_of(tmp_path / "a.parquet", Shape()))


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_store_that_is_not_there(tmp_path: Path, scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    for kind in ("users", "ads"):
        store = f"{scheme}://:secret@127.0.0.1:1"
        assert main([kind, str(tmp_path / "a.csv"), "--key", "id", "--store", store]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "127.0.0.1:1 cannot be reached" in error
        assert "secret" not in error


@pytest.mark.parametrize(
    ("library", "url"), [("redis", "redis://h"), ("hiredis", "redis://h"), ("lmdb", "lmdb:.")]
)
def test_without_a_stores_library_it_says_how_to_get_it(library: str, url: str) -> None:
    code = (
        f"import sys; sys.modules['{library}'] = None\n"
        "from service.errors import BadConfiguration\n"
        "from service.features.open import store_at\n"
        f"try: store_at('{url}')\n"
        "except BadConfiguration as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert re.fullmatch(
        rf"'.*{library}.*' must be installed for this store; pip install 'bidlight\[service\]'\n",
        found.stdout,
    )


def test_the_command_loads_nothing_of_serving(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    code = (
        "import sys; from service.features.load import main\n"
        f"main(['users', '{tmp_path}/a.csv', '--key', 'id', '--store', 'lmdb:{tmp_path}/s'])\n"
        "print({'onnxruntime', 'fastapi', 'uvicorn', 'pyarrow', 'hiredis', 'redis'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert found.stdout.splitlines()[1:] == ["set()"]
