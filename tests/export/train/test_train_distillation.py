"""The loss of distillation: its formula, its gradients at any temperature, and what the loop does with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.data.encoded import Part
from export.data.past import Past
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.loop import predict_logits, train
from export.train.losses import bce, distilled, focal, soft
from export.train.prior import corrected_logits, uncorrected_logits
from export.train.sampling import epoch_batches
from models.deep_fwfm import DeepFwFM
from models.fields import Field
from models.lr import LR

LOGITS = st.lists(st.floats(-20, 20), min_size=1, max_size=8)


def naive(student: list[float], taught: list[float], temperature: float) -> float:
    """The same with probabilities, row by row, as the paper writes it."""
    total = 0.0
    for s, t in zip(student, taught, strict=True):
        p, q = (1 / (1 + math.exp(-z / temperature)) for z in (t, s))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return temperature**2 * total / len(student)


@given(LOGITS, st.floats(1, 20), st.floats(0, 1))
def test_the_loss_is_that_of_the_formula(student: list[float], temperature: float, alpha: float) -> None:
    taught = [0.5 - value / 3 for value in student]
    labels = torch.tensor([float(number % 2) for number in range(len(student))], dtype=torch.float64)
    s, t = (torch.tensor(values, dtype=torch.float64) for values in (student, taught))
    assert float(soft(s, t, temperature)) == pytest.approx(naive(student, taught, temperature), abs=1e-6)
    found = distilled(bce, s, labels, t, alpha=alpha, temperature=temperature)
    expected = (1 - alpha) * float(bce(s, labels)) + alpha * naive(student, taught, temperature)
    assert float(found) == pytest.approx(expected, abs=1e-6)
    assert float(soft(t, t, temperature)) == pytest.approx(0.0, abs=1e-9)


def gradient(student: list[float], taught: list[float], temperature: float) -> torch.Tensor:
    """Of each row, not of the mean."""
    s = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(soft(s, torch.tensor(taught, dtype=torch.float64), temperature) * len(student))
    assert s.grad is not None
    return s.grad


def test_a_temperature_leaves_the_size_of_gradients() -> None:
    """Hinton et al.: without T^2 they would shrink by T^2; with it they tend to (s - t) / 4."""
    student, taught = [1.0, -2.0, 0.3], [0.2, 1.5, -0.4]
    s, t = torch.tensor(student, dtype=torch.float64), torch.tensor(taught, dtype=torch.float64)
    for temperature in (1.0, 3.0, 10.0):
        expected = temperature * (torch.sigmoid(s / temperature) - torch.sigmoid(t / temperature))
        torch.testing.assert_close(gradient(student, taught, temperature), expected)
    torch.testing.assert_close(gradient(student, taught, 1e4), (s - t) / 4, rtol=1e-6, atol=1e-8)
    assert torch.isfinite(gradient([300.0, -300.0], [-300.0, 300.0], 1.0)).all()


def test_labels_keep_their_own_loss() -> None:
    s, y, t = torch.tensor([0.3, -1.0]), torch.tensor([1.0, 0.0]), torch.tensor([2.0, -3.0])

    def hard(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return focal(logits, labels, 2.0, 0.25)

    assert distilled(hard, s, y, t, alpha=0.0, temperature=5.0) == hard(s, y)
    assert distilled(hard, s, y, t, alpha=1.0, temperature=5.0) == soft(s, t, 5.0)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(loss="weighted-bce", click_weight=3.0, negative_rate=0.2),
        TrainConfig(loss="focal", focal_gamma=2.0, focal_alpha=0.4, negative_rate=0.5),
    ],
)
def test_log_odds_become_logits_of_the_student_and_back(config: TrainConfig) -> None:
    log_odds = np.linspace(-8, 5, 50)
    assert corrected_logits(uncorrected_logits(log_odds, config), config) == pytest.approx(log_odds, abs=1e-9)


@dataclass(frozen=True)
class Rows:
    """A log in memory."""

    parts: dict[str, Part]
    past: Past | None = field(default=None)


FIELDS = (Field("a", 12), Field("b", 12, role="candidate"))


def a_log(rows: int = 3000, *, taught: bool = True) -> Rows:
    """Labels are noise; what is taught is a rule of the ids. Validation rows follow the rule."""
    draw = np.random.default_rng(0)
    ids = draw.integers(2, 12, (rows, 2)).astype(np.int32)
    rule = np.where((ids[:, 0] + ids[:, 1]) % 2 == 0, 2.0, -2.0).astype(np.float32)
    noise = (draw.random(rows) < 0.5).astype(np.uint8)
    part = Part(ids, noise, None, None, rule if taught else None)
    clicks = (draw.random(rows) < 1 / (1 + np.exp(-rule))).astype(np.uint8)
    return Rows({"train": part, "validation": Part(ids, clicks, None, None)})


CONFIG = TrainConfig(epochs=8, batch_size=64, learning_rate=1e-2, threads=1, patience=None)


def test_a_student_learns_what_labels_do_not_tell() -> None:
    def trained(alpha: float, *, taught: bool = True) -> float:
        torch.manual_seed(0)
        model = DeepFwFM(FIELDS, dim=4, hidden_units=[16], dropout=0.0)
        log = a_log(taught=taught)
        best = train(model, log, replace(CONFIG, distill_alpha=alpha), report=lambda _: None).best
        assert best is not None
        return best.auc

    assert trained(1.0) > 0.85
    assert trained(0.0) == trained(1.0, taught=False) < 0.6


def test_each_row_keeps_what_it_is_taught_however_rows_are_drawn() -> None:
    rows = 9000
    ids = np.arange(rows, dtype=np.int32)[:, None]
    labels = (np.arange(rows) % 5 == 0).astype(np.uint8)
    part = Part(ids, labels, None, None, np.arange(rows, dtype=np.float32))
    for rate in (1.0, 0.3):
        for batch in epoch_batches(part, TrainConfig(batch_size=100, negative_rate=rate), 1):
            assert batch.taught is not None
            assert np.array_equal(batch.taught, batch.ids[:, 0])


def test_a_teacher_answers_without_dropout_and_gradients() -> None:
    model = DeepFwFM(FIELDS, dim=4, hidden_units=[64], dropout=0.9).train()
    ids = a_log().parts["train"].ids
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = predict_logits(model, ids), predict_logits(model, ids)
    assert np.array_equal(first, second)
    assert model.training
    assert all(weights.grad is None for weights in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "given",
    [
        {"distill_alpha": 1.5},
        {"distill_alpha": -0.1},
        {"distill_temperature": 0.0},
        {"distill_temperature": 1e30},
    ],
)
def test_a_number_out_of_its_range_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ExportError, match=next(iter(given))):
        TrainConfig(**given)  # type: ignore[arg-type]


def test_lr_is_taught_too() -> None:
    model = LR(FIELDS)
    result = train(model, a_log(), replace(CONFIG, epochs=1), report=lambda _: None)
    assert np.isfinite(result.history[-1].train_loss)
