"""What a person chooses of a training and of embeddings, before the log's size is known.

It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from export.errors import ExportError
from export.knobs import AT_LEAST_ONE, UsedBy, check, choose, convert, declared, knob
from export.train.config import LONGEST_WARMUP, TrainConfig, rows_an_epoch
from export.train.fitting import fitting_batch, fitting_of, linear_l2


@dataclass(frozen=True, init=False)
class TrainChoice:
    """The fields of TrainConfig that were given; `config` fits the rest to the log.

    It keeps what was given apart from defaults, since a number that nothing chosen uses is refused even where
    it is the default. Raises ExportError for a value of a wrong type, TypeError for a name that is no field.
    """

    given: Mapping[str, Any]

    def __init__(self, **given: Any) -> None:
        known = declared(TrainConfig)
        if unknown := given.keys() - known.keys():
            raise TypeError(f"a choice of training must be a field of TrainConfig (got {min(unknown)!r})")
        # None stands for what is fitted, but where it is a value of the field.
        found = {
            name: convert(known[name], value)
            for name, value in given.items()
            if value is not None or known[name].optional
        }
        object.__setattr__(self, "given", found)

    def updated(self, **given: Any) -> TrainChoice:
        """This choice with these fields given in place of its own."""
        return TrainChoice(**{**self.given, **given})

    def config(
        self, rows: int, clicks: int = 0, *, model: str | None = None, earlier_rows: int = 0
    ) -> TrainConfig:
        """The configuration for a training part of this many rows and for the model of this name.

        Without a name it is that of a deep model. `clicks` counts where not all non-clicks are drawn. A model
        that goes on from `earlier_rows` has the penalties of all its rows. Raises ExportError for a number
        that nothing chosen uses, or out of its range.
        """
        chosen = choose(TrainConfig, self.given)
        drawn = rows_an_epoch(rows, clicks, chosen.negative_rate)
        if rows > clicks > 0 and drawn == clicks:
            raise ExportError(
                f"'negative_rate' must leave an epoch one of {rows - clicks:,} non-clicks or more (got "
                f"{chosen.negative_rate:g}); give a larger share"
            )
        rows = max(1, drawn)
        batch_size = self.given.get("batch_size", fitting_batch(rows))
        steps_an_epoch = -(-rows // batch_size)
        of_model = fitting_of(model)
        all_rows = rows + earlier_rows
        fitting = {
            "epochs": of_model.epochs,
            "batch_size": batch_size,
            "learning_rate": of_model.rate(batch_size),
            "warmup_steps": min(LONGEST_WARMUP, steps_an_epoch // 2),
            "embedding_l2": of_model.embedding_l2(all_rows),
            "linear_l2": self.given.get("embedding_l2", linear_l2(all_rows)),
        }
        return TrainConfig(**{**fitting, **self.given})


_SHARED = UsedBy(("embedding",), ("qr", "hashed"))


@dataclass(frozen=True)
class EmbeddingChoice:
    """How embeddings are kept, whatever the model; see `models.fields.Field`.

    Fields of fewer than `least_ids` ids have next to nothing to save.
    """

    embedding: Literal["full", "qr", "hashed"] = knob(
        "full",
        "how embeddings are kept: full, a row an id; qr, the product of a quotient's and a remainder's row; "
        "hashed, a row for several ids",
    )
    collisions: int = knob(4, "ids that share a row", AT_LEAST_ONE, used_by=_SHARED)
    least_ids: int = knob(1000, "fields of fewer ids keep a row an id", AT_LEAST_ONE, used_by=_SHARED)
    pooling: Literal["mean", "sum"] = knob("mean", "what the embeddings of a sequence become")

    def __post_init__(self) -> None:
        check(self)

    def described(self) -> dict[str, Any]:
        """What differs from the default, as records and manifest say it."""
        said: dict[str, Any] = {} if self.pooling == "mean" else {"pooling": self.pooling}
        if self.embedding != "full":
            said |= {"embedding": self.embedding, "collisions": self.collisions, "least_ids": self.least_ids}
        return said
