"""The stage quantize: chooses the float graph that ships, and makes the INT8 graph of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import EncodedLog, Part, open_log
from export.data.samples import sample_positions
from export.errors import ExportError
from export.graph.quantize import quantize_dynamic, quantize_int8
from export.graph.runtime import run_graph
from export.graph.unrounded import Unrounded
from export.judge.parity import check_batch_invariance
from export.report.changes import step_line
from export.stages.float_layers import choose_int8, judged_rows
from export.stages.ladder import Ladder
from export.stages.plan import GraphPlan, QatChoice, Ship
from export.stages.qat import train_int8
from export.stages.records import GraphFile, Graphs, QatRecord
from export.stages.row_bits import CHOSEN_ON_ROWS, choose_row_bits, told_by_field
from export.stages.variants import (
    BY_BATCH,
    CHECKED_ROWS,
    DENSE,
    DYNAMIC,
    INT8,
    INVARIANCE_ROWS,
    PRUNED,
    Variant,
    float_variant,
    graph_name,
    read_float_variants,
    write_graph,
)
from export.stages.work import Say, Work
from service.bundle.manifest import EmbeddingRows, FloatLayers, Parity

DEFAULT_PLAN = GraphPlan()
ONLY_BY_NAME = f"{BY_BATCH}: it serves only where a service asks for it with --variant {DYNAMIC}"
PRUNE_LESS = (
    "prune less, with a milder --preset, not at all, with --preset none, or serve it all the same, with "
    "--ship pruned"
)


@dataclass(frozen=True)
class _Int8s:
    """The INT8 graphs that were made, by variant, and what is told of them."""

    graphs: dict[str, GraphFile] = field(default_factory=dict)
    trained: QatRecord | None = None
    rows: EmbeddingRows | None = None
    float_layers: FloatLayers | None = None


def quantize(
    work: Work, plan: GraphPlan = DEFAULT_PLAN, *, by: str = "", int8: bool = True, say: Say = print
) -> Graphs:
    """The float graph that ships -> the INT8 ones.

    What may serve is decided here, on the validation part (`export.stages.ladder`); `plan.ship` chooses the
    float graph whatever that says, `by` an option or what is named. Without `int8` none is made. A graph with
    nothing to quantize gives a record without graphs, and the float graph serves. Raises ExportError for a
    pruned graph that is to ship and is not there.
    """
    log = open_log(work.path("log"))
    variants = read_float_variants(work, log.schema, plan.zero_rows)
    if plan.ship == "pruned" and PRUNED not in variants:
        raise ExportError(
            "'ship' must be auto or dense where nothing was pruned (got 'pruned'); "
            "prune with a --preset first"
        )
    if plan.zero_rows != GraphPlan.zero_rows and PRUNED not in variants:
        say(f"warning: nothing was pruned, so --zero-rows {plan.zero_rows} changes nothing")
    work.start("quantize")
    climb = _Climb(Ladder(log.parts["validation"]), by or f"--ship {plan.ship}", say)
    source = _choose_float(variants, climb, plan.ship)
    if int8:
        made = _make_int8(work, plan, source, variants[DENSE], log, climb)
    else:
        made = _Int8s()
        say(f"{graph_name(source.name)} serves as it is, as chosen")
    record = Graphs(
        made.graphs,
        climb.refused,
        plan.ship,
        tuple(climb.steps),
        tuple(climb.losses),
        by=by,
        quantization=plan.quantization,
        qat=made.trained,
        embedding=made.rows,
        float_layers=made.float_layers,
        zero_rows=plan.zero_rows,
    )
    work.record("quantize", record)
    return record


def _make_int8(
    work: Work, plan: GraphPlan, source: Variant, dense: Variant, log: EncodedLog, climb: _Climb
) -> _Int8s:
    """The INT8 graphs of the float graph that ships, with ranges found on rows spread over training.

    Bits of its embedding rows, and layers that stay float32, are chosen on rows spread over the validation
    part (`export.stages.row_bits`, `export.stages.float_layers`).
    """
    say, graphs = climb.say, dict[str, GraphFile]()
    validation = source.ids(spread_rows(log.parts["validation"], CHOSEN_ON_ROWS))
    train = source.ids(spread_rows(log.parts["train"], plan.quantization_rows))
    narrower = choose_row_bits(source.graph, validation, plan.embedding_bits, plan.embedding_loss)
    forms = None if narrower is None else narrower.forms
    judged = judged_rows(log)
    chosen = choose_int8(
        source.graph,
        lambda kept: quantize_int8(source.graph, train, forms, kept=kept),
        replace(judged, ids=source.ids(judged.ids)),
        plan.layer_loss,
        say,
    )
    if chosen.graph is None:
        say(
            f"nothing to quantize in {graph_name(source.name)}, which has neither tables nor layers: "
            "it serves as it is"
        )
        return _Int8s()
    told = None if narrower is None else told_by_field(narrower, plan.embedding_bits, log.schema, say)
    variant, trained = replace(source, name=INT8, graph=chosen.graph), None
    if plan.quantization == "qat":
        unrounded = Unrounded()
        quantize_int8(source.graph, train, forms, unrounded, chosen.kept)
        variant, trained = _trained_on(work, variant, unrounded, plan.qat, log, say)
    graphs[INT8] = write_graph(work, variant, _check(variant, source, log), say)
    _judge_int8(variant, source, dense, climb)
    if plan.quantization == "dynamic":
        by_batch = quantize_dynamic(source.graph, train, forms, chosen.kept)
        _add_dynamic(work, source, by_batch, graphs, climb, log)
    return _Int8s(graphs, trained, told, chosen.told)


def _trained_on(
    work: Work, static: Variant, unrounded: Unrounded, choice: QatChoice, log: EncodedLog, say: Say
) -> tuple[Variant, QatRecord | None]:
    """The better of a static INT8 graph and itself trained on; the static one where that cannot be done.

    Hours of training are not lost for the sake of what INT8 may gain.
    """
    try:
        found, record = train_int8(work, static, unrounded, choice, log, say)
    except ExportError as error:
        say(f"warning: the INT8 graph cannot be trained on, and stays static: {error}")
        return static, None
    return (found if record.better else static), record


def _add_dynamic(
    work: Work,
    source: Variant,
    graph: bytes | None,
    graphs: dict[str, GraphFile],
    climb: _Climb,
    log: EncodedLog,
) -> None:
    """Writes the graph that finds ranges in each batch, which serves by its name alone, and says so.

    None where no layer would depend on a batch.
    """
    if graph is None:
        climb.say(
            f"no layer of {graph_name(source.name)} has a range to find in a batch: there is no dynamic graph"
        )
        return
    variant = replace(source, name=DYNAMIC, graph=graph)
    graphs[DYNAMIC] = write_graph(work, variant, _check(variant, source, log), climb.say)
    climb.step(source, variant)
    climb.refused[DYNAMIC] = ONLY_BY_NAME
    climb.say(f"warning: {DYNAMIC} {ONLY_BY_NAME}")


@dataclass
class _Climb:
    """The steps taken so far, and what came of them; see `Graphs`."""

    ladder: Ladder
    by: str  # what chose the float graph that ships
    say: Say
    steps: list[Parity] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)

    def step(self, reference: Variant, variant: Variant) -> str:
        """Why the variant must not serve in place of the reference; empty if it may."""
        step = self.ladder.step(reference, variant)
        self.steps.append(step.change)
        self.say(f"on the validation part {step_line(step.change)}")
        return step.loss


def _choose_float(variants: Mapping[str, Variant], climb: _Climb, ship: Ship) -> Variant:
    """The pruned graph, unless it is worse or not wanted; else the dense one."""
    if PRUNED in variants:
        loss = climb.step(variants[DENSE], variants[PRUNED])
        if ship == "dense":
            climb.refused[PRUNED] = f"is left out by {climb.by}"
        elif loss and ship == "pruned":
            climb.losses.append(f"{PRUNED} {loss}; it ships all the same, by {climb.by}")
            climb.say(f"warning: {climb.losses[-1]}")
        elif loss:
            climb.refused[PRUNED] = f"{loss}; {PRUNE_LESS}"
            climb.say(f"warning: {PRUNED} {climb.refused[PRUNED]}; {DENSE} ships in its place")
    # An earlier run of this stage may have refused another one.
    judged = {name: replace(one, refused=climb.refused.get(name, "")) for name, one in variants.items()}
    return judged[float_variant(judged)]


def _judge_int8(variant: Variant, source: Variant, dense: Variant, climb: _Climb) -> None:
    """INT8 has to match its float graph, and the dense one, unless a loss against that is wanted."""
    references = [source] if source.name == DENSE or climb.losses else [source, dense]
    losses = [loss for reference in references if (loss := climb.step(reference, variant))]
    if losses:
        climb.refused[INT8] = losses[0]
        climb.say(f"warning: {INT8} {losses[0]}; {source.name} serves in its place")


def _check(variant: Variant, source: Variant, log: EncodedLog) -> float:
    """The largest |logit| difference between an INT8 graph and its float graph.

    Raises ExportError for a row that depends on its batch, as it may only in the dynamic one.
    """
    ids = variant.ids(np.array(log.parts["validation"].ids[:CHECKED_ROWS]))
    if variant.name != DYNAMIC:
        check_batch_invariance(variant.graph, ids[:INVARIANCE_ROWS])
    return float(np.abs(run_graph(variant.graph, ids) - run_graph(source.graph, ids)).max())


def spread_rows(part: Part, rows: int) -> NDArray[np.int32]:
    """At most `rows` rows from the first to the last, at even distances."""
    return np.array(part.ids[sample_positions(len(part), rows)])
