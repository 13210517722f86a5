"""A tiny synthetic log and one whole export of it, made once for the tests of all worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import settings

from export.compress.choice import PruneChoice
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.train.choices import TrainChoice
from service.bundle.folders import locked
from service.bundle.store import Bundle, load_bundle
from tests.exporting import short_bursts  # noqa: F401

# A busy machine is no failure: nothing here is about time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

ROWS = 4_000


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def silent(line: str) -> None:
    """Takes a line and prints nothing."""


@dataclass(frozen=True)
class Exported:
    """One run: its plan, the lines it printed, the bundle it made."""

    plan: Plan
    lines: list[str]
    bundle: Bundle


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all worker processes of this test run."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # a worker has a folder of its own in the run's
    folder = root / "tiny"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiny_plan(tiny_folder: Path) -> Plan:
    """A log of 4,000 rows with context, candidate and sequence fields, and a small model for it."""
    config = SyntheticConfig(
        rows=ROWS,
        seed=3,
        features=400,
        numeric_fields=2,
        categorical_fields=6,
        candidate_fields=2,
        sequence_fields=1,
        ctr=0.3,
        rows_per_day=1_000,
    )
    log, schema = tiny_folder / "clicks.csv.gz", tiny_folder / "clicks.toml"
    with locked(tiny_folder):
        if not schema.exists():
            assert write_synthetic_log(config, log, report=silent) == schema
    return Plan(
        data=log,
        schema=str(schema),
        out=tiny_folder / "artifacts" / "tiny",
        work=tiny_folder / "work",
        hyperparameters={"dim": 4, "hidden_units": [16, 8], "dropout": 0.1},
        training=TrainChoice(epochs=2, learning_rate=5e-3, seed=7, threads=1),
        pruning=PruneChoice(preset="low-latency", finetune_epochs=0.5, dense_twin="skip"),
    )


@pytest.fixture(scope="session")
def exported(tiny_plan: Plan, tiny_folder: Path) -> Exported:
    """The tiny log, exported with the low-latency recipe. Tests read it and copy what they change.

    The pruned graph ships whatever four hundred rows of validation say of it; the plan leaves that open.
    """
    printed = tiny_folder / "lines.json"
    with locked(tiny_folder):
        if not printed.exists():
            lines: list[str] = []
            run(replace(tiny_plan, ship="pruned"), say=lines.append)
            printed.write_bytes(msgspec.json.encode(lines))
    lines = msgspec.json.decode(printed.read_bytes(), type=list[str])
    return Exported(tiny_plan, lines, load_bundle(tiny_plan.out))
