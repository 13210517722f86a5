"""Several real processes: the weights of a single one, one reporter, and errors for a dead process."""

from __future__ import annotations

import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.train import train
from export.stages.work import Work
from export.teach.lesson import Lesson
from export.train.build import build_from_fields
from export.train.choices import TrainChoice
from export.train.ranks import ALONE, Ranks
from loadtest.processes.ports import free_port
from models import MODELS
from models.fields import Field

ROOT = Path(__file__).parents[3]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
SCRIPT = str(Path(__file__).with_name("several_processes.py"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | variables, capture_output=True, text=True, timeout=120
    )


def close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, weights in first.items():
        torch.testing.assert_close(
            weights, second[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    found = run(*TORCHRUN, "--master-port", str(free_port()), SCRIPT, str(together))
    assert found.returncode == 0, found.stderr
    runpy.run_path(SCRIPT)["main"](alone)
    ways = sorted(path.name for path in alone.iterdir())
    assert len(ways) == 6
    for way in ways:
        one, two = torch.load(alone / way), torch.load(together / way)
        close(one["weights"], two["weights"])
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert (two["steps"], two["lines"]) == (one["steps"], one["lines"])
    assert torch.load(alone / "stops-early.pt")["steps"] < 30 * 7
    table = torch.load(together / "group-lasso.pt")["weights"]["embedding.table.weight"]
    assert (table == 0).all(dim=1).any()


def test_the_command_line_trains_in_two_processes(tmp_path: Path) -> None:
    """With a teacher, whose answers each process reads from their file."""
    of_log = SyntheticConfig(
        rows=4_000, features=200, numeric_fields=1, categorical_fields=3, candidate_fields=1, ctr=0.2
    )
    schema = write_synthetic_log(of_log, tmp_path / "clicks.csv", report=str)
    work = Work(tmp_path / "work")
    plan = LogPlan(data=tmp_path / "clicks.csv", schema=str(schema), split=(0.6, 0.1, 0.2, 0.1))
    fit_schema(work, plan, say=str)
    config = TrainChoice(epochs=1, threads=1, distill_twin="skip").config(2400, model="fwfm")
    train(work, "fwfm", {}, config, say=str)
    teacher = tmp_path / "teacher.pt"
    (work.folder / "dense.pt").rename(teacher)
    train(work, "fwfm", {}, config, taught=Lesson((teacher,))(work, config, say=str), say=str)
    alone = torch.load(work.folder / "dense.pt")["weights"]
    options = ("-m", "export", "train", "--work", str(work.folder), "--model", "fwfm", "--epochs", "1")
    taught = ("--teacher", str(teacher), "--distill-twin", "skip")
    found = run(*TORCHRUN, "--master-port", str(free_port()), *options, *taught)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("training fwfm") == 1
    assert "training with 2 processes" in found.stdout
    close(alone, torch.load(work.folder / "dense.pt")["weights"])


DYING = """
import os, torch
from export.errors import ExportError
from export.train.distributed import process_group
with process_group() as ranks:
    ranks.total(torch.ones(2))
    if ranks.rank == 1:
        os._exit(7)
    try:
        for _ in range(10_000):
            ranks.total(torch.ones(100))
    except ExportError as error:
        print(error)
"""


def two_processes(*arguments: str) -> list[subprocess.Popen[str]]:
    """Started by hand, because torchrun may end the other process before it prints its error."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=ENVIRONMENT
            | {"RANK": str(r), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]


def test_a_process_that_dies_ends_the_others_with_an_error() -> None:
    processes = two_processes("-c", DYING)
    said, _ = processes[0].communicate(timeout=120)
    processes[1].communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 7]
    assert said.startswith("every process of a training must live until its end (rank 0 got '")
    assert len(said.splitlines()) == 1


FAILING = """
import sys
from pathlib import Path
from export.errors import ExportError
from export.train import distributed, loop
from export.train.config import TrainConfig
from models.fields import Field
from tests.export.train.several_processes import CONFIG, Penalised, a_log
# The log in memory stands for the folder, which both processes would read.
distributed.open_log = lambda folder: a_log()

class Failing(Penalised):
    def forward(self, ids):
        if distributed.current().is_leader and ids.shape[1]:
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 4:
                raise ExportError("no more memory")
        return super().forward(ids)

with distributed.process_group() as ranks:
    try:
        if ranks.is_leader:
            distributed.train_together(Failing(), a_log(), Path("."), CONFIG, report=str)
        else:
            distributed.follow(ranks)
    except ExportError as error:
        print(error)
        sys.exit(3)
"""


def test_an_error_of_rank_0_in_a_step_ends_the_others_with_an_error(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    processes = two_processes(str(script))
    try:
        said = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said[0] == "no more memory\n"
    assert said[1].startswith("every process of a training must live until its end (rank 1 got '")
    assert [process.returncode for process in processes] == [3, 3]


def test_processes_that_torchrun_did_not_start_are_refused(tmp_path: Path) -> None:
    found = run(sys.executable, "-m", "export", "train", "--work", str(tmp_path), WORLD_SIZE="2")
    assert found.returncode == 1
    assert "must be started by torchrun" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_make_up_the_batch_and_weights_add_up_to_one(rows: int, count: int) -> None:
    ranks = [Ranks(rank, count) for rank in range(count)]
    shares = [list(range(rows))[each.share(rows)] for each in ranks]
    assert all(shares)
    if rows >= count:
        assert sum(shares, []) == list(range(rows))  # noqa: RUF017
    values = torch.arange(float(rows)).square()
    mean = sum(values[share].mean() * each.weight(rows) for share, each in zip(shares, ranks, strict=True))
    torch.testing.assert_close(mean, values.mean())


def test_alone_nothing_is_sent() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert ALONE.share(3) == slice(0, 3)
    assert ALONE.total(values) is values
    assert ALONE.mean(values).item() == 3.0
    assert ALONE.decide(lambda: True) is True


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_can_be_sent_to_another_process(name: str) -> None:
    fields = (
        Field("site", 9),
        Field("price", 4, values=(0.0, 0.0, -0.7, 0.7)),
        Field("ad", 12, role="candidate"),
        Field("history", 12, width=3, same_values_as="ad"),
    )
    model = build_from_fields(name, fields, {})
    sent = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), sent.parameters(), strict=True))
    assert sent.training is True
