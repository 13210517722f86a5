"""Saving and loading: what is saved is loaded, whole or not at all, whatever fails."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.golden import check_golden_ids
from service.bundle.manifest import Graph, Manifest, Metrics
from service.bundle.store import check_replaceable, load_bundle

Save = Callable[..., Manifest]


def everything_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_is_loaded(save: Save, parts: dict[str, Any], tmp_path: Path) -> None:
    manifest = save(tmp_path / "A", created_at="2026-01-31T12:00:00+00:00")
    bundle = load_bundle(tmp_path / "A")
    assert bundle.manifest == manifest
    assert manifest.created_at == "2026-01-31T12:00:00+00:00"
    assert manifest.id == f"tiny-deep_fwfm@{manifest.version}"
    assert bundle.calibrators == parts["calibrators"]
    assert bundle.graphs == parts["graphs"]
    assert bundle.golden == parts["golden"]
    assert bundle.folder == tmp_path / "A"
    for name in (
        "model", "training", "evaluation", "parity", "latency", "compression", "kept_out", "warnings",
        "baseline",
    ):  # fmt: skip
        assert getattr(bundle.manifest, name) == parts[name]
    context, candidate = {"site": "7", "seen ☃": ["y"]}, {"../ad": "a3", "campaign": 5}
    np.testing.assert_array_equal(
        Encoder(bundle.schema).encode_request(context, [candidate]),
        Encoder(parts["schema"]).encode_request(context, [candidate]),
    )


def test_a_bundle_from_before_there_was_a_baseline_has_none_and_no_intervals(
    save: Save, tmp_path: Path
) -> None:
    save(tmp_path / "A")
    path = tmp_path / "A" / "manifest.json"
    older = json.loads(path.read_bytes())
    del older["baseline"]
    for metrics in (*older["evaluation"].values(), *older["uncalibrated"].values()):
        del metrics["auc_interval"], metrics["logloss_interval"]
    path.write_text(json.dumps(older))
    manifest = load_bundle(tmp_path / "A").manifest
    assert manifest.baseline is None
    assert {one.auc_interval for one in manifest.evaluation.values()} == {None}


def test_a_bundle_from_before_there_were_warnings_has_none(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "A")
    path = tmp_path / "A" / "manifest.json"
    older = json.loads(path.read_bytes())
    del older["warnings"]
    path.write_text(json.dumps(older))
    assert load_bundle(tmp_path / "A").manifest.warnings == ()


def test_a_bundle_from_before_there_were_shares_of_missing_values_has_none(
    save: Save, tmp_path: Path
) -> None:
    save(tmp_path / "A")
    path = tmp_path / "A" / "manifest.json"
    older = json.loads(path.read_bytes())
    assert older["training"].pop("missing") == {"site": 0.25}
    path.write_text(json.dumps(older))
    assert load_bundle(tmp_path / "A").manifest.training.missing == {}


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({"site": 1.5}, "`float` <= 1.0"),
        ({"site": -0.1}, "`float` >= 0.0"),
        ({"site": None}, "Expected `float`"),
        ({"no field": 0.5}, "names fields of the schema .got 'no field'."),
    ],
)
def test_shares_of_missing_values_are_shares_of_fields(
    save: Save, tmp_path: Path, missing: dict[str, Any], words: str
) -> None:
    save(tmp_path / "A")
    path = tmp_path / "A" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["training"]["missing"] = missing
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        load_bundle(tmp_path / "A")


def test_every_file_is_listed_with_its_size_and_hash(save: Save, tmp_path: Path) -> None:
    manifest = save(tmp_path / "A")
    files = everything_in(tmp_path / "A")
    assert json.loads(files.pop("manifest.json")) == json.loads(msgspec.json.encode(manifest))
    assert {name: (entry.size, entry.sha256) for name, entry in manifest.files.items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    lines = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    assert manifest.version == hashlib.sha256(lines.encode()).hexdigest()[:8]


def test_the_version_follows_the_content(save: Save, tmp_path: Path) -> None:
    first = save(tmp_path / "A", created_at="2026-01-01T00:00:00+00:00")
    same = save(tmp_path / "B", created_at="2026-02-02T00:00:00+00:00")
    other = save(tmp_path / "C", extra_files={"report/index.html": b"another"})
    assert first.version == same.version != other.version


def test_the_report_is_verified_too(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "A")
    (tmp_path / "A/report/index.html").write_bytes(b"edited")
    with pytest.raises(BundleError, match=r"report/index\.html"):
        load_bundle(tmp_path / "A")


def test_unlisted_files_lie_beside_and_are_never_read(save: Save, tmp_path: Path) -> None:
    without = save(tmp_path / "A")
    manifest = save(tmp_path / "B", unlisted_files={"training/dense.npz": b"weights"})
    assert manifest.version == without.version
    path = tmp_path / "B/training/dense.npz"
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"edited")
    assert load_bundle(tmp_path / "B").manifest == manifest
    save(tmp_path / "B")
    assert not path.exists()


def test_a_bundle_is_replaced_and_nothing_else_is_left(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "A", extra_files={"report/old.html": b""})
    new = save(tmp_path / "A", name="new")
    assert load_bundle(tmp_path / "A").manifest == new
    assert not (tmp_path / "A/report/old.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["A"]


def test_a_link_to_a_bundle_stays_a_link(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "A")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/current").symlink_to(tmp_path / "A")
    new = save(tmp_path / "links/current", name="new")
    assert (tmp_path / "links/current").is_symlink()
    assert load_bundle(tmp_path / "A").manifest == load_bundle(tmp_path / "links/current").manifest == new


def test_an_empty_folder_is_filled(save: Save, tmp_path: Path) -> None:
    (tmp_path / "deep/A").mkdir(parents=True)
    save(tmp_path / "deep/A")
    assert load_bundle(tmp_path / "deep/A")


def test_foreign_folders_and_files_are_refused(save: Save, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    before = everything_in(tmp_path)
    for name in ("home", "file"):
        with pytest.raises(BundleError, match="empty or absent"):
            save(tmp_path / name)
        with pytest.raises(BundleError, match="choose another folder"):
            check_replaceable(tmp_path / name)
    assert everything_in(tmp_path) == before
    check_replaceable(tmp_path / "absent")


# The file system refuses a name of over 255 bytes.
TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "bad", [f"{TOO_LONG}.html", f"report/{TOO_LONG}", f"a/{TOO_LONG}/b", "schema.json/x"]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_failing_save_leaves_the_old_bundle(save: Save, tmp_path: Path, bad: str, first: bool) -> None:
    save(tmp_path / "A")
    before = everything_in(tmp_path)
    good = {f"report/{number}.html": b"." * number for number in range(5)}
    files = {bad: b"", **good} if first else {**good, bad: b""}
    for folder in ("A", "B"):
        with pytest.raises(OSError, match=r"too long|Not a directory|File exists"):
            save(tmp_path / folder, name="new", extra_files=files)
    assert everything_in(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A"]
    assert load_bundle(tmp_path / "A").manifest.name == "tiny-deep_fwfm"


# A process that saves what it loads, under another name and with more files.
SAVER = """
import resource, sys
from pathlib import Path
from service.bundle.manifest import Description
from service.bundle.store import Contents, load_bundle, save_bundle

source, target, limit, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
old = load_bundle(source)
about = old.manifest
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print("ready", flush=True)
for number in range(times):
    description = Description(
        name=f"new{number}", created_at=about.created_at, model=about.model, graphs=about.graphs,
        serving_variant=about.serving_variant, training=about.training,
    )
    contents = Contents(
        old.schema, old.graphs, old.calibrators, old.golden,
        extra_files={f"report/{n}.html": b"." * 1000 * n for n in range(30)},
    )
    save_bundle(target, description, contents)
"""


@pytest.fixture
def saver(pytestconfig: pytest.Config) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts SAVER(source, target, limit, times); kills at the end what still runs."""
    started = []

    def start(source: Path, target: Path, limit: int = 0, times: int = 1) -> subprocess.Popen[str]:
        arguments = [str(source), str(target), str(limit), str(times)]
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, *arguments],
            env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("limit", [0, 100, 1500, 20_500])
def test_a_full_disk_leaves_the_old_bundle(
    save: Save, saver: Callable[..., subprocess.Popen[str]], tmp_path: Path, limit: int
) -> None:
    save(tmp_path / "A")
    before = everything_in(tmp_path)
    process = saver(tmp_path / "A", tmp_path / "A", limit)
    _, errors = process.communicate()
    if not limit:
        assert errors == ""
        assert load_bundle(tmp_path / "A").manifest.name == "new0"
        return
    assert "OSError: [Errno 27] File too large" in errors
    assert everything_in(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["A"]


def test_a_killed_save_leaves_a_whole_bundle_and_does_not_harm_the_next(
    save: Save, saver: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    save(tmp_path / "source")
    target = tmp_path / "out/A"
    save(target)
    for kill_number in range(6):
        process = saver(tmp_path / "source", target, times=1_000_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.005 + 0.017 * kill_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():  # if not, it was killed between two renames; see the next test
            assert load_bundle(target)
    new = save(target)
    assert load_bundle(target).manifest == new
    assert [path.name for path in target.parent.iterdir()] == ["A"]


def test_a_save_that_was_killed_between_its_two_renames_is_undone(save: Save, tmp_path: Path) -> None:
    target = tmp_path / "A"
    old = save(target)
    target.rename(tmp_path / ".A.outgoing")
    (tmp_path / ".A.incoming").mkdir()
    (tmp_path / ".A.incoming/schema.json").write_text("half")
    with pytest.raises(BundleError, match=r"a save was interrupted: rename \.A\.outgoing to A"):
        load_bundle(target)
    with pytest.raises(OSError, match="too long"):
        save(target, extra_files={TOO_LONG: b""})
    assert load_bundle(target).manifest == old
    assert [path.name for path in tmp_path.iterdir()] == ["A"]


def test_saves_at_the_same_time_take_turns(
    save: Save, saver: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    save(tmp_path / "source")
    target = tmp_path / "out/A"
    processes = [saver(tmp_path / "source", target, times=3) for _ in range(3)]
    assert [process.communicate() for process in processes] == [("ready\n", "")] * 3
    assert load_bundle(target).manifest.name == "new2"
    assert [path.name for path in target.parent.iterdir()] == ["A"]


def with_table(descriptions: dict[str, Graph]) -> dict[str, Graph]:
    """Descriptions with a table that the graph does not have."""
    return {**descriptions, "int8": msgspec.structs.replace(descriptions["int8"], tables=("embedding",))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda parts: {"serving_variant": "float32"}, "serving_variant"),
        (lambda parts: {"serving_variant": "int8"}, "none that is kept out"),
        (lambda parts: {"name": "a b"}, "'name'"),
        (lambda parts: {"name": "../up"}, "'name'"),
        (lambda parts: {"graphs": {"pruned": b""}}, "described for the graphs pruned"),
        (lambda parts: {"graphs": {**parts["graphs"], "int8": b"another"}}, "calibrate the graph again"),
        (
            lambda parts: {"calibrators": {"int8": parts["calibrators"]["int8"]}},
            "for the graphs pruned, int8",
        ),
        (lambda parts: {"descriptions": with_table(parts["descriptions"])}, "a graph with tables embedding"),
        (lambda parts: {"extra_files": {"../evil": b""}}, "plain paths inside the bundle"),
        (lambda parts: {"extra_files": {"/etc/evil": b""}}, "plain paths inside the bundle"),
        (lambda parts: {"extra_files": {"manifest.json": b""}}, "plain paths inside the bundle"),
        (lambda parts: {"extra_files": {"schema.json": b""}}, "give each its own name"),
        (
            lambda parts: {"descriptions": dict.fromkeys(parts["graphs"], parts["descriptions"]["int8"])},
            "give each its own name",
        ),
        (lambda parts: {"schema": parts["schema"].renumbered({"../ad": np.r_[0, 1, [2] * 6]})}, "row 0"),
        (lambda parts: {"golden": msgspec.structs.replace(parts["golden"], ids=())}, "3 ids"),
        (
            lambda parts: {"golden": msgspec.structs.replace(parts["golden"], variants={})},
            "no logits of pruned",
        ),
        (lambda parts: {"evaluation": {"int8": Metrics(1, 0, *[float("nan")] * 7)}}, "evaluation"),
    ],
)
def test_parts_that_do_not_fit_together_are_not_saved(
    save: Save, parts: dict[str, Any], tmp_path: Path, change: Any, words: str
) -> None:
    save(tmp_path / "A")
    before = everything_in(tmp_path)
    with pytest.raises(BundleError, match=words) as caught:
        save(tmp_path / "A", **change(parts))
    assert "\n" not in str(caught.value)
    assert everything_in(tmp_path) == before


def test_golden_ids_that_differ_name_row_and_field(parts: dict[str, Any]) -> None:
    golden = parts["golden"]
    ids = [list(row) for row in golden.ids]
    check_golden_ids(Encoder(parts["schema"]), golden)
    ids[1][5] += 1
    changed = msgspec.structs.replace(golden, ids=tuple(map(tuple, ids)))
    with pytest.raises(BundleError, match=r"field 'seen ☃' of row 1 has ids \[0, 1, 0\] \(got \[0, 0, 0\]\)"):
        check_golden_ids(Encoder(parts["schema"]), changed)
    short = msgspec.structs.replace(golden, ids=(golden.ids[0][:-1], *golden.ids[1:]))
    with pytest.raises(BundleError, match="of 7 ids in row 0"):
        check_golden_ids(Encoder(parts["schema"]), short)
