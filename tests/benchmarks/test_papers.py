"""Tables of papers are whole as data; a run makes each cell once and shows the papers' figures beside it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.papers import logs
from benchmarks.papers.__main__ import PAPERS, main
from benchmarks.papers.cells import ITEM, Build, Cell, Figures, Paper, Table
from benchmarks.papers.judge import Estimate, estimate, judged
from benchmarks.papers.latency import TORCH, milliseconds
from benchmarks.papers.logs import made_logs, thinned
from benchmarks.papers.make import config_of
from benchmarks.papers.results import Job, Result
from benchmarks.papers.running import Options, Run
from benchmarks.papers.settle import CannotRun, Fields, parameters_of, settled
from benchmarks.papers.tables import agreement
from benchmarks.papers.twitter import TARGETS
from export.data.encoded import open_log
from export.data.log_schema import Label, LogSchema
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError
from export.stages.work import silent
from models import MODELS
from tests.peer_log import SCHEMA, small_log

CONFIG = SyntheticConfig(
    rows=1600, seed=5, features=100, numeric_fields=1, categorical_fields=2, candidate_fields=1, ctr=0.3
)
SMALL = {"dim": 2, "hidden_units": [8, 4]}
TABLES = [(paper, table) for paper in PAPERS.values() for table in paper.tables]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log and its schema file."""
    data = tmp_path_factory.mktemp("log") / "log.parquet"
    return data, write_synthetic_log(CONFIG, data, report=silent)


@pytest.mark.parametrize(("paper", "table"), TABLES, ids=[f"{one.name}-{two.name}" for one, two in TABLES])
def test_a_table_is_whole(paper: Paper, table: Table) -> None:
    assert table.cells or table.name in paper.steps
    for beside in paper.logs:
        cells = table.cells_beside(beside)
        names = [cell.row for cell in cells]
        assert len(set(names)) == len(names)
        for cell in cells:
            assert {cell.against, cell.rival} <= {"", *names}, cell.row
            assert cell.row not in (cell.against, cell.rival)
            printed = cell.paper.get(table.log or beside)
            assert printed is not None or not cell.paper, (
                f"{cell.row} is printed beside {beside} without figures"
            )
            if printed is not None and printed.auc is not None:
                assert 0.5 < printed.auc < 1
                assert printed.logloss is None or 0 < printed.logloss < 0.6
            assert all(build.model in MODELS for build in cell.builds)
            if set(cell.builds[0].rates) <= {"dnn", "field_matrix", "embedding"}:
                assert all(share < 1 for share in cell.builds[0].rates.values())


def test_every_build_is_a_model_with_settings_of_training() -> None:
    """But for those that this log's fields do not allow, and those of which the table says why."""
    fields = Fields("item", "item", "item", "item")
    builds = [build for _, table in TABLES for cell in table.cells for build in cell.builds]
    alike = {f"{build.model} {sorted(build.hyperparameters)} {build.embedding}": build for build in builds}
    for build in alike.values():
        total, of_layers = parameters_of(settled(build, SCHEMA, fields), SCHEMA, 10**9)
        assert 0 < of_layers < total
    named = settled(Build(model="star", hyperparameters={"domain": ITEM}), SCHEMA, fields)
    assert named.hyperparameters == {"domain": "item"}
    with pytest.raises(CannotRun, match="more than --most-parameters 5"):
        parameters_of(named, SCHEMA, 5)


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_training_may_be_as_in_the_paper(paper: Paper) -> None:
    settings = {"training": dict(paper.training), "as_paper": True, "epochs": 3}
    builds, log = (
        [build for table in paper.tables for cell in table.cells for build in cell.builds],
        small_log(),
    )
    for build in builds:
        config = config_of(Job(build, 7, "", "", settings), log)
        assert (config.batch_size, config.seed) == (paper.training["batch_size"], 7)
        assert config.epochs <= 3
        assert config.optimizer == build.paper_training.get("optimizer", "adam")


def test_a_run_goes_on_where_it_stopped(
    log: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def run(*more: str) -> tuple[str, str]:
        data, schema = map(str, log)
        options = ["--data", data, "--schema", schema, "--out", str(out), "--epochs", "1"]
        assert main(["dynint", *options, "--table", "1", "--cells", "1/FM", *more]) == 0
        return capsys.readouterr()

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}

    _, said = run("--seeds", "0")
    assert "1/LR, seed 0: AUC" in said
    assert "1/FM, seed 0: AUC" in said
    first = written()
    assert len(first) == 2
    listed, _ = run("--seeds", "0,1", "--list")
    assert listed.count("kept") == 2
    _, said = run("--seeds", "0,1")
    assert "seed 0" not in said
    second = written()
    assert {path: second[path] for path in first} == first
    assert len(second) == 4
    content = json.loads((out / "dynint.json").read_bytes())
    lr, fm = content["tables"][0]["rows"]
    assert (lr["paper"]["auc"], fm["paper"]["auc"], fm["paper_delta"]) == (0.7924, 0.8030, 0.0106)
    assert fm["delta"]["value"] == pytest.approx(fm["auc"]["value"] - lr["auc"]["value"])
    assert fm["seeds"] == 2
    page = (out / "dynint.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "| FM | 0.8030 / " in (out / "dynint.md").read_text()
    run("--seeds", "0", "--epochs", "2")
    assert len(written()) == 6  # changed settings make other cells


def _build(**other: object) -> Build:
    return Build(model="deep_fwfm", hyperparameters=SMALL, **other)  # type: ignore[arg-type]


def _table() -> Table:
    def cell(row: str, *builds: Build, against: str = "dense") -> Cell:
        return Cell(row=row, builds=builds, paper={"A": Figures(auc=0.7)}, against=against)

    rates = {"dnn": 0.9, "field_matrix": 0.5, "embedding": 0.4}
    lesson = {"distill_alpha": 0.5, "distill_temperature": 2.0}
    return Table(
        name="1",
        title="all that a build may be",
        where="",
        batches=(1, 64),
        cells=(
            cell("dense", _build(trained_on=True), against=""),
            cell("sparse", _build(rates=rates)),
            cell("INT8", _build(rates=rates, quantization="static")),
            cell("taught", _build(training=lesson, teacher=_build())),
            cell("means", _build(), Build(model="lr")),
            cell("unknown", _build(rates={"no such part": 0.5})),
        ),
    )


def test_a_build_is_pruned_quantized_and_taught_as_it_says(log: tuple[Path, Path], tmp_path: Path) -> None:
    table = _table()
    paper = Paper(name="p", title="p", logs={"A": ()}, tables=(table,), training={})
    data, schema = log
    run = Run.of(Options(paper=paper, data=data, schema=str(schema), out=tmp_path, epochs=1), silent)
    run.make(0, silent)
    cabinet = run.maker.cabinet
    found = {cell.row: [cabinet.read(job) for job in run.jobs(cell)] for cell in table.cells}
    results = {row: each[0] for row, each in found.items() if isinstance(each[0], Result)}
    assert list(results) == ["dense", "sparse", "INT8", "taught", "means"]
    assert results["sparse"].reached["dnn"] == pytest.approx(0.9, abs=0.02)
    assert results["sparse"].parameters < results["dense"].parameters
    assert results["INT8"].bytes < 4 * results["dense"].parameters + 20_000
    rows = {row.row: row for row in judged(run, table)}
    assert "'no such part' cannot be pruned" in rows["unknown"].reason
    means = [one.metrics.auc for one in found["means"] if isinstance(one, Result)]
    assert len(means) == 2
    _agree(rows["means"].auc, np.mean(means))
    of_int8 = replace(run, options=replace(run.options, pattern="1/INT8"))
    times = milliseconds(of_int8, table, silent)
    assert list(times) == ["dense", f"dense{TORCH}", "INT8"]
    assert milliseconds(of_int8, table, _never) == times


def _agree(found: Estimate | None, wanted: object) -> None:
    assert found is not None
    assert found.value == pytest.approx(wanted)


def _never(line: str) -> None:
    raise AssertionError(f"nothing is to be timed again (got {line!r})")


def test_a_student_alone_has_no_knob_of_distillation(log: tuple[Path, Path], tmp_path: Path) -> None:
    paper = PAPERS["xsdeepfwfm"]
    data, schema = log
    run = Run.of(
        Options(paper=paper, data=data, schema=str(schema), out=tmp_path, tables=("students",)), silent
    )
    alone, taught, chosen = (
        config_of(run.jobs(cell)[0], run.grounds[""].log)
        for cell in run.cells(paper.tables[1])
        if cell.row.startswith("student of 64")
    )
    assert (taught.distill_alpha, taught.distill_twin, taught.epochs) == (0.5, "skip", 5)
    assert replace(chosen, distill_twin="skip") == taught
    assert chosen.distill_twin == alone.distill_twin == "train"  # of the latter nothing uses it


def test_an_interval_holds_rows_and_seeds() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 0.01, 4001)
    rows[0] = 0.0
    alone = estimate(np.stack([0.7 + rows]))
    assert alone.seeds is None
    assert alone.high - alone.value == pytest.approx(1.959964 * rows[1:].std(), rel=1e-6)
    both = estimate(np.stack([0.7 + rows, 0.72 + rows]))
    assert both.value == pytest.approx(0.71)
    assert both.seeds is not None
    assert both.seeds == pytest.approx(0.02 / 2**0.5)
    # Of two seeds Student's t is 12.7 standard deviations wide.
    spread = ((1.959964 * rows[1:].std()) ** 2 + (12.7062 * both.seeds) ** 2 / 2) ** 0.5
    assert both.high - both.value == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        (0.01, (0.001, 0.02), "yes"),
        (-0.01, (0.001, 0.02), "no"),
        (0.01, (-0.01, 0.02), "?"),
        (0.0, (-0.01, 0.02), "?"),
        (None, (1, 2), ""),
    ],
)
def test_agreement_is_claimed_where_the_interval_tells(
    there: float | None, here: Sequence[float], told: str
) -> None:
    low, high = here
    assert agreement(there, Estimate((low + high) / 2, low, high, None)) == told


ROWS = LogSchema(name="rows", format="csv", label=Label(column="row"), separator=",", quote='"')


def test_thinned_rows_are_evenly_spaced(tmp_path: Path) -> None:
    text = tmp_path / "log.csv.gz"
    with gzip.open(text, "wt") as file:
        file.write("head\n" + "".join(f"{row}\n" for row in range(100)))
    with gzip.open(thinned(text, ROWS, 5, tmp_path / "rows"), "rt") as file:
        assert file.read().split() == ["head", "0", "24", "49", "74", "99"]
    table = tmp_path / "log.parquet"
    pl.DataFrame({"row": range(100)}).write_parquet(table)
    kept = pl.read_parquet(thinned(table, ROWS, 5, tmp_path / "rows"))
    assert kept.to_dict(as_series=False) == {"row": [0, 24, 49, 74, 99]}


def test_a_row_is_whole_whatever_its_quotes_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BLOCK_BYTES", 64)  # so that rows lie across blocks
    text = tmp_path / "log.csv"
    rows = [f'{row},"a\n{row}\r\n""b""\n"\r\n' if row % 3 else f"{row},c\n" for row in range(100)]
    rows[49] = '49,too,"wide\n"\n'  # the export says what is wrong with it
    text.write_bytes(("row,text\n" + "".join(rows[:60]) + "\n\n" + "".join(rows[60:])).encode())
    found = thinned(text, ROWS, 5, tmp_path / "rows").read_bytes().decode()
    assert found == "row,text\n" + "".join(rows[row] for row in (0, 24, 49, 74, 99))


def test_a_log_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "log.csv.gz"
    text.write_bytes(gzip.compress(b"row\n" + b"1\n" * 1000)[:-8])
    with pytest.raises(ExportError, match=r"log\.csv\.gz: must be a whole gzip file"):
        thinned(text, ROWS, 5, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_made_rows_are_read_by_twitters_schema_for_each_label(tmp_path: Path) -> None:
    logs = made_logs(tmp_path, 4000, 0, silent)
    assert list(logs) == list(TARGETS)
    rates = {target: work_and_summary[1].clicks["train"] for target, work_and_summary in logs.items()}
    assert rates["like"] > rates["retweet"] > rates["reply"] > rates["retweet with comment"] > 0
    encoded = open_log(logs["like"][0].path("log"))
    assert {field.name for field in encoded.schema.fields} >= {"text_tokens", "engaging_user_id"}
