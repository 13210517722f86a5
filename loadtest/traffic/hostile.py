"""Bodies that are long and dear to read: each aims at one way to cost more than linear time.

It knows the interface of /predict and the names of a bundle's fields, nothing else of a service.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

JSON_TYPE, MSGPACK_TYPE = "application/json", "application/msgpack"
# CPython's hash of a number is its value modulo this prime, so a product with it, or with a power of two that
# is 1 modulo it, changes no hash.
HASH_PRIME = (1 << 61) - 1
HASH_PERIOD = 61
# CPython reads no longer integer from text.
INTEGER_DIGITS = 4300


@dataclass(frozen=True)
class FieldNames:
    """Names of one context field and one candidate field of the bundle that is served."""

    context: str
    candidate: str


@dataclass(frozen=True)
class HostileBody:
    """A body, the `Content-Type` that it is sent with, and what it aims at."""

    name: str
    media_type: str
    content: bytes


def ordinary_body(names: FieldNames, size: int, media_type: str = JSON_TYPE) -> HostileBody:
    """A request of 1,000 candidates, or fewer where `size` bytes hold fewer, that is no attack."""
    one = _in_json({"id": "ad-123", "features": {names.candidate: "x" * 8, "other": "y" * 8}})
    rows = min(1000, max(1, (size - 100) // (len(one) + 2)))
    padding = max(0, (size - 100) // rows - len(one) - 2)
    features = {names.candidate: "x" * 8, "other": "y" * (8 + padding)}
    if media_type == JSON_TYPE:
        ads = [{"id": "ad-123", "features": features}] * rows
        return HostileBody("ordinary", media_type, _in_json({"context": {}, "candidates": ads}))
    packed = _map([(name, _text(value)) for name, value in features.items()])
    ad = _map([("id", _text("ad-123")), ("features", packed)])
    content = _map([("context", _map([])), ("candidates", _array_head(rows) + ad * rows)])
    return HostileBody("ordinary", media_type, content)


def hostile_bodies(names: FieldNames, size: int) -> list[HostileBody]:
    """All of them, of about `size` bytes each; a service may answer any of them, or refuse it."""
    found = [HostileBody(name, JSON_TYPE, make(names, size)) for name, make in _IN_JSON.items()]
    found += [HostileBody(name, MSGPACK_TYPE, make(names, size)) for name, make in _IN_MSGPACK.items()]
    return found


def equal_hashes(count: int) -> Iterator[int]:
    """Integers that CPython hashes alike, smallest first."""
    return (1 + number * HASH_PRIME for number in range(count))


def _floats_of_equal_hashes() -> list[bytes]:
    """Every positive float64 whose hash is that of 1.0, as MessagePack."""
    return [b"\xcb" + struct.pack(">d", 2.0**power) for power in range(-976, 1024, HASH_PERIOD)]


def _float_tuples(size: int) -> bytes:
    """A map whose keys are arrays of four floats with the same hash."""
    floats = _floats_of_equal_hashes()
    count = (size - 100) // (1 + 4 * len(floats[0]) + 1)
    keys = itertools.islice(itertools.product(floats, repeat=4), count)
    return b"\xdf" + struct.pack(">I", count) + b"".join(b"\x94" + b"".join(key) + b"\xc0" for key in keys)


def _number_keys(size: int) -> bytes:
    floats = _floats_of_equal_hashes()
    keys = floats * ((size - 100) // (len(floats[0]) + 1) // len(floats))
    return b"\xdf" + struct.pack(">I", len(keys)) + b"".join(key + b"\xc0" for key in keys)


def _with_context(name: str, value: bytes) -> bytes:
    return _map([("context", _map([(name, value)])), ("candidates", b"\x91\x80")])


def _nested_arrays(size: int) -> bytes:
    """Arrays within arrays, each of which announces as many elements as there are bytes left."""
    depth = 900
    heads = b"".join(b"\xdd" + struct.pack(">I", size - 5 * (depth - level) - 100) for level in range(depth))
    return heads + b"\xc0" * (size - len(heads) - 100)


def _in_context(value: str) -> bytes:
    return b'{"candidates": [{}], "context": {%s}}' % value.encode()


def _repeated(part: str, size: int, between: str = ",") -> str:
    return between.join([part] * max(1, (size - 100) // (len(part) + len(between))))


def _numbered(form: str, size: int) -> str:
    count = (size - 100) // (len(form % 0) + 6)
    return ",".join(form % number for number in range(count))


def _candidates_with(form: str, size: int) -> bytes:
    """Candidates with many numbered names; in a form with two percent signs, the candidates are too."""
    forms = (form % row if "%%" in form else form for row in range(900))
    ads = ",".join(f'{{"features":{{{_numbered(each, size // 1000)}}}}}' for each in forms)
    return b'{"candidates": [%b]}' % ads.encode()


def _number_columns(names: FieldNames, size: int) -> bytes:
    """Columns of integers with the same hash, and one empty value, so that they are looked up one by one."""
    rows = min(1000, size // 40)
    integers = ",".join(map(str, equal_hashes(rows - 1)))
    return b'{"candidates": {"features": {"%b": [%b, ""]}}}' % (names.candidate.encode(), integers.encode())


def _late_error(names: FieldNames, size: int) -> bytes:
    ads = _repeated('{"features":{"a":1}}', size)
    return b'{"candidates": [%b,{"features":{"a":1e999}}]}' % ads.encode()


_IN_JSON: dict[str, Callable[[FieldNames, int], bytes]] = {
    "one name again and again": lambda names, size: _in_context(_repeated(f'"{names.context}":1', size)),
    "unknown names": lambda names, size: _in_context(_numbered('"u%d":1', size)),
    "unknown names of candidates": lambda names, size: _candidates_with('"u%d":1', size),
    "unlike unknown names of candidates": lambda names, size: _candidates_with('"%d-%%d":1', size),
    "integers of 4,300 digits": lambda names, size: _in_context(
        '"u":[' + _repeated("9" * INTEGER_DIGITS, size) + "]"
    ),
    "integers of 600 digits": lambda names, size: _in_context(
        f'"{names.context}":[' + _repeated("9" * 600, size) + "]"
    ),
    "floats halfway between two": lambda names, size: _in_context(
        '"u":[' + _repeated("1.00000000000000011102230246251565404", size) + "]"
    ),
    "floats of 800 digits": lambda names, size: _in_context(
        '"u":['
        + _repeated("1." + "0" * 15 + "11102230246251565404236316680908203125" + "0" * 750 + "1", size)
        + "]"
    ),
    "tiny floats of many digits": lambda names, size: _in_context(
        '"u":[' + _repeated("2.2250738585072011360574097967091319759348195463516456e-308", size) + "]"
    ),
    "escapes": lambda names, size: _in_context('"u":"' + _repeated("\\u00e9", size, "") + '"'),
    "escapes in an id": lambda names, size: (
        b'{"id": "%b", "candidates": [{}]}' % _repeated("\\u0001", size, "").encode()
    ),
    "nested arrays": lambda names, size: _in_context(
        '"u":' + "[" * (size // 2 - 50) + "]" * (size // 2 - 50)
    ),
    "nested objects": lambda names, size: _in_context('"u":' + _repeated('{"a":', size - 500, "") + "1"),
    "an array of arrays": lambda names, size: _in_context('"u":[' + _repeated("[]", size) + "]"),
    "an array of objects": lambda names, size: _in_context('"u":[' + _repeated('{"a":1}', size) + "]"),
    "objects under a known name": lambda names, size: _in_context(
        f'"{names.context}":[' + _repeated('{"a":1}', size) + "]"
    ),
    "empty candidates": lambda names, size: b'{"candidates": [%b]}' % _repeated("{}", size).encode(),
    "columns without values": lambda names, size: (
        b'{"candidates": {"features": {%b}}}' % _numbered('"u%d":[]', size).encode()
    ),
    "columns of unlike lengths": lambda names, size: (
        b'{"candidates": {"features": {"a":[1,2],%b}}}' % _numbered('"u%d":[1]', size).encode()
    ),
    "integers of equal hashes": _number_columns,
    "an error at the end": _late_error,
    "whitespace": lambda names, size: b'{"candidates": [{}]%b}' % (b" " * (size - 50)),
    "unknown members": lambda names, size: b'{"candidates": [{}], %b}' % _numbered('"u%d":1', size).encode(),
}

_IN_MSGPACK: dict[str, Callable[[FieldNames, int], bytes]] = {
    "float tuples as keys": lambda names, size: _with_context("u", _float_tuples(size)),
    "float tuples as keys, known name": lambda names, size: _with_context(names.context, _float_tuples(size)),
    "float tuples in a list": lambda names, size: _with_context("u", b"\x91" + _float_tuples(size)),
    "floats as keys": lambda names, size: _with_context("u", _number_keys(size)),
    "float tuples as columns": lambda names, size: _map(
        [("candidates", _map([("features", _float_tuples(size))]))]
    ),
    "arrays that announce too much": lambda names, size: _with_context("u", _nested_arrays(size)),
    "such arrays, known name": lambda names, size: _with_context(names.context, _nested_arrays(size)),
    "timestamps": lambda names, size: _with_context(
        "u", _array_head((size - 100) // 6) + b"\xd6\xff\x00\x00\x00\x01" * ((size - 100) // 6)
    ),
    "unknown names, packed": lambda names, size: _map(
        [
            ("context", _map([(f"u{number}", b"\xc0") for number in range((size - 100) // 10)])),
            ("candidates", b"\x91\x80"),
        ]
    ),
    "one name again and again, packed": lambda names, size: _map(
        [
            ("context", b"\xdf" + struct.pack(">I", (size - 100) // 3) + b"\xa1a\xc0" * ((size - 100) // 3)),
            ("candidates", b"\x91\x80"),
        ]
    ),
    "one column again and again, packed": lambda names, size: _map(
        [
            (
                "candidates",
                _map(
                    [
                        (
                            "features",
                            b"\xdf"
                            + struct.pack(">I", (size - 100) // 3)
                            + b"\xa1a\x90" * ((size - 100) // 3),
                        )
                    ]
                ),
            )
        ]
    ),
    "an array of nothing, packed": lambda names, size: _with_context(
        names.context, _array_head(size - 100) + b"\xc0" * (size - 100)
    ),
    "empty candidates, packed": lambda names, size: _map(
        [("candidates", _array_head(size - 100) + b"\x80" * (size - 100))]
    ),
}


def _in_json(value: object) -> bytes:
    return json.dumps(value).encode()


def _text(text: str) -> bytes:
    data = text.encode()
    return b"\xda" + struct.pack(">H", len(data)) + data


def _map(items: list[tuple[str, bytes]]) -> bytes:
    return b"\xdf" + struct.pack(">I", len(items)) + b"".join(_text(name) + value for name, value in items)


def _array_head(length: int) -> bytes:
    return b"\xdd" + struct.pack(">I", length)
