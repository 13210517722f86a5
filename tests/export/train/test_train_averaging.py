"""The average of weights: its arithmetic, what it leaves alone, and what a training makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from export.data.encoded import Part
from export.train.averaging import Average
from export.train.config import TrainConfig
from export.train.loop import train
from models import LR
from models.fields import Field
from tests.export.memory_log import MemoryLog, quiet

CONFIG = TrainConfig(epochs=2, batch_size=64, learning_rate=0.05, schedule="constant", threads=1)


class Counted(nn.Module):
    """A weight, and a buffer that is no number to average."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def become(self, *values: float) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.tensor(values))
            self.seen += 1


def averaged(model: Counted, average: Average) -> list[float]:
    with average.in_use():
        found: list[float] = model.weight.tolist()
    return found


def test_it_is_the_plain_mean_of_the_first_weights_and_then_forgets() -> None:
    model = Counted()
    average = Average(model, span=4)
    for value in (1.0, 2.0, 6.0):
        model.become(value, 1.0)
        average.update()
    assert averaged(model, average) == pytest.approx([3.0, 1.0])
    model.become(7.0, 1.0)
    average.update()
    assert averaged(model, average) == pytest.approx([4.0, 1.0])
    model.become(8.0, 5.0)
    average.update()
    assert averaged(model, average) == pytest.approx([5.0, 2.0])


def test_a_span_of_less_than_an_update_is_the_last_weights() -> None:
    model = Counted()
    average = Average(model, span=0.1)
    for value in (1.0, 2.0):
        model.become(value, value)
        average.update()
    assert averaged(model, average) == [2.0, 2.0]


def test_the_model_has_its_own_weights_again_afterwards_even_after_an_error() -> None:
    model = Counted()
    average = Average(model, span=4)
    for value in (1.0, 2.0):
        model.become(value, value)
        average.update()
    with pytest.raises(RuntimeError), average.in_use():
        raise RuntimeError
    assert model.weight.tolist() == [2.0, 2.0]
    assert int(model.seen) == 2


def test_what_is_zero_now_is_zero_in_the_average() -> None:
    model = Counted()
    average = Average(model, span=4)
    model.become(1.0, 1.0)
    average.update()
    model.become(0.0, 3.0)
    assert averaged(model, average) == [0.0, 1.0]
    average.update()
    assert averaged(model, average) == [0.0, 2.0]


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    draw = np.random.default_rng(0)

    def part(rows: int) -> Part:
        ids = draw.integers(2, 22, (rows, 2)).astype(np.int32)
        logits = (ids[:, 0] % 3) - 1.0 + 0.5 * (ids[:, 1] % 2)
        labels = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        return Part(ids, labels, None, None)

    return MemoryLog({"train": part(2000), "validation": part(2000)})


def a_model() -> LR:
    torch.manual_seed(0)
    return LR((Field("site", 22), Field("ad", 22)))


def test_a_large_step_size_costs_less(log: MemoryLog) -> None:
    """At a steady large step size weights wander, and their average is nearer to the best ones."""
    mean = {}
    for span in (0.0, 0.25):
        config = replace(CONFIG, averaging=span, learning_rate=0.2, patience=None)
        mean[span] = np.mean([each.logloss for each in train(a_model(), log, config, report=quiet).history])
    assert mean[0.25] < mean[0.0] - 0.004


def test_the_weights_that_come_back_are_the_average_that_was_evaluated(log: MemoryLog) -> None:
    """With 32 steps an epoch each is in the average, which is the plain mean for a span of two epochs."""
    model, seen = a_model(), list[torch.Tensor]()

    def remember(_: int) -> None:
        seen.append(model.bias.detach().clone())

    config = replace(CONFIG, epochs=1, evaluations_per_epoch=1, averaging=2.0)
    train(model, log, config, after_step=remember, report=quiet)
    assert len(seen) == 32
    torch.testing.assert_close(model.bias.detach(), torch.stack(seen).mean())


def test_training_itself_is_the_same_with_an_average_and_without(log: MemoryLog) -> None:
    paths = []
    for span in (0.0, 0.25):
        model, seen = a_model(), list[float]()

        def remember(_: int, model: LR = model, seen: list[float] = seen) -> None:
            seen.append(float(model.bias.detach()))

        train(model, log, replace(CONFIG, averaging=span, patience=None), after_step=remember, report=quiet)
        paths.append(seen)
    assert paths[0] == paths[1]
