"""An encoded log on disk: the arrays of its four parts as memory maps, its schema, and sample rows.

It knows nothing of raw files; `prepare_log` writes what this module opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.errors import LogError
from export.data.log_schema import LogSchema
from export.data.past import Past
from export.data.splits import PARTS, Split, SplitBy
from service.bundle.errors import BundleError
from service.bundle.schema import Schema
from service.bundle.schema_files import schema_from_files

METADATA: Final = "log.json"
SAMPLES: Final = "sample_rows.jsonl"
PAST: Final = "past.npz"
_PAGE_ROWS: Final = 4096

Array = NDArray[Any]
SampleRow = dict[str, dict[str, Any]]  # {"context": {...}, "candidate": {...}}


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one part in the log's order. The arrays are memory maps, read-only.

    `taught` is what teachers say of the rows, as logits of the model that is trained.
    """

    ids: NDArray[np.int32]  # [n, columns]
    labels: NDArray[np.uint8]  # [n]
    true_pctr: NDArray[np.float32] | None  # [n]
    timestamps: NDArray[np.int64] | None  # [n] unix seconds
    taught: NDArray[np.float32] | None = None  # [n]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def clicks(self) -> int:
        """Rows with label 1."""
        return int(np.count_nonzero(self.labels))


class Batch(NamedTuple):
    """Rows of a part: ids [batch, columns], labels [batch], and what teachers say of them, [batch]."""

    ids: NDArray[np.int32]
    labels: NDArray[np.uint8]
    taught: NDArray[np.float32] | None = None

    def rows(self, chosen: Any) -> Batch:
        """Some of the rows."""
        taught = None if self.taught is None else self.taught[chosen]
        return Batch(self.ids[chosen], self.labels[chosen], taught)


class LogRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """log.json: the metadata of the arrays."""

    source: str
    log_schema: str
    split: SplitBy
    boundaries: tuple[int, int, int]
    window: tuple[int, int] | None
    skipped_rows: int
    rows: dict[str, int]
    clicks: dict[str, int]
    has_timestamps: bool
    has_true_pctr: bool
    description: LogSchema | None = None  # None in logs that were prepared before it was kept


@dataclass(frozen=True, eq=False)
class EncodedLog:
    """A log as ids. `parts` holds train, validation, calibration and test, in the order of the log."""

    schema: Schema
    parts: dict[str, Part]
    split: SplitBy
    window: tuple[int, int] | None  # first and last unix second of the training part
    source: str  # the raw file's name
    skipped_rows: int
    sample_rows: list[SampleRow]  # of the test part, as JSON values that a client would send
    description: LogSchema | None = None  # how the raw file is read
    past: Past | None = None  # of a warm start: what trainings before this log's met

    def without_past(self) -> EncodedLog:
        """The same log for a model that starts anew."""
        return replace(self, past=None)

    def without_taught(self) -> EncodedLog:
        """The same log for a model that labels alone teach."""
        return replace(self, parts=self.parts | {"train": replace(self.parts["train"], taught=None)})

    def with_taught(self, logits: NDArray[np.float32]) -> EncodedLog:
        """The same log with what teachers say of the training rows, [n]."""
        return replace(self, parts=self.parts | {"train": replace(self.parts["train"], taught=logits)})


def part_path(folder: Path, part: str, array: str) -> Path:
    """The file of one array: `ids`, `labels`, `true_pctr` or `timestamps`."""
    return folder / f"{part}.{array}.npy"


def open_log(folder: Path) -> EncodedLog:
    """What prepare_log wrote, memory-mapped. Raises LogError if it is absent or damaged."""
    try:
        record = msgspec.json.decode((folder / METADATA).read_bytes(), type=LogRecord)
        schema = schema_from_files(lambda name: (folder / "schema" / name).read_bytes())
        samples = msgspec.json.Decoder(SampleRow).decode_lines((folder / SAMPLES).read_bytes())
        parts = {name: _open_part(folder, name, record, schema.columns) for name in PARTS}
        past = _open_past(folder / PAST, schema)
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        raise LogError(
            f"'{folder}' must be a prepared log (it has no {name}); run fit-schema again"
        ) from None
    except (OSError, msgspec.MsgspecError, BundleError, ValueError, BadZipFile) as error:
        raise LogError(f"'{folder}' must be a whole prepared log ({error}); run fit-schema again") from None
    return EncodedLog(
        schema=schema,
        parts=parts,
        split=record.split,
        window=record.window,
        source=record.source,
        skipped_rows=record.skipped_rows,
        sample_rows=samples,
        description=record.description,
        past=past,
    )


def _open_past(path: Path, schema: Schema) -> Past | None:
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Past.of(schema, dict(arrays))


def _open_part(folder: Path, name: str, record: LogRecord, columns: int) -> Part:
    rows = record.rows[name]

    def mapped(array: str, shape: tuple[int, ...]) -> Array:
        path = part_path(folder, name, array)
        values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.shape != shape:
            raise LogError(f"{path.name} must have the shape {shape} (got {values.shape})")
        return values

    return Part(
        ids=mapped("ids", (rows, columns)),
        labels=mapped("labels", (rows,)),
        true_pctr=mapped("true_pctr", (rows,)) if record.has_true_pctr else None,
        timestamps=mapped("timestamps", (rows,)) if record.has_timestamps else None,
    )


def split_of(folder: Path) -> Split:
    """How the rows of a prepared log were split. Raises LogError as `open_log` does."""
    try:
        record = msgspec.json.decode((folder / METADATA).read_bytes(), type=LogRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise LogError(f"'{folder}' must be a whole prepared log ({error}); run fit-schema again") from None
    return Split(record.split, record.boundaries)


def batches(
    part: Part, batch_size: int, *, seed: int | None = None, window_rows: int = 2_000_000
) -> Iterator[Batch]:
    """Batches of `batch_size` rows; the last one may be smaller.

    With a seed the rows are shuffled reproducibly: pages of 4,096 rows in random order, then the rows of each
    window of `window_rows` rows, which memory holds. Without a seed rows keep the log's order.
    """
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size!r})")
    if seed is None:
        for start in range(0, len(part), batch_size):
            stop = start + batch_size
            taught = None if part.taught is None else np.array(part.taught[start:stop])
            yield Batch(np.array(part.ids[start:stop]), np.array(part.labels[start:stop]), taught)
        return
    for rows in _shuffled_windows(len(part), batch_size, seed, window_rows):
        window = Batch(part.ids, part.labels, part.taught).rows(rows)
        for start in range(0, len(rows), batch_size):
            yield window.rows(slice(start, start + batch_size))


def _shuffled_windows(
    n_rows: int, batch_size: int, seed: int, window_rows: int
) -> Iterator[NDArray[np.int64]]:
    """Row numbers, a window of whole batches at a time; the last window holds the rest."""
    generator = np.random.default_rng(seed)
    pages = generator.permutation(-(-n_rows // _PAGE_ROWS))
    pages_a_window = max(1, window_rows // _PAGE_ROWS)
    rest = np.empty(0, np.int64)
    for first in range(0, len(pages), pages_a_window):
        # Ascending, so the disk is read forwards; the shuffle below mixes the pages.
        chosen = np.sort(pages[first : first + pages_a_window])
        rows = np.concatenate([np.arange(p * _PAGE_ROWS, min((p + 1) * _PAGE_ROWS, n_rows)) for p in chosen])
        generator.shuffle(rows)
        rows = np.concatenate([rest, rows])
        whole = len(rows) - len(rows) % batch_size
        rest = rows[whole:]
        yield rows[:whole]
    yield rest
