"""The first example, followed once: the others serve the bundle that it builds."""

from __future__ import annotations

import shutil

import pytest

from tests.examples.walkthrough import Shop, follow
from tests.pages import REPOSITORY


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, and the examples ask with it")
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    return Shop(folder, follow("examples/own_csv/README.md", folder))
