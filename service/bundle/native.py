"""The native core, if it was built, and a schema as it needs it. It decides nothing about ids.

The Python encoder is what its ids are tested against, and what encodes all that is not plain.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.encodings import FIRST_ID, Bins, Hashing, Vocabulary
from service.bundle.schema import Field, Kind, Role, Schema

if TYPE_CHECKING:
    from service.bundle import _native
else:
    try:
        from service.bundle import _native
    except ImportError:  # no compiler where this was installed
        _native = None

__all__ = ["IS_BUILT", "_native", "ids_of_values", "is_native", "native_encoder"]

IS_BUILT = _native is not None


def is_native(setting: Literal["on", "off"]) -> bool:
    """Whether the core reads and answers plain requests, by the service's setting of that name."""
    return IS_BUILT and setting == "on"


def native_encoder(schema: Schema, tables: Mapping[str, _native.Vocabulary]) -> _native.Encoder:
    """The fields of a schema in the core, which must be built; a vocabulary without a table is packed."""
    # Clients choose texts and names: as the seed is secret, they cannot choose some that collide.
    seed = secrets.randbits(64)
    encoder = _native.Encoder()
    vocabularies = {
        field.name: _native.Vocabulary.pack(field.encoding.values, ids_of_values(field), seed)
        for field in schema.fields
        if isinstance(field.encoding, Vocabulary)
        and field.same_values_as is None
        and field.name not in tables
    }
    vocabularies.update(tables)
    for field in schema.fields:
        is_candidate = field.role is Role.CANDIDATE
        length = field.max_length if field.kind is Kind.SEQUENCE else 0
        match field.encoding:
            case Vocabulary():
                vocabulary = vocabularies[field.same_values_as or field.name]
                encoder.add_vocabulary(is_candidate, field.name, length, vocabulary)
            case Hashing(buckets, hash_seed):
                encoder.add_hashing(is_candidate, field.name, length, buckets, hash_seed, field.renumbering)
            case Bins(edges):
                ids = ids_of_values(field)
                if ids is None:
                    ids = np.arange(FIRST_ID, field.base_cardinality, dtype=np.int32)
                encoder.add_bins(is_candidate, field.name, np.array(edges, np.float64), ids)
    encoder.finish(seed)
    return encoder


def ids_of_values(field: Field) -> NDArray[np.int32] | None:
    """The ids of the encoding's own values, in order, if they are not FIRST_ID, ..."""
    return None if field.renumbering is None else field.renumbering[FIRST_ID:]
