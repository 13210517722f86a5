"""What the fuzzer of the native core begins with: a bundle's fields, and inputs from the tests, by target."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from loadtest.traffic.hostile import FieldNames, hostile_bodies
from service.bundle.encodings import FIRST_ID, Bins, Hashing, Vocabulary
from service.bundle.native import _native, ids_of_values
from service.bundle.schema import Field, Kind, Schema
from service.bundle.schema_files import file_names
from service.bundle.vocabulary_tables import SOURCE_BYTES
from tests.service.http.bodies import LITERALS, NO_CHARACTERS, bodies, mutated, odd_requests, requests

DRAWN_BODIES = 150  # of each kind
HOSTILE_BYTES = 5000
TABLE_SIZES = 0, 1, 40, 300


def describe(schema: Schema, bundle: str) -> str:
    """The fields of a bundle, a line each, as native/fuzz/schema.hpp reads them; `bundle` is its folder."""
    return "".join(_line(schema, field, bundle) for field in schema.fields)


def _line(schema: Schema, field: Field, bundle: str) -> str:
    words: list[object] = [field.role, field.name, field.max_length if field.kind is Kind.SEQUENCE else 0]
    match field.encoding:
        case Vocabulary():
            owner = [each.name for each in schema.fields].index(field.same_values_as or field.name)
            words += ["vocabulary", f"{bundle}/{file_names(owner).table}"]
        case Hashing(buckets, seed):
            ids = [] if field.renumbering is None else field.renumbering.tolist()
            words += ["hashing", buckets, seed, len(ids), *ids]
        case Bins(edges):
            renumbered = ids_of_values(field)
            of_bins = np.arange(FIRST_ID, field.base_cardinality) if renumbered is None else renumbered
            words += ["bins", len(edges), *map(repr, edges), len(of_bins), *of_bins.tolist()]
    return " ".join(map(str, words)) + "\n"


def _bodies(_: Path) -> list[bytes]:
    """What the tests of the request path send; those with an escape that means nothing also end behind it."""
    found = [body.content for body in hostile_bodies(FieldNames("site", "ad"), HOSTILE_BYTES)]
    for text in NO_CHARACTERS:
        found += [f'{{"id": "{text}{rest}'.encode() for rest in ("", "\\", '", "candidates": [{}]}')]
    for strategy in (bodies(requests), bodies(odd_requests), mutated()):

        @settings(
            max_examples=DRAWN_BODIES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def draw(body: tuple[bytes, bytes]) -> None:
            found.append(body[0])

        draw()
    return found


def _tables(bundle: Path) -> list[bytes]:
    """The packed words of the bundle's tables, and of some of other sizes."""
    found = [path.read_bytes()[SOURCE_BYTES:] for path in sorted((bundle / "vocabulary").glob("*.table"))]
    for size in TABLE_SIZES:
        values = tuple(f"value {number}" for number in range(size))
        found.append(bytes(_native.Vocabulary.pack(values, None, size)))
    return found


def _anything(_: Path) -> list[bytes]:
    """For targets that draw what they need from the bytes."""
    draw = random.Random(3)
    return [draw.randbytes(size) for size in (16, 64, 256, 1024) for _ in range(4)]


# The targets in native/fuzz, each with what makes its seeds of a bundle.
SEEDS: dict[str, Callable[[Path], Iterable[bytes]]] = {
    "bodies": _bodies,
    "numbers": lambda _: map(str.encode, LITERALS),
    "answers": _anything,
    "tables": _tables,
    "vocabularies": _anything,
    "columns": _anything,
    "hashes": _anything,
}
