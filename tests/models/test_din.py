"""DIN and its parts against the paper's equations, row by row."""

from __future__ import annotations

import pytest
import torch

from models.dice import Dice
from models.din import DIN
from models.fields import PADDING_ID, Field
from models.histories import find_histories
from tests.models.layouts import randomized, some_ids

FIELDS = (
    Field("seen", 8, width=4, same_values_as="ad"),
    Field("user", 5),
    Field("tags", 6, width=2),
    Field("ad", 8, role="candidate"),
    Field("hour", 3),
    Field("words", 7, width=3, role="candidate"),
)


def test_a_history_is_the_sum_of_its_elements_weighted_by_the_activation_unit() -> None:
    model = randomized(DIN(FIELDS, dim=3, hidden_units=(5,), attention_units=(4,)))
    ids = some_ids(FIELDS, 30)
    ids[:, 2:4] = PADDING_ID
    ids[0, :2] = PADDING_ID
    rows = model.embedding.rows(ids)
    for row in range(30):
        target, inputs = rows[row, 7], []
        for unit, columns in zip(model.units, (range(4), range(5, 7)), strict=True):
            pooled = torch.zeros(3)
            for column in columns:
                if ids[row, column] != PADDING_ID:
                    element = rows[row, column]
                    pooled = pooled + unit.mlp(torch.cat([element, target, element * target])[None]) * element
            inputs.append(pooled)
        seen, tags = inputs
        words = model.embedding(ids)[row, 5]
        flat = torch.cat([seen, rows[row, 4], tags, target, rows[row, 8], words])
        torch.testing.assert_close(model(ids)[row], model.mlp(flat[None])[0])


def test_dice_turns_at_the_mean_of_the_batch_and_later_of_all_batches() -> None:
    dice, inputs = Dice(3), torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.0, 0.5, 1.0]))
    share = torch.sigmoid((inputs - inputs.mean(0)) / (inputs.var(0, unbiased=False) + 1e-8).sqrt())
    torch.testing.assert_close(dice(inputs), share * inputs + (1 - share) * dice.alpha * inputs)
    for _ in range(200):
        dice(inputs)
    torch.testing.assert_close(dice.eval()(inputs), dice.train()(inputs), rtol=1e-3, atol=1e-3)


def test_dice_takes_one_row_by_what_it_remembers() -> None:
    dice, row = Dice(3), torch.tensor([[1.0, -2.0, 0.5]])
    expected = row * torch.sigmoid(row)  # mean 0, variance 1, alpha 0
    torch.testing.assert_close(dice.train()(row), expected)
    assert dice.variance.tolist() == [1, 1, 1]


def test_a_history_is_judged_against_the_field_whose_values_it_holds() -> None:
    first, second = find_histories(FIELDS, None)
    assert (first.position, first.columns, first.target) == (0, slice(0, 4), 7)
    assert (second.position, second.columns, second.target) == (2, slice(5, 7), 7)
    assert [history.target for history in find_histories(FIELDS, "user")] == [7, 4]
    plain = (Field("tags", 6, width=2), Field("user", 5), Field("hour", 3))
    assert find_histories(plain, None)[0].target == 3


@pytest.mark.parametrize(
    ("fields", "target", "message"),
    [
        (FIELDS[1:2], None, "'fields' must hold a sequence of the context"),
        (FIELDS[5:], None, "'fields' must hold a sequence of the context"),
        (FIELDS[2:3], None, "'fields' must hold a field of one id"),
        (FIELDS, "tags", "'target' must be a field of one id"),
        (FIELDS[:2] + FIELDS[3:4], "shop", "'target' must be one of the fields"),  # though none needs it
        (
            FIELDS,
            "shop",
            r"'target' must be one of the fields seen, user, tags, ad, hour, words \(got 'shop'\)",
        ),
    ],
)
def test_what_is_no_history_is_refused(fields: tuple[Field, ...], target: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DIN(fields, target=target)
