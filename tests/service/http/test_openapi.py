"""The description of the interface is made from its structs, and the docs page needs no network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary
from service.http.app import create_app
from service.http.openapi import ERRORS
from service.reading import decode_request
from service.settings import Settings
from service.wire import JSON, MSGPACK, PredictAnswer, count_rows
from tests.tiny_bundle import tiny_schema, write_tiny_bundle


@pytest.fixture
def predict(run_app: Callable[..., Any]) -> dict[str, Any]:
    """The operation of POST /predict, of a service of the tiny bundle."""
    operation: dict[str, Any] = run_app().get("/openapi.json").json()["paths"]["/predict"]["post"]
    return operation


def examples_in(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: each["value"] for name, each in body["content"]["application/json"]["examples"].items()}


def test_the_examples_of_requests_are_requests(predict: dict[str, Any]) -> None:
    examples = examples_in(predict["requestBody"])
    assert set(examples) == {"rows", "columns"}
    for example in examples.values():
        for codec, body in (
            (JSON, json.dumps(example).encode()),
            (MSGPACK, msgspec.msgpack.encode(example)),
        ):
            assert count_rows(decode_request(body, codec).candidates, 2) == 2


def test_the_examples_of_answers_are_answers(predict: dict[str, Any]) -> None:
    examples = examples_in(predict["responses"]["200"])
    assert set(examples) == {"rows", "columns"}
    for example in examples.values():
        answer = msgspec.convert(example, PredictAnswer)
        assert json.loads(msgspec.json.encode(answer)) == example


def test_the_service_answers_its_examples_as_it_says(run_app: Callable[..., Any]) -> None:
    app = run_app()
    predict = app.get("/openapi.json").json()["paths"]["/predict"]["post"]
    requests, answers = examples_in(predict["requestBody"]), examples_in(predict["responses"]["200"])
    for form, request in requests.items():
        assert set(request["context"]) == {"site", "hour", "history"}
        answer, expected = app.post(request).json(), answers[form]
        assert (answer["arm"], answer["bundle"]) == (expected["arm"], expected["bundle"])
        found, said = answer["results"], expected["results"]
        if form == "columns":
            found, said = as_rows(found), as_rows(said)
        assert [one["pctr"] for one in found] == pytest.approx([one["pctr"] for one in said], rel=1e-4)
        assert [one["bid"] is None for one in found] == [False, True]
        assert [one["bid"] is None for one in said] == [False, True]
    error = predict["responses"]["422"]["content"]["application/json"]["example"]
    refused = app.post({"context": {"hour": "three"}, "candidates": [{}]})
    assert refused.json() == error


def as_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("known", [True, False])
def test_a_field_user_id_is_shown_as_the_requests_own(
    run_app: Callable[..., Any], tmp_path: Path, known: bool
) -> None:
    users = Field("user_id", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("u7", "u42")))
    schema = Schema((users, *tiny_schema().fields))
    context = {"user_id": "u7"} if known else {}
    bundle = write_tiny_bundle(tmp_path / "bundle", schema=schema, in_every_context=context)
    app = run_app(arms=(f"control={bundle}",))
    predict = app.get("/openapi.json").json()["paths"]["/predict"]["post"]
    request = examples_in(predict["requestBody"])["rows"]
    assert request.get("user_id") == context.get("user_id")
    assert set(request["context"]) == {"site", "hour", "history"}
    found = app.post(request).json()["results"][0]["pctr"]
    said = examples_in(predict["responses"]["200"])["rows"]["results"][0]["pctr"]
    assert found == pytest.approx(said, rel=1e-4)


def test_examples_follow_the_bundle_that_is_served(
    run_app: Callable[..., Any], bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    shutil.copytree(bundles["alpha"], folder)
    app = run_app(arms=(f"control={folder}",))
    assert '"bundle": "alpha@' in app.get("/openapi.json").text.replace('":"', '": "')
    shutil.rmtree(folder)
    shutil.copytree(bundles["beta"], folder)
    app.runner.run(app.app.served.reload())
    assert '"bundle": "beta@' in app.get("/openapi.json").text.replace('":"', '": "')
    assert "beta@" in app.get("/docs").text


def test_without_arms_there_are_no_examples() -> None:
    predict = create_app(Settings(arms=("control=nowhere",))).openapi()["paths"]["/predict"]["post"]
    assert "examples" not in predict["requestBody"]["content"]["application/json"]


def test_predict_is_described_in_full(run_app: Callable[..., Any]) -> None:
    document = run_app().get("/openapi.json").json()
    of_bids = {"/predict", "/feedback", "/i/{token}", "/c/{token}"}
    assert set(document["paths"]) == of_bids | {"/healthz", "/readyz", "/metrics", "/arms", "/console.json"}
    predict = document["paths"]["/predict"]["post"]
    assert {parameter["name"] for parameter in predict["parameters"]} == {"X-Arm", "X-Split-Key"}
    for body in (predict["requestBody"], predict["responses"]["200"]):
        assert set(body["content"]) == {"application/json", "application/msgpack"}
        assert set(body["content"]["application/json"]["examples"]) == {"rows", "columns"}
    assert set(predict["responses"]) == {"200", *(str(error.status) for error in ERRORS)}
    assert set(predict["responses"]) >= {"400", "404", "413", "415", "422", "429", "503"}
    assert "Retry-After" in predict["responses"]["429"]["headers"]
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in schemas
    assert {"candidates", "context", "id", "user_id", "tmax_ms", "tracking"} == set(
        schemas["PredictRequest"]["properties"]
    )


def test_the_page_shows_everything_and_loads_nothing(run_app: Callable[..., Any]) -> None:
    page = run_app().get("/docs").text
    assert "https://" not in page
    assert "http://" not in page
    assert "<script" not in page
    for text in ("/predict", "X-Split-Key", "value_per_click", "overloaded", "/arms", "CandidateColumns"):
        assert text in page
