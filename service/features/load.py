"""`python -m service.load_features`: users or ads from a CSV or Parquet file into a feature store.

A row is a user or an ad, a column a field. Rows are streamed, so a file may be larger than memory. LMDB
files and the ads in Redis are replaced as a whole, at the end of a complete load; users in Redis are set one
by one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from service.bundle.errors import BundleError
from service.bundle.schema import Kind, Schema
from service.bundle.store import load_bundle
from service.errors import BadConfiguration
from service.features.files import FileProblem, Shape, rows_of
from service.features.open import writer_at
from service.features.store import FeatureWriter, StoreUnavailable, pack

ROWS_IN_A_WRITE = 1000
PROGRAM = "python -m service.load_features"


def main(arguments: Sequence[str] | None = None) -> int:
    """Load one file; the exit status. An error is one line."""
    options = build_parser().parse_args(arguments)
    try:
        shape = _shape(options)
        with writer_at(options.store, options.kind) as writer:
            count = load(rows_of(options.file, shape), writer, options.key)
    except (BadConfiguration, BundleError, FileProblem, StoreUnavailable) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    print(f"loaded {count:,} {options.kind} from {options.file}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Load the features of users or ads from a CSV or Parquet file into a feature store.",
        epilog=f"Example: {PROGRAM} users users.csv --key user_id --bundle artifacts/demo "
        "--store lmdb:artifacts/features",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=110),
    )
    parser.add_argument("kind", choices=("users", "ads"), help="what a row of the file is")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="file.csv, file.tsv (each also with .gz) or file.parquet"
    )
    parser.add_argument(
        "--store",
        required=True,
        metavar="URL",
        help="as the service's --feature-store: lmdb:... or redis://...",
    )
    parser.add_argument(
        "--key",
        required=True,
        metavar="COLUMN",
        help="the column with the id; it is a feature like the others",
    )
    parser.add_argument(
        "--bundle",
        metavar="FOLDER",
        help="take from its schema which CSV columns are numbers and lists; columns it lacks are left out",
    )
    parser.add_argument(
        "--number", action="append", default=[], metavar="COLUMN", help="a CSV column of numbers (repeat it)"
    )
    parser.add_argument(
        "--list", action="append", default=[], metavar="COLUMN", help="a CSV column of lists (repeat it)"
    )
    parser.add_argument(
        "--separator", default=" ", metavar="TEXT", help="text between the elements of a list [a space]"
    )
    return parser


def load(rows: Iterator[Mapping[str, Any]], writer: FeatureWriter, key: str) -> int:
    """Rows -> the store; returns their number. A cell that is empty or null is no feature of its row.

    Raises FileProblem, StoreUnavailable, BadConfiguration.
    """
    count = 0
    while batch := list(islice(rows, ROWS_IN_A_WRITE)):
        writer.write([_entry(row, key, count + place) for place, row in enumerate(batch)])
        count += len(batch)
    return count


def _entry(row: Mapping[str, Any], key: str, place: int) -> tuple[str, bytes]:
    if key not in row:
        raise FileProblem(f"'--key' must be a column (got {key!r}); there are {', '.join(row)}")
    name = row[key]
    if name is None or name == "" or isinstance(name, float | list):
        raise FileProblem(
            f"column {key!r} must be an id, text or a whole number (got {name!r} in row {place + 1}); "
            "every row needs one"
        )
    return str(name), pack(
        {field: value for field, value in row.items() if value is not None and value != ""}
    )


def _shape(options: argparse.Namespace) -> Shape:
    """The kinds of the columns. Raises BundleError."""
    numbers, lists, kept = set(options.number), set(options.list), None
    if options.bundle is not None:
        schema: Schema = load_bundle(Path(options.bundle)).schema
        numbers |= {field.name for field in schema.fields if field.kind is Kind.NUMERIC}
        lists |= {field.name for field in schema.fields if field.kind is Kind.SEQUENCE}
        kept = frozenset(field.name for field in schema.fields) | {options.key}
    return Shape(frozenset(numbers), frozenset(lists), options.separator, kept)
