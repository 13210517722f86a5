"""The loop on small logs with a planted rule: it learns, stops, restores, and repeats bit for bit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.data.encoded import Part
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.loop import predict_logits, train
from export.train.result import Evaluation
from models import DeepFwFM, FwFM
from models.fields import Field
from tests.export.memory_log import MemoryLog, quiet

FIELDS = (Field("site", 50), Field("ad", 40), Field("history", 20, width=3), Field("hour", 8))
# No penalty on the embeddings: a model that overfits is what early stopping is tested on.
CONFIG = TrainConfig(
    epochs=3,
    batch_size=128,
    learning_rate=0.01,
    warmup_steps=5,
    embedding_l2=0.0,
    threads=1,
    evaluations_per_epoch=1,
    patience=2,
)


def a_part(rows: int, seed: int) -> Part:
    """Clicks follow site, ad and the pair of both; the rest is noise."""
    draw = np.random.default_rng(seed)
    per_column = [field.cardinality for field in FIELDS for _ in range(field.width)]
    ids = np.stack([draw.integers(0, size, rows) for size in per_column], axis=1).astype(np.int32)
    logits = ((ids[:, 0] % 3) - 1) + ((ids[:, 1] % 2) - 1.5) + 2 * (ids[:, 0] % 2 == ids[:, 1] % 2)
    labels = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    return Part(ids=ids, labels=labels, true_pctr=None, timestamps=None)


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    return MemoryLog({"train": a_part(4000, 1), "validation": a_part(1000, 2)})


def a_model(seed: int = 0) -> DeepFwFM:
    torch.manual_seed(seed)
    return DeepFwFM(FIELDS, dim=4, hidden_units=(32, 16), dropout=0.2)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_caller_sees_each_evaluation_and_may_end_the_training(log: MemoryLog) -> None:
    seen: list[Evaluation] = []

    def end_after_two(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(a_model(), log, CONFIG, after_evaluation=end_after_two, report=quiet)
    assert [each.step for each in seen] == [32, 64]
    result = train(a_model(), log, CONFIG, after_evaluation=seen.append, report=quiet)
    assert [each.logloss for each in seen[2:]] == [each.logloss for each in result.history]
    assert [each.logloss for each in seen[:2]] == [each.logloss for each in result.history[:2]]


def test_it_learns_and_reports(log: MemoryLog) -> None:
    lines: list[str] = []
    result = train(a_model(), log, CONFIG, report=lines.append)
    assert result.steps == 3 * 32
    assert [each.step for each in result.history] == [32, 64, 96]
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert result.best is not None
    assert result.best.auc > 0.68
    assert result.best.logloss == min(each.logloss for each in result.history)
    assert result.best_epoch == result.best.epoch
    assert all(each.rows_per_second > 0 for each in result.history)
    seconds = sum(32 * 128 / each.rows_per_second for each in result.history)
    assert result.seconds_an_epoch == pytest.approx(seconds / 3, rel=0.2)
    pattern = (
        r"epoch 1\.00/3  step 32  loss 0\.\d{5}  validation logloss 0\.\d{5} AUC 0\.\d{5} \*  [\d,]+ rows/s"
        r"  \d+\.\d s an epoch"
    )
    assert re.fullmatch(pattern, lines[0])


def test_it_reports_progress_between_evaluations(log: MemoryLog) -> None:
    lines: list[str] = []
    train(a_model(), log, replace(CONFIG, epochs=1), report=lines.append, seconds_between_lines=0.0)
    assert len(lines) == 32 + 1
    assert all(re.fullmatch(r"step \d+  loss 0\.\d{5}  [\d,]+ rows/s", line) for line in lines[:-1])


def test_the_same_seed_gives_bit_equal_weights_and_another_does_not(log: MemoryLog) -> None:
    model, again, other = a_model(), a_model(), a_model()
    train(model, log, CONFIG, report=quiet)
    torch.manual_seed(123)  # the outer random state must not matter
    train(again, log, CONFIG, report=quiet)
    train(other, log, replace(CONFIG, seed=1), report=quiet)
    assert same(weights(model), weights(again))
    assert not same(weights(model), weights(other))


def test_the_callers_random_state_and_threads_come_back(log: MemoryLog) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = a_model(7)
    torch.manual_seed(7)
    train(model, log, replace(CONFIG, epochs=1, batch_size=4000, threads=threads + 1), report=quiet)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_the_end_says_whether_epochs_ran_out_while_it_still_improved(log: MemoryLog) -> None:
    short, enough = replace(CONFIG, epochs=2), replace(CONFIG, epochs=12, learning_rate=0.03, patience=3)
    result = train(a_model(), log, short, report=quiet)
    assert result.ending(short) == (
        "the epochs ran out, and the weights after 2.00 epochs are kept; still improving: --epochs 3"
    )
    result = train(a_model(), log, enough, report=quiet)
    assert result.best is not None
    best = result.best.epoch
    assert result.ending(enough) == (
        f"stopped after {best + 3:.2f} epochs, 3 evaluations without a gain; "
        f"the weights after {best:.2f} epochs are kept"
    )
    overfit = replace(enough, patience=None)
    result = train(a_model(), log, overfit, report=quiet)
    assert result.ending(overfit) == f"the epochs ran out; the weights after {best:.2f} epochs are kept"


def test_the_weights_that_were_best_come_back(log: MemoryLog) -> None:
    model = a_model()
    validation = log.parts["validation"]
    eager = replace(CONFIG, epochs=12, learning_rate=0.03, patience=3, embedding_l2=0.0)
    result = train(model, log, eager, report=quiet)
    assert result.stopped_early
    assert result.best is not None
    assert result.steps == result.best.step + 3 * 32
    assert result.history[-1].logloss > result.best.logloss
    pctr = torch.sigmoid(torch.from_numpy(predict_logits(model, validation.ids)))
    loss = nn.functional.binary_cross_entropy(pctr, torch.from_numpy(validation.labels).float())
    assert loss.item() == pytest.approx(result.best.logloss, abs=1e-6)


def test_without_patience_it_runs_to_the_end(log: MemoryLog) -> None:
    eager = replace(CONFIG, epochs=8, learning_rate=0.03, patience=None)
    result = train(a_model(), log, eager, report=quiet)
    assert (len(result.history), result.steps, result.stopped_early) == (8, 8 * 32, False)


def test_the_metric_that_decides_can_be_auc(log: MemoryLog) -> None:
    config = replace(CONFIG, epochs=6, learning_rate=0.03, patience=None, stopping_metric="auc")
    result = train(a_model(), log, config, report=quiet)
    assert result.best is not None
    assert result.best.auc == max(each.auc for each in result.history)


@pytest.mark.parametrize(
    ("evaluations", "steps"), [(4, [8, 16, 24, 32]), (3, [11, 21, 32]), (1000, range(1, 33))]
)
def test_it_evaluates_within_an_epoch(log: MemoryLog, evaluations: int, steps: list[int]) -> None:
    config = replace(CONFIG, epochs=1, evaluations_per_epoch=evaluations, patience=None)
    result = train(a_model(), log, config, report=quiet)
    assert [each.step for each in result.history] == list(steps)


def test_an_evaluation_changes_nothing(log: MemoryLog) -> None:
    rarely, often = a_model(), a_model()
    late = replace(CONFIG, epochs=1, patience=None, best_from_step=32)
    train(rarely, log, late, report=quiet)
    train(often, log, replace(late, evaluations_per_epoch=8), report=quiet)
    assert same(weights(rarely), weights(often))


def test_the_hook_runs_after_each_step_and_its_masks_hold(log: MemoryLog) -> None:
    model = a_model()
    dead_rows = torch.arange(0, 118, 3)
    seen: list[int] = []

    def prune(step: int) -> None:
        seen.append(step)
        with torch.no_grad():
            model.embedding.table.weight[dead_rows] = 0.0
            model.pairs.weight[:4] = 0.0

    train(model, log, CONFIG, after_step=prune, report=quiet)
    assert seen == list(range(1, 97))
    assert not model.embedding.table.weight[dead_rows].any()
    assert not model.pairs.weight[:4].any()
    assert model.pairs.weight[4:].all()


def test_weights_of_steps_before_the_first_allowed_one_are_never_the_best(log: MemoryLog) -> None:
    short = MemoryLog({**log.parts, "train": a_part(1000, 1)})  # few rows: the first epoch is the best one
    config = replace(CONFIG, epochs=8, learning_rate=0.03, best_from_step=5 * 8, patience=2)
    result = train(a_model(), short, config, report=quiet)
    assert result.best is not None
    assert result.best.step >= 5 * 8
    assert min(result.history, key=lambda each: each.logloss).step < 5 * 8


def test_when_no_step_is_allowed_the_last_weights_stay(log: MemoryLog) -> None:
    result = train(a_model(), log, replace(CONFIG, best_from_step=10**6), report=quiet)
    assert result.best is None
    assert result.best_epoch == 3


def test_l2_keeps_weights_small(log: MemoryLog) -> None:
    def size(l2: float, embedding_l2: float) -> tuple[float, float]:
        model = a_model()
        train(model, log, replace(CONFIG, l2=l2, embedding_l2=embedding_l2, patience=None), report=quiet)
        return model.embedding.table.weight.norm().item(), model.mlp.hidden[0].weight.norm().item()

    free, tight_table, tight_rest = size(0, 0), size(0, 0.1), size(0.1, 0)
    assert tight_table[0] < 0.5 * free[0]
    assert tight_rest[1] < 0.5 * free[1]


class Penalised(FwFM):
    """A model that minimises more than the loss, in training only."""

    penalty: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        self.penalty = 3.0 * self.linear.weight.square().sum() if self.training else None
        return super().forward(ids)


def test_a_models_penalty_is_added_to_the_loss(log: MemoryLog) -> None:
    torch.manual_seed(0)
    plain = FwFM(FIELDS, dim=4)
    torch.manual_seed(0)
    penalised = Penalised(FIELDS, dim=4)
    config = replace(CONFIG, averaging=0.0)  # the average of so few steps holds much of the initial weights
    first, second = (train(model, log, config, report=quiet) for model in (plain, penalised))
    assert penalised.linear.weight.norm() < 0.1 * plain.linear.weight.norm()
    assert second.history[0].train_loss > first.history[0].train_loss + 0.5
    assert penalised.penalty is None  # evaluations and the served model have none


@pytest.mark.parametrize("layers", ["adam", "ftrl"])
@pytest.mark.parametrize("embeddings", ["adam", "ftrl", "group-lasso-ftrl"])
def test_it_learns_by_every_optimizer(log: MemoryLog, layers: str, embeddings: str) -> None:
    config = replace(CONFIG, optimizer=layers, embedding_optimizer=embeddings, epochs=4)
    model = a_model()
    result = train(model, log, config, report=quiet)
    assert result.best is not None
    assert result.best.auc > 0.68


@pytest.mark.parametrize("loss", ["weighted-bce", "focal", "calibration-aware"])
def test_it_learns_by_every_loss_and_judges_probabilities(log: MemoryLog, loss: str) -> None:
    config = replace(CONFIG, epochs=7)  # losses learn the pair at different times
    plain = train(a_model(), log, config, report=quiet)
    result = train(a_model(), log, replace(config, loss=loss), report=quiet)
    assert plain.best is not None
    assert result.best is not None
    assert result.best.auc > plain.best.auc - 0.02
    assert result.best.logloss == pytest.approx(plain.best.logloss, abs=0.02)


def test_steps_follow_the_sampled_rows(log: MemoryLog) -> None:
    part = log.parts["train"]
    result = train(a_model(), log, replace(CONFIG, negative_rate=0.3), report=quiet)
    rows = part.clicks + round(0.3 * (len(part) - part.clicks))
    assert result.steps == 3 * -(-rows // 128)
    assert [each.step for each in result.history] == [result.steps // 3 * epoch for epoch in (1, 2, 3)]


def test_a_loss_that_blows_up_ends_the_training_with_advice(log: MemoryLog) -> None:
    with pytest.raises(ExportError, match=r"must stay finite .* lower 'learning_rate'"):
        train(a_model(), log, replace(CONFIG, learning_rate=1e30, warmup_steps=0), report=quiet)


def test_gradients_of_tables_hold_only_the_rows_of_the_batch_while_it_trains(log: MemoryLog) -> None:
    model = a_model()
    touched: list[int] = []

    def watch(gradient: Tensor) -> Tensor:
        touched.append(len(gradient._values()) if gradient.is_sparse else -1)
        return gradient

    model.embedding.table.weight.register_hook(watch)
    train(model, log, replace(CONFIG, epochs=1, batch_size=1000), report=quiet)
    assert touched == [6000] * 4  # 1000 rows of 6 ids, whatever the table holds
    assert model.embedding.table.sparse is False


def test_an_empty_part_is_refused(log: MemoryLog) -> None:
    with pytest.raises(ExportError, match="must hold rows"):
        train(a_model(), MemoryLog({**log.parts, "validation": a_part(0, 0)}), CONFIG, report=quiet)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"decay_rate": 1.5},
        {"l2": -1.0},
        {"patience": 0},
        {"stopping_metric": "accuracy"},
        {"threads": 0},
    ],
)
def test_a_setting_outside_its_range_is_named(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(ExportError, match=f"'{name}' must be "):
        TrainConfig(**wrong)  # type: ignore[arg-type]


def test_logits_are_predicted_in_batches_without_dropout() -> None:
    model, part = FwFM(FIELDS), a_part(1000, 3)
    model.train()
    found = predict_logits(model, part.ids, batch_size=64)
    assert model.training
    assert found.dtype == np.float32
    assert found.shape == (1000,)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model.eval()(torch.from_numpy(part.ids)))
    assert predict_logits(model, part.ids[:0]).shape == (0,)


def test_read_only_memory_maps_will_do(tmp_path) -> None:  # type: ignore[no-untyped-def]
    parts = {}
    for name, rows in (("train", 300), ("validation", 200)):
        part = a_part(rows, rows)
        np.save(tmp_path / f"{name}.npy", part.ids)
        parts[name] = replace(part, ids=np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    result = train(a_model(), MemoryLog(parts), replace(CONFIG, epochs=1), report=quiet)
    assert result.steps == 3
