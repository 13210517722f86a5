"""Two tiny bundles, and a service that splits between them, for all end-to-end tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import RunningService, running_service
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two bundles with different weights, by arm name."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: write_tiny_bundle(folder / name, name=f"tiny-{name}", seed=seed)
        for seed, name in enumerate(("control", "treatment"))
    }


@pytest.fixture(scope="session")
def service(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Both arms, 3:1, in one process. Tests that count or stop something start their own service."""
    arms = ["--arm", f"control={bundles['control']}:3", "--arm", f"treatment={bundles['treatment']}:1"]
    with running_service(tmp_path_factory.mktemp("service"), arms) as running:
        yield running
