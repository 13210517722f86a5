"""Sample rows become requests of any size; files and sizes that cannot be used are refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.traffic.bid_requests import BidRequestMaker, SampleError, parse_sizes, read_samples

ROWS: list[dict[str, dict[str, object]]] = [
    {"context": {"site": f"s{n}", "hour": n}, "candidate": {"ad": f"a{n}", "tags": ["x", n]}}
    for n in range(5)
]


@pytest.mark.parametrize("candidates", [1, 5, 12])
def test_a_request_has_one_row_s_context_and_other_rows_candidates(candidates: int) -> None:
    maker = BidRequestMaker(ROWS, user_ids=3)
    seen = set()
    for number in range(20):
        request = maker.make(candidates)
        body = json.loads(request.body)
        assert body["id"] == request.id == f"req-{number}"
        assert body["user_id"] in {"u0", "u1", "u2"}
        assert body["context"] in [row["context"] for row in ROWS]
        assert tuple(candidate["id"] for candidate in body["candidates"]) == request.candidate_ids
        assert len(body["candidates"]) == candidates
        for candidate in body["candidates"]:
            assert candidate["features"] == ROWS[int(candidate["id"].removeprefix("ad-"))]["candidate"]
            assert candidate["value_per_click"] > 0
        seen.add((body["context"]["site"], body["candidates"][0]["id"]))
    assert len(seen) > 10  # contexts and candidates are drawn apart


def test_a_seed_repeats_the_requests() -> None:
    def first(seed: int) -> list[bytes]:
        maker = BidRequestMaker(ROWS, seed=seed)
        return [maker.make(2).body for _ in range(5)]

    assert first(1) == first(1) != first(2)


def test_samples_are_read_from_a_file_or_a_bundle_s_folder(tmp_path: Path) -> None:
    file = tmp_path / "report" / "requests.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read_samples(file) == read_samples(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold one sample row or more"),
        ('{"context": {}, "candidate": {}}\n{"context": {}', "requests.jsonl:2 must be"),
        ('{"context": {}, "candidate": []}', "requests.jsonl:1 must be"),
        ("[1]", "requests.jsonl:1 must be"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(text)
    with pytest.raises(SampleError, match=message):
        read_samples(file)
    with pytest.raises(SampleError, match="No such file"):
        read_samples(tmp_path)


def test_sizes() -> None:
    assert parse_sizes("1:6,10:3,100:1") == {1: 6.0, 10: 3.0, 100: 1.0}
    assert parse_sizes("5") == {5: 1.0}
    for text in ("", "a", "1:", "1:x", "0", "-1:2", "1:0", "1:inf", "1:nan"):
        with pytest.raises(ValueError, match="got"):
            parse_sizes(text)
