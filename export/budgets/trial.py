"""One trial: a model, trained or taught -> pruned, quantized, judged and timed, in its own work folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from export.budgets.cost import time_beside
from export.budgets.plan import BudgetPlan
from export.budgets.records import Form
from export.budgets.space import FLOAT, QAT, QUANTIZATION, ROW_BITS, STATIC, Space
from export.budgets.students import Students
from export.budgets.subject import Subject, dense_of, new_work, take_twin, twin_of
from export.data.encoded import Part
from export.graph.runtime import BATCHES, microseconds_a_row, own_rows_scorer
from export.judge.metrics import auc
from export.judge.parity import compare_variants
from export.stages.evaluate import choose_serving, shipped_variants
from export.stages.plan import EmbeddingBits, Ship
from export.stages.prune import prune
from export.stages.quantize import quantize
from export.stages.records import Pruned, Trained
from export.stages.to_onnx import to_onnx
from export.stages.variants import Variant, read_variants
from export.stages.work import Work, silent
from export.trials import Values
from service.bundle.manifest import Latency, Parity

SEARCHED: Final = "a search for a budget, whose limits say what may be lost"


@dataclass(frozen=True)
class Workshop:
    """What all trials of a search share; `base` is the prepared folder of the trained model itself."""

    subject: Subject
    plan: BudgetPlan
    space: Space
    base: Work
    students: Students | None = None

    def attempt(self, values: Values, folder: Path) -> tuple[Form, float]:
        """The form at a point, and the dense graph's microseconds a candidate in the same timing.

        The folder is made anew: it is a work folder, from which `package` can go on. Raises ExportError.
        """
        base, students = self.base, self.students
        if students is not None and (student := students.student(values)) is not None:
            base = students.taught(student, base)
        work = new_work(base, folder)
        choice = replace(self.plan.pruning, dense_twin="skip")
        recipe = self.space.recipe(values)
        pruned = prune(work, choice, recipe=recipe, twin=twin_of(base), say=silent)
        take_twin(work, base)
        to_onnx(work, say=silent)
        # What a trial loses is judged by the limits of the search.
        ship: Ship = "auto" if pruned is None else "pruned"
        end = values.get(QUANTIZATION, STATIC)
        graphs = replace(
            self.plan.graphs,
            ship=ship,
            quantization="qat" if end == QAT else "static",
            embedding_bits=cast(EmbeddingBits, values.get(ROW_BITS, self.plan.graphs.embedding_bits)),
        )
        by = "" if pruned is None else SEARCHED
        quantize(work, graphs, by=by, int8=end != FLOAT, say=silent)
        return self._judged(work, pruned)

    def _judged(self, work: Work, pruned: Pruned | None) -> tuple[Form, float]:
        variants, parts = read_variants(work, self.subject.log.schema), self.subject.log.parts
        dense = dense_of(self.base, self.subject)
        validation, unseen = parts["validation"], parts["calibration"]
        serving = variants[_serving(variants, validation)]
        times = time_beside(serving, dense, validation, self.plan.at_batch)
        logits = serving.score(validation)
        trained = work.read_record("train", Trained)
        units = trained.hyperparameters.get("hidden_units") or ()
        return (
            Form(
                variant=serving.name,
                auc=auc(np.asarray(validation.labels), logits),
                validation=_change(dense, serving.name, validation, logits),
                unseen=_change(dense, serving.name, unseen, serving.score(unseen)),
                bytes=len(serving.graph),
                share=times.variant / times.dense,
                microseconds=times.variant,
                live_neurons=tuple(units) if pruned is None else pruned.live_neurons,
                parameters=trained.parameters if pruned is None else pruned.parameters[1],
            ),
            times.dense,
        )


def _serving(variants: Mapping[str, Variant], part: Part) -> str:
    """The variant that `package` would let serve."""
    ids = np.array(part.ids[: max(BATCHES)])
    names = shipped_variants(variants)
    scorers = {name: own_rows_scorer(variants[name].graph, variants[name].ids(ids)) for name in names}
    timed = microseconds_a_row(scorers, ids)
    latency = tuple(Latency(variant=name, microseconds_a_row=times) for name, times in timed.items())
    return choose_serving(variants, latency)[0]


def _change(dense: Variant, serving: str, part: Part, logits: NDArray[np.float32]) -> Parity:
    """From the dense graph to these logits [n] of the variant that serves."""
    return compare_variants((dense.name, serving), np.asarray(part.labels), (dense.score(part), logits))
