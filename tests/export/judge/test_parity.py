"""Checks of graphs, differences between variants, and which one serves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from export.errors import ExportError
from export.judge.parity import check_against_torch, choose_serving_variant, compare_variants
from service.bundle.manifest import Latency, Parity


def parity(variant: str, auc_delta: float) -> Parity:
    return Parity("pruned", variant, 0.01, auc_delta, 0.0, (auc_delta - 1e-4, auc_delta + 1e-4), (0.0, 0.0))


def latency(variant: str, *microseconds: float) -> Latency:
    return Latency(variant, dict(zip(("1", "64", "1024"), microseconds, strict=True)))


SLOW = latency("pruned", 10.0, 2.0, 2.0)


def test_a_graph_with_other_logits_is_refused(exported):
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        other.bias += 0.001
    with pytest.raises(ExportError, match="'logits' of the graph must be PyTorch's within"):
        check_against_torch(other, exported.float32, exported.ids)


def test_logits_that_are_not_numbers_are_refused(exported):
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        other.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="nan"):
        check_against_torch(other, exported.float32, exported.ids)


def test_deltas_are_those_of_the_metrics():
    random = np.random.default_rng(0)
    logits = random.normal(-1, 1, 4000).astype(np.float32)
    noisy = (logits + random.normal(0, 0.5, 4000)).astype(np.float32)
    labels = (random.random(4000) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    found = compare_variants(("float32", "int8"), labels, (logits, noisy))
    before, after = 1 / (1 + np.exp(-logits.astype(float))), 1 / (1 + np.exp(-noisy.astype(float)))
    assert (found.reference, found.variant) == ("float32", "int8")
    assert found.max_abs_logit == pytest.approx(np.abs(noisy - logits).max())
    assert found.auc_delta == pytest.approx(roc_auc_score(labels, noisy) - roc_auc_score(labels, logits))
    assert found.logloss_delta == pytest.approx(log_loss(labels, after) - log_loss(labels, before))
    assert found.auc_interval[0] < found.auc_delta < found.auc_interval[1] < 0
    assert 0 < found.logloss_interval[0] < found.logloss_delta < found.logloss_interval[1]
    calibrated = compare_variants(("a", "b"), labels, (logits, noisy), (before, before))
    assert calibrated.logloss_delta == 0.0
    assert calibrated.auc_delta == found.auc_delta


def test_logits_that_overflow_exp_are_compared_too():
    labels = np.array([0, 1, 0, 1], np.uint8)
    sure = np.array([-1000, 1000, -1000, 1000], np.float32)
    assert compare_variants(("a", "b"), labels, (sure, sure)).logloss_delta == 0.0


def test_a_faster_graph_as_good_serves():
    latencies = [SLOW, latency("int8", 8.0, 1.0, 1.0)]
    assert choose_serving_variant("pruned", ["int8"], latencies, [parity("int8", -0.0009)]) == ("int8", {})


def test_a_graph_slower_on_single_rows_may_be_faster_overall():
    latencies = [SLOW, latency("int8", 12.0, 1.0, 1.0)]
    assert choose_serving_variant("pruned", ["int8"], latencies, [parity("int8", 0.0)])[0] == "int8"


def test_a_slower_graph_is_kept_out_with_figures():
    latencies = [SLOW, latency("int8", 12.0, 2.0, 2.0)]
    serving, kept_out = choose_serving_variant("pruned", ["int8"], latencies, [parity("int8", 0.0)])
    assert serving == "pruned"
    assert kept_out == {
        "int8": "is not faster than pruned here: 3.63 us a row against 3.42 "
        "(geometric mean over batches of 1, 64, 1024)"
    }


@pytest.mark.parametrize("delta", [-0.0011, float("nan")])
def test_a_graph_that_loses_auc_is_kept_out_with_figures(delta):
    latencies = [SLOW, latency("int8", 1.0, 1.0, 1.0)]
    serving, kept_out = choose_serving_variant("pruned", ["int8"], latencies, [parity("int8", delta)])
    assert serving == "pruned"
    assert kept_out["int8"].startswith(f"loses {-delta:.5f} AUC against pruned (95 % interval")


def test_the_fastest_of_the_good_ones_serves():
    latencies = [SLOW, latency("int8", 8.0, 1.0, 1.0), latency("int4", 7.0, 1.0, 1.0)]
    parities = [parity("int8", 0.0), parity("int4", -0.5)]
    serving, kept_out = choose_serving_variant("pruned", ["int8", "int4"], latencies, parities)
    assert serving == "int8"
    assert list(kept_out) == ["int4"]


def test_an_unmeasured_variant_does_not_serve():
    with pytest.raises(ExportError, match="'int8' must be timed"):
        choose_serving_variant("pruned", ["int8"], [SLOW], [parity("int8", 0.0)])
    with pytest.raises(ExportError, match="compared with 'pruned'"):
        choose_serving_variant("pruned", ["int8"], [SLOW, latency("int8", 1.0, 1.0, 1.0)], [])
