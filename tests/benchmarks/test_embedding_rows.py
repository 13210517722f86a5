"""Product quantization of the benchmark: k-means finds clusters, and rows count codes and centroids."""

from __future__ import annotations

import numpy as np

from benchmarks.embedding_rows import nearest_centroids, with_product_codes
from export.graph.onnx import export_onnx
from export.graph.runtime import run_graph
from models.fields import Field
from tests.export.small_models import make_ids, make_model


def test_rows_of_few_clusters_are_kept_as_they_are() -> None:
    draw = np.random.default_rng(1)
    clusters = draw.normal(size=(4, 3))
    points = clusters[draw.integers(0, 4, 200)]
    found = nearest_centroids(points, 64, np.ones(200))
    np.testing.assert_allclose(found, points, atol=1e-12)


def test_more_codes_come_nearer_and_take_more_bytes() -> None:
    fields = tuple(Field(f"f{number}", 300) for number in range(4))
    graph, ids = export_onnx(make_model("fwfm", fields, dim=6), 4), make_ids(fields, 400)
    before = run_graph(graph, ids)
    few, few_bytes = with_product_codes(graph, ids, 2, 16)
    many, many_bytes = with_product_codes(graph, ids, 3, 256)
    few_error, many_error = (np.abs(run_graph(one, ids) - before).mean() for one in (few, many))
    assert 0.0 < many_error < few_error
    assert few_bytes == 1_200 * 1 + 4 * 16 * 6
    assert many_bytes == 1_200 * 3 + 4 * 256 * 6
