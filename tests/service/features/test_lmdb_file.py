"""Files of LMDB read without a map: against LMDB itself, and whole, cut short, damaged or changed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.features.lmdb_file import DamagedFile, LmdbFile

ENTRIES = st.dictionaries(
    st.binary(min_size=1, max_size=20) | st.binary(min_size=500, max_size=511),
    st.binary(max_size=30) | st.integers(0, 20_000).map(bytes),
    max_size=120,
)


def write(path: Path, *loads: dict[bytes, bytes]) -> None:
    """A file into which each of `loads` was put by one transaction."""
    path.unlink(missing_ok=True)
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28, sync=False) as environment:
        for entries in loads:
            with environment.begin(write=True) as transaction:
                for key, value in entries.items():
                    transaction.put(key, value)
        environment.sync(True)


@pytest.fixture
def opened() -> Iterator[list[LmdbFile]]:
    """Files to close at the end."""
    files: list[LmdbFile] = []
    yield files
    for file in files:
        file.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three levels, with values in pages of their own and what replaced values have left."""
    path = tmp_path_factory.mktemp("large") / "users.lmdb"
    keys = [f"user-{n}".encode() for n in range(8000)]
    random.Random(0).shuffle(keys)
    loads = [{key: key * 15 for key in keys[start : start + 1000]} for start in range(0, 8000, 1000)]
    write(path, *loads, {key: key * 300 for key in keys[:40]}, dict.fromkeys(keys[40:80], b"short"))
    return path


def values_of(path: Path) -> dict[bytes, bytes]:
    """All entries, by LMDB's own library."""
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return dict(transaction.cursor())


@settings(max_examples=30, deadline=None)
@given(loads=st.lists(ENTRIES, max_size=3), asked=st.lists(st.binary(max_size=12), max_size=20))
def test_it_reads_what_lmdb_has_written(
    tmp_path_factory: pytest.TempPathFactory, loads: list[dict[bytes, bytes]], asked: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.lmdb"
    write(path, *loads)
    merged = {key: value for load in loads for key, value in load.items()}
    file = LmdbFile(path)
    try:
        assert file.entries == len(merged)
        for key in (*asked, *merged):
            assert file.get(key) == merged.get(key)
        assert list(file.items()) == sorted(merged.items())
        assert file.is_unchanged
    finally:
        file.close()


def test_it_reads_many_levels_and_values_in_pages_of_their_own(large: Path, opened: list[LmdbFile]) -> None:
    expected = values_of(large)
    opened.append(file := LmdbFile(large))
    assert file.entries == len(expected) == 8000
    assert {key: file.get(key) for key in expected} == expected
    assert dict(file.items()) == expected
    # A value holds its key's bytes, and those of keys that are none.
    assert [file.get(key) for key in (b"user-1user-1", b"ser-1", b"user-", b"user-8000", b"", b"v")] == [
        None
    ] * 6


@pytest.mark.parametrize("kept", [0, 1, 100, 4095, 4096, 8191, 8192, 0.1, 0.5, 0.999])
def test_half_a_file_is_refused_before_it_is_used(large: Path, tmp_path: Path, kept: float) -> None:
    whole = large.read_bytes()
    half = tmp_path / "half.lmdb"
    half.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(DamagedFile, match="incomplete"):
        LmdbFile(half)


def test_a_file_whose_pages_are_not_written_yet_is_refused(large: Path, tmp_path: Path) -> None:
    """As a copy that has made room for all of it, and has come half of the way."""
    whole = large.read_bytes()
    half = len(whole) // 2
    (tmp_path / "copy.lmdb").write_bytes(whole[:half] + bytes(len(whole) - half))
    with pytest.raises(DamagedFile, match=r"page .* is none of its nodes"):
        LmdbFile(tmp_path / "copy.lmdb")


@pytest.mark.parametrize(
    "content", [b"", b"not whole", bytes(100_000), b"SQLite format 3\0" * 9000, os.urandom(100_000)]
)
def test_what_is_no_lmdb_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(DamagedFile, match="not an LMDB file"):
        LmdbFile(tmp_path / "other")


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "named.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False, max_dbs=1) as environment:
        environment.open_db(b"name", dupsort=True)
    file = LmdbFile(path)
    try:
        with pytest.raises(DamagedFile, match="of another kind"):
            list(file.items())
    finally:
        file.close()


DAMAGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=12)), min_size=1, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(damages=DAMAGES, seed=st.integers(0, 1000), in_heads=st.booleans())
def test_any_damage_is_an_error_of_a_read_and_nothing_else(
    large: Path,
    tmp_path_factory: pytest.TempPathFactory,
    damages: list[tuple[float, bytes]],
    seed: int,
    in_heads: bool,
) -> None:
    content = bytearray(large.read_bytes())
    for place, data in damages:
        start = int(place * (len(content) - len(data)))
        if in_heads:  # where pages say what they hold
            start = start // 4096 * 4096 + start % 64
        content[start : start + len(data)] = data
    path = tmp_path_factory.getbasetemp() / "damaged.lmdb"
    path.write_bytes(content)
    keys = [f"user-{n}".encode() for n in random.Random(seed).sample(range(8000), 300)]
    try:
        file = LmdbFile(path)
    except OSError:
        return
    try:
        for key in keys:
            with suppress(OSError):
                assert isinstance(file.get(key), bytes | None)
        with suppress(OSError):
            assert len(list(file.items())) == file.entries
    finally:
        file.close()


def test_a_change_in_place_is_seen_and_a_replacement_is_not_one(
    large: Path, tmp_path: Path, opened: list[LmdbFile]
) -> None:
    path = tmp_path / "users.lmdb"
    path.write_bytes(large.read_bytes())
    opened.append(file := LmdbFile(path))
    (tmp_path / "new").write_bytes(b"anything")
    (tmp_path / "new").replace(path)
    assert file.get(b"user-5") is not None
    assert file.is_unchanged

    path.write_bytes(large.read_bytes())
    opened.append(file := LmdbFile(path))
    os.truncate(path, 4096)
    with pytest.raises(DamagedFile):
        file.get(b"user-5")
    assert not file.is_unchanged

    path.write_bytes(large.read_bytes())
    opened.append(file := LmdbFile(path))
    with path.open("r+b") as same_size:
        same_size.write(b"x")
    assert not file.is_unchanged
