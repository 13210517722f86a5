"""The benchmark of other libraries: what is chosen, kept, compared and printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.command import ended
from benchmarks.peers import __main__ as command
from benchmarks.peers.contender import (
    DEFAULT,
    FUXICTR,
    SCIKIT,
    TUNED,
    Contender,
    Fitted,
    sources,
)
from benchmarks.peers.figures import Fits, Line, Table, lines
from benchmarks.peers.kept import Cabinet, Run, digest_of
from benchmarks.peers.markdown import marked
from benchmarks.peers.summary import as_summary
from export.data.encoded import EncodedLog
from export.errors import ExportError
from export.judge.bootstrap import Delta
from tests.peer_log import small_log

pytestmark = pytest.mark.usefixtures("same_path")


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
        (Delta(0.02, 0.01, 0.03), "▲ +0.0200 (+0.0100, +0.0300)", "▼ +0.0200 (+0.0100, +0.0300)"),
        (Delta(-0.02, -0.03, -0.01), "▼ -0.0200 (-0.0300, -0.0100)", "▲ -0.0200 (-0.0300, -0.0100)"),
        (Delta(0.001, -0.01, 0.02), "+0.0010 (-0.0100, +0.0200)", "+0.0010 (-0.0100, +0.0200)"),
    ],
)
def test_an_arrow_says_who_is_better_beyond_noise(gap: Delta, as_auc: str, as_logloss: str) -> None:
    assert marked(gap) == as_auc
    assert marked(gap, less_is_better=True) == as_logloss
    assert marked(Delta(0.0, 0.0, 0.0)) == "same"
    assert marked(Delta(0.0049, -0.001, 0.0101), percent=True) == "+0.49 (-0.10, +1.01)"


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
    with raw.open("a") as file:
        file.write("i1,0\n" * 100)
    assert command.main(given) == 0  # another log of the same name
    assert sum(json.loads((out / "clicks.json").read_text())["rows"].values()) == 1600


def test_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(command.main, ["--show", str(tmp_path)]) == 2
    assert "must be a folder with tables" in capsys.readouterr().err
    (tmp_path / "old.json").write_text("{}")
    assert ended(command.main, ["--show", str(tmp_path)]) == 2
    assert "must be a folder with tables of this version" in capsys.readouterr().err
    monkeypatch.setitem(command.PEERS, "lightgbm", ("no_such_package", "boosting"))
    with pytest.raises(ExportError, match=r"must name installed libraries \(got 'lightgbm'\); `make peers`"):
        command.peer("lightgbm")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--data", str(tmp_path)])
    assert "--data and --schema must be given together" in capsys.readouterr().err
