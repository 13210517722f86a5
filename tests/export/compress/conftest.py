"""A small click log in memory whose clicks follow a known function of pairs of ids."""

from __future__ import annotations

import numpy as np
import pytest

from export.data.parts import Part
from models.fields import Field
from tests.export.memory_log import MemoryLog

FIELDS = (Field("site", 60), Field("ad", 40), Field("hour", 26), Field("history", 50, width=4))


@pytest.fixture(scope="session")
def log() -> MemoryLog:
    rng = np.random.default_rng(7)
    effects = [rng.normal(size=(field.cardinality, 4)) * 0.7 for field in FIELDS]

    def part(rows: int) -> Part:
        columns = [rng.zipf(1.4, size=(rows, f.width)) % (f.cardinality - 1) + 1 for f in FIELDS]
        columns[3][rng.random((rows, 4)) < 0.3] = 0
        site, ad, hour = (effects[i][columns[i][:, 0]] for i in range(3))
        history = effects[3][columns[3]].mean(axis=1)
        logits = -1 + (site * ad).sum(1) + site[:, 0] + hour[:, 1] + (ad * history).sum(1)
        labels = rng.random(rows) < 1 / (1 + np.exp(-logits))
        ids = np.concatenate(columns, axis=1).astype(np.int32)
        return Part(ids=ids, labels=labels.astype(np.uint8), true_pctr=None, timestamps=None)

    return MemoryLog({"train": part(8_000), "validation": part(2_000)}, FIELDS)
