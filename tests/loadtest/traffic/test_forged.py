"""Bundles made of a bundle: their hashes fit, and they differ in what they say they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from loadtest.traffic import forged
from service.bundle.errors import BundleError
from service.bundle.store import load_bundle
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    by_ad = {"segment_field": "ad", "segment_offsets": ((0, 0.3), (3, -0.8), (5, 0.9))}
    return write_tiny_bundle(tmp_path / "tiny", calibration=by_ad)


def test_a_copy_is_the_bundle(bundle: Path, tmp_path: Path) -> None:
    copy = load_bundle(forged.copy_with(bundle, tmp_path / "copy", {}))
    assert copy.manifest == load_bundle(bundle).manifest


def test_a_recalibrated_bundle_is_another_good_one(bundle: Path, tmp_path: Path) -> None:
    before = load_bundle(bundle)
    after = load_bundle(forged.recalibrated(bundle, tmp_path / "other"))
    assert after.manifest.version != before.manifest.version
    (variant,) = after.golden.variants
    logits, pctrs = after.golden.variants[variant].logits, after.golden.variants[variant].pctrs
    assert pctrs != before.golden.variants[variant].pctrs
    assert after.calibrators[variant].pctr(logits).tolist() == pytest.approx(pctrs)


Make = Callable[[Path, Path], Path]


@pytest.mark.parametrize(
    "make", [forged.wrong_within_tolerance, forged.endless_loop, forged.huge_constant, forged.random_logits]
)
def test_the_hashes_of_a_forged_bundle_fit(make: Make, bundle: Path, tmp_path: Path) -> None:
    refusal = ""
    try:
        load_bundle(make(bundle, tmp_path / "forged"))
    except BundleError as error:
        refusal = str(error)
    assert "SHA-256" not in refusal  # it may be refused, for what it is


def test_graphs_that_make_noise_still_run(bundle: Path, tmp_path: Path) -> None:
    graph = (forged.random_logits(bundle, tmp_path / "noise") / "model.float32.onnx").read_bytes()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ids = [[0] * session.get_inputs()[0].shape[1]]
    one, other = (session.run(["logits"], {"ids": np.array(ids, np.int32)})[0] for _ in "ab")
    assert one.shape == (1,)
    assert one == pytest.approx(other, abs=1e-5)
