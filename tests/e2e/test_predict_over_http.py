"""Answers of the real service: correct in every layout and encoding, split by arm, refused with a reason."""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnxruntime
import pytest

from service.bundle.encoder import Encoder
from service.bundle.store import load_bundle
from tests.running import RunningService, running_service
from tests.tiny_bundle import tiny_rows

ENCODINGS = {
    "application/json": (msgspec.json.encode, msgspec.json.decode),
    "application/msgpack": (msgspec.msgpack.encode, msgspec.msgpack.decode),
}


def bid_request(candidates: int, seed: int = 0) -> dict[str, Any]:
    """A request with every kind of row: missing and unseen features, with and without value and floor."""
    rows = tiny_rows(candidates, seed)
    return {
        "id": f"req-{seed}",
        "user_id": f"u{seed}",
        "context": rows[0]["context"],
        "candidates": [
            {
                "id": f"ad-{number}",
                "features": row["candidate"],
                **({"value_per_click": 1.25 + number} if number % 5 != 4 else {}),
                **({"bid_floor": 0.05 * number} if number % 3 == 2 else {}),
            }
            for number, row in enumerate(rows)
        ],
    }


def as_columns(request: dict[str, Any]) -> dict[str, Any]:
    candidates = request["candidates"]
    columns: dict[str, Any] = {
        name: [candidate.get(name) for candidate in candidates]
        for name in ("id", "value_per_click", "bid_floor")
    }
    columns["features"] = {
        name: [candidate["features"].get(name) for candidate in candidates] for name in ("ad", "campaign")
    }
    return {**request, "candidates": columns}


def expected_results(bundle_folder: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The results computed from the bundle's files: ids, a run of the graph, calibration, the decimal bid."""
    bundle = load_bundle(bundle_folder)
    candidates = request["candidates"]
    ids = Encoder(bundle.schema).encode_request(request["context"], [each["features"] for each in candidates])
    session = onnxruntime.InferenceSession(bundle.graphs["float32"], providers=["CPUExecutionProvider"])
    pctrs = bundle.calibrators["float32"].pctr(session.run(["logits"], {"ids": ids})[0])
    results = []
    for candidate, pctr in zip(candidates, pctrs.tolist(), strict=True):
        bid = None
        if "value_per_click" in candidate:
            product = Decimal(repr(pctr)) * Decimal(repr(candidate["value_per_click"]))
            bid = float(product.quantize(Decimal("0.000001"), ROUND_HALF_EVEN))
            if bid < candidate.get("bid_floor", 0.0):
                bid = None
        results.append({"id": candidate["id"], "pctr": pctr, "bid": bid})
    return results


@pytest.mark.parametrize("media_type", ENCODINGS)
@pytest.mark.parametrize("candidates", [1, 7, 100])
def test_rows_and_columns_give_the_results_of_the_bundle_s_files(
    service: RunningService, bundles: dict[str, Path], candidates: int, media_type: str
) -> None:
    encode, decode = ENCODINGS[media_type]
    headers = {"Content-Type": media_type, "X-Arm": "control"}
    request = bid_request(candidates, seed=candidates)
    with service.client(headers=headers) as client:
        by_rows = client.post("/predict", content=encode(request))
        by_columns = client.post("/predict", content=encode(as_columns(request)))
    bundle_id = load_bundle(bundles["control"]).manifest.id
    expected = expected_results(bundles["control"], request)
    for answer in (by_rows, by_columns):
        assert answer.status_code == 200, answer.content
        assert answer.headers["content-type"] == media_type
        assert (answer.headers["x-arm"], answer.headers["x-bundle"]) == ("control", bundle_id)
    rows, columns = decode(by_rows.content), decode(by_columns.content)
    assert (rows["id"], rows["arm"], rows["bundle"]) == (request["id"], "control", bundle_id)
    assert [result["id"] for result in rows["results"]] == [result["id"] for result in expected]
    np.testing.assert_allclose(
        [result["pctr"] for result in rows["results"]], [result["pctr"] for result in expected], rtol=1e-6
    )
    for found, wanted in zip(rows["results"], expected, strict=True):
        assert found["bid"] == (None if wanted["bid"] is None else pytest.approx(wanted["bid"], abs=1.1e-6))
    assert columns["results"] == {
        name: [result[name] for result in rows["results"]] for name in ("id", "pctr", "bid")
    }


def test_the_split_is_sticky_by_user_and_key_and_x_arm_pins(service: RunningService) -> None:
    with service.client() as client:

        def arm(headers: dict[str, str] | None = None, **request: Any) -> str:
            answer = client.post("/predict", json={"candidates": [{}], **request}, headers=headers)
            assert answer.json()["arm"] == answer.headers["x-arm"]
            return answer.headers["x-arm"]

        users = [f"user-{number}" for number in range(200)]
        arms = {user: arm(user_id=user) for user in users}
        shares = Counter(arms.values())
        assert 25 < shares["treatment"] < 80, (
            shares
        )  # 50 expected of 3:1; the users are fixed, and so is the split
        assert {user: arm(user_id=user, id=f"req-{user}") for user in users} == arms
        assert {user: arm(id=user) for user in users} == arms  # without a user, the request id is the key
        assert {user: arm({"X-Split-Key": user}, user_id="user-0") for user in users} == arms
        for name in ("control", "treatment"):
            assert {arm({"X-Arm": name}, user_id=user) for user in users[:20]} == {name}
        assert len({arm() for _ in range(100)}) == 2  # no key: a random draw


def test_the_arms_are_two_models(service: RunningService, bundles: dict[str, Path]) -> None:
    request = bid_request(5)
    with service.client() as client:
        answers = {
            name: client.post("/predict", json=request, headers={"X-Arm": name}).json() for name in bundles
        }
        arms = client.get("/arms").json()["arms"]
    assert answers["control"]["results"] != answers["treatment"]["results"]
    assert [(arm["name"], arm["weight"]) for arm in arms] == [("control", 3.0), ("treatment", 1.0)]
    assert [arm["bundle"] for arm in arms] == [answers[name]["bundle"] for name in bundles]


def test_an_unknown_arm_is_a_404_that_names_the_arms(service: RunningService) -> None:
    with service.client() as client:
        answer = client.post("/predict", json={"candidates": [{}]}, headers={"X-Arm": "contrl"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_arm"
    assert "control, treatment" in answer.json()["error"]["message"]


def test_a_typo_in_a_name_costs_no_bid_and_is_counted(bundles: dict[str, Path], tmp_path: Path) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        request = {
            "context": {"site": "s1", "huor": 3},
            "candidates": [{"features": {"ad": "a1", "campain": "c"}}],
        }
        assert service.post(request).status_code == 200
        metrics = service.metrics()
    assert metrics['bidlight_unknown_names_total{arm="only",name="huor"}'] == 1
    assert metrics['bidlight_unknown_names_total{arm="only",name="campain"}'] == 1
    assert metrics['bidlight_missing_features_total{arm="only",field="hour"}'] == 1
    assert metrics['bidlight_requests_total{arm="only",outcome="ok"}'] == 1


def test_a_refusal_names_the_invalid_place(bundles: dict[str, Path], tmp_path: Path) -> None:
    limits = ["--max-body-bytes", "3000", "--max-candidates", "5"]
    with (
        running_service(tmp_path, ["--arm", f"only={bundles['control']}", *limits]) as service,
        service.client() as client,
    ):

        def refused(status: int, code: str, **sent: Any) -> dict[str, Any]:
            answer: httpx.Response = client.post("/predict", **sent)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            error: dict[str, Any] = answer.json()["error"]
            return error

        assert client.post("/predict", json=bid_request(5)).status_code == 200
        refused(422, "invalid_field", json=bid_request(6))
        refused(413, "body_too_large", json={"id": "x" * 3000, "candidates": [{}]})
        refused(415, "unsupported_media_type", content=b"{}", headers={"Content-Type": "text/plain"})
        refused(400, "malformed_body", content=b'{"candidates"', headers={"Content-Type": "application/json"})
        wrong = {"candidates": [{}, {}, {"features": {"ad": {"no": "object"}}}]}
        error = refused(422, "invalid_field", json=wrong)
        assert error["path"] == "$.candidates[2].features.ad"
        error = refused(422, "invalid_field", json={"context": {"hour": "noon"}, "candidates": [{}]})
        assert error["path"] == "$.context.hour"
        assert client.post("/predict", json=bid_request(5)).status_code == 200


def test_health_readiness_and_documentation(service: RunningService) -> None:
    with service.client() as client:
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/metrics", "/arms"):
            assert client.get(path).status_code == 200, path
        assert "/predict" in client.get("/openapi.json").json()["paths"]
