"""Checkpoints restore models, match their schema, and are plain data; models are built by name."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.errors import ExportError
from export.train.build import build_model, hyperparameters_of, model_fields, values_by_id
from export.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from export.train.choices import EmbeddingChoice
from export.train.loop import predict_logits
from models import MODELS
from models.fields import Field
from service.bundle.schema import Bins, Hashing, Kind, Role, Schema, Vocabulary
from service.bundle.schema import Field as SchemaField
from tests.full_disk import full_disk


def a_schema(sites: int = 5) -> Schema:
    return Schema(
        (
            SchemaField("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(tuple(map(str, range(sites))))),
            SchemaField("history", Kind.SEQUENCE, Role.CONTEXT, Hashing(buckets=9), max_length=3),
            SchemaField("price", Kind.NUMERIC, Role.CANDIDATE, Bins((0.5, 1.5))),
        )
    )


def some_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (40, 5)).astype(np.int32)


def small(name: str) -> dict[str, object]:
    """Those of some non-default hyperparameters that a model has."""
    wanted = {"dim": np.int64(8), "hidden_units": (6, 4), "pairs": [(0, 2)], "dropout": 0.25}
    return {key: value for key, value in wanted.items() if key in hyperparameters_of(name)}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    schema, path = a_schema(), tmp_path / "stage" / "dense.pt"
    model = build_model(name, schema, small(name))
    save_checkpoint(path, model, name, small(name))
    loaded = load_checkpoint(path, schema)
    assert loaded.name == name
    assert loaded.model.fields == model_fields(schema)
    assert not loaded.model.training
    assert np.array_equal(predict_logits(loaded.model, some_ids()), predict_logits(model, some_ids()))
    again, again_name, hyperparameters = loaded
    save_checkpoint(path, again, again_name, hyperparameters)
    assert load_checkpoint(path).hyperparameters == hyperparameters
    assert [file.name for file in path.parent.iterdir()] == ["dense.pt"]


@pytest.mark.parametrize("room", [100, 2_000])
def test_a_disk_that_is_full_is_an_os_error_and_the_model_of_before_stays(room: int, tmp_path: Path) -> None:
    """torch itself raises a RuntimeError about its archive."""
    path, model = tmp_path / "dense.pt", build_model("lr", a_schema(), {})
    save_checkpoint(path, model, "lr", {})
    before = path.read_bytes()
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        save_checkpoint(path, model, "lr", {})
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_hyperparameters_come_back_as_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, build_model("fwfm", a_schema(), small("fwfm")), "fwfm", small("fwfm"))
    assert load_checkpoint(path).hyperparameters == {"dim": 8, "pairs": [[0, 2]]}


def test_fields_are_those_of_the_schema_in_its_order() -> None:
    site, history, price = model_fields(a_schema())
    assert site == Field("site", 7)
    assert history == Field("history", 11, width=3)
    assert price == Field("price", 5, role="candidate", values=price.values)


def test_the_numbers_of_a_numeric_field_are_its_bins_on_a_logarithmic_scale() -> None:
    field = SchemaField("price", Kind.NUMERIC, Role.CANDIDATE, Bins((-1.0, 1.0, 3.0)))
    middles = np.array([-1.0, 0.0, 2.0, 3.0])
    logs = np.sign(middles) * np.log1p(np.abs(middles))
    expected = (logs - logs.mean()) / logs.std()
    assert values_by_id(field) == pytest.approx([0.0, 0.0, *expected])
    merged = dataclasses.replace(field, renumbering=np.array([0, 1, 2, 3, 3, 4], np.int32))
    assert values_by_id(merged) == pytest.approx([0.0, 0.0, *expected[[0, 1, 3]]])
    assert values_by_id(dataclasses.replace(field, encoding=Bins(()))) == (0.0, 0.0, 0.0)
    assert values_by_id(a_schema().fields[0]) is None


@pytest.mark.parametrize("storage", ["qr", "hashed"])
def test_embeddings_are_kept_as_chosen_where_a_field_is_large(storage: Any, tmp_path: Path) -> None:
    choice = EmbeddingChoice(storage, collisions=3, pooling="sum", least_ids=8)
    site, history, price = model_fields(a_schema(), choice)
    assert (site.storage, history.storage, price.storage) == ("full", storage, "full")
    assert {site.pooling, history.pooling} == {"sum"}
    model = build_model("deep_fwfm", a_schema(), embedding=choice)
    save_checkpoint(tmp_path / "dense.pt", model, "deep_fwfm", {})
    loaded = load_checkpoint(tmp_path / "dense.pt", a_schema()).model
    assert loaded.fields == (site, history, price)
    assert np.array_equal(predict_logits(loaded, some_ids()), predict_logits(model, some_ids()))


def test_the_same_seed_builds_the_same_weights_without_side_effects() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_model("lr", a_schema(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    ids = some_ids()
    assert np.array_equal(predict_logits(first, ids), predict_logits(again, ids))
    assert not np.array_equal(predict_logits(first, ids), predict_logits(other, ids))


def test_a_model_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ExportError, match=r"'model' must be one of lr, .*deep_fwfm.* \(got 'deepfwfm'\)"):
        build_model("deepfwfm", a_schema())


def test_an_unknown_hyperparameter_is_named_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match=r"'fwfm' must be one of dim, pairs \(got 'dims'\)"):
        build_model("fwfm", a_schema(), {"dims": 3})
    with pytest.raises(ExportError, match=r"'lr' must be one of none"):
        build_model("lr", a_schema(), {"dim": 3})


@pytest.mark.parametrize("wrong", [{"dropout": 1.0}, {"dim": "ten"}, {"dim": -1}, {"pairs": [[1, 0]]}])
def test_a_hyperparameter_of_the_wrong_kind_is_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ExportError, match="'deep_fwfm' cannot be built with") as error:
        build_model("deep_fwfm", a_schema(), wrong)
    assert "\n" not in str(error.value)


def saved(path: Path) -> Path:
    save_checkpoint(path, build_model("lr", a_schema()), "lr", {})
    return path


def test_a_checkpoint_of_other_fields_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "dense.pt")
    with pytest.raises(
        CheckpointError, match=r"field 0 of 'dense.pt' must be Field\(name='site', cardinality=8"
    ):
        load_checkpoint(path, a_schema(sites=6))
    fewer = Schema(a_schema().fields[:2])
    with pytest.raises(CheckpointError, match="the schema's 2 fields"):
        load_checkpoint(path, fewer)


class Evil:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_what_is_no_checkpoint_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_checkpoint(path)
    for content in (b"", b"not a checkpoint", pickle.dumps(Evil())):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"'x.pt' must be a checkpoint") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)
    torch.save({"model": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not Path("executed").exists()
    torch.save({"version": 99}, path)
    with pytest.raises(CheckpointError, match=r"version 2 \(got 99\)"):
        load_checkpoint(path)
    torch.save({"version": 2, "model": "lr"}, path)
    with pytest.raises(CheckpointError, match="KeyError"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "dense.pt")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"'dense.pt' must be a checkpoint"):
        load_checkpoint(path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "dense.pt")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "model": "fwfm"}, path)
    with pytest.raises(CheckpointError, match="must hold the weights of 'fwfm'") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "dense.pt")
    before = path.read_bytes()

    with pytest.raises(CheckpointError, match="hyperparameter must be a number"):
        save_checkpoint(path, build_model("lr", a_schema()), "lr", {"dim": object()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["dense.pt"]
