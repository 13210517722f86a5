"""An encoded log as libraries without embeddings read it: one-hot rows, and a number a field for trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from export.data.encoded import EncodedLog
from service.bundle.schema import MISSING_ID, Kind

FOLDS = 5
PRIOR_ROWS = 20.0  # rows at the mean click rate that an element's click rate begins with

Ids = NDArray[np.int32]
Floats = NDArray[np.float64]


def one_hot(log: EncodedLog, part: str) -> Any:
    """A sparse matrix [n, ids of all fields] of ones; an element of a sequence of k has 1 / k.

    That is what the models' mean pooling reads; a sequence without elements has nothing.
    """
    ids = np.asarray(log.parts[part].ids)
    values, offsets, width = np.ones(ids.shape), np.empty(ids.shape[1], np.int64), 0
    for field in log.schema.fields:
        columns = log.schema.column_slices[field.name]
        offsets[columns] = width
        width += field.cardinality
        if field.kind is Kind.SEQUENCE:
            values[:, columns] = _shares(ids[:, columns])
    ends = np.arange(len(ids) + 1) * ids.shape[1]
    return csr_matrix((values.ravel(), (ids + offsets).ravel(), ends), shape=(len(ids), width))


def _shares(ids: Ids) -> Floats:
    """The weight of each position of sequences [n, width]: 1 / elements, and 0 where there is none."""
    is_element = ids != MISSING_ID
    shares: Floats = is_element / np.maximum(1, is_element.sum(axis=1, keepdims=True))
    return shares


def tree_columns(log: EncodedLog) -> tuple[dict[str, Floats], list[int]]:
    """For each part a number a field [n, fields], and the positions of those that are categories.

    A categorical field is its id, a numeric one the number of its bin, which has its order, and a sequence
    the mean click rate of its elements; that of a training row leaves the row's own fold out.
    """
    labels = np.asarray(log.parts["train"].labels, np.float64)
    columns: dict[str, list[Floats]] = {name: [] for name in ("train", "validation", "test")}
    categories = []
    for position, field in enumerate(log.schema.fields):
        where = log.schema.column_slices[field.name]
        ids = {name: np.asarray(log.parts[name].ids[:, where]) for name in columns}
        if field.kind is Kind.CATEGORICAL:
            categories.append(position)
        rates = _element_rates(ids, labels, field.cardinality) if field.kind is Kind.SEQUENCE else None
        for name, one in ids.items():
            columns[name].append(one[:, 0].astype(np.float64) if rates is None else rates[name])
    return {name: np.stack(found, axis=1) for name, found in columns.items()}, categories


def _element_rates(ids: dict[str, Ids], labels: Floats, cardinality: int) -> dict[str, Floats]:
    """By part the mean click rate [n] of the elements of each sequence [n, width]."""
    folds = np.arange(len(labels)) % FOLDS
    rates = np.empty(len(labels))
    for fold in range(FOLDS):
        own, others = folds == fold, folds != fold
        rates[own] = _mean_rate(ids["train"][own], ids["train"][others], labels[others], cardinality)
    found = {name: _mean_rate(one, ids["train"], labels, cardinality) for name, one in ids.items()}
    return {**found, "train": rates}


def _mean_rate(ids: Ids, of: Ids, labels: Floats, cardinality: int) -> Floats:
    """ids [n, width] -> the mean over elements of their click rates in the rows `of` with `labels`, or 0."""
    width = of.shape[1]
    rows = np.bincount(of.ravel(), minlength=cardinality)
    clicks = np.bincount(of.ravel(), weights=np.repeat(labels, width), minlength=cardinality)
    rate = (clicks + PRIOR_ROWS * labels.mean()) / (rows + PRIOR_ROWS)
    mean: Floats = (rate[ids] * _shares(ids)).sum(axis=1)
    return mean
