"""Checks of graphs, differences between variants, and which one serves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from export.errors import ExportError
from export.judge.parity import check_against_torch, choose_serving_variant, compare_variants
from service.bundle.manifest import Latency


def latency(variant: str, *microseconds: float) -> Latency:
    return Latency(variant, dict(zip(("1", "64", "1024"), microseconds, strict=True)))


SLOW = latency("pruned", 10.0, 2.0, 2.0)
SIZES = {"pruned": 400, "int8": 100, "int4": 50}


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


def test_a_faster_graph_that_loses_nothing_serves():
    latencies = [SLOW, latency("int8", 8.0, 1.0, 1.0)]
    assert choose_serving_variant("pruned", ["int8"], latencies, {}, SIZES) == ("int8", {})


def test_a_graph_slower_on_single_rows_may_be_faster_overall():
    latencies = [SLOW, latency("int8", 12.0, 1.0, 1.0)]
    assert choose_serving_variant("pruned", ["int8"], latencies, {}, SIZES)[0] == "int8"


def test_a_slower_graph_is_kept_out_with_figures():
    latencies = [SLOW, latency("int8", 13.0, 2.2, 2.2)]
    serving, kept_out = choose_serving_variant("pruned", ["int8"], latencies, {}, SIZES)
    assert serving == "pruned"
    assert kept_out == {
        "int8": "is slower than pruned, here: 3.98 us a row against 3.42 "
        "(geometric mean over batches of 1, 64, 1024)"
    }


@pytest.mark.parametrize("times", [0.95, 1.0, 1.05])
def test_of_graphs_that_are_as_fast_the_smaller_one_serves_whichever_a_timing_finds_ahead(times):
    latencies = [SLOW, latency("int8", 10.0 * times, 2.0 * times, 2.0 * times)]
    assert choose_serving_variant("pruned", ["int8"], latencies, {}, SIZES) == ("int8", {})
    larger = {"pruned": 100, "int8": 101}
    serving, kept_out = choose_serving_variant("pruned", ["int8"], latencies, {}, larger)
    assert serving == "pruned"
    assert kept_out["int8"].startswith("is as fast as pruned, and no smaller, here: ")


def test_the_fastest_of_the_good_ones_serves():
    latencies = [SLOW, latency("int8", 8.0, 1.0, 1.0), latency("int4", 7.0, 0.8, 0.8)]
    serving, kept_out = choose_serving_variant("pruned", ["int8", "int4"], latencies, {}, SIZES)
    assert (serving, kept_out) == ("int4", {})
    refused = {"int4": "loses"}
    serving, kept_out = choose_serving_variant("pruned", ["int8", "int4"], latencies, refused, SIZES)
    assert (serving, kept_out) == ("int8", refused)


def test_an_unmeasured_variant_does_not_serve():
    with pytest.raises(ExportError, match="'int8' must be timed"):
        choose_serving_variant("pruned", ["int8"], [SLOW], {}, SIZES)
