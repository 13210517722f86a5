"""A Parquet file of examples, whole or not at all: its columns, and what it says of itself.

It knows neither where rows come from nor which hours there are. pyarrow is an extra of its own: a service
that only bids has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from service.bundle import example_columns as columns
from service.bundle.folders import sync_to_disk
from service.bundle.schema import Kind, Schema
from service.errors import BadConfiguration

METADATA_KEY = b"bidlight"
COMPRESSION = "zstd"


class HourRecord(msgspec.Struct, frozen=True):
    """What a file says of itself: what it was made of, and what came of that."""

    bundle: str
    window_seconds: int
    rows_kept: str
    files: Sequence[str]
    requests: int
    rows: int
    shown: int
    clicked: int
    unreadable: int
    version: int = 1


class ParquetHour:
    """Writes rows to a file that has its name only when it is whole; use it as a context.

    An exception removes what was written. Raises OSError.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._schema = _arrow_schema(schema)
        self._pa = pa
        self._writer = pq.ParquetWriter(self._part, self._schema, compression=COMPRESSION)

    def __enter__(self) -> ParquetHour:
        """Begin."""
        return self

    def write(self, values: Mapping[str, Sequence[Any]]) -> None:
        """Append rows, by column, as a row group."""
        arrays = [self._pa.array(values[field.name], field.type) for field in self._schema]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def finish(self, record: HourRecord) -> None:
        """Keep the file: on the disk, then under its name."""
        self._writer.add_key_value_metadata({METADATA_KEY: msgspec.json.encode(record)})
        self._writer.close()
        sync_to_disk(self._part)
        self._part.rename(self._path)
        sync_to_disk(self._path.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is not whole."""
        if kind is not None:
            with suppress(OSError, self._pa.ArrowException):
                self._writer.close()
            self._part.unlink(missing_ok=True)


def read_record(path: Path) -> HourRecord | None:
    """What a file says of itself; None if nothing, or if it is no such file. Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(path).metadata or {}
        return msgspec.json.decode(found.get(METADATA_KEY, b""), type=HourRecord)
    except (pa.ArrowInvalid, msgspec.DecodeError):
        return None


def check_library() -> None:
    """Raises BadConfiguration without pyarrow."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise BadConfiguration(
            "'pyarrow' must be installed to write Parquet; pip install 'bidlight[parquet]'"
        ) from None


def _arrow_schema(schema: Schema) -> Any:
    import pyarrow as pa

    of_kind = {
        Kind.CATEGORICAL: pa.string(),
        Kind.NUMERIC: pa.float64(),
        Kind.SEQUENCE: pa.list_(pa.string()),
    }
    beside = {
        columns.TIME: pa.int64(),
        columns.CLICKED: pa.int8(),
        columns.SHOWN: pa.int8(),
        columns.EXPLORED: pa.int8(),
        columns.CLICK_DELAY: pa.int64(),
        columns.LOG_ODDS: pa.float32(),
        columns.PCTR: pa.float64(),
        columns.BID: pa.float64(),
        columns.WEIGHT: pa.float64(),
        columns.REVISION: pa.int32(),
        columns.VALUE_PER_CLICK: pa.float64(),
    }
    fields = [(field.name, of_kind[field.kind]) for field in schema.fields]
    fields += [(name, beside.get(name, pa.string())) for name in columns.RESERVED]
    return pa.schema(fields)
