"""The pages of examples/, followed command by command with real processes and real HTTP."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.examples.walkthrough import Shop, Step, follow
from tests.redis_server import running_redis


def answers(steps: list[Step]) -> list[dict[str, Any]]:
    """What curl got."""
    return [json.loads(step.output) for step in steps if step.program == "curl"]


def test_a_csv_becomes_a_bid(shop: Shop) -> None:
    made, exported = (step.output for step in shop.steps if step.program == "python")
    assert made.startswith("wrote 12,000 rows")
    assert "serve it: python -m service --arm control=artifacts/shop\n" in exported
    (answer,) = answers(shop.steps)
    assert answer["id"] == "req-1"
    liked, other = answer["results"]
    assert (liked["id"], other["id"]) == ("a", "b")
    assert 1.0 > liked["pctr"] > 2.0 * other["pctr"] > 0.0
    assert liked["bid"] == pytest.approx(0.8 * liked["pctr"], abs=1e-6)
    assert (shop.folder / "artifacts/shop/report/index.html").is_file()


def test_two_arms_split_keys_and_can_be_pinned(shop: Shop) -> None:
    steps = follow("examples/two_arms/README.md", shop.folder)
    first, again, control, treatment, arms = answers(steps)
    assert first == again
    assert (control["arm"], treatment["arm"]) == ("control", "treatment")
    assert control["results"] != treatment["results"]
    assert first["results"] == (control if first["arm"] == "control" else treatment)["results"]
    assert {arm["name"]: (arm["share"], arm["model"]["name"]) for arm in arms["arms"]} == {
        "control": (0.9, "deep_fwfm"),
        "treatment": (0.1, "lr"),
    }


def test_users_and_ads_come_from_redis(shop: Shop) -> None:
    # The deadline of a read is not what is tested here, and the machine may be busy.
    options = ("--feature-timeout-ms", "1000")
    with running_redis(shop.folder) as redis:
        steps = follow("examples/redis/README.md", shop.folder, options=options, redis=redis)
    loaded = [step.output for step in steps if step.program == "python"]
    assert loaded == [
        "loaded 400 users from artifacts/shop_log/users.csv\n",
        "loaded 60 ads from artifacts/shop_log/ads.csv\n",
    ]
    known, said = (answer["results"] for answer in answers(steps))
    # u22 likes gardens, which ad1 is for; the second request says books, which ad0 is for.
    assert known[1]["pctr"] > 2.0 * known[0]["pctr"]
    assert said[0]["pctr"] > 2.0 * said[1]["pctr"]


def test_a_week_ends_with_a_better_bundle_that_serves(shop: Shop) -> None:
    steps = follow("examples/week/README.md", shop.folder)
    week = shop.folder / "artifacts/week"
    judged, compared, explained, scored = (
        json.loads(step.output.splitlines()[-1])
        for step in steps
        if step.program == "python" and step.output.splitlines()[-1].startswith("{")
    )
    unseen = {field["name"]: field["unseen"] for field in judged["fields"]}
    assert unseen["ad_id"] > 0.1
    pcoc = {group["name"]: group["pcoc_after"] for group in judged["by"]["category"]["shown"]}
    assert pcoc["garden"] < 0.8 < 1.2 < pcoc["music"]
    sunday, monday = (compared[which]["subject"]["bundle"] for which in ("first", "second"))
    assert (sunday.partition("@")[0], monday.partition("@")[0]) == ("sunday", "monday")
    assert compared["changes"]["auc"]["verdict"] == compared["changes"]["logloss"]["verdict"] == "better"
    assert {(each["field"], each["value"]) for each in compared["values"][:2]} == {
        ("category", "garden"),
        ("category", "music"),
    }
    (arms,) = answers(steps)
    assert arms["arms"][0]["bundle"] == monday == explained["subject"]["bundle"]
    assert scored["rows"] == 2880
    assert (week / "wednesday_scores.parquet").is_file()
    for page in ("monday_judged/evaluate.html", "side/diff.html", "why/explain.html"):
        assert (week / page).is_file()


def check_client(output: str) -> None:
    """Two bids, the higher one for the ad that fits, and one refusal that says where and why."""
    liked, other, refused = output.splitlines()
    assert liked.startswith("a: pctr 0.")
    assert other.startswith("b: pctr 0.")
    assert float(liked.rpartition(" ")[2]) > float(other.rpartition(" ")[2]) > 0.0
    assert refused.startswith("refused: invalid_field at $.context.age: 'age' must be ")


def test_the_python_client_bids(shop: Shop) -> None:
    (step,) = follow("examples/clients/README.md", shop.folder, without="node")
    check_client(step.output)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_node_client_bids(shop: Shop) -> None:
    (step,) = follow("examples/clients/README.md", shop.folder, without="python")
    check_client(step.output)
