"""Raw rows of the test part as a client would send them: for golden rows, load tests, and a skew check."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.parts import SampleRow
from service.bundle.encoder import Encoder
from service.bundle.schema import RawValue, Schema


def sample_positions(rows: int, samples: int) -> NDArray[np.int64]:
    """At most `samples` distinct rows out of `rows`, evenly spaced, ascending."""
    return np.unique(np.linspace(0, max(0, rows - 1), min(rows, samples)).astype(np.int64))


def raw_rows(schema: Schema, fields: pl.DataFrame) -> list[SampleRow]:
    """Typed fields -> JSON values by role: integral numbers as integers, missing values omitted."""
    rows: list[SampleRow] = [{"context": {}, "candidate": {}} for _ in range(fields.height)]
    for field in schema.fields:
        for row, value in zip(rows, fields[field.name].to_list(), strict=True):
            if value is not None:
                row[field.role.value][field.name] = _json_value(value)
    return rows


def _json_value(value: RawValue) -> RawValue:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def check_samples(encoder: Encoder, rows: list[SampleRow], ids: list[NDArray[np.int32]]) -> None:
    """Raises RuntimeError unless each raw row, encoded as in the service, gives the ids of training."""
    for number, (row, expected) in enumerate(zip(rows, ids, strict=True)):
        found = encoder.encode_request(row["context"], [row["candidate"]])[0]
        if not np.array_equal(found, expected):
            column = int(np.flatnonzero(found != expected)[0])
            raise RuntimeError(
                f"sample row {number}: column {column} must encode to {expected[column]} as in training "
                f"(got {found[column]}); the encoder treats a column and a request differently"
            )
