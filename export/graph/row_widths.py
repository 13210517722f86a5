"""Chooses how many bits a table's numbers take, by what narrower rows cost on rows of a log.

What a width costs is measured on the float graph: the rows of one segment are written and read back, and all
else stays. From the change of a row's logit follows the LogLoss that is expected to be added, p (1 - p) / 2
of its square, if the graph's own p is right. So rows count as often as they are seen. Labels would say the
same with far more noise: on most segments they could not tell a loss from a gain. It knows graphs and ids,
and neither fields nor training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.graph.editing import Array, GraphEditor
from export.graph.int8_tables import bytes_a_number
from export.graph.row_codes import WIDTHS, Form, codes_of, decoded, form_of, row_bytes
from export.graph.runtime import open_session
from export.graph.table_lookups import WORTHWHILE_SHARE, Table, columns_of, large_tables
from export.graph.tables import make_input
from service.bundle.log_odds import pctr_of

CLIPS: Final = {4: (1.0, 0.8), 2: (0.8, 0.6, 0.45)}
"""By width, what of a segment's largest number has a code; finer steps may be worth what is cut off.

The others of 0.2 to 1 lost more on every field of two models.
"""

BATCH = 4096
ATTEMPTS = 8


@dataclass(frozen=True)
class SegmentRows:
    """How the rows of one segment are written.

    `columns` are the columns of ids that look it up; empty where ids are changed on the way to it.
    """

    table: str
    columns: tuple[int, ...]
    rows: int
    numbers: int  # a row
    form: Form

    @property
    def bytes(self) -> int:
        """Of all its rows, packed."""
        return self.rows * row_bytes(self.numbers, self.form.bits)


@dataclass(frozen=True)
class _Choice:
    """One width for some segments of a table, which must have the same."""

    table: Table
    segments: tuple[int, ...]
    forms: tuple[Form, ...]
    loss: float = 0.0

    @property
    def bytes(self) -> int:
        rows = sum(_rows(self.table, segment) for segment in self.segments)
        return rows * row_bytes(self.table.columns, self.forms[0].bits)


@dataclass(frozen=True)
class Rows:
    """The rows of all tables, and the LogLoss that is expected to be lost by all of them together."""

    segments: tuple[SegmentRows, ...]
    loss: float

    @property
    def forms(self) -> dict[str, list[Form]]:
        """What `quantize_int8` takes."""
        forms: dict[str, list[Form]] = {}
        for one in self.segments:
            forms.setdefault(one.table, []).append(one.form)
        return forms


def narrow_rows(graph: bytes, ids: NDArray[np.int32], bits: int) -> Rows:
    """The rows of all tables at `bits`, where that takes fewer bytes; measured on ids [n, columns]."""
    return _chosen(graph, ids, (bits,), None)


def mixed_rows(graph: bytes, ids: NDArray[np.int32], loss_share: float) -> Rows:
    """Each segment at the width that saves most bytes for its loss, measured on ids [n, columns].

    Together they lose at most `loss_share` of the LogLoss. The same arguments give the same rows.
    """
    return _chosen(graph, ids, WIDTHS, loss_share)


def _chosen(graph: bytes, ids: NDArray[np.int32], widths: Sequence[int], loss_share: float | None) -> Rows:
    editor = GraphEditor.of_bytes(graph)
    # Beside rows of half a byte a number, tables half as large are worth codes.
    tables = large_tables(editor, WORTHWHILE_SHARE / 2)
    probe = _Probe(editor, tables, ids)
    options = [_options(probe, table, group, widths) for table in tables for group in _groups(table)]
    if loss_share is None:
        chosen = [narrower[-1] for narrower in options]
    else:
        chosen = _within(options, probe, probe.logloss * loss_share)
    loss = probe.loss(chosen)
    return Rows(tuple(row for choice in chosen for row in _told(choice, ids.shape[1])), loss)


class _Probe:
    """The float graph with its tables as inputs, so that their rows can change from run to run."""

    def __init__(self, editor: GraphEditor, tables: Sequence[Table], ids: NDArray[np.int32]) -> None:
        self._name = str(editor.graph.inputs[0].name)
        self._tables = {table.name: np.array(table.values, np.float32) for table in tables}
        for table in tables:
            make_input(editor, table.value)
        self._session = open_session(editor.proto().SerializeToString())
        self._batches = [np.ascontiguousarray(ids[at : at + BATCH]) for at in range(0, len(ids), BATCH)]
        self._logits = self._run()
        pctr = pctr_of(self._logits, 1e-7, 1 - 1e-7)
        self._weight = pctr * (1.0 - pctr) / 2.0
        self.logloss = float(-(pctr * np.log(pctr) + (1.0 - pctr) * np.log1p(-pctr)).mean())

    def loss(self, choices: Sequence[_Choice]) -> float:
        """What is expected to be added to the LogLoss if the rows of these groups are written like that."""
        for choice in choices:
            values = self._tables[choice.table.name]
            for segment, form in zip(choice.segments, choice.forms, strict=True):
                rows = choice.table.rows_of(segment)
                values[rows] = decoded(codes_of(values[rows], form), form)
        logits = self._run()
        for choice in choices:
            for segment in choice.segments:
                rows = choice.table.rows_of(segment)
                self._tables[choice.table.name][rows] = choice.table.values[rows]
        return float((self._weight * np.square(logits - self._logits)).mean())

    def _run(self) -> Array:
        found = [self._session.run(None, {self._name: one, **self._tables})[0] for one in self._batches]
        return np.concatenate(found).astype(np.float64)


def _groups(table: Table) -> Iterator[tuple[int, ...]]:
    """Segments that have the same width."""
    every = range(len(table.starts))
    yield from ((segment,) for segment in every) if table.can_be_divided else [tuple(every)]


def _options(probe: _Probe, table: Table, segments: tuple[int, ...], widths: Sequence[int]) -> list[_Choice]:
    """What the group may become, the widest first; narrower ones only if they take fewer bytes."""
    by_bytes = {row_bytes(table.columns, bits): bits for bits in (*sorted(widths), 8)}  # the widest of equals
    if 8 not in widths and len(by_bytes) > 1:
        del by_bytes[table.columns]
    return [_option(probe, table, segments, bits) for bits in sorted(by_bytes.values(), reverse=True)]


def _option(probe: _Probe, table: Table, segments: tuple[int, ...], bits: int) -> _Choice:
    """The forms of one width; where there are several groups, each with the clip that loses least."""
    if bits == 8:
        whole = bytes_a_number(table)
        return _Choice(table, segments, tuple(whole[segment] for segment in segments))
    largest = [float(np.abs(table.values[table.rows_of(segment)]).max()) for segment in segments]
    found = []
    for clip in CLIPS[bits] if any(largest) else (1.0,):
        choice = _Choice(table, segments, tuple(form_of(one * clip, bits) for one in largest))
        found.append(replace(choice, loss=probe.loss([choice]) if any(largest) else 0.0))
    return min(found, key=lambda one: one.loss)


def _within(options: Sequence[Sequence[_Choice]], probe: _Probe, budget: float) -> list[_Choice]:
    """Groups narrowed until they lose `budget` together, which may be more or less than the sum of each."""
    allowed = budget
    for _ in range(ATTEMPTS):
        chosen = _narrowed(options, allowed)
        together = probe.loss(chosen)
        if together <= budget:
            return chosen
        allowed *= budget / together
    return [widths[0] for widths in options]


def _narrowed(options: Sequence[Sequence[_Choice]], allowed: float) -> list[_Choice]:
    """Narrows the group that saves most bytes a loss, again and again, while the sum is within `allowed`."""
    taken, left = [0] * len(options), allowed
    while True:
        steps = []
        for group, widths in enumerate(options):
            now = widths[taken[group]]
            for number, narrower in enumerate(widths[taken[group] + 1 :], taken[group] + 1):
                cost = narrower.loss - now.loss
                if cost <= left:
                    steps.append((cost / (now.bytes - narrower.bytes), group, number, cost))
        if not steps:
            return [widths[number] for widths, number in zip(options, taken, strict=True)]
        _, group, number, cost = min(steps)
        taken[group], left = number, left - cost


def _told(choice: _Choice, columns: int) -> Iterator[SegmentRows]:
    by_segment = columns_of(choice.table, columns)
    for segment, form in zip(choice.segments, choice.forms, strict=True):
        yield SegmentRows(
            table=choice.table.name,
            columns=by_segment.get(segment, ()),
            rows=_rows(choice.table, segment),
            numbers=choice.table.columns,
            form=form,
        )


def _rows(table: Table, segment: int) -> int:
    rows = table.rows_of(segment)
    return int(rows.stop - rows.start)
