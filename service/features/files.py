"""A CSV or Parquet file -> rows of raw values, streamed; it knows no store."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

PARQUET_ROWS = 4096
# A cell may hold a long list.
MAX_CELL_CHARACTERS = 1 << 24


class FileProblem(Exception):
    """The file cannot be loaded; the message is one line and says where the problem is."""


@dataclass(frozen=True)
class Shape:
    """The kinds of the columns: numbers, lists, else text. `kept` are the ones to read; None is all."""

    numbers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    separator: str = " "
    kept: frozenset[str] | None = None

    def keeps(self, name: str) -> bool:
        """Whether the column is to be read."""
        return self.kept is None or name in self.kept


def rows_of(path: Path, shape: Shape) -> Iterator[dict[str, Any]]:
    """The rows by column name: text, numbers, lists; None is missing. Raises FileProblem."""
    if path.suffix == ".parquet":
        return _parquet_rows(path, shape)
    name = path.name.removesuffix(".gz")
    delimiter = {".csv": ",", ".tsv": "\t"}.get(Path(name).suffix)
    if delimiter is None:
        raise FileProblem(
            f"'file' must end in .csv, .tsv, .csv.gz, .tsv.gz or .parquet (got {path.name!r}); rename it"
        )
    return _text_rows(path, delimiter, shape)


def _text_rows(path: Path, delimiter: str, shape: Shape) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        with _open_text(path) as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, None)
            _check_header(path, header, shape)
            assert header is not None
            for cells in reader:
                if len(cells) != len(header):
                    if not cells:
                        continue
                    raise FileProblem(
                        f"{path.name}, line {reader.line_num}: must have {len(header)} cells "
                        f"(got {len(cells)}); quote a cell that holds the separator"
                    )
                yield {
                    name: _cell(text, name, shape, path, reader.line_num)
                    for name, text in zip(header, cells, strict=True)
                    if shape.keeps(name)
                }
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise FileProblem(f"{path}: {error}") from None


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _check_header(path: Path, header: Sequence[str] | None, shape: Shape) -> None:
    if not header:
        raise FileProblem(f"{path.name}, line 1: must name the columns (got nothing); put a header there")
    for name in header:
        if header.count(name) > 1:
            raise FileProblem(f"{path.name}, line 1: column {name!r} must occur once; rename one")
    # A bundle's schema has fields of users and of ads, so not all of them are in one file.
    absent = (shape.numbers | shape.lists) - set(header) if shape.kept is None else set()
    if absent:
        raise FileProblem(f"{path.name}, line 1: must have column {min(absent)!r}, which an option names")


def _cell(text: str, name: str, shape: Shape, path: Path, line: int) -> Any:
    if not text:
        return None
    if name in shape.lists:
        return [element for element in text.split(shape.separator) if element]
    if name not in shape.numbers:
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FileProblem(
            f"{path.name}, line {line}: {name!r} must be a finite number (got {text[:40]!r}); "
            "leave the cell empty when it is missing"
        )
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _parquet_rows(path: Path, shape: Shape) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise FileProblem(
            "'pyarrow' must be installed to read Parquet; pip install 'bidlight[parquet]', or use CSV"
        ) from None
    try:
        with ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if shape.keeps(name)]
            for name in names:
                _check_type(path, name, file.schema_arrow.field(name).type, pa.types)
            for batch in file.iter_batches(PARQUET_ROWS, columns=names):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FileProblem(f"{path}: {' '.join(str(error).split())}") from None


def _check_type(path: Path, name: str, kind: Any, types: Any) -> None:
    """Raises FileProblem for a column of a type that no field has."""
    element = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    if types.is_dictionary(element):
        element = element.value_type
    is_text = types.is_string(element) or types.is_large_string(element) or types.is_string_view(element)
    if not (is_text or types.is_integer(element) or types.is_floating(element) or types.is_null(element)):
        raise FileProblem(
            f"{path.name}: column {name!r} must be of text, numbers, or lists of them (got {kind}); cast it"
        )
