"""The description of the interface is made from its structs, and the docs page needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from service.http.openapi import COLUMNS_ANSWER, COLUMNS_REQUEST, ERRORS, ROWS_ANSWER, ROWS_REQUEST
from service.wire import JSON, MSGPACK, PredictAnswer, count_rows, decode_request


@pytest.mark.parametrize("example", [ROWS_REQUEST, COLUMNS_REQUEST])
def test_the_examples_of_requests_are_requests(example: dict[str, Any]) -> None:
    for codec, body in ((JSON, json.dumps(example).encode()), (MSGPACK, msgspec.msgpack.encode(example))):
        assert count_rows(decode_request(body, codec).candidates, 2) == 2


@pytest.mark.parametrize("example", [ROWS_ANSWER, COLUMNS_ANSWER])
def test_the_examples_of_answers_are_answers(example: dict[str, Any]) -> None:
    answer = msgspec.convert(example, PredictAnswer)
    assert json.loads(msgspec.json.encode(answer)) == example


def test_predict_is_described_in_full(run_app: Callable[..., Any]) -> None:
    document = run_app().get("/openapi.json").json()
    assert set(document["paths"]) == {"/predict", "/healthz", "/readyz", "/metrics", "/arms"}
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
    assert {"candidates", "context", "id", "user_id", "tmax_ms"} == set(
        schemas["PredictRequest"]["properties"]
    )


def test_the_page_shows_everything_and_loads_nothing(run_app: Callable[..., Any]) -> None:
    page = run_app().get("/docs").text
    assert "https://" not in page
    assert "http://" not in page
    assert "<script" not in page
    for text in ("/predict", "X-Split-Key", "value_per_click", "overloaded", "/arms", "CandidateColumns"):
        assert text in page
