"""Tables of vocabularies give the ids of the dictionaries, are shared by processes, and fail in one line."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtest.traffic.forged import replace_in
from service.bundle import store, vocabulary_tables
from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.errors import BundleError
from service.bundle.manifest import FileEntry, Manifest
from service.bundle.native import IS_BUILT, _native
from service.bundle.schema import Field, Kind, RawValue, Role, Schema, Vocabulary
from service.bundle.schema_files import is_of_schema, schema_from_files, schema_to_files
from service.bundle.store import Bundle, load_bundle
from service.bundle.vocabulary_tables import (
    SOURCE_BYTES,
    StoredVocabulary,
    TableFile,
    VocabularyTables,
    tables_to_files,
)

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")

Save = Callable[..., Manifest]
TABLES = {"vocabulary/0.table", "vocabulary/1.table", "vocabulary/4.table"}  # of the schema in conftest.py
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
anything = st.one_of(
    st.none(),
    texts,
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    st.integers(-20, 20),
    st.sampled_from(["", "7", "-3", "\0", "a" * 100, 10**40, 2**2048, True, 1.0]),
)


def read_back(schema: Schema) -> Encoder:
    """The encoder of a schema that was written to files with its tables, and read from them."""
    files = schema_to_files(schema)
    files |= tables_to_files(schema, files)
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    tables = VocabularyTables(entries, lambda name: TableFile(files[name]))
    again = schema_from_files(files.__getitem__, tables.vocabulary)
    tables.check(again)
    assert tables.by_field.keys() == {field.name for field in vocabularies_of(schema)}
    return Encoder(again, tables)


def vocabularies_of(schema: Schema) -> list[Field]:
    return [
        field
        for field in schema.fields
        if isinstance(field.encoding, Vocabulary) and field.same_values_as is None
    ]


def outcome(encoder: Encoder, name: str, values: list[Any]) -> Any:
    """The ids as lists, or what is refused."""
    try:
        return encoder.encode_column(name, values).tolist()
    except InvalidValue as error:
        return error.row, error.message


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A vocabulary, a history of the same values, and another vocabulary; renumbered or not."""
    values = Vocabulary(tuple(draw(st.lists(texts, unique=True, max_size=30))))
    other = Vocabulary(tuple(draw(st.lists(texts, unique=True, max_size=3))))
    schema = Schema(
        (
            Field("history", Kind.SEQUENCE, Role.CONTEXT, values, max_length=3, same_values_as="ad"),
            Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, values),
            Field("other", Kind.CATEGORICAL, Role.CANDIDATE, other),
        )
    )
    if values.size and draw(st.booleans()):
        ids = draw(st.lists(st.integers(2, values.size + 1), min_size=values.size, max_size=values.size))
        schema = schema.renumbered({"ad": np.array([0, 1, *ids])})
    return schema


@given(schemas(), st.lists(anything, max_size=8))
def test_a_table_gives_the_ids_of_the_dictionary(schema: Schema, others: list[Any]) -> None:
    expected, found = Encoder(schema), read_back(schema)
    field = schema.field("ad")
    assert isinstance(field.encoding, Vocabulary)
    values: list[RawValue] = [*field.encoding.values, *field.encoding.values, *others]
    for name in ("ad", "other"):
        for each in ([value] for value in values):
            assert outcome(found, name, each) == outcome(expected, name, each)
    for start in range(len(values)):
        several = [values[start : start + 4]]
        assert outcome(found, "history", several) == outcome(expected, "history", several)


@given(schemas())
def test_files_with_tables_give_back_the_schema(schema: Schema) -> None:
    again = read_back(schema).schema
    assert schema_to_files(again) == schema_to_files(schema)
    for before, after in zip(schema.fields, again.fields, strict=True):
        assert isinstance(after.encoding, StoredVocabulary)
        assert (after.encoding, hash(after.encoding)) == (before.encoding, hash(before.encoding))
        assert before.encoding == after.encoding
        assert after.encoding.size == before.encoding.size
    renumbering = np.arange(again.field("other").cardinality)
    assert again.renumbered({"other": renumbering}).field("other").encoding == schema.field("other").encoding


@pytest.fixture
def folder(save: Save, tmp_path: Path) -> Path:
    """A valid bundle with tables."""
    save(tmp_path / "A")
    return tmp_path / "A"


def ids_of(bundle: Bundle) -> list[Any]:
    """The ids of every value of every vocabulary, and of one that none has."""
    plain = schema_from_files(lambda name: (bundle.folder / name).read_bytes())
    return [
        bundle.encoder.encode_column(field.name, _values(field)).tolist() for field in vocabularies_of(plain)
    ]


def _values(field: Field) -> list[RawValue]:
    assert isinstance(field.encoding, Vocabulary)
    values: list[RawValue] = [*field.encoding.values, "never seen"]
    return [values] if field.kind is Kind.SEQUENCE else values


def without_tables(folder: Path) -> None:
    """As a bundle is that was exported before there were tables, or where there was no compiler."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in TABLES:
        (folder / name).unlink()
        del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    replace_in(folder, {})


def test_a_bundle_has_tables_and_is_served_from_them(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert {name for name in bundle.manifest.files if name.endswith(".table")} == TABLES
    for field in vocabularies_of(bundle.schema):
        assert isinstance(field.encoding, StoredVocabulary)
        assert "values" not in vars(field.encoding)  # nobody has made strings of them
    assert all(any(id_ > 1 for id_ in np.ravel(ids)) for ids in ids_of(bundle))


@pytest.fixture
def maps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest table is large enough to be mapped."""
    monkeypatch.setattr(store, "MAPPED_BYTES", 0)


@pytest.mark.usefixtures("maps_all")
def test_tables_are_read_only_files_where_services_map_them(save: Save, tmp_path: Path) -> None:
    manifest = save(tmp_path / "mapped")
    writable = {name for name in manifest.files if (tmp_path / "mapped" / name).stat().st_mode & 0o222}
    assert writable == manifest.files.keys() - TABLES


def test_nothing_done_to_the_file_of_a_small_table_matters(folder: Path) -> None:
    bundle = load_bundle(folder)
    expected = ids_of(bundle)
    for name in TABLES:
        (folder / name).write_bytes(b"")
    bundle.encoder.check_unchanged()
    assert ids_of(bundle) == expected


def test_a_bundle_without_tables_gives_the_same_ids(folder: Path) -> None:
    expected, expected_digest = ids_of(load_bundle(folder)), _schema_files(load_bundle(folder))
    assert ids_of(load_bundle(folder, native=False)) == expected
    without_tables(folder)
    old = load_bundle(folder)
    assert ids_of(old) == expected
    assert old.encoder.native is not None
    assert _schema_files(old) == expected_digest


@pytest.mark.parametrize(
    ("name", "value"), [("IS_BUILT", False), ("MAX_VOCABULARY_BYTES", 100)], ids=["no core", "too large"]
)
def test_an_export_that_can_write_no_table_writes_none(
    save: Save, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    expected = ids_of(load_bundle(folder))
    monkeypatch.setattr(vocabulary_tables, name, value)
    manifest = save(tmp_path / "B")
    assert not TABLES & manifest.files.keys()
    assert ids_of(load_bundle(tmp_path / "B")) == expected


def _schema_files(bundle: Bundle) -> dict[str, FileEntry]:
    return {name: entry for name, entry in bundle.manifest.files.items() if is_of_schema(name)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_table_with_a_correct_hash_is_refused_or_means_the_same(
    folder: Path, data: st.DataObject
) -> None:
    expected = ids_of(load_bundle(folder, native=False))
    name = data.draw(st.sampled_from(sorted(TABLES)))
    original = (folder / name).read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(original), len(original) - 8, 72, 40, 33, 32, 1]))
    replace_in(folder, {name: bytes(damaged[:cut])})
    message = ""
    try:
        found = ids_of(load_bundle(folder))
    except BundleError as error:
        message = str(error)
    finally:
        replace_in(folder, {name: original})
    if message:
        assert name in message
        assert "\n" not in message
    else:  # what follows the last byte of a value was changed
        assert found == expected


def test_a_table_of_other_values_or_ids_is_refused(folder: Path) -> None:
    table = (folder / "vocabulary/1.table").read_bytes()
    other = _native.Vocabulary.pack(tuple(f"a{n}" for n in range(9)), None, 5)
    for data, words in (
        ((folder / "vocabulary/0.table").read_bytes(), "one of other values"),
        (table[:SOURCE_BYTES] + bytes(other), "another id than its field gives it"),
    ):
        replace_in(folder, {"vocabulary/1.table": data})
        with pytest.raises(BundleError, match=rf"vocabulary/1\.table' must be the table of .*{words}"):
            load_bundle(folder)
    replace_in(folder, {"vocabulary/1.table": table})
    values = json.loads((folder / "vocabulary/1.json").read_bytes())
    replace_in(folder, {"vocabulary/1.json": json.dumps([*values[:-1], "new"]).encode()})
    with pytest.raises(BundleError, match=r"vocabulary/1\.table' must be .*one of other values"):
        load_bundle(folder)


def hash_of(text: bytes, seed: int) -> int:
    """`hash_text` of native/bytes.hpp, for texts of 4 to 8 bytes."""

    def mix(one: int, other: int) -> int:
        product = one * other
        return (product ^ product >> 64) & (2**64 - 1)

    first = 0x9E3779B97F4A7C15
    last = int.from_bytes(text[:4], "little") | int.from_bytes(text[-4:], "little") << 32
    return mix(mix(seed ^ len(text), first) ^ last, first)


def test_a_table_with_a_long_run_of_slots_is_refused() -> None:
    draw, seed, slots = random.Random(1), 9, 4096
    near: list[str] = []
    while len(near) <= _native.LONGEST_RUN:
        text = f"{draw.randrange(16**8):08x}"
        if hash_of(text.encode(), seed) % slots < 256 and text not in near:
            near.append(text)
    even = _native.Vocabulary.pack(tuple(near), None, seed + 1)
    even.check(None)
    assert even.longest_run < 100
    # As many others as make a table of so many slots, far behind.
    far = [text for text in (f"{n:08x}" for n in range(6000)) if hash_of(text.encode(), seed) % slots > 3000]
    uneven = _native.Vocabulary.pack((*near, *far[: 1600 - len(near)]), None, seed)
    assert uneven.longest_run > _native.LONGEST_RUN
    with pytest.raises(ValueError, match="too many of its slots lie side by side"):
        uneven.check(None)


SERVING = """
import sys
from pathlib import Path
from service.bundle import store
from service.bundle.store import load_bundle

store.MAPPED_BYTES = 0
bundle = load_bundle(Path(sys.argv[1]))
values = [f"{number:08d}" for number in range(200_000)]
def find():
    bundle.encoder.native
    return bundle.encoder._columns["wide"].lookup.ids.find
assert [find()(value) for value in values] == list(range(2, len(values) + 2))
"""
SHARING = (
    SERVING
    + """
print("ready", flush=True)
sys.stdin.readline()
kept = {}
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        is_table = line.rstrip().endswith("vocabulary/0.table")
    elif is_table and words[0] in ("Rss:", "Pss:", "Private_Dirty:", "Anonymous:"):
        kept[words[0]] = kept.get(words[0], 0) + int(words[1])
print(kept["Rss:"], kept["Pss:"], kept["Private_Dirty:"] + kept["Anonymous:"])
"""
)
CUT_SHORT = (
    SERVING
    + """
import os
from service.bundle.errors import BundleError
path = sys.argv[1] + "/vocabulary/0.table"
bundle.encoder.check_unchanged()
os.chmod(path, 0o644)
os.truncate(path, 10_000)
for check in range(2):
    found = [find()(value) for value in values]
    assert set(found) == {1}, set(found)
    try:
        bundle.encoder.check_unchanged()
    except BundleError as error:
        print(error)
os.unlink(path)  # what it would look at is gone, what it found stays
try:
    bundle.encoder.check_unchanged()
except BundleError as error:
    print(error)
"""
)


@pytest.fixture
def wide(save: Save, parts: dict[str, Any], tmp_path: Path) -> Path:
    """A bundle with a wide vocabulary."""
    values = Vocabulary(tuple(f"{number:08d}" for number in range(200_000)))
    schema = Schema((Field("wide", Kind.CATEGORICAL, Role.CONTEXT, values), *parts["schema"].fields))
    golden = parts["golden"]
    ids = tuple((0, *row) for row in golden.ids)
    descriptions = {
        variant: _wider(description, schema) for variant, description in parts["descriptions"].items()
    }
    save(tmp_path / "wide", schema=schema, golden=_replaced(golden, ids=ids), descriptions=descriptions)
    return tmp_path / "wide"


def _wider(description: Any, schema: Schema) -> Any:
    (tensor,) = description.inputs
    return _replaced(description, inputs=(_replaced(tensor, shape=(None, schema.columns)),))


def _replaced(record: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(record, **changes)


def run(program: str, folder: Path, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_serve_a_bundle_share_its_tables(wide: Path, pytestconfig: pytest.Config) -> None:
    processes = [run(SHARING, wide, pytestconfig.rootpath) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    output, errors = processes[0].communicate("\n")  # the other one waits
    assert errors == ""
    resident, share, own = (int(word) for word in output.split())
    assert resident * 1024 > (wide / "vocabulary/0.table").stat().st_size * 0.9
    assert share < resident * 0.6
    assert own == 0
    assert processes[1].communicate("\n")[1] == ""


def test_a_table_that_is_cut_short_ends_no_process(wide: Path, pytestconfig: pytest.Config) -> None:
    output, errors = run(CUT_SHORT, wide, pytestconfig.rootpath).communicate()
    assert errors == ""
    lines = output.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert (
            "wide/vocabulary/0.table' must be as it was when it was loaded (got a file that was cut" in line
        )


@pytest.mark.usefixtures("maps_all")
def test_a_table_that_is_written_to_is_noticed_and_one_that_is_replaced_stays(folder: Path) -> None:
    bundle, path = load_bundle(folder), folder / "vocabulary/0.table"
    expected, content = ids_of(bundle), path.read_bytes()
    path.rename(folder.parent / "aside")
    path.write_bytes(b"of another bundle")
    bundle.encoder.check_unchanged()
    assert ids_of(bundle) == expected
    (folder.parent / "aside").rename(path)
    path.chmod(0o644)
    os.utime(path, ns=(1, 1))
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"got a file that was written to\); copy the whole folder again"):
        bundle.encoder.check_unchanged()


def test_other_bus_errors_end_a_process_as_ever(wide: Path, pytestconfig: pytest.Config) -> None:
    for fault in ("os.kill(os.getpid(), signal.SIGBUS)", "ctypes.string_at(ctypes.addressof(hole), 1)"):
        program = SERVING + (
            "import ctypes, mmap, os, signal, tempfile\n"
            "file = tempfile.TemporaryFile(); file.truncate(4096)\n"
            "mapped = mmap.mmap(file.fileno(), 4096); hole = ctypes.c_char.from_buffer(mapped)\n"
            f"file.truncate(0)\n{fault}\nprint('alive')\n"
        )
        process = run(program, wide, pytestconfig.rootpath)
        assert process.communicate()[0] == ""
        assert process.returncode == -7
