"""Two small logs: in one, clicks follow two fields; in the other they are noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.work import Work
from tests.export.click_csv import write_clicks

ROWS = 3_000


def log_plan(folder: Path, *, signal: float) -> LogPlan:
    """A log whose log-odds of a click have this standard deviation, in a folder."""
    draw = np.random.default_rng(4)
    pages, ads = draw.integers(0, 30, ROWS), draw.integers(0, 40, ROWS)
    logits = signal * (draw.normal(size=30)[pages] + draw.normal(size=40)[ads]) - 0.5
    clicks = draw.random(ROWS) < 1 / (1 + np.exp(-logits))
    rows = [(int(c), f"p{p}", f"a{a}") for c, p, a in zip(clicks, pages, ads, strict=True)]
    return write_clicks(folder, "shop", {"page": "context", "ad": "candidate"}, rows)


def encoded(folder: Path, plan: LogPlan) -> Path:
    """A work folder in which fit-schema has run."""
    fit_schema(Work(folder / "work"), plan, say=str)
    return folder / "work"


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> LogPlan:
    return log_plan(tmp_path_factory.mktemp("shop"), signal=1.2)


@pytest.fixture(scope="session")
def shop_work(shop: LogPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoded log, which tests copy where they search in it."""
    return encoded(tmp_path_factory.mktemp("encoded"), shop)


@pytest.fixture(scope="session")
def noise_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    return encoded(folder, log_plan(folder, signal=0.0))
