"""`python -m service.load_features`: users or ads from a CSV or Parquet file into a feature store.

A row is a user or an ad, a column a field. With a bundle, the file is read as the export reads the bundle's
log. Rows are streamed, so a file may be larger than memory. LMDB files and the ads in Redis are replaced as a
whole, at the end of a complete load, so the file is checked while it is read. Users in Redis are set one by
one, which nothing undoes, so the file is read twice: the whole of it is checked before the first is set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError, InvalidValue, show
from service.bundle.store import load_bundle
from service.errors import BadConfiguration
from service.features.files import FileProblem, Row, columns_of, rows_of, unit_of
from service.features.open import writer_at
from service.features.shape import Shape, with_schema
from service.features.store import FeatureWriter, StoreUnavailable, key_of, pack

ROWS_IN_A_WRITE = 1000
PROGRAM = "python -m service.load_features"


def main(arguments: Sequence[str] | None = None) -> int:
    """Load one file; the exit status. An error is one line."""
    options = build_parser().parse_args(arguments)
    file, key = options.file, options.key
    try:
        encoder = None if options.bundle is None else load_bundle(Path(options.bundle)).encoder
        schema = None if encoder is None else encoder.schema
        named = Shape(
            frozenset(options.number),
            frozenset(options.list),
            options.separator,
            delimiter=options.delimiter,
            quote=options.quote,
        )
        shape = named if schema is None else with_schema(named, schema, key)
        read = partial(checked, file, shape, key)
        with writer_at(options.store, options.kind) as writer:
            longest_key = writer.longest_key
            if not writer.is_undone:
                for _ in read(encoder, longest_key):
                    pass
            count = load(read(encoder if writer.is_undone else None, longest_key), writer)
        left_out = [name for name in columns_of(file, shape) if not shape.keeps(name)]
    except (BadConfiguration, BundleError, FileProblem, StoreUnavailable) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    print(f"loaded {count:,} {options.kind} from {file}")
    if left_out:
        print(f"left out columns that are no field of the bundle: {', '.join(left_out)}")
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
        help="read the file as the bundle's log was read: its fields, their kinds, separators and missing "
        "texts; other columns are left out, and values that the service would refuse are refused",
    )
    parser.add_argument(
        "--number", action="append", default=[], metavar="COLUMN", help="a CSV column of numbers (repeat it)"
    )
    parser.add_argument(
        "--list", action="append", default=[], metavar="COLUMN", help="a CSV column of lists (repeat it)"
    )
    parser.add_argument(
        "--separator",
        metavar="TEXT",
        help="what stands between elements of a list [as in the bundle's log, else a space]",
    )
    parser.add_argument(
        "--delimiter",
        type=_character,
        metavar="CHARACTER",
        help="what stands between cells [as in the bundle's log of the same format, else a comma or a tab]",
    )
    parser.add_argument(
        "--quote",
        type=_character,
        metavar="CHARACTER",
        help="what encloses a cell; empty: nothing [as in the bundle's log of the same format, else \"]",
    )
    return parser


def _character(text: str) -> str:
    if len(text.encode()) > 1 or text in ("\r", "\n"):
        raise argparse.ArgumentTypeError(
            f"must be one ASCII character (got {text!r}); quote it for the shell"
        )
    return text


def checked(
    file: Path, shape: Shape, key: str, encoder: Encoder | None = None, longest_key: int | None = None
) -> Iterator[list[tuple[str, Row]]]:
    """The file's rows and their ids, in batches.

    Raises FileProblem with the place of the first row without an id, with an id of more than `longest_key`
    bytes, or with what `encoder` refuses.
    """
    rows = rows_of(file, shape, key)
    while batch := list(islice(rows, ROWS_IN_A_WRITE)):
        names = [_id_of(row, file, key, longest_key) for row in batch]
        if encoder is not None:
            _check_values(batch, file, encoder)
        yield list(zip(names, batch, strict=True))


def _check_values(batch: list[Row], file: Path, encoder: Encoder) -> None:
    for field in encoder.schema.fields:
        if field.name not in batch[0].values:
            continue
        try:
            encoder.encode_column(field.name, [row.values[field.name] for row in batch])
        except InvalidValue as error:
            place = batch[error.row or 0].place
            raise FileProblem(f"{file.name}, {unit_of(file)} {place}: {error.message}") from None


def load(batches: Iterator[list[tuple[str, Row]]], writer: FeatureWriter) -> int:
    """Rows -> the store; returns their number. A cell that is empty or null is no feature of its row.

    Raises FileProblem, StoreUnavailable, BadConfiguration.
    """
    count = 0
    for batch in batches:
        writer.write([(name, _packed(row)) for name, row in batch])
        count += len(batch)
    return count


def _id_of(row: Row, file: Path, key: str, longest: int | None) -> str:
    where = f"{file.name}, {unit_of(file)} {row.place}: column {key!r} must be"
    if row.key is None or row.key == "" or not isinstance(row.key, str | int):
        raise FileProblem(f"{where} an id, text or a whole number (got {show(row.key)}); every row needs one")
    name = str(row.key)
    if longest is not None and len(name) > longest // 4 and len(key_of(name)) > longest:
        raise FileProblem(
            f"{where} an id of at most {longest} bytes (got {show(name)}); shorten it, or use Redis"
        )
    return name


def _packed(row: Row) -> bytes:
    return pack({name: value for name, value in row.values.items() if value is not None and value != ""})
