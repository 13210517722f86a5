"""What models have beside the perceptron goes whole, and the smaller model has the masked one's logits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.compress.compact import Compacted, can_lose, compact
from export.compress.config import PruneConfig
from export.compress.interactions.kinds import find_interactions
from export.compress.parts import find_units
from export.compress.prune import Pruner, prune
from export.compress.recipes import RECIPES
from export.compress.whole_units import WholeUnits, dead_unit_rate
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.judge.parity import check_against_torch, check_batch_invariance
from export.train.config import TrainConfig
from models import MODELS
from models.fields import Field
from models.xdeepfm import CIN, XDeepFM

FIELDS = (
    Field("site", 11),
    Field("hour", 5, values=(0.0, 0.0, -1.2, 0.1, 1.1)),
    Field("device", 7),
    Field("ad", 9, role="candidate"),
    Field("size", 6, role="candidate"),
)
TOWER = {"dim": 4, "hidden_units": (8, 6)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pnn": ("pnn", TOWER),
    "pnn both": ("pnn", {**TOWER, "product": "both"}),
    "dlrm": ("dlrm", {**TOWER, "bottom_units": (4,)}),
    "fibinet": ("fibinet", TOWER),
    "fibinet each": ("fibinet", {**TOWER, "bilinear": "each"}),
    "xdeepfm": ("xdeepfm", {**TOWER, "cin_maps": (5, 4, 3)}),
    "xdeepfm half": ("xdeepfm", {**TOWER, "cin_maps": (6, 4, 2), "split_half": True}),
    "dcn": ("dcn", TOWER),
    "dcn_v2": ("dcn_v2", TOWER),
    "dcn_v2 parallel": ("dcn_v2", {**TOWER, "structure": "parallel"}),
    "dcn_v2 low rank": ("dcn_v2", {**TOWER, "rank": 6}),
    "dcn_v2 mixture": ("dcn_v2", {**TOWER, "rank": 6, "experts": 3}),
    "gdcn": ("gdcn", TOWER),
    "dcn_v3": ("dcn_v3", {"dim": 4}),
    "dcn_v3 affine": ("dcn_v3", {"dim": 4, "second_half": "affine"}),
    "autoint": ("autoint", {**TOWER, "heads": 2, "attention_dim": 5}),
    "autoint alone": ("autoint", {"dim": 4, "hidden_units": (), "heads": 3, "attention_dim": 2}),
    "difm": ("difm", {**TOWER, "heads": 2, "attention_dim": 4}),
    "xdeepint": ("xdeepint", {"dim": 4, "sub_spaces": 2}),
    "dynint_da": ("dynint_da", {"dim": 4, "sub_spaces": 2}),
    "dynint_dwp": ("dynint_dwp", {"dim": 4, "sub_spaces": 2}),
    "dynint_dgp": ("dynint_dgp", {"dim": 4, "sub_spaces": 2, "kernel_size": 5}),
    "dynint_dgp diagonal": ("dynint_dgp", {"dim": 4, "kernel_size": 5, "kernel": "diagonal"}),
    "apg_autoint": ("apg_autoint", {**TOWER, "attention_dim": 4}),
}


def built(case: str, seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
    name, hyperparameters = CASES[case]
    torch.manual_seed(seed)
    model = MODELS[name](FIELDS, **hyperparameters).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model, hyperparameters


def without(model: nn.Module, part: str, share: float) -> None:
    """Masks the least important units of this part."""
    units = WholeUnits(find_units(model, replace(RECIPES["none"], **{part: share})))  # type: ignore[arg-type]
    units.silence(lambda _: share)
    with torch.no_grad():
        for weight, kept in units.masks():
            weight.mul_(kept)


def assert_equal(model: nn.Module, compacted: Compacted) -> None:
    rng = np.random.default_rng(5)
    ids = torch.from_numpy(np.stack([rng.integers(f.cardinality, size=200) for f in FIELDS], axis=1))
    with torch.inference_mode():
        torch.testing.assert_close(compacted.model(ids), model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_smaller_model_has_the_masked_ones_logits(case: str) -> None:
    for seed, share in enumerate((0.7, 0.999)):
        model, hyperparameters = built(case, seed)
        without(model, "interactions", share)
        compacted = compact(model, hyperparameters)
        reasons = [note for note in compacted.notes if "neurons" not in note and "rows" not in note]
        # All layers of DCN are one product, so zeros in it win nothing unless a whole vector is zero.
        assert bool(reasons) == (case == "dcn"), reasons
        assert (compacted.parameters[1] < compacted.parameters[0]) == (case != "dcn" or share > 0.9)
        assert_equal(model, compacted)
        again = compact(compacted.model, compacted.hyperparameters)
        assert again.parameters == (compacted.parameters[1],) * 2
        plain = json.loads(json.dumps(compacted.hyperparameters))
        type(model)(FIELDS, **plain).load_state_dict(compacted.model.state_dict())


@pytest.mark.parametrize("name", ["pnn", "dlrm"])
def test_products_of_one_field_have_no_pairs_to_prune(name: str) -> None:
    model = MODELS[name](FIELDS[:1], **TOWER).eval()
    assert not can_lose(model, TOWER, "interactions", 0.5)
    assert compact(model, TOWER).parameters[1] > 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*CASES]), st.sampled_from([0.05, 0.4, 0.8]), st.integers(0, 10**6))
def test_any_zeros_leave_the_logits_as_they_are(case: str, density: float, seed: int) -> None:
    """Single zeros in all weights of units, whatever structure they make."""
    model, hyperparameters = built(case, seed)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for units in find_interactions(model):
            for members in (*units.entering, *units.leaving):
                of_rows = rng.random(members.weight.shape[0]) < 0.7
                kept = (rng.random(tuple(members.weight.shape)) < density).T * of_rows
                members.weight.mul_(torch.from_numpy(kept.T))
    assert_equal(model, compact(model, hyperparameters))


def test_a_dcn_loses_layers_whose_vectors_are_zero() -> None:
    model, hyperparameters = built("dcn")
    with torch.no_grad():
        model.cross.weight[[1, 3, 5]] = 0.0  # type: ignore[index, union-attr]
    compacted = compact(model, hyperparameters)
    assert compacted.hyperparameters["cross_layers"] == 3
    assert_equal(model, compacted)


def test_zeros_that_win_nothing_stay_and_are_said() -> None:
    model, hyperparameters = built("dcn_v2")
    with torch.no_grad():
        for layer in model.cross.layers:  # type: ignore[union-attr]
            layer.weight[:5] = 0.0  # a quarter of its rows
    (note,) = compact(model, hyperparameters).notes
    assert note.startswith("zeros of cross layers stay masked: two matrices of rank 15 take no less time")


def test_the_pairs_of_the_first_layer_of_a_cin_have_no_order() -> None:
    cin = CIN(3, (4, 2), split_half=False)
    (units,) = find_interactions(nn.Sequential(cin))
    assert units.count == 6
    norms = cin.weights[0].detach().square().sum(dim=0)
    both = [norms[i, j] + (norms[j, i] if i != j else 0.0) for i in range(3) for j in range(i, 3)]
    torch.testing.assert_close(units.importance(), torch.stack(both).sqrt())


def test_a_cin_becomes_one_over_pairs_even_if_dense() -> None:
    model = XDeepFM(FIELDS, dim=3, hidden_units=(4,), cin_maps=(5, 4)).eval()
    compacted = compact(model, {"dim": 3, "hidden_units": (4,), "cin_maps": (5, 4)})
    assert compacted.hyperparameters["cin_maps"] == (5,)
    assert len(compacted.hyperparameters["cin_pairs"][0]) == 15
    assert_equal(model, compacted)


def test_maps_of_a_cin_that_read_only_zeros_go() -> None:
    model, hyperparameters = built("xdeepfm half")
    first, second, _ = model.cin.weights  # type: ignore[union-attr, misc]
    with torch.no_grad():
        first[1:3] = 0.0  # type: ignore[index]  # the next layer reads three maps, and adds two of its own
        second[:2, 0] = 0.0  # type: ignore[index]
    compacted = compact(model, hyperparameters)
    assert not any("CIN" in note for note in compacted.notes)
    assert compacted.hyperparameters["cin_maps"] == (1,)
    assert_equal(model, compacted)


@pytest.mark.parametrize("case", ["pnn", "fibinet", "xdeepfm", "dcn_v2", "autoint"])
def test_the_share_is_reached_on_the_schedule_and_the_masks_hold(case: str, log: Any) -> None:
    name, hyperparameters = CASES[case]
    torch.manual_seed(3)
    model = MODELS[name](log.fields, **hyperparameters)
    config = TrainConfig(batch_size=400, learning_rate=5e-3, warmup_steps=5, threads=1)
    recipe = RECIPES["none"].with_units(interactions=0.7)
    schedule = PruneConfig(finetune_epochs=0.5)
    result = prune(model, log, recipe, config, lambda _: None, schedule=schedule)
    groups = find_interactions(model)
    expected = sum(min(round(0.7 * one.count), one.count - 1) for one in groups)
    assert result.reached["interactions"] == pytest.approx(expected / sum(one.count for one in groups))
    assert result.rates["interactions"] == 0.7
    compacted = compact(model, hyperparameters)
    assert compacted.parameters[1] < compacted.parameters[0]
    assert compacted.max_abs_diff < 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("apg")])
def test_a_silenced_unit_still_has_gradients(case: str) -> None:
    """So the optimizer may bring it back until the masks are final."""
    model, _ = built(case)
    groups = find_interactions(model)
    pruner = Pruner(model, RECIPES["none"].with_units(interactions=0.5), steps=40, every=10)
    pruner.after_step(10)
    assert dead_unit_rate(groups) > 0.2
    ids = torch.stack([torch.arange(40) % field.cardinality for field in FIELDS], dim=1)
    model(ids).square().sum().backward()
    for units in groups:
        dead = units.importance() == 0
        reached = sum(
            type(members)(members.weight.grad, members.unit_of).norms(units.count)
            for members in (*units.entering, *units.leaving)
            if members.weight.grad is not None
        )
        assert (torch.as_tensor(reached)[dead] > 0).all()


LOSE_DIMENSIONS = ("pnn", "fibinet", "xdeepfm", "dcn_v2", "dcn_v2 mixture", "gdcn", "autoint", "difm")


@pytest.mark.parametrize("case", LOSE_DIMENSIONS)
def test_dead_dimensions_go_from_all_that_reads_them(case: str) -> None:
    model, hyperparameters = built(case)
    without(model, "interactions", 0.7)
    without(model, "dimensions", 0.5)
    compacted = compact(model, hyperparameters)
    assert not any("dimensions" in note for note in compacted.notes)
    assert compacted.hyperparameters["dim"] == 2
    assert_equal(model, compacted)


@pytest.mark.parametrize(("case", "can"), [("pnn", True), ("pnn both", False), ("xdeepint", False)])
def test_which_models_can_lose_dimensions_is_known_before(case: str, can: bool) -> None:
    model, hyperparameters = built(case)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert can_lose(model, hyperparameters, "dimensions", 0.5) == can
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "sizes"), [("xdeepfm", {}), ("autoint", {"attention_layers": 1})])
def test_a_smaller_graph_computes_the_same_for_any_batch(name: str, sizes: dict[str, Any]) -> None:
    sizes = {"hidden_units": (64,), **sizes}
    torch.manual_seed(0)
    model = MODELS[name](FIELDS, **sizes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    without(model, "interactions", 0.6)
    compacted = compact(model, sizes)
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(f.cardinality, size=500) for f in FIELDS], axis=1).astype(np.int32)
    graph = export_onnx(compacted.model, ids.shape[1])
    assert check_against_torch(model, graph, ids) <= 1e-4
    int8 = quantize_int8(graph, ids)
    assert int8 is not None
    for one in (graph, int8):
        check_batch_invariance(one, ids, places=5)
