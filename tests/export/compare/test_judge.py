"""What the table says of models whose predictions are known: which difference is one, and which is not."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from export.compare.contender import PCTR, Contender
from export.compare.judge import Served, judge
from export.compare.page import comparison_page
from export.compare.plots import unbeaten
from export.compare.records import Comparison, Failure, Result, Row
from export.compare.tables import as_markdown, as_text, cells
from export.judge.bootstrap import Delta
from export.judge.metrics import evaluate
from export.stages.records import LogSummary
from tests.browser import check_readable, needs_chromium
from tests.export.compare.contenders import ending
from tests.export.report.test_report import Balanced

ROWS = 4_000
SERVED = Served("float32", {"int8": "is not faster"}, {"1": 9.0, "64": 1.5, "1024": 1.25})
NOISE = {"lr": 1.2, "best": 0.3, "twin": 0.3, "bad": 4.0}


@pytest.fixture(scope="module")
def labels() -> NDArray[np.uint8]:
    return (np.random.default_rng(0).random(ROWS) < pctr(0, 0.0)).astype(np.uint8)


def pctr(seed: int, noise: float) -> NDArray[np.float64]:
    """The true pCTR of each row, with noise on the logit."""
    logits = np.random.default_rng(42).normal(-1, 1, ROWS)
    return 1 / (1 + np.exp(-logits - np.random.default_rng(seed).normal(0, noise, ROWS)))


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, labels: NDArray[np.uint8]
) -> dict[str, list[tuple[Contender, Result]]]:
    """Two seeds of each model; the predictions differ by noise alone."""
    folder = tmp_path_factory.mktemp("judged")
    found: dict[str, list[tuple[Contender, Result]]] = {}
    for place, (model, noise) in enumerate(NOISE.items()):
        for seed in range(2):
            contender = ending(model, folder, seed=seed)
            contender.work.folder.mkdir(parents=True)
            scores = pctr(100 * place + seed, noise)
            np.savez(contender.work.folder / PCTR, float32=scores)
            result = _result(contender, evaluate(labels, scores))
            found.setdefault(model, []).append((contender, result))
    return found


def _result(contender: Contender, metrics: object) -> Result:
    return Result(
        key=contender.key, model=contender.model, seed=contender.seed, hyperparameters={"dim": 4},
        config=contender.config, parameters=1234, epochs=3, best_epoch=2, seconds_an_epoch=1.5, seconds=9.0,
        graph_bytes={"float32": 5000, "int8": 2000}, calibration={"float32": "platt", "int8": "platt"},
        metrics={"float32": metrics}, parity=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(results, labels: NDArray[np.uint8]) -> dict[str, Row]:
    found = judge(results, dict.fromkeys(results, SERVED), labels)
    assert [row.auc for row in found] == sorted((row.auc for row in found), reverse=True)
    return {row.model: row for row in found}


def test_auc_is_the_mean_of_the_seeds(rows: dict[str, Row], labels: NDArray[np.uint8]) -> None:
    for place, (model, noise) in enumerate(NOISE.items()):
        aucs = [sk.roc_auc_score(labels, pctr(100 * place + seed, noise)) for seed in range(2)]
        assert rows[model].auc_by_seed == pytest.approx(aucs)
        assert rows[model].auc == pytest.approx(np.mean(aucs))
        assert rows[model].auc_sd == pytest.approx(np.std(aucs, ddof=1))
        assert rows[model].auc_interval[0] < rows[model].auc < rows[model].auc_interval[1]


def test_a_difference_is_told_from_none(rows: dict[str, Row]) -> None:
    best = max(rows.values(), key=lambda row: row.auc)
    other = rows["twin" if best.model == "best" else "best"]
    assert best.against_best == Delta(0.0, 0.0, 0.0)
    assert other.against_best.sign == 0
    assert rows["lr"].against_best.sign == rows["bad"].against_best.sign == -1
    signs = {model: row.against_reference and row.against_reference.sign for model, row in rows.items()}
    assert signs == {"lr": 0, "best": 1, "twin": 1, "bad": -1}
    assert rows["bad"].against_reference.delta == pytest.approx(rows["bad"].auc - rows["lr"].auc)


def test_without_lr_there_is_no_reference(results, labels: NDArray[np.uint8]) -> None:
    left = {model: results[model] for model in ("twin", "bad")}
    assert all(row.against_reference is None for row in judge(left, dict.fromkeys(left, SERVED), labels))


@pytest.fixture(scope="module")
def comparison(rows: dict[str, Row]) -> Comparison:
    ordered = tuple(sorted(rows.values(), key=lambda row: -row.auc))
    log = LogSummary(
        "log <1>.csv", "shop", "time", {"train": 9, "test": ROWS}, {"train": 1, "test": 900}, 0, None, 3
    )
    return Comparison(
        created_at="2026-01-01T00:00:00+00:00", machine="a machine", versions={"torch": "2"},
        options={"seeds": 2},
        log=log, auc_of_true_pctr=0.81234, best=ordered[0].model, reference="lr", resamples=400, rows=ordered,
        failures=(Failure("din", 0, "train", "needs <a> sequence | field"),),
    )  # fmt: skip


def test_the_text_holds_every_model_with_its_marks(comparison: Comparison, rows: dict[str, Row]) -> None:
    lines = as_text(comparison).splitlines()
    of = {line.split()[0]: line for line in lines if line}
    assert "▲" in of["twin"]
    assert "▼" in of["bad"]
    assert "=" not in of["bad"]
    assert " = " in of["twin" if comparison.best == "best" else "best"]
    assert f"{rows['lr'].auc:.4f} ± {rows['lr'].auc_sd:.4f}" in of["lr"]
    assert "no model can beat: 0.8123." in as_text(comparison)
    assert lines[-1] == "din failed in train: needs <a> sequence | field"
    start = next(place for place, line in enumerate(lines) if line.startswith("model"))
    assert len({len(line) for line in lines[start : start + 5]}) == 1


def test_markdown_is_one_table_of_the_same_cells(comparison: Comparison) -> None:
    table = [line for line in as_markdown(comparison).splitlines() if line.startswith("|")]
    head, *body = cells(comparison)
    assert len(table) == 2 + len(body)
    assert all(line.count("|") == len(head) + 1 for line in table)
    for line, row in zip(table[2:], body, strict=True):
        assert [cell.strip(" `") for cell in line.strip("|").split("|")] == row


def test_the_page_escapes_names_and_fetches_nothing(comparison: Comparison) -> None:
    text = comparison_page(comparison)
    assert text == comparison_page(comparison)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert text.count("<svg") == 4
    assert "log &lt;1&gt;.csv" in text
    assert "needs &lt;a&gt; sequence" in text
    assert "<a>" not in text
    assert not re.search(r"src=|@import|url\((?!#)|href=\"(?!#)", text)


@needs_chromium
def test_a_browser_shows_the_page_and_its_figures_whole(comparison: Comparison, tmp_path) -> None:
    check_readable(comparison_page(comparison), tmp_path, figures=4)  # AUC, speed twice, size


def test_the_page_can_do_without_reference_oracle_and_seeds(comparison: Comparison) -> None:
    alone = msgspec.structs.replace(
        comparison.rows[0], against_reference=None, auc_sd=None, seconds_an_epoch=None
    )
    bare = msgspec.structs.replace(
        comparison, rows=(alone,), reference=None, auc_of_true_pctr=None, failures=()
    )
    assert "<svg" in comparison_page(bare)
    assert "±" not in as_text(bare)
    assert "▲" not in as_text(bare)


def test_a_comparison_comes_back_from_json(comparison: Comparison) -> None:
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


def test_the_line_joins_what_nothing_beats_in_both() -> None:
    points = {"a": (1.0, 0.7), "b": (2.0, 0.6), "c": (3.0, 0.8), "d": (3.0, 0.75), "e": (4.0, 0.8)}
    assert unbeaten(points) == [(1.0, 0.7), (3.0, 0.8)]
