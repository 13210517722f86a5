"""Arms of unlike schemas are told, and so is a bundle unlike the one before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from service.arms.unlike import warn_of_unlike_arms
from service.bundle.schema import Bins, Field, Kind, Role, Schema, Vocabulary
from tests.running import RunningApp
from tests.tiny_bundle import tiny_schema, write_tiny_bundle

TINY = tiny_schema()
WORDS = Vocabulary(("a", "b"))
DEVICE = Field("device", Kind.CATEGORICAL, Role.CONTEXT, WORDS)


def with_fields(*fields: Field) -> Schema:
    return Schema((*fields, *TINY.fields))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_arms_of_the_same_fields_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unlike_arms({"a": TINY, "b": TINY}, {"a": TINY, "gone": Schema((DEVICE,))})
    warn_of_unlike_arms({"a": TINY})
    assert not caplog.records


def test_what_an_arm_lacks_is_named_with_its_kind_and_role(caplog: pytest.LogCaptureFixture) -> None:
    hour = Field("hour", Kind.CATEGORICAL, Role.CANDIDATE, WORDS)
    other = Schema((*[field for field in TINY.fields if field.name != "hour"], hour, DEVICE))
    warn_of_unlike_arms({"a": TINY, "b": other})
    (line,) = lines(caplog)
    assert line == (
        "arm a and arm b are of unlike schemas: arm a has no 'hour' (categorical, candidate), 'device' "
        "(categorical, context); arm b has no 'hour' (numeric, context); requests must suit all"
    )


def test_many_fields_make_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    many = [Field(f"x{n}", Kind.NUMERIC, Role.CONTEXT, Bins((1.0,))) for n in range(40)]
    warn_of_unlike_arms({"a": TINY, "b": with_fields(*many)})
    assert "'x9' (numeric, context) and 30 more; requests" in caplog.text


def test_schemas_without_a_common_field_are_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unlike_arms({"a": TINY}, {"a": Schema((DEVICE,))})
    assert lines(caplog) == [
        "arm a and its bundle before have no field in common; see whether they are of one log"
    ]


def test_they_are_told_at_the_start_and_at_a_reload(
    run_app: Callable[..., RunningApp], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (write_tiny_bundle(tmp_path / name) for name in ("one", "two"))
    app = run_app(arms=(f"a={one}", f"b={two}"))
    assert not lines(caplog)
    write_tiny_bundle(two, schema=with_fields(DEVICE))
    app.runner.run(app.app.served.reload())
    lacks = "has no 'device' (categorical, context); requests must suit all"
    assert lines(caplog) == [
        f"arm a and arm b are of unlike schemas: arm a {lacks}",
        f"arm b and its bundle before are of unlike schemas: its bundle before {lacks}",
    ]
