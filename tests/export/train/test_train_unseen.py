"""Fields whose ids do not come back get a stronger penalty, and no others do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from export.data.encoded import Part
from export.errors import ExportError
from export.train.build import build_from_fields
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from export.train.id_counts import IdCounts
from export.train.loop import predict_logits, train
from export.train.unseen import HALF_LEARNED_ROWS, learned_share, stronger_penalty, unseen_share
from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from service.bundle.schema import FIRST_ID, OOV_ID
from tests.export.memory_log import MemoryLog

AD = Field("ad", 6)
HISTORY = Field("history", 6, width=2, same_values_as="ad")
SITE = Field("site", 40, storage="hashed", collisions=4)


class Tables(nn.Module):
    def __init__(self, fields: tuple[Field, ...]) -> None:
        super().__init__()
        self.fields = fields
        self.wide = LinearTerm(fields)
        self.embedding = FeaturesEmbedding(fields, dim=3)


def part_of(ids: Any) -> Part:
    ids = np.asarray(ids, np.int32)
    return Part(ids, np.zeros(len(ids), np.uint8), None, None)


def counts_of(fields: tuple[Field, ...], training: Any, validation: Any) -> IdCounts:
    return IdCounts.of(fields, part_of(training), part_of(validation))


IDS = st.lists(st.integers(0, 5), min_size=1, max_size=30)


@given(IDS, IDS)
def test_shares_are_those_of_a_count_of_rows(training: list[int], validation: list[int]) -> None:
    counts = counts_of((AD,), [[one] for one in training], [[one] for one in validation])
    known = set(training) - {OOV_ID}
    before, after = (sum(one not in known for one in ids) / len(ids) for ids in (training, validation))
    expected = max(0.0, (after - before) / (1 - before)) if before < 1 else 0.0
    assert unseen_share(counts.training["ad"], counts.validation["ad"]) == pytest.approx(expected)
    rows = Counter(training)
    learned = [rows[one] / (rows[one] + HALF_LEARNED_ROWS) for one in training if one in known]
    assert learned_share(counts.training["ad"]) == pytest.approx(np.mean(learned) if learned else 0.0)


@given(IDS)
def test_a_part_like_the_training_part_has_nothing_unseen(ids: list[int]) -> None:
    counts = counts_of((AD,), [[one] for one in ids], [[one] for one in ids[::-1]])
    assert unseen_share(counts.training["ad"], counts.validation["ad"]) == 0
    assert not stronger_penalty(Tables((AD,)), counts, 4.0).by_table


def test_the_factor_is_on_the_rows_of_the_field_that_owns_them_in_tables_of_vectors() -> None:
    fields = (Field("hour", 3), AD, HISTORY, SITE)
    # 20 rows of ad 2 and history 2 (and padding): 40 lookups. Validation has ad 3, history 2, an unseen site.
    training = [[2, 2, 2, 0, 7]] * 20
    validation = [[2, 3, 2, 0, 8], [2, 2, 2, 0, 7]]
    model = Tables(fields)
    found = stronger_penalty(model, counts_of(fields, training, validation), 4.0)
    ad, site = 1 + 4 * (1 / 4) * (40 / 60), 1 + 4 * (1 / 2) * (20 / 40)
    assert found.by_field == pytest.approx({"ad": ad, "site": site})
    assert list(found.by_table) == [model.embedding.table.weight]
    factors = found.by_table[model.embedding.table.weight]
    expected = [1.0] * 3 + [ad] * 6 + [site] * 10
    assert factors.squeeze(1).tolist() == pytest.approx(expected)
    assert not stronger_penalty(model, counts_of(fields, training, validation), 0.0).by_field


def a_log(*, users_stay: bool, rows: int = 3_000) -> MemoryLog:
    """Each user has 30 rows in a row, so later users are new, or all users have rows everywhere."""
    draw = np.random.default_rng(0)

    def part(users: NDArray[np.integer[Any]]) -> Part:
        ads = draw.integers(FIRST_ID, 10 + FIRST_ID, len(users))
        taste = np.sin(users) + np.where(ads % 2, 1.0, -1.0)
        labels = (draw.random(len(users)) < 1 / (1 + np.exp(-taste))).astype(np.uint8)
        known = np.where(users < 100, users + FIRST_ID, OOV_ID)
        return Part(np.column_stack((known, ads)).astype(np.int32), labels, None, None)

    later = draw.integers(0, 100, 1_000) if users_stay else 100 + np.arange(1_000) // 30
    return MemoryLog({"train": part(np.arange(rows) // 30), "validation": part(later)})


FIELDS = (Field("user", 100 + FIRST_ID), Field("ad", 10 + FIRST_ID, role="candidate"))


def trained(log: MemoryLog, lines: list[str], **given: Any) -> nn.Module:
    model = build_from_fields("deepfm", FIELDS, {"dim": 4, "hidden_units": (8,), "dropout": 0.0})
    config = TrainChoice(threads=1, patience=None, **given).config(3_000, model="deepfm")
    train(model, log, config, report=lines.append)
    return model


def test_training_holds_ids_down_that_do_not_come_back_and_says_so() -> None:
    log, lines = a_log(users_stay=False), []  # type: tuple[MemoryLog, list[str]]
    size = {}
    for strength in (0.0, 50.0):
        model = trained(log, lines, unseen_l2=strength, epochs=3)
        size[strength] = model.get_submodule("embedding").table.weight[FIRST_ID:102].norm()  # type: ignore[union-attr]
    assert size[50.0] < 0.7 * size[0.0]
    assert [line for line in lines if "stronger penalty" in line] == [
        "stronger penalty where validation rows have unseen values: user 31"  # 1 + 50 * 30 / 50
    ]


def test_a_log_whose_ids_all_come_back_is_trained_as_without_it() -> None:
    log, lines = a_log(users_stay=True), []  # type: tuple[MemoryLog, list[str]]
    first, second = (trained(log, lines, unseen_l2=strength, epochs=1) for strength in (0.0, 4.0))
    ids = log.parts["validation"].ids
    assert np.array_equal(predict_logits(first, ids), predict_logits(second, ids))
    assert not any("stronger penalty" in line for line in lines)


def test_the_knob_is_off_at_zero_and_refused_without_adam() -> None:
    assert TrainConfig(unseen_l2=0.0).unseen_l2 == 0
    with pytest.raises(ExportError, match="unseen_l2"):
        TrainConfig(unseen_l2=-1.0)
    with pytest.raises(ExportError, match="unseen_l2"):
        TrainChoice(unseen_l2=2.0, embedding_optimizer="ftrl").config(1_000)


def test_factors_are_of_the_weights_dtype_and_device() -> None:
    model = Tables((AD,)).double()
    found = stronger_penalty(model, counts_of((AD,), [[2]] * 20, [[OOV_ID]]), 4.0)
    (factors,) = found.by_table.values()
    assert factors.dtype == torch.float64
    assert factors.shape == (6, 1)
