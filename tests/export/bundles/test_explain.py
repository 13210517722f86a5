"""The command explain: what fields are worth, against models that say so, and moves that add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from export.__main__ import main
from export.bundles.explain import explain_bundle
from export.bundles.importance import Sample
from export.bundles.plan import ExplainPlan, ScorePlan
from export.bundles.records import Explanation
from export.bundles.score import score
from export.bundles.scorer import Scorer
from export.data.encode import encode_chunk
from export.data.log_schema import load_log_schema
from export.data.readers import read_log
from export.errors import ExportError
from service.bundle.store import load_bundle
from tests.browser import check_readable, needs_chromium
from tests.export.bundles.conftest import Shop, shown_rows, with_sampling_rate, write_rows
from tests.export.conftest import silent


def explained(bundle: Path, data: Path, **options: object) -> Explanation:
    return explain_bundle(ExplainPlan(bundle=bundle, data=data, **options), say=silent)


def test_the_fields_that_decide_clicks_matter_most_and_one_without_values_not_at_all(
    shop: Shop, tmp_path: Path
) -> None:
    rows = [replace(row, tags=()) for row in shown_rows(1_500, seed=31)]
    log = write_rows(tmp_path / "day.csv", rows)
    found = explained(shop.folder, log)
    assert found.rows == 1_500  # fewer than are drawn
    assert {one.field for one in found.fields[:2]} == {"ad", "site"}
    for one in found.fields[:2]:
        assert one.verdict == "matters"
        assert 0 < one.logloss_interval[0] < one.logloss < one.logloss_interval[1]
        assert one.auc < one.auc_interval[1] < 0
    tags = next(one for one in found.fields if one.field == "tags")
    assert (tags.logloss, tags.auc) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert tags.verdict == "noise"
    assert [one.logloss for one in found.fields] == sorted(
        (one.logloss for one in found.fields), reverse=True
    )


def test_a_field_that_misleads_harms_and_a_few_rows_tell_nothing(shop: Shop, tmp_path: Path) -> None:
    """Ads that drew clicks in training draw none here: LogLoss falls when they are shuffled."""
    rows = [replace(row, clicked=int(row.ad[2:]) >= 20) for row in shown_rows(600, seed=37)]
    lines: list[str] = []
    plan = ExplainPlan(bundle=shop.folder, data=write_rows(tmp_path / "day.csv", rows))
    (ad,) = (one for one in explain_bundle(plan, say=lines.append).fields if one.field == "ad")
    assert ad.logloss_interval[1] < 0
    assert ad.verdict == "harms"
    assert any(line.startswith("ad ") and line.endswith("harms") for line in lines)
    few = explained(shop.folder, write_rows(tmp_path / "few.csv", rows[:12]))
    assert {one.verdict for one in few.fields} == {"noise"}


@pytest.mark.parametrize("number", [1, 200, 600])
def test_moves_add_up_to_the_logit(shop: Shop, tmp_path: Path, number: int) -> None:
    rows = shown_rows(600, seed=32)
    log = write_rows(tmp_path / "day.csv", rows)
    row = explained(shop.folder, log, row=number).row
    assert row.background_logit + sum(one.logit for one in row.moves) == pytest.approx(row.logit, abs=1e-4)
    shown = rows[number - 1]
    values = {one.field: one.value for one in row.moves}
    assert values["site"] == (shown.page or "missing")
    assert values["ad"] == shown.ad
    assert values["tags"] == (", ".join(shown.tags) or "missing")
    assert values["price"] == ("missing" if shown.price is None else f"{shown.price:g}")
    assert row.clicked == shown.clicked
    assert [abs(one.logit) for one in row.moves] == sorted(
        (abs(one.logit) for one in row.moves), reverse=True
    )


def test_in_a_linear_model_a_move_is_the_field_s_own_term(rival: Path, shop: Shop, tmp_path: Path) -> None:
    """LR adds a term a field: what a value adds to another row's logit does not depend on the rest."""
    log = write_rows(tmp_path / "day.csv", shown_rows(400, seed=33))
    row = explained(rival, log, row=5).row
    bundle = load_bundle(rival)
    scorer = Scorer(bundle)
    chunk = next(read_log(log, load_log_schema(shop.plan.schema)))
    ids = encode_chunk(bundle.encoder, chunk.fields)
    for move in row.moves:
        columns = bundle.schema.column_slices[move.field]
        changed = ids.copy()
        changed[:, columns] = ids[4, columns]
        term = float((scorer.logits(changed).astype(float) - scorer.logits(ids)).mean())
        assert move.logit == pytest.approx(term, abs=4 * move.error + 1e-3)


def test_a_sample_is_the_same_whatever_the_chunks_are_and_fair() -> None:
    ids = np.arange(3_000, dtype=np.int32)[:, None]
    labels = (ids[:, 0] % 2).astype(np.uint8)
    kept = []
    for parts in (1, 7):
        sample = Sample(wanted=500, seed=4)
        for rows in np.array_split(np.arange(3_000), parts):
            sample.add(ids[rows], labels[rows])
        kept.append(sample.rows)
    assert np.array_equal(kept[0][0], kept[1][0])
    assert np.array_equal(kept[0][0][:, 0] % 2, kept[0][1])
    assert len(np.unique(kept[0][0])) == 500
    assert kept[0][0].mean() == pytest.approx(1_500, abs=150)  # four standard errors


def test_the_row_s_pctr_is_what_a_service_answers(shop: Shop, tmp_path: Path) -> None:
    """LogLoss is that of the log's own distribution, in which fewer non-clicks were kept."""
    folder = with_sampling_rate(shop.folder, tmp_path / "sampled", 0.25)
    log = write_rows(tmp_path / "day.csv", shown_rows(300, seed=35))
    found = explained(folder, log, row=7)
    plan = ScorePlan(bundle=folder, data=log, out=tmp_path / "scores.parquet")
    score(plan, say=silent)
    assert found.row.pctr == pl.read_parquet(plan.out)["pctr"][6]
    assert found.logloss == explained(shop.folder, log).logloss


def test_a_sample_without_clicks_asks_for_more_rows(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(300, seed=36))
    with pytest.raises(ExportError, match=r"'rows' must draw clicks and non-clicks .* among 1 rows\)"):
        explained(shop.folder, log, rows=1)


def test_a_row_that_is_not_there_is_an_error(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(50, seed=34))
    lines = log.read_text().splitlines()
    lines[9] = "half a row"
    log.write_text("\n".join(lines) + "\n")
    for row in (10, 51):
        with pytest.raises(ExportError, match=rf"'row' must be a row of day.csv .* \(got {row}\)"):
            explained(shop.folder, log, row=row, on_malformed="skip")


@needs_chromium
def test_what_the_command_prints_and_the_page(shop: Shop, tmp_path: Path, capsys) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(800, seed=35))
    out = tmp_path / "why"
    arguments = ["--bundle", str(shop.folder), "--data", str(log), "--row", "7", "--rows", "500"]
    assert main(["explain", *arguments, "--out", str(out)]) == 0
    *text, line = capsys.readouterr().out.splitlines()
    told = msgspec.json.decode(line, type=Explanation)
    assert told == msgspec.json.decode((out / "explain.json").read_bytes(), type=Explanation)
    assert (told.rows, told.log.rows, told.row.row) == (500, 800, 7)
    for start in ("AUC", "field", "site", "row 7: pCTR"):
        assert any(one.startswith(start) for one in text), start
    check_readable((out / "explain.html").read_text(), tmp_path, figures=1, text=500)
