"""A field whose unknown values move the mean pCTR is found, with the figures before and after."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.data.encoded import Part
from export.train.config import TrainConfig
from export.train.unknown_values import ROWS, UnknownField, unknown_fields, warning_of
from models import LR
from models.fields import Field
from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID

FIELDS = (Field("site", 6), Field("history", 5, width=3), Field("ad", 4))
CONFIG = TrainConfig()


def a_model() -> LR:
    """Every value weighs nothing but unseen sites, missing ads and unseen elements of the history."""
    model = LR(FIELDS)
    torch.nn.init.zeros_(model.embedding.table.weight)
    with torch.no_grad():
        model.bias.fill_(math.log(0.02 / 0.98))
        model.embedding.table.weight[OOV_ID] = math.log(3.0)
        model.embedding.table.weight[6 + OOV_ID] = 0.1
        model.embedding.table.weight[6 + 5 + MISSING_ID] = -math.log(2.0)
    return model


def a_part(rows: int = 3_000) -> Part:
    draw = np.random.default_rng(0)
    ids = draw.integers(FIRST_ID, 4, (rows, 5)).astype(np.int32)
    ids[:, 2:4] = 0  # histories of one element
    return Part(ids, np.zeros(rows, np.uint8), None, None)


def test_each_field_has_the_replacement_that_moves_most() -> None:
    site, history, ad = unknown_fields(a_model(), a_part(), CONFIG)
    assert (site.field, site.replaced_by) == ("site", "out of vocabulary")
    assert (site.known, site.unknown) == pytest.approx((0.02, 0.06 / 1.04))
    assert (ad.field, ad.replaced_by) == ("ad", "missing")
    assert ad.factor == pytest.approx(2.0, rel=0.02)
    assert history.replaced_by == "out of vocabulary"
    assert history.factor == pytest.approx(1.1, rel=0.01)  # the mean of its one element, not of the padding


def test_the_factor_is_of_probabilities_in_the_log() -> None:
    weighted = replace(CONFIG, loss="weighted-bce", click_weight=100.0)
    (site, *_) = unknown_fields(a_model(), a_part(100), weighted)
    assert site.known == pytest.approx(0.02 / 98, rel=0.01)
    assert site.factor == pytest.approx(3.0, rel=0.01)


def test_fields_that_move_little_are_not_told() -> None:
    found = unknown_fields(a_model(), a_part(ROWS // 2), CONFIG)
    warning = warning_of(found)
    assert warning is not None
    assert "site out of vocabulary: 0.02 -> 0.05769, ad missing: 0.02 -> 0.0101;" in warning
    assert "history" not in warning
    assert warning_of([found[1]]) is None


def test_a_long_list_is_cut() -> None:
    many = [UnknownField(f"f{number}", "missing", 0.1, 0.2 + number / 100) for number in range(8)]
    warning = warning_of(many)
    assert warning is not None
    assert "f7 missing: 0.1 -> 0.27, f6" in warning
    assert "and 3 fields more" in warning
