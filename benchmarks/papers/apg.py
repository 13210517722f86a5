"""The rows of APG's Tables 2, 4, 5, 6, 8 and 9, as data.

Reference: Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction", NeurIPS
2022. Embeddings have 32 numbers, hidden layers 256, 128 and 64 units (appendix B.3). The paper tells users,
items and context apart; which fields of a log they are is settled when the log is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.papers.cells import CONTEXT, FEW, ITEM, USER, Build, Cell, Figures, Paper, Table

MOVIELENS, AMAZON, IAAC = LOGS = ("MovieLens", "Amazon", "IAAC")
SHAPE = {"dim": 32, "hidden_units": [256, 128, 64]}
BASE, APG_ROW = "Base", "self-wise"

# Table 2: AUC in % on MovieLens, Amazon, IAAC: base, then with APG.
TABLE_2 = """
    WDL      wide_deep  79.21 79.73  69.15 69.43  65.17 65.94
    PNN      pnn        79.5  79.67  69.16 69.37  65.3  65.87
    FIBINET  fibinet    79.78 79.82  68.88 69.19  65.15 66.15
    DIFM     difm       79.84 79.94  69.17 69.23  65.76 66.42
    DeepFM   deepfm     79.3  79.60  69.1  69.43  65.64 66.17
    DCN      dcn        79.29 79.62  68.98 69.42  64.78 66.39
    AutoInt  autoint    79.36 79.64  68.96 69.38  64.99 66.21"""
BASE_AUC = (79.21, 69.15, 65.17)

# Table 4: WDL by version.
DEFAULT_VERSION = "v5"  # of the models, so that its row is that of Table 8's self-wise
VERSIONS = {
    "v1": (79.51, 69.33, 65.52),
    "v2": (79.49, 69.24, 65.61),
    "v4": (79.61, 69.36, 65.78),
    "v5": (79.73, 69.43, 65.94),
}

# Table 6: AUC in % and megabytes of the hidden layers, by log.
TABLE_6: dict[str, tuple[str, dict[str, Any], tuple[tuple[float, float], ...]]] = {
    BASE: ("wide_deep", {}, ((79.21, 1.29), (69.15, 1.51), (65.17, 1.93))),
    "MMoE, fine": ("mmoe", {"domain": ITEM}, ((79.31, 123.42), (69.17, 315.93), (65.22, 332.97))),
    "MMoE, coarse": ("mmoe", {"domain": FEW}, ((79.28, 32.91), (69.14, 5.78), (65.20, 70.53))),
    "Star, fine": ("star", {"domain": ITEM}, ((79.28, 3784.23), (69.20, 11034.02), (65.36, 13753.71))),
    "Star, coarse": ("star", {"domain": FEW}, ((79.25, 311.56), (69.20, 42.84), (65.28, 2866.88))),
    "APG, fine": ("apg", {"condition_fields": [ITEM]}, ((79.58, 0.24), (69.35, 0.26), (65.76, 0.38))),
    "APG, coarse": ("apg", {"condition_fields": [FEW]}, ((79.46, 0.24), (69.30, 0.26), (65.59, 0.38))),
}

# Table 8: by what the weights are generated from.
CONDITIONS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "group-wise, user": ({"condition_fields": [USER]}, (79.61, 69.28, 65.80)),
    "group-wise, item": ({"condition_fields": [ITEM]}, (79.58, 69.35, 65.76)),
    "mix-wise": ({"condition_fields": [USER, ITEM, CONTEXT]}, (79.45, 69.31, 65.90)),
    APG_ROW: ({}, (79.73, 69.43, 65.94)),
}

# Table 9: by how the conditions of mix-wise become one.
AGGREGATIONS = {
    ("input", "mean"): (79.33, 69.28, 65.44),
    ("input", "concatenation"): (79.38, 69.36, 65.73),
    ("input", "attention"): (79.45, 69.31, 65.90),
    ("output", "mean"): (79.30, 69.34, 65.44),
    ("output", "concatenation"): (79.33, 69.36, 65.57),
    ("output", "attention"): (79.41, 69.25, 65.70),
}


def _figures(percents: Sequence[float]) -> dict[str, Figures]:
    return {log: Figures(auc=round(value / 100, 6)) for log, value in zip(LOGS, percents, strict=True)}


def _model(name: str, **other: Any) -> Build:
    return Build(model=name, hyperparameters=SHAPE | other)


def _wdl(**other: Any) -> Build:
    return _model("apg_wide_deep", **other)


def _base() -> Cell:
    return Cell(row=BASE, builds=(_model("wide_deep"),), paper=_figures(BASE_AUC))


def _table_2() -> tuple[Cell, ...]:
    found = []
    for line in TABLE_2.strip().splitlines():
        row, model, *figures = line.split()
        numbers = [float(figure) for figure in figures]
        base, adaptive = numbers[::2], numbers[1::2]
        found.append(Cell(row=row, builds=(_model(model),), paper=_figures(base)))
        apg = _model(f"apg_{model}")
        found.append(Cell(row=f"{row} + APG", builds=(apg,), paper=_figures(adaptive), against=row))
    return tuple(found)


def _table_4() -> tuple[Cell, ...]:
    found = [_base()]
    for version, aucs in VERSIONS.items():
        grouped = {"condition_fields": [ITEM]} if version == "v1" else {}
        note = (
            "group-wise by the item: self-wise it would generate as many weights as the square"
            if grouped
            else ""
        )
        named = {} if version == DEFAULT_VERSION else {"version": version}
        build = _wdl(**named, **grouped)
        found.append(Cell(row=version, builds=(build,), paper=_figures(aucs), against=BASE, note=note))
    return tuple(found)


def _table_6() -> tuple[Cell, ...]:
    found = []
    for row, (model, other, figures) in TABLE_6.items():
        name = "apg_wide_deep" if model == "apg" else model
        shape = SHAPE | ({"hidden_units": [256, 128], "tower_units": [64]} if model == "mmoe" else {})
        paper = {
            log: Figures(auc=round(auc / 100, 6), layer_megabytes=megabytes)
            for log, (auc, megabytes) in zip(LOGS, figures, strict=True)
        }
        build = Build(model=name, hyperparameters=shape | other)
        found.append(Cell(row=row, builds=(build,), paper=paper, against="" if row == BASE else BASE))
    return tuple(found)


def _table_8() -> tuple[Cell, ...]:
    return (
        _base(),
        *(
            Cell(row=row, builds=(_wdl(**other),), paper=_figures(aucs), against=BASE)
            for row, (other, aucs) in CONDITIONS.items()
        ),
    )


def _table_9() -> tuple[Cell, ...]:
    found = [_base()]
    for (stage, aggregation), aucs in AGGREGATIONS.items():
        build = _wdl(condition_fields=[USER, ITEM, CONTEXT], aggregation=aggregation, aggregate_at=stage)
        found.append(Cell(row=f"{stage}: {aggregation}", builds=(build,), paper=_figures(aucs), against=BASE))
    return tuple(found)


FIELDS_DIFFER = (
    "which fields are user, item, context and the coarse one is guessed from roles and ids, or given"
)
STEPS_DIFFER = (
    "the paper's are seconds an epoch on a V100S; here milliseconds of one thread for 1,024 rows, of the "
    "hidden layers alone"
)

PAPER = Paper(
    name="apg",
    title="APG (NeurIPS 2022)",
    logs={MOVIELENS: ("movielens", "ml1m", "ml-1m"), AMAZON: ("amazon",), IAAC: ("iaac",)},
    training={"batch_size": 1024, "learning_rate": 5e-3, "schedule": "constant"},
    differs=(
        "the paper splits at random (80/10/10); here parts follow each other",
        "the paper searches K in 2 to 8 and P in 32 to 512; here they are 8 and 64",
    ),
    steps=("5",),
    tables=(
        Table(name="2", title="Models with and without APG", where="section 4.2", cells=_table_2()),
        Table(
            name="4",
            title="Versions of APG on Wide & Deep",
            where="section 4.3",
            cells=_table_4(),
            differs=("v3 computes what v2 computes, in another order, and is left out, as in the paper",),
        ),
        Table(
            name="5",
            title="Time and memory of a training step, by version and widths",
            where="section 4.4",
            cells=(),
            differs=(STEPS_DIFFER,),
        ),
        Table(
            name="6",
            title="Coarse-grained allocation of parameters",
            where="section 4.5",
            cells=_table_6(),
            differs=(
                FIELDS_DIFFER,
                "megabytes: 12 bytes a parameter outside the embeddings, as Adam keeps it",
            ),
        ),
        Table(
            name="8",
            title="What the weights are generated from",
            where="appendix C",
            cells=_table_8(),
            differs=(FIELDS_DIFFER,),
        ),
        Table(
            name="9",
            title="How several conditions are aggregated",
            where="appendix D",
            cells=_table_9(),
            differs=(FIELDS_DIFFER,),
        ),
    ),
)
