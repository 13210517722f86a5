"""Running and timing graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.graph.runtime import BATCHES, graph_scorer, microseconds_a_row, run_graph, torch_scorer


@pytest.mark.parametrize("batch_size", [1, 7, 100, 5000])
def test_batch_size_changes_nothing(exported, batch_size):
    ids = exported.ids[:100]
    np.testing.assert_array_equal(run_graph(exported.int8, ids, batch_size), run_graph(exported.int8, ids))


def test_no_rows_give_no_logits(exported):
    logits = run_graph(exported.float32, exported.ids[:0])
    assert (logits.shape, logits.dtype) == ((0,), np.float32)


def test_ids_may_lie_scattered_in_memory(exported):
    scattered = np.asfortranarray(exported.ids)[::2]
    np.testing.assert_array_equal(
        run_graph(exported.int8, scattered), run_graph(exported.int8, exported.ids)[::2]
    )


def test_every_candidate_is_timed_at_every_batch(exported):
    threads = torch.get_num_threads()
    seen: list[tuple[str, int]] = []
    candidates = {
        "torch": torch_scorer(exported.model),
        "int8": graph_scorer(exported.int8),
        "count": lambda ids: seen.append((ids.dtype.name, len(ids))),
    }
    figures = microseconds_a_row(candidates, exported.ids[:10], rounds=2, burst_seconds=0.0)
    assert list(figures) == list(candidates)
    assert all(list(by_batch) == [str(rows) for rows in BATCHES] for by_batch in figures.values())
    assert all(value > 0 for value in figures["torch"].values())
    assert set(seen) == {("int32", rows) for rows in BATCHES}
    assert torch.get_num_threads() == threads
