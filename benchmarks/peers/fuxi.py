"""FuxiCTR's models in its own training loop, fed with Bidlight's ids. Import it where FuxiCTR is installed.

The package holds layers, losses, regularizers, early stopping and the loop, and of the models no code: each
is put together from those layers here as FuxiCTR's model zoo does, with the zoo's defaults. Batches come from
arrays in memory, which costs less time than the package's own loaders.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import (
    CrossNetV2,
    FactorizationMachine,
    FeatureEmbedding,
    FeatureEmbeddingDict,
    InnerProductInteraction,
    LogisticRegression,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn

from benchmarks.peers.contender import FUXICTR, Contender, Fitted, Settings, sources, step_seconds
from benchmarks.peers.grid import GRIDS, GridPoint, Shape
from export.data.encoded import EncodedLog, Part
from service.bundle.schema import MISSING_ID, Schema

LABEL = "label"
MOST_EPOCHS = 30
CROSS_LAYERS = 3


def contenders(models: Sequence[str], shape: Shape) -> list[Contender]:
    """Beside each of these models that FuxiCTR has, too."""
    made_by = f"{version('fuxictr')} {torch.__version__} {sources('benchmarks/peers/fuxi.py')}"
    return [
        Contender(
            model, FUXICTR, tuple(_settings(model, point, shape) for point in GRIDS[model]), fit, made_by
        )
        for model in models
        if model in NETWORKS
    ]


def _settings(model: str, point: GridPoint, shape: Shape) -> Settings:
    hidden = {} if point.dropout is None else {"hidden": list(shape.hidden_units), "dropout": point.dropout}
    widths = {} if model == "lr" else {"dim": shape.dim}
    return {
        "model": model,
        "rate": point.rate,
        "l2": point.l2,
        "batch_size": shape.batch_size,
        **widths,
        **hidden,
    }


def fit(log: EncodedLog, settings: Settings, seed: int) -> Fitted:
    """Compiled and fitted by FuxiCTR: Adam, an evaluation an epoch, its early stopping on LogLoss."""
    seed_everything(seed)
    batch_size = settings["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        features = feature_map(log.schema, settings.get("dim", 1), folder)
        model = NETWORKS[settings["model"]](features, settings, folder)
        parts = {name: Batches(log.schema, log.parts[name], batch_size) for name in ("validation", "test")}
        training = Batches(log.schema, log.parts["train"], batch_size, shuffled=True)
        model.fit(training, epochs=MOST_EPOCHS, validation_data=parts["validation"])
        pctr = {name: model.predict(part) for name, part in parts.items()}
    seconds = step_seconds(model.marks, len(training))
    return Fitted(pctr["validation"], pctr["test"], seconds, model.best_epoch)


def feature_map(schema: Schema, dim: int, folder: str) -> Any:
    """The fields as FuxiCTR describes them; all are ids, numbers by their bins."""
    found = FeatureMap("log", folder)
    found.labels, found.default_emb_dim = [LABEL], dim
    shared = {field.same_values_as for field in schema.fields}
    # A field that shares another's embeddings must come after that one.
    for field in sorted(schema.fields, key=lambda field: field.same_values_as is not None):
        spec: dict[str, Any] = {"source": "", "type": "categorical", "vocab_size": field.cardinality}
        if field.max_length > 1 or field.name in shared:
            spec["padding_idx"] = MISSING_ID
        if field.max_length > 1:
            spec |= {
                "type": "sequence",
                "max_len": field.max_length,
                "feature_encoder": "layers.MaskedAveragePooling()",
            }
        if field.same_values_as is not None:
            spec["share_embedding"] = feature_name(schema, field.same_values_as)
        found.features[feature_name(schema, field.name)] = spec
    found.num_fields = found.get_num_fields()
    found.set_column_index()
    return found


def feature_name(schema: Schema, field: str) -> str:
    """A name that torch takes for a module, whatever the field is called."""
    return f"field_{[each.name for each in schema.fields].index(field)}"


def by_feature(schema: Schema, ids: Tensor) -> dict[str, Tensor]:
    """ids [rows, columns] -> for each field its ids, [rows] or [rows, width], by the name of the feature."""
    found = {}
    for field in schema.fields:
        columns = ids[:, schema.column_slices[field.name]]
        name = feature_name(schema, field.name)
        found[name] = columns if field.max_length > 1 else columns[:, 0].contiguous()
    return found


class Batches:
    """Batches of a part in memory: a dictionary of tensors, [rows] or [rows, width], by field, and labels."""

    def __init__(self, schema: Schema, part: Part, batch_size: int, *, shuffled: bool = False) -> None:
        self.columns = by_feature(schema, torch.from_numpy(np.asarray(part.ids, np.int64)))
        self.columns[LABEL] = torch.from_numpy(np.asarray(part.labels, np.float32))
        self.rows, self.batch_size, self.shuffled = len(part), batch_size, shuffled

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(self.rows) if self.shuffled else torch.arange(self.rows)
        for start in range(0, self.rows, self.batch_size):
            rows = order[start : start + self.batch_size]
            yield {name: column[rows] for name, column in self.columns.items()}


class Network(BaseModel):
    """FuxiCTR's base model, which notes the processor time of its steps and the epoch of its best weights."""

    penalises_layers = False  # as the zoo's model does by default, beside embeddings

    def __init__(self, features: Any, settings: Settings, folder: str) -> None:
        super().__init__(
            features,
            model_id="model",
            monitor="logloss",
            monitor_mode="min",
            verbose=0,
            model_root=folder,
            metrics=["AUC", "logloss"],
            embedding_regularizer=settings["l2"],
            net_regularizer=settings["l2"] if self.penalises_layers else None,
        )
        self.marks: list[float] = []
        self.best_epoch = 0.0
        Path(self.model_dir).mkdir(exist_ok=True)

    def start(self, rate: float) -> None:
        """What each model of the zoo ends its constructor with."""
        self.compile("adam", "binary_crossentropy", rate)
        self.reset_parameters()
        self._reset_own_tables()
        self.model_to_device()

    @torch.no_grad()
    def _reset_own_tables(self) -> None:
        """Starts the weights of ids near zero where FuxiCTR forgets to, and leaves them at N(0, 1).

        It passes over every field that shares another's embeddings, also in layers that share nothing.
        """
        for layer in self.modules():
            if not isinstance(layer, FeatureEmbeddingDict):
                continue
            for name, table in layer.embedding_layers.items():
                shared = self.feature_map.features[name].get("share_embedding")
                if shared is not None and table is not layer.embedding_layers[shared]:
                    layer.embedding_initializer(table.weight[MISSING_ID + 1 :])

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Batches as the loop reads them."""
        return {"y_pred": self.output_activation(self.logits(self.get_inputs(inputs)))}

    def logits(self, fields: dict[str, Tensor]) -> Tensor:
        """Fields -> logits [batch, 1]."""
        raise NotImplementedError

    def train_step(self, batch_data: dict[str, Tensor]) -> Tensor:
        """A step of FuxiCTR's."""
        loss: Tensor = super().train_step(batch_data)
        self.marks.append(time.process_time())
        return loss

    def save_weights(self, checkpoint: str) -> None:
        """Called with each gain on the validation part."""
        super().save_weights(checkpoint)
        self.best_epoch = float(self._epoch_index + 1)


class LR(Network):
    """Weights of ids."""

    penalises_layers = True

    def __init__(self, features: Any, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        self.linear = LogisticRegression(features, use_bias=True)
        self.start(settings["rate"])

    def logits(self, fields: dict[str, Tensor]) -> Tensor:
        """Weights of ids and a bias."""
        found: Tensor = self.linear(fields)
        return found


class FM(Network):
    """Weights of ids and products of pairs."""

    penalises_layers = True

    def __init__(self, features: Any, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        self.embedding = FeatureEmbedding(features, settings["dim"])
        self.fm = FactorizationMachine(features)
        self.start(settings["rate"])

    def logits(self, fields: dict[str, Tensor]) -> Tensor:
        """The linear part and the pairs."""
        found: Tensor = self.fm(fields, self.embedding(fields))
        return found


class FwFM(Network):
    """Weighted products of pairs and, as the zoo has it by default, a linear part of a vector a field."""

    penalises_layers = True

    def __init__(self, features: Any, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        count = features.num_fields
        self.embedding = FeatureEmbedding(features, settings["dim"])
        self.products = InnerProductInteraction(count, output="inner_product")
        self.of_pairs = nn.Linear(count * (count - 1) // 2, 1)
        self.of_fields = nn.Linear(count * settings["dim"], 1, bias=False)
        self.start(settings["rate"])

    def logits(self, fields: dict[str, Tensor]) -> Tensor:
        """The pairs and the linear part."""
        vectors = self.embedding(fields)
        found: Tensor = self.of_pairs(self.products(vectors)) + self.of_fields(vectors.flatten(start_dim=1))
        return found


class DeepFM(Network):
    """FM beside a perceptron."""

    def __init__(self, features: Any, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        self.embedding = FeatureEmbedding(features, settings["dim"])
        self.fm = FactorizationMachine(features)
        self.mlp = _perceptron(features, settings, output_dim=1)
        self.start(settings["rate"])

    def logits(self, fields: dict[str, Tensor]) -> Tensor:
        """The sum of both."""
        vectors = self.embedding(fields)
        found: Tensor = self.fm(fields, vectors) + self.mlp(vectors.flatten(start_dim=1))
        return found


class DCNv2(Network):
    """Cross layers with full matrices beside a perceptron."""

    def __init__(self, features: Any, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        width = features.sum_emb_out_dim()
        self.embedding = FeatureEmbedding(features, settings["dim"])
        self.cross = CrossNetV2(width, CROSS_LAYERS)
        self.mlp = _perceptron(features, settings, output_dim=None)
        self.output = nn.Linear(width + settings["hidden"][-1], 1)
        self.start(settings["rate"])

    def logits(self, fields: dict[str, Tensor]) -> Tensor:
        """One layer over both."""
        vectors = self.embedding(fields, flatten_emb=True)
        found: Tensor = self.output(torch.cat([self.cross(vectors), self.mlp(vectors)], dim=-1))
        return found


def _perceptron(features: Any, settings: Settings, output_dim: int | None) -> nn.Module:
    found: nn.Module = MLP_Block(
        input_dim=features.sum_emb_out_dim(),
        output_dim=output_dim,
        hidden_units=settings["hidden"],
        dropout_rates=settings["dropout"],
    )
    return found


NETWORKS: dict[str, type[Network]] = {"lr": LR, "fm": FM, "fwfm": FwFM, "deepfm": DeepFM, "dcn_v2": DCNv2}
