"""The graphs of one export by variant, and their scores for rows of the encoded log.

A compacted graph takes other ids than the log holds; the renumbering between them is applied here. This
module does not know how a graph is made or how good its logits are.
"""

from __future__ import annotations

import hashlib
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.errors import ExportError
from export.graph.runtime import run_graph
from export.stages.plan import ZeroRows
from export.stages.records import GraphFile, Graphs
from export.stages.work import Say, Work
from service.bundle.calibration import Calibrator
from service.bundle.encodings import FIRST_ID, OOV_ID, Vocabulary
from service.bundle.schema import Schema

DENSE, PRUNED, INT8, DYNAMIC = "float32", "pruned", "int8", "dynamic"
VARIANTS = (DENSE, PRUNED, INT8, DYNAMIC)
BY_BATCH = "finds ranges in each batch, so a row's pCTR depends on the other rows of its batch"
"""Why DYNAMIC never serves by itself."""
CHUNK_ROWS = 131_072
# Rows of the validation part that a new graph is checked on, for its logits and for batch invariance.
CHECKED_ROWS, INVARIANCE_ROWS = 4096, 1024

Renumberings = Mapping[str, NDArray[np.int32]]


def graph_name(variant: str) -> str:
    """The file of a variant's graph, in the work folder and in the bundle."""
    return f"model.{variant}.onnx"


@dataclass(frozen=True, eq=False)
class Variant:
    """A graph, and the renumbering from the log's ids to its own; `refused` says why it must not serve."""

    name: str
    graph: bytes
    schema: Schema  # the log's
    renumberings: Renumberings = field(default_factory=dict)
    refused: str = ""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.graph).hexdigest()

    @cached_property
    def own_schema(self) -> Schema:
        """The schema of the graph's ids."""
        return schema_of(self.schema, self.renumberings)

    def ids(self, log_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The graph's ids [n, columns] of the log's ids [n, columns]."""
        return renumber(log_ids, self.schema, self.renumberings)

    def ids_of(self, part: Part, name: str) -> NDArray[np.int32]:
        """The graph's ids [n] of one field, which has one a row."""
        ids = np.array(part.ids[:, self.schema.column_slices[name].start], np.int32)
        return self.renumberings[name][ids] if name in self.renumberings else ids

    def segments(self, part: Part, calibrator: Calibrator) -> NDArray[np.int32] | None:
        """The ids [n] by which the calibrator has offsets, None where it has none."""
        field = calibrator.segment_field
        return None if field is None else self.ids_of(part, field)

    def score(self, part: Part) -> NDArray[np.float32]:
        """Logits [n] of all rows of a part, read in chunks."""
        starts = range(0, len(part), CHUNK_ROWS)
        chunks = (part.ids[start : start + CHUNK_ROWS] for start in starts)
        logits = [run_graph(self.graph, self.ids(ids)) for ids in chunks]
        return np.concatenate(logits) if logits else np.empty(0, np.float32)


def renumber(ids: NDArray[np.int32], schema: Schema, renumberings: Renumberings) -> NDArray[np.int32]:
    """ids [n, columns] of `schema` -> those of `schema_of`."""
    result = np.array(ids, dtype=np.int32)
    for name, new_ids in renumberings.items():
        columns = schema.column_slices[name]
        result[:, columns] = new_ids[result[:, columns]]
    return result


def forget_zero_rows(renumberings: Renumberings, schema: Schema) -> Renumberings:
    """The same renumberings with the values of merged rows unknown, where the encoding can do without them.

    The first value that has a merged row keeps it: without that one, ids would have a gap, which a vocabulary
    cannot have.
    """
    found = {}
    for name, new_ids in renumberings.items():
        seen, first = np.unique(new_ids, return_index=True)
        # Only then a vocabulary of those values gives their ids.
        is_in_order = bool((np.diff(first) > 0).all()) and len(seen) == seen[-1] + 1
        can_go = is_in_order and isinstance(schema.field(name).encoding, Vocabulary)
        without = np.full_like(new_ids, OOV_ID)
        without[first] = new_ids[first]
        found[name] = without if can_go else new_ids
    return found


def schema_of(schema: Schema, renumberings: Renumberings) -> Schema:
    """The schema of renumbered ids; values that are unknown by them are in no vocabulary."""
    owners = {one.name: one.same_values_as or one.name for one in schema.fields}
    known: dict[str, Vocabulary] = {}
    for name, new_ids in renumberings.items():
        encoding = schema.field(name).encoding
        if owners[name] == name and isinstance(encoding, Vocabulary) and OOV_ID in new_ids[FIRST_ID:]:
            kept = new_ids[FIRST_ID:] != OOV_ID
            known[name] = Vocabulary(tuple(itertools.compress(encoding.values, kept)))
    fields = tuple(
        replace(one, encoding=known[owners[one.name]]) if owners[one.name] in known else one
        for one in schema.fields
    )
    others = {name: new_ids for name, new_ids in renumberings.items() if owners[name] not in known}
    return replace(schema, fields=fields).renumbered(others)


def write_graph(work: Work, variant: Variant, difference: float, say: Say) -> GraphFile:
    """Writes a variant's graph; `difference` is its largest |logit| difference from what it was made of."""
    work.write(graph_name(variant.name), variant.graph)
    say(f"wrote {graph_name(variant.name)}: {len(variant.graph):,} bytes, logits within {difference:.2g}")
    return GraphFile(size=len(variant.graph), sha256=variant.sha256, max_abs_logit=difference)


def read_float_variants(work: Work, schema: Schema, zero_rows: ZeroRows) -> dict[str, Variant]:
    """The dense and the pruned graph, whatever an earlier run of the stage quantize made of them."""
    return _read(work, schema, (DENSE, PRUNED), zero_rows, {})


def read_variants(work: Work, schema: Schema) -> dict[str, Variant]:
    """The graphs in the work folder, in the order dense, pruned, INT8, dynamic INT8.

    INT8 takes the ids of the float graph that it is made of: the pruned one unless that is refused. Raises
    ExportError for a graph that is missing, or differs from the one that its stage wrote.
    """
    record = work.read_record("quantize", Graphs) if work.has("quantize.json") else Graphs({})
    return _read(work, schema, VARIANTS, record.zero_rows, record.refused)


def _read(
    work: Work, schema: Schema, names: Sequence[str], zero_rows: ZeroRows, refused: Mapping[str, str]
) -> dict[str, Variant]:
    renumberings = read_renumberings(work, schema)
    if zero_rows == "forget":
        renumberings = forget_zero_rows(renumberings, schema)
    found = {}
    for name in names:
        if name == DENSE or work.has(graph_name(name)):
            graph = work.path(graph_name(name)).read_bytes()
            is_dense = name == DENSE or (name in (INT8, DYNAMIC) and PRUNED in refused)
            own = {} if is_dense else renumberings
            found[name] = Variant(name, graph, schema, own, refused.get(name, ""))
            _check_graph(work, found[name])
    return found


def float_variant(variants: Mapping[str, Variant]) -> str:
    """The float graph that ships, and that INT8 is made of: the pruned one unless it is refused."""
    return PRUNED if PRUNED in variants and not variants[PRUNED].refused else DENSE


def _check_graph(work: Work, variant: Variant) -> None:
    stage = "quantize" if variant.name in (INT8, DYNAMIC) else "to-onnx"
    written = work.read_record(stage, Graphs).graphs.get(variant.name)
    if written is None or written.sha256 != variant.sha256:
        raise ExportError(
            f"'{graph_name(variant.name)}' in {work.folder} must be what the stage {stage} wrote there "
            f"(got another file of {len(variant.graph)} bytes); run that stage again"
        )


def read_renumberings(work: Work, schema: Schema) -> Renumberings:
    """The compacted model's id for each id of the log, by field; empty where nothing was pruned."""
    if not work.has("renumberings.npz"):
        return {}
    path = work.path("renumberings.npz")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {schema.fields[int(position)].name: arrays[position] for position in arrays.files}
    except (ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"'{path}' must hold the ids of the pruned model (got: {error}); run prune again"
        ) from None


def write_renumberings(work: Work, schema: Schema, renumberings: Renumberings) -> None:
    """Keys are positions of fields, since a field's name may not be a valid file name in the archive."""
    positions = {field.name: str(position) for position, field in enumerate(schema.fields)}
    with work.writing("renumberings.npz") as incoming, incoming.open("wb") as file:
        np.savez(file, **{positions[name]: ids for name, ids in renumberings.items()})  # type: ignore[arg-type]
