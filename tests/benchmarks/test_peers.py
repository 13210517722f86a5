"""The benchmark of other libraries: what they read, what is chosen, kept and compared, on a small log."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.peers import __main__ as command
from benchmarks.peers import ours, scikit
from benchmarks.peers.columns import FOLDS, PRIOR_ROWS, one_hot, tree_columns
from benchmarks.peers.contender import (
    DEFAULT,
    FUXICTR,
    SCIKIT,
    TUNED,
    Contender,
    Fitted,
    sources,
    step_seconds,
)
from benchmarks.peers.figures import Fits, Gap, Line, Table, lines
from benchmarks.peers.grid import GRIDS, Shape, shared_batch
from benchmarks.peers.kept import Cabinet, Run, digest_of
from benchmarks.peers.markdown import marked
from benchmarks.peers.summary import as_summary
from export.data.encoded import EncodedLog, Part
from export.errors import ExportError
from export.judge.metrics import auc
from export.train.loop import Evaluation, TrainResult
from service.bundle.schema import Bins, Field, Schema, Vocabulary

SHAPE = Shape(dim=4, hidden_units=(8, 4), batch_size=64)
ITEMS = Vocabulary(tuple("abcde"))
SCHEMA = Schema(
    (
        Field("history", "sequence", "context", ITEMS, max_length=3, same_values_as="item"),
        Field("price", "numeric", "candidate", Bins((1.0, 2.0))),
        Field("item", "categorical", "candidate", ITEMS),
    )
)


def small_log(rows: int = 600) -> EncodedLog:
    """A log in which a click follows the item and the first element of the history."""
    draw = np.random.default_rng(4)

    def part() -> Part:
        history = draw.integers(2, 7, (rows, 3)) * (draw.random((rows, 3)) < 0.8)
        history = -np.sort(-history, axis=1)  # padding comes last
        ids = np.column_stack([history, draw.integers(2, 5, rows), draw.integers(2, 7, rows)]).astype(
            np.int32
        )
        logits = 1.2 * (ids[:, 4] - 4) + 0.8 * (ids[:, 0] - 4)
        labels = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        return Part(ids, labels, None, None)

    parts = {name: part() for name in ("train", "validation", "calibration", "test")}
    return EncodedLog(SCHEMA, parts, "row order", None, "small", 0, [])


@pytest.fixture(scope="module")
def log() -> EncodedLog:
    return small_log()


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command makes installed peers importable, in this test alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def contender(
    by: str = DEFAULT,
    model: str = "lr",
    points: tuple[Mapping[str, Any], ...] = ({"quality": 2.0},),
    **more: Any,
) -> Contender:
    """One whose settings say how good it is on the test part, and whose calls are counted in `calls`."""

    def fit(log: EncodedLog, settings: Mapping[str, Any], seed: int) -> Fitted:
        more.get("calls", []).append((dict(settings), seed))

        def pctr(part: str, quality: float) -> NDArray[np.float64]:
            noise = np.random.default_rng(seed).normal(size=len(log.parts[part]))
            return 1 / (1 + np.exp(noise - quality * (np.asarray(log.parts[part].labels) - 0.5)))

        validation = settings.get("validation", settings["quality"])
        return Fitted(pctr("validation", validation), pctr("test", settings["quality"]), 0.5, 3.0)

    return Contender(model, by, points, fit, more.get("version", "1"), seeded=more.get("seeded", True))


def test_one_hot_rows_have_what_the_models_read(log: EncodedLog) -> None:
    rows = one_hot(log, "test").toarray()
    ids = np.asarray(log.parts["test"].ids)
    assert rows.shape == (len(ids), 7 + 5 + 7)
    for row, (*history, price, item) in zip(rows[:50], ids[:50], strict=True):
        expected = np.zeros(19)
        elements = [element for element in history if element]
        for element in elements:
            expected[element] += 1 / len(elements)
        expected[7 + price] = expected[12 + item] = 1.0
        assert row == pytest.approx(expected)
    assert any(not row[:3].any() for row in ids)  # a history without elements was among them


def test_trees_read_ids_bins_and_click_rates_that_leave_the_own_fold_out(log: EncodedLog) -> None:
    columns, categories = tree_columns(log)
    assert categories == [2]
    train, labels = np.asarray(log.parts["train"].ids), np.asarray(log.parts["train"].labels)
    assert columns["train"][:, 1:].tolist() == train[:, 3:].tolist()

    def rate(element: int, rows: NDArray[np.bool_]) -> float:
        clicks, shown = 0.0, 0
        for column in range(3):
            of = rows & (train[:, column] == element)
            clicks, shown = clicks + labels[of].sum(), shown + of.sum()
        return float((clicks + PRIOR_ROWS * labels[rows].mean()) / (shown + PRIOR_ROWS))

    every = np.ones(len(train), bool)
    for row in range(12):
        others = np.arange(len(train)) % FOLDS != row % FOLDS
        for part, rows in (("train", others), ("test", every)):
            elements = [element for element in log.parts[part].ids[row, :3] if element]
            expected = np.mean([rate(element, rows) for element in elements]) if elements else 0.0
            assert columns[part][row, 0] == pytest.approx(expected)


@pytest.mark.parametrize("model", ["lr", "gbdt_lr"])
def test_scikit_learn_finds_a_planted_effect(log: EncodedLog, model: str) -> None:
    (found,) = scikit.contenders([model], SHAPE)
    assert (found.model, found.by) == (model, SCIKIT)
    fitted = found.fit(log, found.points[-1], 0)
    assert auc(log.parts["test"].labels, fitted.test) > 0.8


def test_models_train_by_default_and_by_a_grid(log: EncodedLog) -> None:
    default, tuned = ours.contenders(["deepfm"], SHAPE)
    assert (default.by, tuned.by) == (DEFAULT, TUNED)
    assert default.points == (tuned.points[0],)
    assert default.points[0]["training"] == {}
    assert len(tuned.points) == 1 + len(GRIDS["deepfm"])
    assert all(point["hyperparameters"]["hidden_units"] == [8, 4] for point in tuned.points)
    settings = {**tuned.points[1], "training": {"learning_rate": 0.02, "epochs": 2}}
    fitted, again = (tuned.fit(log, settings, 0) for _ in range(2))
    assert auc(log.parts["test"].labels, fitted.test) > 0.8
    assert fitted.test.tolist() == again.test.tolist()
    assert fitted.epoch_seconds is not None
    assert fitted.epoch_seconds > 0


def test_an_epoch_takes_its_steps_without_evaluations() -> None:
    judged = [Evaluation(1, step, 0.1, 0.5, 1.0, 0.4, 0.7) for step in (2, 4)]
    result = TrainResult(None, tuple(judged), 5, False, 0.0, steps_an_epoch=10)
    # Steps 2 and 4 take 1 and 3 seconds; 3 and 5 hold the evaluations before them.
    assert ours.epoch_seconds([0.0, 1.0, 101.0, 104.0, 204.0], result) == pytest.approx(20.0)
    assert step_seconds([0.0, 1.0, 2.0, 102.0, 103.0], 10) == pytest.approx(10.0)


def test_every_model_has_a_grid_that_it_takes(log: EncodedLog) -> None:
    short = {name: Part(part.ids[:80], part.labels[:80], None, None) for name, part in log.parts.items()}
    for model in command.MODELS:
        settings = ours.grid_settings(model, SHAPE)[0]
        assert ours.fit(replace(log, parts=short), settings, 0).test.shape == (80,)


def test_a_settings_file_takes_the_place_of_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[fm]\ndim = 3\nlearning_rate = 0.01\n")
    by_name = {(one.model, one.by): one for one in ours.contenders(["fm", "lr"], SHAPE, settings_file=file)}
    (settings,) = by_name["fm", TUNED].points
    assert settings == {"model": "fm", "hyperparameters": {"dim": 3}, "training": {"learning_rate": 0.01}}
    assert by_name["fm", DEFAULT].points[0]["hyperparameters"] == {"dim": 4}
    assert len(by_name["lr", TUNED].points) > 1
    file.write_text("[fm]\nno_such = 3\n")
    with pytest.raises(ExportError, match="no_such"):
        ours.contenders(["fm"], SHAPE, settings_file=file)


def test_settings_are_chosen_on_the_validation_part(log: EncodedLog, tmp_path: Path) -> None:
    calls: list[tuple[dict[str, Any], int]] = []
    points = ({"quality": 3.0, "validation": 0.1}, {"quality": 1.0, "validation": 2.0})
    found = command.fit_best(contender(points=points, calls=calls), Cabinet(tmp_path, "log"), log, 3)
    assert calls == [(points[0], 0), (points[1], 0), (points[1], 1), (points[1], 2)]
    assert [run.kept.seed for run in found.runs] == [0, 1, 2]
    one = command.fit_best(contender(seeded=False), Cabinet(tmp_path, "other"), log, 3)
    assert len(one.runs) == 1


def test_a_model_is_fitted_once_for_the_same_inputs(log: EncodedLog, tmp_path: Path) -> None:
    calls: list[Any] = []
    cabinet = Cabinet(tmp_path, "log")

    def run(cabinet: Cabinet = cabinet, seed: int = 0, quality: float = 2.0, **more: Any) -> Run:
        return cabinet.run(contender(calls=calls, **more), log, {"quality": quality}, seed, _silent)

    first, again = run(), run()
    assert len(calls) == 1
    assert first.kept == again.kept
    assert first.test.tolist() == again.test.tolist()
    for other in (
        {"seed": 1},
        {"quality": 1.0},
        {"version": "2"},
        {"model": "fm"},
        {"by": TUNED},
        {"cabinet": Cabinet(tmp_path, "another log")},
    ):
        before = len(calls)
        run(**other)
        assert len(calls) == before + 1, other
    next(tmp_path.glob("*.json")).unlink()  # an interrupted run: pCTRs without a record
    before = len(calls)
    run(), run(seed=1)
    assert len(calls) <= before + 1


def _silent(_: str) -> None:
    """Takes a line."""


def test_a_changed_row_is_another_log(log: EncodedLog) -> None:
    again, changed = small_log(), small_log()
    ids = np.asarray(changed.parts["test"].ids).copy()
    ids[7, 4] = 2 if ids[7, 4] != 2 else 3
    parts = {**changed.parts, "test": replace(changed.parts["test"], ids=ids)}
    assert digest_of(log) == digest_of(again) != digest_of(replace(changed, parts=parts))


def test_a_digest_of_code_overlooks_comments_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.contender.REPOSITORY", tmp_path)
    (tmp_path / "room").mkdir()
    file = tmp_path / "room" / "one.py"

    def digest(text: str) -> str:
        file.write_text(text)
        return sources("room")

    assert digest("x = 1\n") == digest("x  =  1  # one\n") != digest("x = 2\n")


def test_figures_are_means_over_seeds_with_paired_intervals(log: EncodedLog, tmp_path: Path) -> None:
    labels = np.asarray(log.parts["test"].labels)
    cabinet = Cabinet(tmp_path, "log")
    fits = [
        command.fit_best(contender(by, points=({"quality": quality},), seeded=by != SCIKIT), cabinet, log, 3)
        for by, quality in ((DEFAULT, 2.0), (TUNED, 2.2), (SCIKIT, 1.0))
    ]
    default, tuned, regression = lines(labels, fits, resamples=60)

    def mean(metric: Any, fits: Fits) -> float:
        return float(np.mean([metric(labels, run.test) for run in fits.runs]))

    for line, one in zip((default, tuned, regression), fits, strict=True):
        assert line.auc == pytest.approx(mean(roc_auc_score, one))
        assert line.logloss == pytest.approx(mean(log_loss, one))
    assert (default.seeds, regression.seeds) == (3, 1)
    assert default.to_lr is not None
    assert default.to_lr.delta == pytest.approx(default.logloss / regression.logloss - 1)
    assert default.to_lr.low < default.to_lr.delta < default.to_lr.high < 0
    assert set(default.beside) == {TUNED}
    assert set(regression.beside) == {DEFAULT, TUNED}
    area, loss = regression.beside[DEFAULT]
    assert area.delta == pytest.approx(default.auc - regression.auc)
    assert 0 < area.low < area.delta < area.high
    assert loss.low < loss.delta < loss.high < 0
    # The same rows for all: the two of the same noise differ by far less than the rows do.
    area = default.beside[TUNED][0]
    assert area.high - area.low < 0.02


@pytest.mark.parametrize(
    ("gap", "as_auc", "as_logloss"),
    [
        (Gap(0.02, 0.01, 0.03), "▲ +0.0200 (+0.0100, +0.0300)", "▼ +0.0200 (+0.0100, +0.0300)"),
        (Gap(-0.02, -0.03, -0.01), "▼ -0.0200 (-0.0300, -0.0100)", "▲ -0.0200 (-0.0300, -0.0100)"),
        (Gap(0.001, -0.01, 0.02), "+0.0010 (-0.0100, +0.0200)", "+0.0010 (-0.0100, +0.0200)"),
    ],
)
def test_an_arrow_says_who_is_better_beyond_noise(gap: Gap, as_auc: str, as_logloss: str) -> None:
    assert marked(gap) == as_auc
    assert marked(gap, less_is_better=True) == as_logloss
    assert marked(Gap(0.0, 0.0, 0.0)) == "same"
    assert marked(Gap(0.0049, -0.001, 0.0101), percent=True) == "+0.49 (-0.10, +1.01)"


def _share(line: Line) -> str:
    assert line.to_lr is not None
    return marked(line.to_lr, less_is_better=True, percent=True)


def test_a_summary_has_a_row_a_log_and_a_column_a_model(log: EncodedLog, tmp_path: Path) -> None:
    labels, cabinet = np.asarray(log.parts["test"].labels), Cabinet(tmp_path, "log")
    fits = [
        command.fit_best(contender(by, model, ({"quality": quality},)), cabinet, log, 1)
        for model, by, quality in (
            ("lr", SCIKIT, 1.0),
            ("lr", DEFAULT, 1.1),
            ("fm", DEFAULT, 1.5),
            ("fm", TUNED, 1.6),
            ("fm", FUXICTR, 3.0),
        )
    ]

    def of_grid(found: Fits, **kept: Any) -> Fits:
        tried = [Run(msgspec.structs.replace(run.kept, **kept), run.test) for run in found.tried]
        return replace(found, tried=tried)

    fits[3] = of_grid(fits[3], settings={"training": {"batch_size": 64}}, epoch_seconds=0.2)
    fits[4] = of_grid(fits[4], settings={"batch_size": 64}, epoch_seconds=0.5)
    found = lines(labels, fits, resamples=20)
    rows = {"train": 600, "test": 600}
    table = Table("small", "time", rows, rows, 8, (8,), 64, 20, "this machine", found)
    to_lr, to_tuned, area, loss, seconds = as_summary([table]).split("### ")[1:]
    assert to_lr.splitlines()[2:5] == [
        "| log | `lr` | `fm` |",
        "| :-- | --: | --: |",
        f"| small | {_share(found[1])} | {_share(found[2])} |",
    ]
    assert to_tuned.splitlines()[4] == f"| small | {marked(found[3].beside[DEFAULT][0])} |"
    assert area.splitlines()[4].startswith("| small | ▼ -0.")
    assert loss.splitlines()[4].startswith("| small | ▼ +0.")
    assert seconds.splitlines()[4] == "| small | 0.40 |"


def test_training_rows_are_thinned_evenly(log: EncodedLog) -> None:
    thin = command.thinned(log, 100)
    assert len(thin.parts["train"]) == 100
    assert thin.parts["train"].ids[-1].tolist() == log.parts["train"].ids[-1].tolist()
    assert len(thin.parts["test"]) == len(log.parts["test"])
    assert command.thinned(log, 10_000) is log


@pytest.mark.parametrize(("rows", "batch"), [(14_001, 256), (56_000, 1024), (10, 1), (10**8, 4096)])
def test_the_shared_batch_gives_fifty_steps(rows: int, batch: int) -> None:
    assert shared_batch(rows) == batch


def test_the_command_prints_keeps_and_reprints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, schema = tmp_path / "clicks.csv", tmp_path / "clicks.toml"
    draw = np.random.default_rng(1)
    items, labels = draw.integers(0, 5, 1500), draw.random(1500)
    raw.write_text(
        "item,click\n"
        + "".join(f"i{item},{int(u < 0.1 + item / 8)}\n" for item, u in zip(items, labels, strict=True))
    )
    schema.write_text(
        'name = "clicks"\nformat = "csv"\n[label]\ncolumn = "click"\n'
        '[[field]]\nname = "item"\nkind = "categorical"\nrole = "candidate"\n'
    )
    out = tmp_path / "out"
    options = ["--out", str(out), "--models", "lr", "--by", "default", "scikit-learn", "--seeds", "2"]
    given = ["--data", str(raw), "--schema", str(schema), *options, "--resamples", "20"]
    assert command.main(given) == 0
    printed = capsys.readouterr()
    assert "Bidlight, default: lr, seed 1, defaults" in printed.err
    assert [line.split(" | ")[1] for line in printed.out.splitlines() if line.startswith("| `")] == [
        DEFAULT,
        "scikit-learn, one run",
    ]
    regression = json.loads((out / "clicks.json").read_text())["lines"][1]
    assert regression["beside"][DEFAULT][0]["delta"] == pytest.approx(0, abs=0.02)
    assert command.main(given) == 0
    again = capsys.readouterr()
    assert "seed" not in again.err
    assert again.out == printed.out
    assert command.main(["--show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(printed.out)
    default = json.loads((out / "clicks.json").read_text())["lines"][0]
    assert shown.startswith("### LogLoss by default over that of scikit-learn's tuned LR, %\n")
    assert f"| clicks | {100 * default['to_lr']['delta']:+.2f} (" in shown
    assert command.main(["--work", str(out / "clicks.work"), "--name", "clicks", *options]) == 0
    assert "seed" not in capsys.readouterr().err


def test_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(["--show", str(tmp_path)]) == 1
    assert "must be a folder with tables" in capsys.readouterr().err
    (tmp_path / "old.json").write_text("{}")
    assert command.main(["--show", str(tmp_path)]) == 1
    assert "must be a folder with tables of this version" in capsys.readouterr().err
    monkeypatch.setitem(command.PEERS, "lightgbm", ("no_such_package", "boosting"))
    with pytest.raises(ExportError, match=r"must name installed libraries \(got 'lightgbm'\); `make peers`"):
        command.peer("lightgbm")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--data", "log.csv"])
    assert "--data and --schema must be given together" in capsys.readouterr().err


def needs(package: str) -> None:
    """Skips without the package."""
    command.see_installed_peers()
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; `make peers` installs it")


def test_lightgbm_finds_a_planted_effect(log: EncodedLog) -> None:
    needs("lightgbm")
    (found,) = command.peer("lightgbm").contenders(["lr", "gbdt_lr"], SHAPE)
    fitted = found.fit(log, found.points[0], 0)
    assert auc(log.parts["test"].labels, fitted.test) > 0.8


@pytest.mark.filterwarnings("ignore")  # of FuxiCTR and what it imports
def test_fuxictr_finds_a_planted_effect(log: EncodedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("fuxictr")
    monkeypatch.setattr(command.peer("fuxictr"), "MOST_EPOCHS", 6)
    found = command.peer("fuxictr").contenders(command.MODELS, SHAPE)
    assert [one.model for one in found] == ["lr", "fm", "fwfm", "deepfm", "dcn_v2"]
    for one in found:
        settings = {**one.points[0], "rate": 0.02}
        fitted = one.fit(log, settings, 0)
        assert auc(log.parts["test"].labels, fitted.test) > 0.8, one.model
        assert fitted.epochs >= 1
        assert fitted.epoch_seconds is not None
        assert fitted.epoch_seconds > 0


@pytest.mark.filterwarnings("ignore")
def test_fuxictr_reads_the_fields_as_the_models_do(log: EncodedLog, tmp_path: Path) -> None:
    needs("fuxictr")
    fuxi = command.peer("fuxictr")
    import torch

    features = fuxi._feature_map(SCHEMA, 4, str(tmp_path))
    settings = {"model": "fm", "dim": 4, "rate": 0.1, "l2": 0.0}
    network = fuxi.FM(features, settings, str(tmp_path))
    tables = network.embedding.embedding_layer.embedding_layers
    history, price, item = (fuxi.feature_name(SCHEMA, name) for name in ("history", "price", "item"))
    assert tables[history] is tables[item]
    weights_of_ids = network.fm.lr_layer.embedding_layer.embedding_layer.embedding_layers
    assert weights_of_ids[history] is not weights_of_ids[item]
    for table in weights_of_ids.values():
        assert table.weight.abs().max() < 0.01
    with torch.no_grad():
        for table in {tables[item], tables[price]}:
            table.weight.normal_()
            table.weight[0] = 0
    (batch,) = fuxi.Batches(log, log.parts["test"], 1000)
    vectors = network.embedding(network.get_inputs(batch)).detach().numpy()
    ids = np.asarray(log.parts["test"].ids)
    weights = tables[item].weight.detach().numpy()
    names = list(features.features)
    for row in range(20):
        elements = [weights[element] for element in ids[row, :3] if element]
        expected = np.mean(elements, axis=0) if elements else np.zeros(4)
        assert vectors[row, names.index(history)] == pytest.approx(expected, abs=1e-5)
        assert vectors[row, names.index(item)] == pytest.approx(weights[ids[row, 4]], abs=1e-5)
