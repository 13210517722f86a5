"""The command replay: what it finds where the truth is known, how it is told, and what it refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_in

from export.__main__ import main
from export.errors import ExportError
from export.replay.auctions import Auctions
from export.replay.campaign import RESAMPLES, SERVICE_LIMITS, off_pace
from export.replay.outcomes import PUBLISHED
from export.replay.plan import POLICIES, ReplayPlan
from export.replay.records import Outcome, Replay
from export.replay.replay import replay
from export.replay.stream import Won
from export.replay.tables import notes
from service.bidding import MAX_MULTIPLIER, MAX_WIN_PRICE, MIN_MULTIPLIER, MIN_WIN_PRICE
from service.process.options import build_parser as service_parser
from tests.browser import check_readable, needs_chromium
from tests.export.conftest import silent
from tests.export.replay.conftest import drawn_auctions, write_auctions

REAL = os.environ.get("BIDLIGHT_DATA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two campaigns with enough clicks to tell policies apart."""
    made = tmp_path_factory.mktemp("auctions")
    for number, name in enumerate(("shop.parquet", "bank.csv")):
        write_auctions(made / name, drawn_auctions(16_000, seed=10 + number, ctr=0.05))
    return made


def replayed(folder: Path, **options: Any) -> Replay:
    files = (folder / "shop.parquet", folder / "bank.csv")
    return replay(ReplayPlan(auctions=files, **{"budgets": (2.0, 16.0), **options}), say=silent)


@pytest.fixture(scope="module")
def found(folder: Path) -> Replay:
    return replayed(folder)


def outcome(found: Replay, policy: str, divisor: float, campaign: str | None = None) -> Outcome:
    outcomes = found.total
    if campaign is not None:
        (outcomes,) = (one.outcomes for one in found.campaigns if one.name == campaign)
    (one,) = (one for one in outcomes if (one.policy, one.divisor) == (policy, divisor))
    return one


def clicks(found: Replay, policy: str, divisor: float) -> float:
    value = outcome(found, policy, divisor).clicks.value
    assert value is not None
    return value


def test_the_published_order_holds_for_a_small_budget(found: Replay) -> None:
    assert clicks(found, "linear", 16.0) > 1.5 * clicks(found, "constant", 16.0)
    assert clicks(found, "ortb", 16.0) > 0.95 * clicks(found, "linear", 16.0)
    of_pair = {(one.first, one.second): one for one in found.ordering if one.divisor == 16.0}
    assert list(of_pair) == [*pairwise(PUBLISHED), ("ortb2", "linear")]
    assert of_pair["linear", "truthful"].sign == 1
    (best,) = (one for one in found.best if one.divisor == 16.0)
    assert best.policy in ("linear", "ortb", "ortb2")
    assert {"constant", "random"}.isdisjoint(best.equals)
    assert sum(best.campaigns.values()) >= len(found.campaigns)


def test_totals_are_sums_of_campaigns(found: Replay) -> None:
    for policy in ("constant", "ortb"):
        own = [outcome(found, policy, 2.0, name) for name in ("shop", "bank")]
        total = outcome(found, policy, 2.0)
        assert total.clicks.value == pytest.approx(sum(one.clicks.value or 0 for one in own))
        assert total.spend.value == pytest.approx(sum(one.spend.value or 0 for one in own))
        assert total.budget == pytest.approx(sum(one.budget for one in own))
        assert total.seen == sum(one.seen for one in own)


def test_a_policy_keeps_its_budget_and_its_figures_agree(found: Replay) -> None:
    for campaign in found.campaigns:
        for one in campaign.outcomes:
            assert one.budget == pytest.approx(campaign.cost / one.divisor)
            assert 0 < one.budget_share <= 1 + 1e-9
            spend, won = one.spend.value, one.clicks.value
            assert spend is not None
            assert won
            assert spend == pytest.approx(one.budget_share * one.budget)
            assert one.ecpc.value == pytest.approx(spend / won)
            for figure in (one.clicks, one.spend, one.ecpc, one.win_rate):
                assert figure.value is not None
                assert figure.interval is not None
                assert figure.interval[0] <= figure.value <= figure.interval[1]


def test_intervals_are_as_wide_as_luck(found: Replay) -> None:
    one = outcome(found, "linear", 2.0).clicks
    assert one.value is not None
    assert one.interval is not None
    width = 2 * 1.96 * np.sqrt(one.value)  # of counts of rare independent events
    assert one.interval[1] - one.interval[0] == pytest.approx(width, rel=0.25)


def test_the_same_plan_gives_the_same_figures(folder: Path, found: Replay) -> None:
    again = replayed(folder)
    assert again.campaigns == found.campaigns
    assert again.total == found.total
    other = replayed(folder, seed=1)
    assert outcome(other, "random", 2.0).clicks != outcome(found, "random", 2.0).clicks
    assert outcome(other, "linear", 2.0).clicks.value == outcome(found, "linear", 2.0).clicks.value


def test_feedback_spends_with_the_auctions(folder: Path, found: Replay) -> None:
    paced = replayed(folder, pacing="feedback")
    for policy in ("constant", "linear", "ortb"):
        one = outcome(paced, policy, 16.0)
        assert one.off_pace < 0.05
        assert one.budget_share > 0.97
    assert outcome(paced, "truthful", 2.0).off_pace < outcome(found, "truthful", 2.0).off_pace


def test_shading_gains_in_first_price_auctions(folder: Path) -> None:
    shaded = replayed(folder, auction_type="first-price", budgets=(4.0,))
    assert {one.policy for one in shaded.total} == set(POLICIES)
    assert clicks(shaded, "shading", 4.0) > clicks(shaded, "linear", 4.0)
    assert shaded.campaigns[0].curves["shading"].startswith("log-normal, median ")
    of_pair = {(one.first, one.second): one.sign for one in shaded.ordering}
    assert of_pair["ortb", "linear"] == 1
    assert of_pair["shading", "linear"] >= 0


def test_settings_are_those_of_the_service(found: Replay) -> None:
    campaign = found.campaigns[0]
    linear = outcome(found, "linear", 2.0, "shop").setting
    ortb = outcome(found, "ortb", 2.0, "shop").setting
    assert linear is not None
    assert ortb is not None
    assert linear.value_per_click is not None
    product = linear.service["bid_multiplier"] * linear.value_per_click
    assert product * found.price_per == pytest.approx(linear.scale)
    assert set(ortb.service) == {"bid_multiplier", "bid_win_price"}
    assert f"median {ortb.service['bid_win_price'] * found.price_per:.4g}," in campaign.curves["ortb"]
    for none in ("constant", "random", "ortb2"):
        setting = outcome(found, none, 2.0, "shop").setting
        assert setting is not None
        assert setting.service == {}


def test_the_service_bids_as_the_replay_did(folder: Path, found: Replay) -> None:
    from service.bidding import bids
    from service.http.app import bid_policy
    from service.settings import Settings

    for policy in ("linear", "ortb"):
        setting = outcome(found, policy, 16.0, "shop").setting
        assert setting is not None
        pctr = np.geomspace(1e-4, 0.5, 30)
        served = bids(pctr, [setting.value_per_click] * 30, None, bid_policy(Settings(**setting.service)))
        value = setting.scale * pctr
        if policy == "ortb":
            c = setting.service["bid_win_price"] * found.price_per
            value = np.sqrt(c * value + c * c) - c
        assert served == pytest.approx(value / found.price_per, abs=1e-6)


def test_figures_do_not_depend_on_how_many_are_resampled_at_once(
    folder: Path, found: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.replay.campaign.MOST_CELLS", 5 * 8_000)
    assert replayed(folder).total == found.total


def test_a_value_that_is_given_only_moves_the_multiplier(folder: Path, found: Replay) -> None:
    given = replayed(folder, value_per_click=2.0)
    one, other = (outcome(each, "linear", 2.0, "shop").setting for each in (given, found))
    assert one is not None
    assert other is not None
    assert one.scale == other.scale
    assert one.service["bid_multiplier"] * 2.0 * 1000 == pytest.approx(one.scale)


def test_tables_a_page_and_a_line_of_json(folder: Path, tmp_path: Path, capsys) -> None:
    files = [str(folder / name) for name in ("shop.parquet", "bank.csv")]
    out = tmp_path / "new"
    words = ["replay", "--auctions", *files, "--budgets", "2,16", "--policy", "linear,ortb,constant"]
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    *told, line = printed.out.splitlines()
    text = "\n".join(told)
    assert printed.err == ""  # no terminal, no progress
    assert "2 campaigns of second-price auctions, tuned on the first 50% of each" in text
    for said in ("Budget 1/16 of all market prices", "ortb − linear", "What the service takes", "bank"):
        assert said in text
    read = json.loads(line)
    assert read == json.loads((out / "replay.json").read_text())
    assert [one["policy"] for one in read["total"]] == ["constant"] * 2 + ["linear"] * 2 + ["ortb"] * 2
    assert read["resamples"] == RESAMPLES
    page = (out / "replay.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert 'src="' not in page
    (command,) = (each for each in told if "python -m service" in each)
    words = command.split("python -m service ")[1].replace("NAME=FOLDER", "a=b").split()
    service_parser().parse_args(words)


def test_a_campaign_without_clicks_is_left_out(folder: Path, tmp_path: Path) -> None:
    still = drawn_auctions(500, seed=4)
    write_auctions(tmp_path / "still.csv", Auctions(np.zeros(500, np.bool_), still.prices, still.pctr))
    drawn = drawn_auctions(500, seed=4, ctr=0.2)
    once = np.where(np.arange(500) % 250 == 7, 50.0, 0.0)
    write_auctions(tmp_path / "free.csv", replace(drawn, prices=np.zeros(500)))
    write_auctions(tmp_path / "once.csv", replace(drawn, prices=once))
    write_auctions(tmp_path / "unscored.csv", replace(drawn, pctr=np.zeros(500)))
    said: list[str] = []
    names = ("still", "free", "once", "unscored")
    files = (folder / "bank.csv", *(tmp_path / f"{name}.csv" for name in names))
    found = replay(ReplayPlan(auctions=files, policy=("linear",), budgets=(2.0,)), say=said.append)
    assert [one.name for one in found.campaigns] == ["bank"]
    assert found.left_out["still"] == "its training part holds 0 clicks in 250 auctions"
    assert "prices of its training part are 0" in found.left_out["free"]
    assert found.left_out["once"] == "1 of the 250 prices of its training part are above 0"
    assert found.left_out["unscored"] == "all pCTRs of its training part are 0"
    assert any("left out still" in line for line in said)
    with pytest.raises(ExportError, match="must hold a campaign with clicks and prices in both parts"):
        replay(ReplayPlan(auctions=files[1:]), say=silent)


def test_of_many_campaigns_that_are_left_out_some_are_told(found: Replay) -> None:
    many = replace_in(found, left_out={str(number): "it is empty" for number in range(50)})
    told = notes(many)
    assert told[:2] == ["left out 0: it is empty", "left out 1: it is empty"]
    assert told[-1] == "left out 40 other campaigns, which the JSON names"
    assert len(told) == 11


def test_clicks_are_whole_whatever_the_number_of_auctions(tmp_path: Path) -> None:
    for rows in (98, 196, 206):  # half of which times a share of them is not what they were counted
        drawn = drawn_auctions(rows, seed=5, ctr=0.3, correlation=0.0)
        path = write_auctions(tmp_path / f"{rows}.csv", drawn)
        found = replay(ReplayPlan(auctions=(path,)), say=silent)
        assert all(one.clicks.value == round(one.clicks.value or 0) for one in found.total)


def test_a_budget_that_buys_nothing_has_no_best_policy(folder: Path) -> None:
    said: list[str] = []
    files = (folder / "bank.csv",)
    replay(ReplayPlan(auctions=files, policy=("linear", "ortb"), budgets=(1e9,)), say=said.append)
    assert "no policy wins a click" in said
    assert not any("wins the most clicks" in line for line in said)


def test_settings_that_the_service_refuses_are_not_told(folder: Path) -> None:
    bounds = {
        "bid_multiplier": (MIN_MULTIPLIER, MAX_MULTIPLIER),
        "bid_win_price": (MIN_WIN_PRICE, MAX_WIN_PRICE),
    }
    assert bounds == SERVICE_LIMITS
    said: list[str] = []
    plan = ReplayPlan(
        auctions=(folder / "bank.csv",), policy=("linear",), value_per_click=1e-7, budgets=(2.0,)
    )
    found = replay(plan, say=said.append)
    setting = found.campaigns[0].outcomes[0].setting
    assert setting is not None
    assert setting.scale / plan.price_per / 1e-7 > MAX_MULTIPLIER
    assert setting.service == {}
    assert any("takes none of their settings" in line for line in said)
    assert not any("python -m service" in line for line in said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": ("shading",)}, "add --auction-type first-price"),
        ({"policy": ("linear", "linear")}, "must name each once"),
        ({"budgets": (2.0, 2.0)}, "'budgets' must differ"),
        ({"budgets": ()}, "'budgets' must differ"),
        ({"budgets": (0.5,)}, "'budgets' must be at least 1"),
        ({"train_share": 1.0}, "'train_share' must be"),
        ({"auctions": ()}, "must name a file or more"),
    ],
)
def test_a_wrong_plan_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        ReplayPlan(**{"auctions": (Path("a.csv"),), **options})


def test_off_pace_is_the_distance_from_even_spending() -> None:
    rows = np.arange(1000)
    assert off_pace(Won(rows, np.full(1000, 0.1), 1000), 100.0, 1000) == pytest.approx(0.0, abs=1e-3)
    at_once = off_pace(Won(rows[:1], np.array([100.0]), 1000), 100.0, 1000)
    assert at_once == pytest.approx(0.5, abs=0.01)


@needs_chromium
def test_the_page_is_readable_on_a_desk_and_on_a_phone(folder: Path, tmp_path: Path) -> None:
    replayed(folder, out=tmp_path, auction_type="first-price", budgets=(2.0, 4.0, 8.0, 16.0, 32.0))
    check_readable((tmp_path / "replay.html").read_text(), tmp_path, figures=1)


@pytest.mark.skipif(not REAL, reason="BIDLIGHT_DATA does not name the folder of the real logs")
def test_a_real_campaign() -> None:
    path = Path(str(REAL)) / "ipinyou" / "1458.validation.tsv.gz"
    policies = ("constant", "linear", "ortb")
    found = replay(ReplayPlan(auctions=(path,), policy=policies, budgets=(8.0,)), say=silent)
    (campaign,) = found.campaigns
    assert (campaign.auctions, campaign.clicks) == (50_000, 71)
    assert clicks(found, "ortb", 8.0) > clicks(found, "constant", 8.0)
