"""The graphs of one variant at work: rows of requests -> logits; it knows no request, pCTR or queue.

There may be two graphs of the same function. The plain one takes whole rows and has the fewest nodes. The
one with a shared context computes once what the candidates of a request have in common. The number of its
own candidates decides which graph scores a request: its logits must be the same bits in any batch.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import BundleError
from service.bundle.manifest import Graph, SharedContext
from service.bundle.schema import Role
from service.bundle.store import Bundle
from service.scoring.rows import BatchRows, Ids
from service.scoring.session import Session

Logits = NDArray[np.float32]
Description = TypeVar("Description", Graph, SharedContext)
MAX_REQUESTS_WARMED = 32
FIRST = np.zeros(1, np.int32)
"""The index of one request for all of its rows."""
FIRST.flags.writeable = False


class Graphs:
    """The sessions of a variant, which share its tables in memory. Raises as `Session` does.

    Without `shares_context` the plain graph scores all requests.
    """

    def __init__(self, bundle: Bundle, variant: str, device: str, *, shares_context: bool = True) -> None:
        self._encoder, self._schema = bundle.encoder, bundle.schema
        graph = bundle.manifest.graphs[variant]
        tables = bundle.tables(variant)
        self._plain = Session(bundle.graphs[variant], _located(graph, bundle), device, tables)
        self._check_columns(graph, bundle)
        self._shared: Session | None = None
        self._from_candidates = 0
        if graph.shared_context is not None and shares_context:
            shared = _located(graph.shared_context, bundle)
            self._shared = Session(bundle.shared_graphs[variant], shared, device, tables)
            self._from_candidates = graph.shared_context.from_candidates
        self.provider = self._plain.provider

    @property
    def has_shared_context(self) -> bool:
        """Whether large requests have a graph of their own."""
        return self._shared is not None

    def is_large(self, candidates: int) -> bool:
        """Whether the graph with a shared context scores a request with so many candidates."""
        return self._shared is not None and candidates >= self._from_candidates

    def run(self, batch: BatchRows) -> Logits:
        """Logits [rows]."""
        shared = self._shared
        if shared is None or True not in batch.is_large:
            return self._run_plain(batch)
        if False not in batch.is_large:
            return shared.run(*shared_inputs(shared, batch))
        is_large = np.array(batch.is_large)
        is_of_large = is_large.repeat(batch.sizes)
        logits = np.empty(len(is_of_large), np.float32)
        logits[is_of_large] = shared.run(*shared_inputs(shared, batch.select(is_large)))
        logits[~is_of_large] = self._run_plain(batch.select(~is_large))
        return logits

    def warm_up(self, max_rows: int) -> None:
        """Run batches of every size class, so that no request pays for one-time work; raises BundleError.

        The rows hold the largest id of every column, which a table that is too short does not have.
        """
        largest = {
            role: np.array(
                [
                    field.cardinality - 1
                    for field in self._schema.fields
                    for _ in range(field.max_length)
                    if field.role is role
                ],
                np.int32,
            )
            for role in Role
        }
        sizes = sorted({*(1 << power for power in range(max_rows.bit_length())), max_rows})
        for rows in sizes:
            candidates = np.tile(largest[Role.CANDIDATE], (rows, 1))
            contexts = np.tile(largest[Role.CONTEXT], (min(rows, MAX_REQUESTS_WARMED), 1))
            self._plain.try_run(self._encoder.join(contexts[:1], candidates), rows=rows)
            if self._shared is not None:
                index = np.arange(rows, dtype=np.int32) % len(contexts)
                self._shared.try_run(contexts, candidates, np.sort(index), rows=rows)
                if self._shared.takes_one_index:
                    self._shared.try_run(contexts[:1], candidates, FIRST, rows=rows)

    def _run_plain(self, batch: BatchRows) -> Logits:
        return self._plain.run(self._encoder.join(batch.contexts_by_row(), batch.candidates))

    def _check_columns(self, graph: Graph, bundle: Bundle) -> None:
        if graph.inputs[0].shape[1:] != (bundle.schema.columns,):
            raise BundleError(
                f"{bundle.folder}/{graph.file}",
                f"a graph of {bundle.schema.columns} columns, as schema.json has",
                str(graph.inputs[0].shape[1:]),
                "build the bundle again",
            )


def shared_inputs(session: Session, batch: BatchRows) -> tuple[Ids, Ids, Ids]:
    """The contexts, candidates and request index of a batch, for a graph with a shared context.

    Of one request the graph may take one index: nothing is gathered to the rows then, but broadcast.
    """
    is_one = len(batch.sizes) == 1 and session.takes_one_index
    return batch.contexts, batch.candidates, FIRST if is_one else batch.request_index


def _located(description: Description, bundle: Bundle) -> Description:
    """The description with the path of its file, for errors: there may be several bundles."""
    return msgspec.structs.replace(description, file=f"{bundle.folder}/{description.file}")
