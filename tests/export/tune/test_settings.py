"""Settings that a search writes are what `run`, `train` and `compare` take; what is wrong is named."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import msgspec
import pytest

from export.__main__ import main
from export.compare.overrides import read_overrides
from export.compare.plan import Overrides
from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.stages import pipeline
from export.stages.plan import LogPlan, Plan
from export.stages.records import Trained
from export.stages.work import Work
from export.train.choices import TrainChoice
from export.tune import tune as tune_module
from export.tune.settings import as_toml
from export.tune.tune import tune_before_run
from service.bundle.store import load_bundle

SETTINGS = {"learning_rate": 1.5e-05, "epochs": 1, "embedding_optimizer": "ftrl", "dim": 3}


@pytest.fixture
def work(shop_work: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop_work, tmp_path / "work"))


def trained(work: Path) -> Trained:
    return Work(work).read_record("train", Trained)


def test_values_come_back_from_toml_as_they_were() -> None:
    settings = {**SETTINGS, "hidden_units": (16, 8), "batch_norm": True, "split_half": False, "dropout": 0.0}
    text = as_toml("nfm", settings, ["found", 'a "quoted" # comment'])
    assert tomllib.loads(text) == {"nfm": {**settings, "hidden_units": [16, 8]}}
    assert as_toml("lr", {}, []) == "[lr]\n"


def test_train_takes_the_file_and_the_command_line_wins(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(as_toml("fm", SETTINGS, ["found"]))
    assert main(["train", "--work", str(work), "--settings", str(file), "--threads", "1"]) == 0
    record = trained(work)
    assert record.model == "fm"
    assert record.hyperparameters["dim"] == 3
    found = record.config
    assert (found.learning_rate, found.epochs, found.embedding_optimizer) == (1.5e-05, 1, "ftrl")
    again = ["--settings", str(file), "--dim", "2", "--learning-rate", "0.5", "--threads", "1"]
    assert main(["train", "--work", str(work), *again]) == 0
    record = trained(work)
    assert record.hyperparameters["dim"] == 2
    assert (record.config.learning_rate, record.config.embedding_optimizer) == (0.5, "ftrl")


def test_compare_reads_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(as_toml("fm", SETTINGS, ["found"]))
    assert read_overrides(file, ()) == Overrides(own={"fm": SETTINGS})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[fm]\nlearning_rat = 0.1\n", "'learning_rat'"),
        ("learning_rat = 0.1\n", "'learning_rat'"),
        ("[fm]\nepochs = 'two'\n", "'epochs' must be a whole number"),
        ("[fm]\nlearning_rate = -1\n", "'learning_rate' must be above 0"),
        ("[fm]\nseed = 3\n", "'seed'"),
        ("[fmm]\nepochs = 3\n", "fmm"),
        ("[lr]\nepochs = 3\n", "a table for the model fm (got [lr])"),
        ("epochs: 3\n", "must be TOML"),
    ],
)
def test_what_no_model_takes_is_refused_with_file_and_key(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(content)
    assert main(["train", "--work", str(work), "--model", "fm", "--settings", str(file)]) == 1
    error = capsys.readouterr().err
    assert "wrong.toml" in error
    assert said in error
    assert not (work / "train.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "--work", "nowhere", "--preset", "accurate"], "export tune"),
        (
            ["compare", "--preset", "accurate", "--data", "x", "--schema", "avazu", "--out", "nowhere"],
            "export tune",
        ),
        (["tune", "--data", "x", "--out", "nowhere"], "given together"),
        (["tune", "--min-count", "3", "--out", "nowhere"], "'min_count' must be left out"),
    ],
)
def test_a_search_where_there_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


def test_the_preset_accurate_searches_first_and_records_it(
    shop: LogPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_module, "short_search", lambda rows: 2 if rows > 2_000 else 1)
    lines: list[str] = []
    plan = Plan(
        data=shop.data,
        schema=shop.schema,
        out=tmp_path / "out",
        work=tmp_path / "work",
        model="lr",
        training=TrainChoice(epochs=1, threads=1),
        pruning=PruneChoice(preset="accurate"),
    )
    with pytest.raises(ExportError, match="'preset' must be none"):
        pipeline.run(plan, say=str)
    pipeline.run(plan, search=tune_before_run, say=lines.append)
    assert any(line.startswith("a short search: 2 trials") for line in lines)
    record = trained(plan.work)
    assert record.searched is not None
    assert record.searched.trials == 2
    for name, value in record.searched.settings.items():
        assert getattr(record.config, name) == value
    assert not load_bundle(plan.out).manifest.compression
    told = "A search of 2 trials chose"
    assert told in (plan.out / "report" / "index.html").read_text()
    report = msgspec.json.decode((plan.out / "report" / "report.json").read_bytes())
    assert record.searched.verdict in report["search"]
