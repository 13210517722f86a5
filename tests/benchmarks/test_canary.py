"""Bundles that are worse on purpose: a service accepts them, and they are as much worse as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import canary_bundles
from service.bundle.store import load_bundle
from service.settings import Settings
from tests.running import RunningApp
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def golden(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits and pCTRs of its golden rows."""
    found = load_bundle(folder)
    outputs = found.golden.variants[found.manifest.serving_variant]
    return np.array(outputs.logits), np.array(outputs.pctrs)


def ids_of(folder: Path) -> np.ndarray:
    return np.array(load_bundle(folder).golden.ids, np.int32)


WORSE: dict[str, Callable[[Path, Path], Path]] = {
    "shuffled": canary_bundles.shuffled,
    "without": lambda bundle, to: canary_bundles.without(bundle, to, "ad"),
    "scaled": lambda bundle, to: canary_bundles.scaled(bundle, to, ids_of(bundle), 0.7),
    "slower": lambda bundle, to: canary_bundles.slower(bundle, to, 5.0),
}


@pytest.mark.parametrize("name", WORSE)
def test_a_worse_bundle_is_served(bundle: Path, tmp_path: Path, name: str) -> None:
    """Its golden rows are replayed when it is opened."""
    worse = WORSE[name](bundle, tmp_path / "worse")
    (logits, pctrs), (before, pctrs_before) = golden(worse), golden(bundle)
    if name == "scaled":
        assert pctrs.mean() == pytest.approx(0.7 * pctrs_before.mean(), rel=1e-3)
    assert np.array_equal(logits, before) == (name in ("scaled", "slower"))
    RunningApp(Settings(arms=(f"only={worse}",))).close()
