"""A log whose every rule of reading matters, and a bundle of it, for all tests of finished bundles."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.compress.choice import PruneChoice
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.train.choices import TrainChoice
from service.bundle.calibration import CALIBRATION_FILE
from service.bundle.folders import locked
from service.bundle.manifest import MANIFEST_FILE
from service.bundle.store import Bundle, load_bundle
from tests.export.conftest import silent
from tests.forged_bundle import rewrite_json

ROWS = 3_000
START = 1_735_689_600
COLUMNS = ("request", "clicked_at", "shown_at", "page", "price", "ad", "tags")
SCHEMA = """
name = "shop"
format = "csv"
header = false
separator = ";"
quote = "'"
missing = ["NA"]
columns = ["request", "clicked_at", "shown_at", "page", "price", "ad", "tags"]
[label]
column = "clicked_at"
present = true
[timestamp]
column = "shown_at"
format = "%Y-%m-%d %H:%M:%S"
[[field]]
name = "hour"
kind = "categorical"
role = "context"
derive = "hour_of_day"
[[field]]
name = "site"
column = "page"
kind = "categorical"
role = "context"
[[field]]
name = "price"
kind = "numeric"
role = "candidate"
bins = 8
[[field]]
name = "ad"
kind = "categorical"
role = "candidate"
encoding = "hashing"
buckets = 50
[[field]]
name = "tags"
kind = "sequence"
role = "candidate"
separator = "|"
max_length = 3
"""


@dataclass(frozen=True)
class Shown:
    """A row of the log as the shop knows it."""

    request: str
    second: int
    clicked: bool
    page: str | None
    price: float | None
    ad: str
    tags: tuple[str, ...]

    def cells(self) -> list[str]:
        """As the log writes it, in the order of COLUMNS."""
        shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.second))
        page = "NA" if self.page is None else f"'{self.page}'" if ";" in self.page else self.page
        price = "" if self.price is None else f"{self.price:g}"
        clicked = shown if self.clicked else ""
        return [self.request, clicked, shown, page, price, self.ad, "|".join(self.tags)]

    def body(self) -> dict[str, object]:
        """As a bid request: what is missing is left out."""
        context: dict[str, object] = {"hour": str(self.second // 3600 % 24)}
        features: dict[str, object] = {"ad": self.ad}
        if self.page is not None:
            context["site"] = self.page
        if self.price is not None:
            features["price"] = self.price
        if self.tags:
            features["tags"] = list(self.tags)
        return {"context": context, "candidates": [{"features": features}]}


def shown_rows(count: int, *, seed: int = 0, start: int = START, seconds: int = 120) -> list[Shown]:
    """Rows with clicks that depend on page and ad; some values are missing, in later seeds some are new."""
    draw = random.Random(seed)
    pages = ["news", "mail", "a;b", "sport", f"new {seed}" if seed else "games"]
    rows = []
    for number in range(count):
        page, ad = draw.choice([*pages, None]), f"ad{draw.randrange(30)}"
        rate = 0.08 + 0.25 * (page == "mail") + 0.3 * (int(ad[2:]) < 8)
        tags = tuple(f"t{draw.randrange(12)}" for _ in range(draw.randrange(5)))
        price = None if draw.random() < 0.1 else round(draw.random() * 10, 2)
        second = start + number * seconds
        rows.append(Shown(f"r{number}", second, draw.random() < rate, page, price, ad, tags))
    return rows


def write_rows(path: Path, rows: list[Shown], *, without: str | None = None) -> Path:
    """The log's file, perhaps without one of its columns."""
    kept = [place for place, name in enumerate(COLUMNS) if name != without]
    lines = [";".join(row.cells()[place] for place in kept) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Shop:
    """The rows of the shop's log, and the plan and the bundle that were made of it."""

    rows: list[Shown]
    plan: Plan
    bundle: Bundle

    @property
    def folder(self) -> Path:
        return self.plan.out

    @property
    def test_rows(self) -> list[Shown]:
        """Those of the test part: the latest."""
        return self.rows[-self.bundle.manifest.training.rows["test"] :]


@pytest.fixture(scope="session")
def shop(tiny_folder: Path) -> Shop:
    """The bundle of a DeepFM on the shop's log."""
    folder = tiny_folder / "shop"
    folder.mkdir(exist_ok=True)
    rows = shown_rows(ROWS)
    plan = Plan(
        data=folder / "shop.txt",
        schema=str(folder / "shop.toml"),
        out=folder / "artifacts" / "shop",
        work=folder / "work",
        name="shop",
        model="deepfm",
        hyperparameters={"dim": 4, "hidden_units": [8], "dropout": 0.0},
        training=TrainChoice(epochs=2, learning_rate=1e-2, seed=1, threads=1),
        pruning=PruneChoice(preset="none"),
        split=(0.5, 0.1, 0.2, 0.2),
        calibrate_by="site",
    )
    with locked(folder):
        if not (plan.out / MANIFEST_FILE).exists():
            write_rows(plan.data, rows)
            Path(plan.schema).write_text(SCHEMA)
            run(plan, say=silent)
    return Shop(rows, plan, load_bundle(plan.out))


@pytest.fixture(scope="session")
def rival(shop: Shop, tiny_folder: Path) -> Path:
    """The folder of a bundle of the same log with other fields, their order reversed: LR without the ads."""
    folder = tiny_folder / "rival"
    folder.mkdir(exist_ok=True)
    head, *fields = SCHEMA.split("[[field]]")
    kept = [field for field in fields if 'name = "ad"' not in field]
    plan = Plan(
        data=shop.plan.data,
        schema=str(folder / "rival.toml"),
        out=folder / "artifacts" / "rival",
        work=folder / "work",
        name="rival",
        model="lr",
        split=shop.plan.split,
        pruning=shop.plan.pruning,
        training=TrainChoice(epochs=2, seed=1, threads=1),
    )
    with locked(folder):
        if not (plan.out / MANIFEST_FILE).exists():
            Path(plan.schema).write_text("[[field]]".join([head, *kept[::-1]]))
            run(plan, say=silent)
    return plan.out


def with_sampling_rate(folder: Path, copy: Path, rate: float) -> Path:
    """A copy of the bundle in `folder` whose log kept that share of its non-clicks."""
    shutil.copytree(folder, copy)

    def change(record: dict[str, list[dict[str, object]]]) -> None:
        for one in record["calibrators"]:
            one["sampling_rate"] = rate

    rewrite_json(copy, CALIBRATION_FILE, change)
    return copy
