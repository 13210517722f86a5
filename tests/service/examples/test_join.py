"""Requests, answers and events of a service, joined: rows that score as they did when answered."""

from __future__ import annotations

import fcntl
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from service import join_examples
from service.bundle.store import load_bundle
from service.calibration.hours import HOUR_MS
from service.errors import BadConfiguration
from service.examples.columns import check_names
from service.examples.join import GRACE_MS, JoinedHour, JoinPlan, join_hours, open_hours
from service.examples.parquet import read_record
from service.features.store import pack
from service.feedback.tokens import log_odds, now_ms
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows
from service.settings import Settings
from service.wire import Candidate, PredictRequest
from tests.feature_stores import fill
from tests.running import JSON, MSGPACK, RunningApp
from tests.tiny_bundle import tiny_rows

WINDOW_SECONDS = 20
USERS = {
    "u1": {"site": "s1", "hour": 7},
    "u2": {"site": 5, "history": ["a1", None, "a2"]},
    "u3": {"hour": "x"},
}
ADS = {f"ad{number}": {"ad": f"a{number}", "campaign": 1000 + number} for number in range(4)}


@dataclass
class Recorded:
    """What a service has logged, and what a client knows of it: rows by the ids of request and candidate."""

    folder: Path
    bundle: Path
    rows: dict[tuple[str, str], dict[str, Any]]
    late_clicks: int

    def plan(self, out: Path, **changes: Any) -> JoinPlan:
        out.mkdir(exist_ok=True)
        bundle = load_bundle(self.bundle)
        log = self.folder / "log"
        plan = JoinPlan([log], [log], out, bundle.manifest.id, bundle.schema, WINDOW_SECONDS)
        return replace(plan, **changes)

    def join(self, out: Path, **changes: Any) -> list[JoinedHour]:
        """Join all hours."""
        return [*join_hours(self.plan(out, **changes), ADS, now_ms() + 3 * HOUR_MS)]


def requests(draw: random.Random, count: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    for number in range(count):
        rows = tiny_rows(draw.randrange(1, 6), seed=number)
        context = {name: value for name, value in rows[0]["context"].items() if draw.random() < 0.6}
        request: dict[str, Any] = {"id": f"r{number}", "context": context}
        if draw.random() < 0.7:
            request["user_id"] = draw.choice([*USERS, "nobody", "\N{SNOWMAN}"])
        candidates = [
            {"id": f"ad{place}", "features": row["candidate"] if draw.random() < 0.7 else {}}
            for place, row in enumerate(rows)
        ]
        if draw.random() < 0.3:
            of_all: dict[str, Any] = {"campaign": [*range(len(rows))]}
            candidates_as_columns = {"id": [one["id"] for one in candidates], "features": of_all}
            yield request | {"candidates": candidates_as_columns}, draw.choice([JSON, MSGPACK])
        else:
            candidates[0]["value_per_click"] = 2.5
            yield request | {"candidates": candidates}, draw.choice([JSON, MSGPACK])


@pytest.fixture(scope="module")
def recorded(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("log", "store"):
        (folder / name).mkdir()
    (folder / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    url = f"lmdb://{folder / 'store'}"
    fill(url, "users", {name: pack(values) for name, values in USERS.items()})
    fill(url, "ads", {name: pack(values) for name, values in ADS.items()})
    settings = Settings(
        arms=(f"control={bundles['alpha']}",),
        feedback_keys=str(folder / "keys"),
        feedback_log=str(folder / "log"),
        example_log=str(folder / "log"),
        example_share=1.0,
        feature_store=url,
        tracking="all",
        explore_share=0.3,
    )
    app = RunningApp(settings)
    draw = random.Random(5)
    found, late = {}, 0
    for request, headers in requests(draw, 120):
        body = json.dumps(request, indent=2).encode() if headers is JSON else msgspec.msgpack.encode(request)
        response = app.post(body, headers)
        assert response.status_code == 200, response.text
        answer = (msgspec.json if headers is JSON else msgspec.msgpack).decode(response.content)
        results = answer["results"]
        if isinstance(results, dict):
            results = [dict(zip(results, row, strict=True)) for row in zip(*results.values(), strict=True)]
        events, answered = [], now_ms()
        for result in results:
            is_shown, delay = draw.random() < 0.5, draw.choice([None, 0, 5_000, 12_000, 28_000, 40_000])
            if is_shown:
                events.append({"token": result["token"], "type": "impression"})
            if delay is not None:
                events.append({"token": result["token"], "type": "click", "at": answered + delay})
            is_clicked = delay is not None and delay < 1000 * WINDOW_SECONDS
            late += delay is not None and not is_clicked
            known = {"_shown": is_shown, "_clicked": is_clicked, "_explored": answer.get("explore", False)}
            found[request["id"], result["id"]] = result | known
        posted = app.runner.run(app.client.post("/feedback", json={"events": events}))
        assert posted.json()["counted"] == len(events)
    app.close()
    assert app.app.predict_service.examples is not None
    return Recorded(folder, bundles["alpha"], found, late)


def rows_in(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("examples-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def by_ids(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = rows_in(out)
    found = {(row["_request_id"], row["_candidate_id"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def score(predictor: Predictor, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """The log-odds of rows of a file, each as a request that carries all of its features."""
    context, candidate = predictor.encoder.context_names, predictor.encoder.candidate_names
    batch = []
    for row in rows:
        features = {name: row[name] for name in candidate}
        request = PredictRequest(
            [Candidate(features=features)], context={name: row[name] for name in context}
        )
        batch.append(predictor.encode(request, 1))
    joined = BatchRows.of(batch)
    return log_odds(predictor.calibrator.pctr(predictor.graphs.run(joined), predictor.segments_of(joined)))


def test_rows_have_the_features_that_were_scored_and_what_became_of_them(
    recorded: Recorded, tmp_path: Path
) -> None:
    hours = recorded.join(tmp_path / "out")
    rows = by_ids(tmp_path / "out")
    expected = {ids: row for ids, row in recorded.rows.items() if row["_shown"] or row["_clicked"]}
    assert rows.keys() == expected.keys()
    for ids, row in rows.items():
        sent = expected[ids]
        for name in ("_shown", "_clicked", "_explored"):
            assert row[name] == sent[name]
        assert (row["_click_delay_ms"] is None) != sent["_clicked"]
        assert (row["_pctr"], row["_bid"]) == (sent["pctr"], sent["bid"])
        assert (row["_arm"], row["_weight"], row["_calibration_revision"]) == ("control", 1.0, 0)
        assert abs(row["_time_ms"] - now_ms()) < 600_000
    predictor = Predictor.load(str(recorded.bundle), Settings())
    served = [row["_log_odds"] for row in rows.values()]
    np.testing.assert_allclose(score(predictor, [*rows.values()]), served, rtol=0, atol=1e-5)
    assert len(set(served)) > 20
    assert sum(hour.rows for hour in hours) == len(rows)
    assert sum(hour.requests for hour in hours) == 120
    assert sum(hour.late_clicks for hour in hours) == recorded.late_clicks > 0
    assert sum(hour.unreadable + hour.unreadable_events for hour in hours) == 0


def test_all_rows_and_small_parts(recorded: Recorded, tmp_path: Path) -> None:
    """In parts of few tokens the same rows come out as at once, each once."""
    recorded.join(tmp_path / "all", rows="all")
    rows = by_ids(tmp_path / "all")
    assert rows.keys() == recorded.rows.keys()
    hours = recorded.join(tmp_path / "parts", rows="all", max_tokens=10)
    assert by_ids(tmp_path / "parts") == rows
    assert sum(hour.requests for hour in hours) == 120


def test_an_hour_is_joined_once_when_it_is_closed(recorded: Recorded, tmp_path: Path) -> None:
    plan = recorded.plan(tmp_path / "out")
    (first, *_) = sorted((recorded.folder / "log").glob("examples-*"))
    hour = 1000 * int(np.datetime64(f"{first.name[9:22]}:00:00").astype("datetime64[s]").astype(int))
    closed = hour + HOUR_MS + 1000 * WINDOW_SECONDS + GRACE_MS
    assert [*join_hours(plan, ADS, closed - 1)] == []
    assert open_hours(plan, closed - 1) >= 1
    (made,) = join_hours(plan, ADS, closed)
    before = made.path.read_bytes()
    record = read_record(made.path)
    assert made.is_new
    assert record is not None
    assert (record.rows, record.requests, list(record.files)) == (made.rows, made.requests, [first.name])
    (again,) = join_hours(plan, ADS, closed)
    assert not again.is_new
    assert made.path.read_bytes() == before
    with (recorded.folder / "log" / "lock").open() as _:
        descriptor = os.open(plan.out, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BadConfiguration, match="'--out' must be a folder that nobody else joins into"):
            [*join_hours(plan, ADS, closed)]
        os.close(descriptor)


def copied(recorded: Recorded, tmp_path: Path) -> Recorded:
    (tmp_path / "copy" / "log").mkdir(parents=True)
    for path in (recorded.folder / "log").iterdir():
        (tmp_path / "copy" / "log" / path.name).write_bytes(path.read_bytes())
    return replace(recorded, folder=tmp_path / "copy")


def test_half_a_line_costs_that_line_and_is_told(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of a process that was killed keeps its first name; it may be cut off anywhere."""
    cut = copied(recorded, tmp_path)
    (file, *_) = sorted((cut.folder / "log").glob("examples-*.jsonl"))
    lines = file.read_bytes().splitlines(keepends=True)
    part = file.rename(f"{file}.part")
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    plan = cut.plan(tmp_path / "out")
    hours = join_hours(plan, ADS, now_ms() + 3 * HOUR_MS)
    made = next(hours)
    assert (made.requests, made.unreadable) == (len(lines) - 1, 1)
    join_examples._tell(made)
    assert "1 lines of the log of examples cannot be read" in capsys.readouterr().err
    hours.close()  # type: ignore[attr-defined]
    part.rename(file)  # by the process, when its hour ends
    assert cut.join(tmp_path / "out")[0].found_late == []


def test_files_are_deleted_only_if_they_are_in_a_parquet_file(recorded: Recorded, tmp_path: Path) -> None:
    copy, out = copied(recorded, tmp_path), tmp_path / "out"
    kept = copy.join(out)
    assert all(hour.deleted == 0 for hour in kept)
    (file, *_) = sorted((copy.folder / "log").glob("examples-*.jsonl"))
    late = file.with_name(f"{file.name[:22]}-9-9-9.jsonl")
    late.write_bytes(file.read_bytes())
    events = sorted((copy.folder / "log").glob("events-*"))
    again = copy.join(out, deletes=True)
    assert [hour.is_new for hour in again] == [False] * len(again)
    assert again[0].found_late == [late.name]
    assert sorted((copy.folder / "log").glob("examples-*")) == [late]
    assert sorted((copy.folder / "log").glob("events-*")) == events


def test_a_run_that_is_ended_leaves_no_file(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.examples.parquet.ParquetHour.finish", end)
    with pytest.raises(KeyboardInterrupt):
        recorded.join(tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == []
    monkeypatch.undo()
    (tmp_path / "out" / ".examples-2026-01-01T00.parquet.part").write_bytes(b"of a run that was killed")
    recorded.join(tmp_path / "out")
    assert all(path.suffix == ".parquet" for path in (tmp_path / "out").iterdir())


def test_the_command_says_what_it_did_and_what_is_wrong(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, out = str(recorded.folder / "log"), tmp_path / "out"
    given = ["--examples", log, "--events", log, "--bundle", str(recorded.bundle), "--out", str(out)]
    given += ["--feature-store", f"lmdb://{recorded.folder / 'store'}"]
    assert join_examples.main(given) == 1
    assert "'--out' must be a folder that is there" in capsys.readouterr().err
    out.mkdir()
    assert join_examples.main(given) == 0
    assert "hours are not closed yet" in capsys.readouterr().out
    now = now_ms() + 3 * HOUR_MS
    monkeypatch.setattr(join_examples, "now_ms", lambda: now)
    assert join_examples.main([*given, "--window-seconds", str(WINDOW_SECONDS)]) == 0
    told = capsys.readouterr()
    assert "shown" in told.out
    assert "clicks came after their window" in told.err
    assert rows_in(out)


def test_fields_may_not_have_the_names_of_the_columns_beside_them(recorded: Recorded) -> None:
    schema = load_bundle(recorded.bundle).schema
    field = replace(schema.fields[0], name="_clicked")
    with pytest.raises(BadConfiguration, match="got '_clicked'"):
        check_names(type(schema)((field, *schema.fields[1:])))
