"""Values of merged zero rows can be forgotten: a bundle encodes all others as its graph numbers them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from export.stages.variants import forget_zero_rows, renumber, schema_of
from service.bundle.encoder import Encoder
from service.bundle.schema import Field, Hashing, Kind, Role, Schema, Vocabulary

VALUES = tuple("abcdefgh")


@pytest.mark.parametrize(
    ("new_ids", "ids"),
    [
        ([0, 1, 2, 3, 4, 3, 5, 3, 3, 6], [2, 3, 4, 1, 5, 1, 1, 6]),  # a row for each id
        ([0, 1, 2, 2, 2, 2, 2, 2, 2, 2], [2, 1, 1, 1, 1, 1, 1, 1]),  # none lives
        ([0, 1, 2, 3, 4, 5, 3, 4, 5, 6], [2, 3, 4, 5, 1, 1, 1, 6]),  # three ids a row, of a quotient
        ([0, 1, 2, 2, 3, 4, 5, 5, 6, 7], [2, 1, 3, 4, 5, 1, 6, 7]),  # four rows of ids that meet
        ([0, 1, 2, 3, 7, 7, 4, 5, 6, 7], [2, 3, 7, 7, 4, 5, 6, 7]),  # no order that a vocabulary can have
    ],
)
def test_values_are_encoded_as_the_graph_numbers_them(new_ids: Sequence[int], ids: Sequence[int]) -> None:
    fields = (
        Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(VALUES)),
        Field("seen", Kind.SEQUENCE, Role.CONTEXT, Vocabulary(VALUES), max_length=2, same_values_as="ad"),
        Field("tag", Kind.CATEGORICAL, Role.CANDIDATE, Hashing(8)),
    )
    log = Schema(fields)
    every = np.array(new_ids, np.int32)
    renumberings = forget_zero_rows(dict.fromkeys(("ad", "seen", "tag"), every), log)
    assert renumberings["tag"] is every  # it has no values to leave out
    bundle = schema_of(log, renumberings)
    context, candidates = (
        {"seen": ["c", "h"]},
        [{"ad": value, "tag": value} for value in (*VALUES, "", "new")],
    )
    expected = Encoder(log).encode_request(context, candidates)
    found = Encoder(bundle).encode_request(context, candidates)
    assert np.array_equal(found, renumber(expected, log, renumberings))
    assert found[:, bundle.column_slices["ad"].start].tolist() == [*ids, 0, 1]
