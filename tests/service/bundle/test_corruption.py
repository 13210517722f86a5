"""A damaged or malicious bundle is refused with one line that names the file and the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtest.traffic.forged import replace_in
from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest
from service.bundle.store import load_bundle

Save = Callable[..., Manifest]


@pytest.fixture
def folder(save: Save, tmp_path: Path) -> Path:
    """A valid bundle."""
    save(tmp_path / "A")
    return tmp_path / "A"


def refusal(folder: Path) -> str:
    """The line of the error for the bundle."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    error = caught.value
    assert all((error.file, error.expected, error.found, error.remedy))
    assert "\n" not in str(error)
    assert str(folder) in str(error)
    return str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_byte_and_any_truncation_is_refused(folder: Path, data: st.DataObject) -> None:
    manifest = load_bundle(folder).manifest
    name = data.draw(st.sampled_from(sorted(manifest.files)))
    path = folder / name
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    if data.draw(st.booleans()):
        damaged = original[:position]
    else:
        flipped = original[position] ^ data.draw(st.integers(1, 255))
        damaged = original[:position] + bytes([flipped]) + original[position + 1 :]
    path.chmod(0o644)  # tables are read-only
    path.write_bytes(damaged)
    try:
        assert name in refusal(folder)
    finally:
        path.write_bytes(original)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_manifest_never_fails_otherwise(folder: Path, data: st.DataObject) -> None:
    """The manifest has no hash of its own, so a flipped digit may pass; every failure is one line."""
    path = folder / "manifest.json"
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    damaged = bytearray(original)
    damaged[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(damaged) if data.draw(st.booleans()) else original[:position])
    try:
        load_bundle(folder)
    except BundleError as error:
        message = str(error)
        assert "\n" not in message
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (folder / "manifest.json").unlink(), "no such file"),
        (
            lambda folder: (folder / "model.int8.onnx").unlink(),
            "model.int8.onnx' must be a file of the bundle",
        ),
        (lambda folder: (folder / "vocabulary/0.json").unlink(), "vocabulary/0.json' must be a file"),
        (lambda folder: (folder / "report/index.html").unlink(), "report/index.html' must be a file"),
        (lambda folder: (folder / "golden.json").write_bytes(b""), r"golden.json' must be \d+ bytes long"),
        (lambda folder: (folder / "schema.json").write_bytes(b"{" * 3000), r"schema.json' must be \d+ bytes"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json' must be JSON"),
        (
            lambda folder: (folder / "manifest.json").write_bytes(b"[" * 100_000),
            "manifest.json' must be JSON",
        ),
    ],
)
def test_a_missing_or_truncated_file_is_named(folder: Path, damage: Any, words: str) -> None:
    damage(folder)
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)
    refusal(folder)


def replace_by_link(path: Path, target: Path) -> None:
    """Move the file out of the bundle and link to it."""
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


def test_a_link_out_of_the_bundle_is_refused(folder: Path) -> None:
    for name in ("schema.json", "vocabulary/0.json", "report/index.html", "manifest.json"):
        replace_by_link(folder / name, folder.parent / "outside")
        assert f"{name}' must be a file inside the bundle" in refusal(folder)
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(content)


def test_a_folder_that_links_out_of_the_bundle_is_refused(folder: Path) -> None:
    (folder / "vocabulary").rename(folder.parent / "elsewhere")
    (folder / "vocabulary").symlink_to(folder.parent / "elsewhere")
    assert "a link out of it" in refusal(folder)


def test_circular_links_and_folders_are_not_files(folder: Path) -> None:
    path = folder / "golden.json"
    path.unlink()
    path.symlink_to(path)
    assert "golden.json' must be" in refusal(folder)
    path.unlink()
    path.mkdir()
    assert "golden.json' must be a file of the bundle" in refusal(folder)


OUTSIDE = ("../outside", "/etc/passwd", "a/../../b", "..", "C:x", "a\\b")
UNCLEAR = ("", ".", "./schema.json", "a//b", "a/", "a\nb", "a\0b", "manifest.json")


@pytest.mark.parametrize("name", [*OUTSIDE, *UNCLEAR])
def test_names_that_leave_the_bundle_are_refused(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "plain paths inside the bundle" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format_version=2), r"of format_version 1 \(got 2\); upgrade the service"),
        (
            lambda m: m.update(format_version=2, news="a part this service does not know"),
            "upgrade the service",
        ),
        (lambda m: m.update(format_version=0), "export the bundle again"),
        (lambda m: m.update(format_version="1"), "format_version"),
        (lambda m: m.pop("format_version"), "format_version"),
        (lambda m: m.update(colour="red"), "unknown field `colour`"),
        (lambda m: m["training"].update(colour="red"), "unknown field `colour`"),
        (lambda m: m.pop("model"), "model"),
        (lambda m: m.update(version="00000000"), "'version'"),
        (lambda m: m.update(name="two words"), "'name'"),
        (lambda m: m.update(created_at="yesterday"), "'created_at'"),
        (lambda m: m.update(created_at="2026-01-31T12:00:00"), "'created_at'"),
        (lambda m: m.update(serving_variant="float32"), "'serving_variant' one of pruned, int8"),
        (lambda m: m.update(kept_out={"pruned": "slow"}), "none that is kept out"),
        (lambda m: m["graphs"]["int8"].update(file="model.onnx"), "one of 'files'"),
        (lambda m: m["graphs"]["int8"].update(variant="pruned"), r"graphs\[int8\].variant"),
        (lambda m: m["graphs"]["int8"]["inputs"][0].update(shape=[None, 9]), r"\(None, 7\), as the schema"),
        (lambda m: m["files"]["schema.json"].update(size=-1), "schema.json"),
        (
            lambda m: m["files"]["schema.json"].update(size=2**62),
            r"schema.json\].size' from 0 to 67108864",
        ),
        (lambda m: m["training"]["rows"].update(train=10**30), "rows|out of range"),
        (
            lambda m: m["training"]["clicks"].update(train=10**9),
            r"training.clicks\[train\]' at most",
        ),
        (lambda m: m["training"].update(window=[2, 1]), "'training.window' a time and a later one"),
        (lambda m: m["evaluation"]["int8"].update(clicks=10**9), r"evaluation\[int8\].clicks' at most"),
        (
            lambda m: m["model"]["hyperparameters"].update(dim=10**30),
            "must hold integers of",
        ),
        (lambda m: m["graphs"]["int8"]["inputs"][0].update(dtype="V2147483647"), "dtype`|schema.json"),
        (lambda m: m["graphs"].update({str(n): m["graphs"]["int8"] for n in range(20)}), "length <= 16"),
        (lambda m: m["files"]["schema.json"].update(sha256="x"), "64 hexadecimal digits"),
        (lambda m: m["files"].pop("vocabulary/1.renumbering.npy"), "version|no such entry"),
        (lambda m: m["evaluation"]["int8"].update(auc=None), r"auc"),
        (lambda m: m["baseline"].update(verdict="splendid"), r"baseline\.verdict"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, change: Any, words: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)
    assert "manifest.json" in refusal(folder) or "schema.json" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("calibration.json", b'"slope": 1.0', b'"slope": NaN', "calibration.json' must be JSON"),
        ("calibration.json", b'"slope": 1.0', b'"slope": null', "Expected `float`, got `null`"),
        ("calibration.json", b'"slope": 1.0', b'"slope": 0.0', "'slope' of 'pruned' is above 0"),
        ("calibration.json", b"-4.5", b"5.5", r"knots\[1\]' of 'pruned' is above \[-4.0, 5.5\]"),
        ("calibration.json", b'"variant": "int8"', b'"variant": "int4"', "for the graphs pruned, int8"),
        ("calibration.json", b'"variant": "int8"', b'"variant": "pruned"', "one calibrator a variant"),
        ("golden.json", b'"logit_tolerance":0.0001', b'"logit_tolerance":-1.0', "logit_tolerance"),
        ("golden.json", b'"logit_tolerance":0.0001', b'"logit_tolerance":1e300', "<= 0.1 - at"),
        ("golden.json", b'"hour":7', b'"hour":' + b"9" * 30, "64 bits .*rows"),
        ("golden.json", b'"hour":7', b'"hour":' + b"[" * 20 + b"]" * 20, "deeper than 8 levels"),
        (
            "schema.json",
            b'"max_length": 3',
            b'"max_length": 1000000000',
            r"max_length`, and not 1000000000",
        ),
        ("schema.json", b'"buckets": 50', b'"buckets": 5000000000', "buckets|encoding"),
        ("calibration.json", b'"slope": 1.0', b'"slope": 1e300', r"slope`, and not 1e\+300"),
        ("calibration.json", b"-4.5", b"-1e300", "knots"),
        ("golden.json", b'"a2"', b'"a1"', "field '../ad' of row 0"),
        ("golden.json", b'"a2"', b"true", "encodable in row 0"),
        ("golden.json", b"[0.5,-1.0,0.0]", b"[0.5,-1.0]", "3 logits of pruned, as many as rows"),
        ("schema.json", b'"oov_id": 1', b'"oov_id": 0', "missing, oov and first ids"),
        ("model.int8.onnx", b"int8", b"int4", "fitted on model.int8.onnx with SHA-256"),
    ],
)
def test_an_invalid_file_with_a_correct_hash_is_refused(
    folder: Path, file: str, old: bytes, new: bytes, words: str
) -> None:
    content = (folder / file).read_bytes()
    assert old in content
    replace_in(folder, {file: content.replace(old, new)})
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)
    refusal(folder)


def test_values_that_repeat_are_refused(folder: Path) -> None:
    content = (folder / "vocabulary/0.json").read_bytes()
    replace_in(folder, {"vocabulary/0.json": content.replace(b'"b"', b'"a"')})
    with pytest.raises(BundleError, match=r"vocabulary/0\.json' must be valid .*unique"):
        load_bundle(folder, native=False)
    refusal(folder)


def test_a_file_that_is_not_listed_is_not_trusted(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["files"]["vocabulary/1.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    replace_in(folder, {})
    assert "a list of all files, vocabulary/1.json too" in refusal(folder)
