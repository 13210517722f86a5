"""Values that training never meets are served with their field's mean, and their pCTR stays near the rate."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.data.encoded import Part
from export.judge.metrics import sigmoid
from export.train.build import build_from_fields
from export.train.choices import TrainChoice
from export.train.id_counts import IdCounts
from export.train.initial import start_at_click_rate
from export.train.loop import predict_logits, train
from export.train.untrained import LEAST_ROWS, UntrainedRows
from models import MODELS
from models.embedding import FeaturesEmbedding
from models.fields import Field, columns
from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID
from tests.export.memory_log import MemoryLog, quiet

# Ten fields of four frequent values each, 2 % clicks: no value is ever missing or rare.
PLAIN = tuple(Field(f"f{i}", 4 + FIRST_ID, role="candidate" if i > 4 else "context") for i in range(10))
NEEDS_A_HISTORY = ("din", "dien", "bst")
WITH_HISTORY = (*PLAIN, Field("history", 4 + FIRST_ID, width=3, same_values_as="f9"))


def a_part(fields: tuple[Field, ...], rows: int, seed: int) -> Part:
    draw = np.random.default_rng(seed)
    ids = draw.integers(FIRST_ID, 4 + FIRST_ID, (rows, columns(fields))).astype(np.int32)
    pctr = 0.02 * np.where(ids[:, 0] == FIRST_ID, 2.0, 0.67) * np.where(ids[:, 5] == FIRST_ID, 1.5, 0.83)
    labels = (draw.random(rows) < pctr).astype(np.uint8)
    return Part(ids=ids, labels=labels, true_pctr=None, timestamps=None)


def trained(name: str, rows: int, **given: Any) -> tuple[nn.Module, MemoryLog]:
    fields = WITH_HISTORY if name in NEEDS_A_HISTORY else PLAIN
    log = MemoryLog({"train": a_part(fields, rows, 1), "validation": a_part(fields, 2_000, 2)})
    known = inspect.signature(MODELS[name]).parameters
    chosen: dict[str, Any] = {"dim": 8, "hidden_units": (32, 16), "dropout": 0.1}
    model = build_from_fields(name, fields, {key: value for key, value in chosen.items() if key in known})
    clicks = log.parts["train"].clicks
    config = TrainChoice(threads=1, evaluations_per_epoch=1, **given).config(rows, clicks)
    start_at_click_rate(model, rows, clicks, config)
    train(model, log, config, report=quiet)
    return model, log


def with_unknown(ids: NDArray[np.int32], count: int, special: int) -> NDArray[np.int32]:
    """The rows with `count` of the ten plain fields set to an id that training never met."""
    changed = ids.copy()
    unknown = np.random.default_rng(3).permuted(np.tile(np.arange(10), (len(ids), 1)), axis=1)[:, :count]
    np.put_along_axis(changed, unknown, special, axis=1)
    return changed


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gbdt_lr"])
def test_unseen_and_left_out_values_leave_a_pctr_near_the_click_rate(name: str) -> None:
    model, log = trained(name, 8_000, epochs=3, batch_size=256, learning_rate=0.004)
    ids = log.parts["validation"].ids[:500]
    for special in (OOV_ID, MISSING_ID):
        for count in (0, 1, 2, 5, 10):
            pctr = sigmoid(predict_logits(model, with_unknown(ids, count, special)))
            assert 0.01 < pctr.mean() < 0.04, (special, count)


def test_a_linear_models_unknown_row_has_the_mean_logit_of_training() -> None:
    model, log = trained("lr", 6_000, epochs=1)
    part = log.parts["train"]
    unknown = predict_logits(model, np.full((1, 10), OOV_ID, np.int32))[0]
    assert unknown == pytest.approx(predict_logits(model, part.ids).mean(), abs=1e-4)


def table_with(fields: tuple[Field, ...]) -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fields = fields
            self.embedding = FeaturesEmbedding(fields, dim=3)

    torch.manual_seed(0)
    return Model()


def part_of(ids: list[list[int]]) -> Part:
    return Part(np.array(ids, np.int32), np.zeros(len(ids), np.uint8), None, None)


def fill(model: Any, ids: list[list[int]]) -> None:
    untrained_rows(model, ids, ids).fill()


def untrained_rows(model: Any, training: list[list[int]], validation: list[list[int]]) -> UntrainedRows:
    return UntrainedRows(model, IdCounts.of(model.fields, part_of(training), part_of(validation)))


def test_the_mean_is_weighted_by_rows_and_trained_rows_stay() -> None:
    model = table_with((Field("a", 5), Field("b", 4)))
    before = model.embedding.table.weight.detach().clone()
    fill(model, [[2, 3], [2, 3], [3, 3], [2, 3]])
    after = model.embedding.table.weight.detach()
    mean = (3 * before[2] + before[3]) / 4
    for row in (0, 1, 4):
        torch.testing.assert_close(after[row], mean)
    for row in (5, 6, 7):
        torch.testing.assert_close(after[row], before[8])
    assert torch.equal(after[[2, 3, 8]], before[[2, 3, 8]])


@pytest.mark.parametrize(("after", "chosen"), [(0.59, True), (0.59999, False), (0.61, False)])
def test_the_mean_over_ids_is_taken_where_later_rows_are_better_off(after: float, chosen: bool) -> None:
    model = table_with((Field("a", 5), Field("b", 4)))
    untrained = untrained_rows(model, [[2, 3], [2, 3], [3, 3], [2, 3]], [[OOV_ID, 3]])
    untrained.fill()
    with torch.no_grad():
        model.embedding.table.weight[4, 0] = 0.0  # pruned
    before = model.embedding.table.weight.detach().clone()
    losses = iter((0.6, after))
    assert untrained.choose(lambda: next(losses)) == chosen
    found = model.embedding.table.weight.detach()
    if not chosen:
        assert torch.equal(found, before)
        return
    mean = (before[2] + before[3]) / 2
    for row in (0, 1):
        torch.testing.assert_close(found[row], mean)
    torch.testing.assert_close(found[4], torch.tensor([0.0, *mean[1:].tolist()]))
    assert torch.equal(found[[2, 3, 5, 6, 7, 8]], before[[2, 3, 5, 6, 7, 8]])


def test_a_field_that_no_validation_row_shows_untrained_leaves_no_choice() -> None:
    model = table_with((Field("a", 5),))
    untrained = untrained_rows(model, [[2], [2], [3]], [[2], [3]])
    untrained.fill()
    before = model.embedding.table.weight.detach().clone()
    losses = iter((0.6,))  # judged once
    assert not untrained.choose(lambda: next(losses))
    assert torch.equal(model.embedding.table.weight, before)


@pytest.mark.parametrize("rate", [0.6, 0.2])
def test_validation_rows_say_whether_new_users_are_like_heavy_ones(rate: float) -> None:
    """One user has four rows of five and clicks rarely; new users do as the 8 others, or as most rows do."""
    fields = (Field("user", 9 + FIRST_ID), Field("ad", 3 + FIRST_ID, role="candidate"))
    draw = np.random.default_rng(0)

    def rows(users: NDArray[np.integer[Any]], pctr: NDArray[np.floating[Any]]) -> Part:
        ads = draw.integers(FIRST_ID, 3 + FIRST_ID, len(users))
        ids = np.column_stack((users, ads)).astype(np.int32)
        return Part(ids, (draw.random(len(users)) < pctr).astype(np.uint8), None, None)

    heavy = draw.random(8_000) < 0.8
    users = np.where(heavy, FIRST_ID, draw.integers(1 + FIRST_ID, 9 + FIRST_ID, 8_000))
    new = np.full(2_000, OOV_ID)
    log = MemoryLog({
        "train": rows(users, np.where(heavy, 0.1, 0.6)), "validation": rows(new, np.full(2_000, rate))
    })  # fmt: skip
    model = build_from_fields("lr", fields, {})
    clicks = log.parts["train"].clicks
    config = TrainChoice(threads=1, patience=None, learning_rate=0.05).config(8_000, clicks, model="lr")
    start_at_click_rate(model, 8_000, clicks, config)
    train(model, log, config, report=quiet)
    assert sigmoid(predict_logits(model, log.parts["validation"].ids)).mean() == pytest.approx(rate, abs=0.1)


def test_a_missing_id_with_enough_rows_keeps_what_it_learned() -> None:
    model = table_with((Field("a", 4),))
    before = model.embedding.table.weight.detach().clone()
    fill(model, [[MISSING_ID]] * LEAST_ROWS + [[OOV_ID]] * (LEAST_ROWS - 1) + [[2]])
    after = model.embedding.table.weight.detach()
    assert torch.equal(after[[MISSING_ID, 2]], before[[MISSING_ID, 2]])
    torch.testing.assert_close(
        after[OOV_ID], (LEAST_ROWS * before[MISSING_ID] + before[2]) / (LEAST_ROWS + 1)
    )


def test_a_history_trains_the_rows_of_the_field_it_shares_and_its_padding_none() -> None:
    fields = (Field("ad", 4), Field("history", 4, width=2, same_values_as="ad"))
    model = table_with(fields)
    before = model.embedding.table.weight.detach().clone()
    fill(model, [[2, 3, 0]] * 20)
    after = model.embedding.table.weight.detach()
    assert torch.equal(after[2:], before[2:])
    torch.testing.assert_close(after[:2], ((before[2] + before[3]) / 2).expand(2, 3))


def test_a_table_whose_fields_share_no_rows_is_filled_by_field() -> None:
    fields = (Field("ad", 4), Field("history", 4, width=2, same_values_as="ad"))
    model = table_with((fields[0], Field("history", 4, width=2)))
    model.fields = fields
    before = model.embedding.table.weight.detach().clone()
    fill(model, [[2, 3, 3]] * 20)
    after = model.embedding.table.weight.detach()
    torch.testing.assert_close(after[:4], before[2].expand(4, 3))
    torch.testing.assert_close(after[4:], before[7].expand(4, 3))


@pytest.mark.parametrize(("storage", "shared_with"), [("hashed", 5), ("qr", 1)])
def test_a_row_of_several_ids_is_trained_by_any_of_them(storage: Any, shared_with: int) -> None:
    model = table_with((Field("a", 10, storage=storage, collisions=2),))  # five rows
    before = model.embedding.table.weight.detach().clone()
    fill(model, [[shared_with], [8]])
    after = model.embedding.table.weight.detach()
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[2], before[2])


def test_a_field_that_has_no_trained_row_is_left_alone() -> None:
    model = table_with((Field("a", 2),))
    before = model.embedding.table.weight.detach().clone()
    fill(model, [[OOV_ID]])
    assert torch.equal(model.embedding.table.weight, before)


def test_a_history_that_is_empty_or_unseen_leaves_the_pctr_near_the_rate() -> None:
    """An empty one pools to zero, near which the penalty keeps the mean of embeddings."""
    model, log = trained("din", 4_000)
    ids = log.parts["validation"].ids
    known = sigmoid(predict_logits(model, ids)).mean()
    for special in (MISSING_ID, OOV_ID):
        without = ids.copy()
        without[:, -3:] = special
        assert 1 / 1.25 < sigmoid(predict_logits(model, without)).mean() / known < 1.25
