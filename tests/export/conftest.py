"""A tiny synthetic log and one whole export of it, shared by the tests of the pipeline and of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings

from export.compress.choice import PruneChoice
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.train.choices import TrainChoice
from service.bundle.store import Bundle

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


@dataclass(frozen=True)
class Exported:
    """One run: what it was told, what it said, what it made."""

    plan: Plan
    lines: list[str]
    bundle: Bundle


@pytest.fixture(scope="session")
def tiny_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A log of 4,000 rows with context, candidate and sequence fields, and a small model for it."""
    folder = tmp_path_factory.mktemp("tiny")
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
    schema = write_synthetic_log(config, folder / "clicks.csv.gz", report=str)
    return Plan(
        data=folder / "clicks.csv.gz",
        schema=str(schema),
        out=folder / "artifacts" / "tiny",
        work=folder / "work",
        hyperparameters={"dim": 4, "hidden_units": [16, 8], "dropout": 0.1},
        training=TrainChoice(epochs=2, learning_rate=5e-3, seed=7, threads=1),
        pruning=PruneChoice(finetune_epochs=0.5),
    )


@pytest.fixture(scope="session")
def exported(tiny_plan: Plan) -> Exported:
    """The tiny log, exported with the low-latency recipe."""
    lines: list[str] = []
    bundle = run(tiny_plan, say=lines.append)
    return Exported(tiny_plan, lines, bundle)
