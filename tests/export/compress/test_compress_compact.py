"""A compacted model has the same logits as the masked one, for every model and every mask."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.compress.compact import Compacted, can_shrink, compact
from export.compress.config import PruneConfig
from export.compress.embedding_rows import renumber
from export.compress.prune import prune
from export.compress.recipes import RECIPES
from export.train.build import build_from_fields, build_model, hyperparameters_of, model_fields
from export.train.config import TrainConfig
from models.deep_fwfm import DeepFwFM
from models.dice import Dice
from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.fm import FM
from models.fwfm import FwFM
from models.layers import MLP, FieldPairs
from models.lr import LR
from models.star import STAR
from service.bundle.encoder import Encoder
from service.bundle.schema import Field as SchemaField
from service.bundle.schema import Kind, Role, Schema, Vocabulary

DENSITIES = st.sampled_from([0.0, 0.05, 0.3, 1.0])


def sparsify(weight: Tensor, density: float, rng: np.random.Generator) -> None:
    with torch.no_grad():
        weight.mul_(torch.from_numpy(rng.random(tuple(weight.shape)) < density))


def random_ids(fields: tuple[Field, ...], rows: int = 200) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.concatenate([rng.integers(f.cardinality, size=(rows, f.width)) for f in fields], axis=1)


def translated(ids: np.ndarray, fields: tuple[Field, ...], compacted: Compacted) -> np.ndarray:
    new, column = ids.copy(), 0
    for field in fields:
        if field.name in compacted.renumberings:
            span = slice(column, column + field.width)
            new[:, span] = compacted.renumberings[field.name][ids[:, span]]
        column += field.width
    return new


def assert_equal(model: nn.Module, compacted: Compacted) -> None:
    fields: Any = model.fields
    ids = random_ids(fields)
    model.eval()
    with torch.inference_mode():
        before = model(torch.from_numpy(ids))
        after = compacted.model(torch.from_numpy(translated(ids, fields, compacted)))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@st.composite
def sparse_models(draw: st.DrawFn) -> tuple[nn.Module, dict[str, Any]]:
    """Any model over any fields, with a random density of each part, possibly zero."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=5))
    fields = tuple(Field(f"f{i}", cardinality, width) for i, (cardinality, width) in enumerate(shapes))
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    name = draw(st.sampled_from(["lr", "fwfm", "deep_fwfm"]))
    hyperparameters: dict[str, Any] = {}
    if name == "lr":
        model: nn.Module = LR(fields)
    elif name == "fwfm":
        hyperparameters = {"dim": draw(st.integers(1, 4))}
        model = FwFM(fields, **hyperparameters)
    else:
        hidden = draw(st.lists(st.integers(1, 8), max_size=3))
        hyperparameters = {"dim": draw(st.integers(1, 4)), "hidden_units": hidden}
        model = DeepFwFM(fields, **hyperparameters)
    row_density = draw(DENSITIES)
    for module in model.modules():
        if isinstance(module, FeaturesEmbedding):
            nn.init.normal_(module.table.weight)
            sparsify(module.table.weight, draw(DENSITIES), rng)
            alive = torch.from_numpy(rng.random((module.table.num_embeddings, 1)) < row_density)
            with torch.no_grad():
                module.table.weight.mul_(alive)
        elif isinstance(module, FieldPairs):
            sparsify(module.weight, draw(DENSITIES), rng)
        elif isinstance(module, MLP):
            for layer in [*module.hidden, module.output]:
                nn.init.normal_(layer.bias, std=0.3)
                sparsify(layer.weight, draw(DENSITIES), rng)
    return model, hyperparameters


@settings(max_examples=200, deadline=None)
@given(sparse_models())
def test_a_compacted_model_gives_the_masked_models_logits(sparse: tuple[nn.Module, dict[str, Any]]) -> None:
    model, hyperparameters = sparse
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    compacted = compact(model, hyperparameters)
    assert compacted.notes == ()
    assert type(compacted.model) is type(model)
    assert compacted.max_abs_diff < 1e-5
    assert_equal(model, compacted)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


@settings(max_examples=60, deadline=None)
@given(sparse_models())
def test_compacting_again_removes_nothing_more(sparse: tuple[nn.Module, dict[str, Any]]) -> None:
    model, hyperparameters = sparse
    once = compact(model, hyperparameters)
    twice = compact(once.model, once.hyperparameters)
    assert twice.renumberings == {}
    assert twice.parameters[0] == twice.parameters[1] == once.parameters[1]
    plain = json.loads(json.dumps(once.hyperparameters))
    again = type(model)(once.model.fields, **plain)
    again.load_state_dict(once.model.state_dict())


def test_what_is_counted() -> None:
    torch.manual_seed(0)
    model = DeepFwFM((Field("a", 10), Field("b", 8), Field("c", 4)), dim=2, hidden_units=(5, 3))
    with torch.no_grad():
        model.embedding.table.weight[3:10] = 0.0
        model.pairs.weight[1:] = 0.0
        model.mlp.hidden[0].weight[2:] = 0.0
        model.mlp.hidden[0].weight[:, 4:] = 0.0
        model.mlp.output.weight[0, 0] = 0.0
    compacted = compact(model, {"dim": 2, "hidden_units": (5, 3)})
    assert compacted.live_neurons == (2, 2)
    assert compacted.hyperparameters == {"dim": 2, "hidden_units": (2, 2), "pairs": ((0, 1),)}
    assert compacted.live_pairs == 1
    assert compacted.dead_inputs == 2
    assert compacted.embedding_rows == (22, 16)
    assert compacted.renumberings["a"].tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert compacted.parameters[1] == sum(p.numel() for p in compacted.model.parameters())
    assert compacted.bytes == (4 * compacted.parameters[0], 4 * compacted.parameters[1])
    assert_equal(model, compacted)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_dead_ids_share_one_number_and_the_rest_keep_their_order(dead: list[bool]) -> None:
    mergeable = [index for index, is_dead in enumerate(dead) if is_dead and index >= 2]
    numbers = renumber(np.array(dead))
    if len(mergeable) < 2:
        assert numbers is None
        return
    assert numbers is not None
    assert numbers.dtype == np.int32
    assert len(set(numbers[mergeable].tolist())) == 1
    kept = [index for index in range(len(dead)) if index not in mergeable[1:]]
    assert numbers[kept].tolist() == list(range(len(kept)))
    assert numbers[:2].tolist() == [0, 1]


def test_a_dead_element_of_a_sequence_still_counts_in_the_mean_and_padding_does_not() -> None:
    model = FwFM((Field("history", 6, width=3), Field("ad", 4)), dim=3)
    nn.init.normal_(model.embedding.table.weight)
    with torch.no_grad():
        model.embedding.table.weight[:6] *= torch.tensor([1, 1, 0, 1, 0, 0]).unsqueeze(1)
    compacted = compact(model, {"dim": 3})
    assert compacted.renumberings["history"].tolist() == [0, 1, 2, 3, 2, 2]
    ids = torch.tensor([[3, 5, 2, 1], [3, 4, 0, 1], [3, 0, 0, 1], [0, 0, 0, 1]])
    new = torch.tensor(translated(ids.numpy(), model.fields, compacted))
    torch.testing.assert_close(compacted.model(new), model(ids))
    assert len(set(model(ids).tolist())) == 4


def test_a_renumbered_schema_feeds_the_smaller_model() -> None:
    """From raw values: ids by the new schema address the rows of the new tables."""
    fields = (
        SchemaField("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(tuple("abcdefgh"))),
        SchemaField("tags", Kind.SEQUENCE, Role.CANDIDATE, Vocabulary(tuple("uvwxyz")), max_length=3),
    )
    schema = Schema(fields)
    model = build_model("fwfm", schema, {"dim": 2})
    with torch.no_grad():
        model.embedding.table.weight[3:9] = 0.0
        model.embedding.table.weight[14:] = 0.0
    compacted = compact(model, {"dim": 2})
    smaller = schema.renumbered(compacted.renumberings)
    assert model_fields(smaller) == compacted.model.fields
    rows = [
        {"site": "b", "tags": ["w", "z"]},
        {"site": "new", "tags": []},
        {"site": "h", "tags": ["u", "q", "x"]},
    ]
    old_ids, new_ids = (np.stack([Encoder(s).encode_row(row) for row in rows]) for s in (schema, smaller))
    torch.testing.assert_close(compacted.model(torch.from_numpy(new_ids)), model(torch.from_numpy(old_ids)))


@pytest.mark.parametrize("name", ["high-performance", "low-memory", "low-latency"])
def test_a_really_pruned_model_is_smaller_and_the_same(log: Any, name: str) -> None:
    torch.manual_seed(1)
    hyperparameters = {"dim": 6, "hidden_units": (32, 24), "dropout": 0.1}
    model = DeepFwFM(log.fields, **hyperparameters)
    config = TrainConfig(batch_size=200, learning_rate=5e-3, warmup_steps=5, threads=1)
    prune(model, log, RECIPES[name], config, lambda _: None, schedule=PruneConfig(finetune_epochs=1.0))
    compacted = compact(model, hyperparameters)
    assert compacted.notes == ()
    assert compacted.live_pairs == 1
    assert compacted.hyperparameters["hidden_units"] == tuple(max(1, n) for n in compacted.live_neurons)
    assert compacted.parameters[1] < compacted.parameters[0]
    assert_equal(model, compacted)


def test_a_model_with_every_weight_alive_comes_back_as_it_is() -> None:
    model = DeepFwFM((Field("a", 9), Field("b", 7)), dim=2, hidden_units=(4,))
    compacted = compact(model, {"dim": 2, "hidden_units": (4,)})
    assert compacted.model is model
    assert compacted.hyperparameters == {"dim": 2, "hidden_units": (4,)}
    assert compacted.notes == ()


class TwoTowers(nn.Module):
    """A model that sizes two perceptrons with one argument and takes no pairs."""

    def __init__(self, fields: tuple[Field, ...], hidden_units: tuple[int, ...] = (6, 4)) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, 2)
        self.pairs = FieldPairs(len(fields))
        self.left, self.right = (MLP(2 * len(fields), hidden_units, 0.0) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        embeddings = self.embedding(ids)
        logits: Tensor = self.pairs(embeddings)
        return logits + self.left(embeddings.flatten(1)) * self.right(embeddings.flatten(1))


class Shifted(TwoTowers):
    """A model in which the number of an id matters."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + ids[:, 0].float()


class WideAndDeep(nn.Module):
    """A model with two tables over the same ids."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.wide, self.deep = FeaturesEmbedding(fields, 1), FeaturesEmbedding(fields, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.wide(ids).sum(dim=(1, 2)) + self.deep(ids).prod(dim=1).sum(dim=1)
        return logits


def test_ids_are_merged_when_they_are_dead_in_every_table() -> None:
    model = WideAndDeep((Field("a", 8), Field("b", 6)))
    with torch.no_grad():
        model.wide.table.weight[2:6] = 0.0
        model.deep.table.weight[4:] = 0.0
    compacted = compact(model, {})
    assert compacted.notes == ()
    assert {name: new.tolist() for name, new in compacted.renumberings.items()} == {
        "a": [0, 1, 2, 3, 4, 4, 5, 6]
    }
    assert compacted.embedding_rows == (28, 26)
    assert_equal(model, compacted)


class WithStranger(TwoTowers):
    """A model with a table of its own beside the shared layer."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        super().__init__(fields)
        self.own = nn.Embedding(fields[0].cardinality, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + self.own(ids[:, 0]).squeeze(1)


@pytest.mark.parametrize(
    ("build", "rows_merge", "reasons"),
    [
        (TwoTowers, True, ["no 'pairs'", "one 'hidden_units' for left, right"]),
        (Shifted, False, ["differs by .* in the logit", "no 'pairs'", "one 'hidden_units' for left, right"]),
        (WithStranger, False, ["'own' is not a table over fields", "no 'pairs'", "no 'hidden_units'"]),
    ],
)
def test_what_is_not_known_to_be_safe_stays_masked_and_is_said(
    build: Any, rows_merge: bool, reasons: list[str]
) -> None:
    torch.manual_seed(2)
    model = build((Field("a", 9), Field("b", 7)))
    with torch.no_grad():
        model.embedding.table.weight[4:8] = 0.0
        model.pairs.weight[:] = 0.0
        model.left.hidden[0].weight[2:] = 0.0
    compacted = compact(model, {})
    assert bool(compacted.renumberings) is rows_merge
    assert (compacted.model is model) is not rows_merge
    assert len(compacted.notes) == len(reasons)
    for note, reason in zip(compacted.notes, reasons, strict=True):
        assert "stay masked" in note
        assert re.search(reason, note)
    assert_equal(model, compacted)


class WithDice(nn.Module):
    """A plain perceptron beside one whose activation has parameters."""

    def __init__(self, fields: tuple[Field, ...], hidden_units: tuple[int, ...] = (6, 4)) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, 2)
        self.gate = MLP(2 * len(fields), (5,), 0.0, activation=Dice)
        self.mlp = MLP(2 * len(fields), hidden_units, 0.0)

    def forward(self, ids: Tensor) -> Tensor:
        embeddings = self.embedding(ids).flatten(1)
        logits: Tensor = self.mlp(embeddings) * self.gate(embeddings)
        return logits


class WithOwnWidths(WithDice):
    """The same with an argument for the gate, so that the perceptron has its own."""

    def __init__(
        self,
        fields: tuple[Field, ...],
        hidden_units: tuple[int, ...] = (6, 4),
        gate_units: tuple[int, ...] = (5,),
    ) -> None:
        super().__init__(fields, hidden_units)


@pytest.mark.parametrize(("build", "live"), [(WithOwnWidths, (2, 4)), (WithDice, (6, 4))])
def test_a_perceptron_that_is_not_known_keeps_no_other_wide(build: Any, live: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    model = build((Field("a", 9), Field("b", 7)))
    with torch.no_grad():
        model.mlp.hidden[0].weight[2:] = 0.0
    compacted = compact(model, {})
    assert any(
        note.startswith("dead neurons of 'gate' stay masked: it has parts other") for note in compacted.notes
    )
    assert len(compacted.notes) == 1 + (live == (6, 4)), "where one argument is for both, both keep theirs"
    assert (*(layer.out_features for layer in compacted.model.mlp.hidden),) == live  # type: ignore[union-attr]
    assert_equal(model, compacted)


def test_a_model_without_fields_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'model' must have a tuple of fields"):
        compact(nn.Linear(2, 1), {})


def test_a_history_is_renumbered_with_the_ads_whose_rows_it_reads() -> None:
    fields = (Field("seen", 9, width=3, same_values_as="ad"), Field("site", 4), Field("ad", 9))
    model = FwFM(fields, dim=2).eval()
    with torch.no_grad():
        model.embedding.table.weight[4 + 3 : 4 + 7] = 0.0  # of the ads; the sites' rows come first
    compacted = compact(model, {"dim": 2})
    assert compacted.embedding_rows == (13, 10)
    assert compacted.renumberings["seen"].tolist() == compacted.renumberings["ad"].tolist()
    assert [field.cardinality for field in compacted.model.fields] == [6, 4, 6]
    assert_equal(model, compacted)


@st.composite
def stored_models(draw: st.DrawFn) -> tuple[nn.Module, dict[str, Any]]:
    """A model over fields of every storage, histories that share one's rows, and zero rows of all tables."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    fields: list[Field] = []
    for number in range(draw(st.integers(1, 3))):
        name, cardinality = f"f{number}", draw(st.integers(1, 40))
        storage = draw(st.sampled_from(["full", "qr", "hashed"]))
        stored: dict[str, Any] = {"storage": storage, "collisions": draw(st.integers(1, 6))}
        if draw(st.booleans()):
            history = f"history of {name}"
            pooling = draw(st.sampled_from(["mean", "sum"]))
            fields.append(Field(history, cardinality, 3, same_values_as=name, pooling=pooling, **stored))
        values = tuple(rng.normal(size=cardinality)) if draw(st.booleans()) else None
        fields.append(Field(name, cardinality, values=values, **stored))
    kind, hyperparameters = draw(st.sampled_from([(FM, {"dim": 3}), (FwFM, {"dim": 2}), (LR, {})]))
    model: nn.Module = kind(tuple(fields), **hyperparameters)
    density, alive = draw(DENSITIES), draw(st.sampled_from([0.0, 0.3, 0.8]))
    dead_factors = draw(st.booleans())
    for module in model.modules():
        if isinstance(module, FeaturesEmbedding):
            nn.init.normal_(module.table.weight)
            sparsify(module.table.weight, density, rng)
            with torch.no_grad():
                rows = torch.from_numpy(rng.random((module.table.num_embeddings, 1)) < alive)
                module.table.weight.mul_(rows)
                if module.has_remainders and dead_factors:  # products are zero where rows are not
                    module.remainders.weight[1:, 0] = -1.0
    return model, hyperparameters


@settings(max_examples=200, deadline=None)
@given(stored_models())
def test_rows_of_every_storage_merge_and_no_logit_changes(sparse: tuple[nn.Module, dict[str, Any]]) -> None:
    model, hyperparameters = sparse
    compacted = compact(model, hyperparameters)
    assert [note for note in compacted.notes if "rows" in note] == []
    assert_equal(model, compacted)
    smaller: Any = compacted.model
    for old, new in zip(model.fields, smaller.fields, strict=True):  # type: ignore[arg-type, union-attr]
        assert (new.storage, new.collisions, new.pooling) == (old.storage, old.collisions, old.pooling)
        ids = compacted.renumberings.get(old.name)
        if ids is None:
            assert new == old
            continue
        assert ids[:2].tolist() == [0, 1]
        assert (ids[2:] >= 2).all()
        assert set(ids.tolist()) == set(range(new.cardinality)), "ids have no gaps"
    again = compact(smaller, hyperparameters)
    assert again.renumberings == {}, "at most one zero row is left of a field"


@pytest.mark.parametrize(
    ("storage", "ids"),
    [
        ("qr", [0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8]),  # three ids a row, the fourth row as the third
        ("hashed", [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8]),  # four rows, the fourth as the third
    ],
)
def test_ids_that_share_rows_are_renumbered_with_them(storage: Any, ids: list[int]) -> None:
    fields = (Field("site", 4), Field("ad", 12, storage=storage, collisions=3))
    model = FM(fields, dim=2).eval()
    with torch.no_grad():
        for part in (model.embedding, model.wide.embedding):
            part.table.weight[4 + 2 :] = 0.0
    compacted = compact(model, {"dim": 2})
    assert compacted.notes == ()
    assert compacted.embedding_rows == (2 * 8, 2 * 7)
    assert compacted.renumberings["ad"].tolist() == ids
    assert_equal(model, compacted)


@pytest.mark.parametrize("name", ["mmoe", "star", "dlrm"])
def test_a_field_whose_ids_a_model_needs_keeps_no_other_whole(name: str) -> None:
    """MMoE and STAR have weights for each id of the domain, and DLRM reads the number of a price."""
    fields = (
        Field("domain", 3),
        Field("price", 6, values=(0.0, 0.0, -1.0, 0.0, 1.0, 2.0)),
        Field("seen", 40, width=2, same_values_as="ad", storage="hashed", collisions=2),
        Field("ad", 40, role="candidate", storage="hashed", collisions=2),
    )
    model = build_from_fields(name, fields, {})
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FeaturesEmbedding):
                module.table.weight[:] = 0.0
    compacted = compact(model, hyperparameters_of(name))
    assert compacted.renumberings.keys() >= {"seen", "ad"}
    assert "domain" not in compacted.renumberings
    assert_equal(model, compacted)


@pytest.mark.parametrize(
    ("name", "shrinks"),
    [("lr", True), ("fm", True), ("deepfm", True), ("deep_fwfm", True), ("gbdt_lr", False), ("mmoe", True)],
)
def test_what_pruning_can_make_smaller_is_known_before(name: str, shrinks: bool) -> None:
    """Trees read a number for each id, so they can't merge the rows of dead ids."""
    fields = (Field("user", 50), Field("ad", 60, role="candidate"))
    model = build_from_fields(name, fields, {})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert can_shrink(model, hyperparameters_of(name)) == shrinks
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_normalization_makes_of_zeros_stays_when_dimensions_go() -> None:
    """A dead dimension of STAR is a number of each domain behind its normalization, and counts."""
    fields = (Field("domain", 4), Field("user", 30), Field("ad", 20, role="candidate"))
    model = STAR(fields, dim=4, hidden_units=(8, 4)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in (*model.parameters(), model.normalize.running_mean):
            weights.normal_(0.3, 0.5, generator=generator)
        model.embedding.table.weight[:, [1, 2]] = 0.0
    compacted = compact(model, {"dim": 4, "hidden_units": (8, 4)})
    assert compacted.notes == ()
    assert compacted.hyperparameters["dim"] == 2
    assert_equal(model, compacted)
