"""The rows of xsDeepFwFM's tables, as data: storage, quantization, distillation and time.

Reference: the results page of "Extreme Small Deep Field-Weighted Factorization Machine", a master thesis on
compressed DeepFwFMs. Its tables have no numbers, so they are named here. Where it prints one row twice, the
first counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.papers.cells import Build, Cell, Figures, Paper, Quantization, Table
from benchmarks.papers.twitter import TABLE

CRITEO = "Criteo"
WIDE = (400, 400, 400)
STUDENTS = ((128, 128, 128), (64, 64, 64), (32, 32, 32), (16, 16))
BATCHES = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
WHOLE = "EmbeddingBag, 400"


def _model(
    widths: Sequence[int] = WIDE, *, quantization: Quantization = "", epochs: int = 5, **other: Any
) -> Build:
    """DeepFwFM, or FwFM where there are no layers; a model of the results' first table."""
    name = "deep_fwfm" if widths else "fwfm"
    shape: dict[str, Any] = {"dim": 10} | ({"hidden_units": list(widths)} if widths else {})
    return Build(
        model=name,
        hyperparameters=shape,
        training={"epochs": epochs},
        quantization=quantization,
        **other,
    )


def _taught(widths: Sequence[int], alpha: float, temperature: float, epochs: int, model: str = "") -> Build:
    alone = _model(widths, epochs=epochs)
    lesson = {"distill_alpha": alpha, "distill_temperature": temperature}
    return replace(
        alone,
        model=model or alone.model,
        training=dict(alone.training) | lesson,
        teacher=_model(epochs=5),
    )


def _figures(
    logloss: float, auc: float, prauc: float, rce: float, parameters: int | None, size: float
) -> Figures:
    return Figures(logloss=logloss, auc=auc, prauc=prauc, rce=rce, parameters=parameters, megabytes=size)


OF_WHOLE = _figures(0.4455, 0.8077, 0.6143, 22.02, 12_436_824, 49.780)


def _row(row: str, build: Build, figures: Figures, against: str = WHOLE, **other: Any) -> Cell:
    of_itself = row == against
    return Cell(
        row=row, builds=(build,), paper={CRITEO: figures}, against="" if of_itself else against, **other
    )


def _qr(collisions: int, quantization: Quantization = "") -> Build:
    return _model(quantization=quantization, embedding="qr", collisions=collisions)


def _quality() -> tuple[Cell, ...]:
    return (
        _row("Embedding, no layers", _model(()), _figures(0.4481, 0.8049, 0.6092, 21.56, 11_956_823, 47.842)),
        _row(
            "EmbeddingBag, no layers", _model(()), _figures(0.4480, 0.8050, 0.6093, 21.58, 11_956_823, 47.842)
        ),
        _row("Embedding, 400", _model(), _figures(0.4457, 0.8075, 0.6141, 21.99, 12_436_824, 49.780)),
        _row(WHOLE, _model(), OF_WHOLE),
        Cell(row="EmbeddingBag, sums, 400", builds=(_model(pooling="sum"),), against=WHOLE),
        _row("QR, 4 collisions", _qr(4), _figures(0.4468, 0.8062, 0.6121, 21.80, 4_294_354, 17.216)),
        _row("QR, 16 collisions", _qr(16), _figures(0.4488, 0.8039, 0.6085, 21.44, 2_260_814, 9.082)),
        _row(
            "dynamic INT8",
            _model(quantization="dynamic"),
            _figures(0.4455, 0.8076, 0.6143, 22.02, None, 48.35),
        ),
        _row(
            "static INT8", _model(quantization="static"), _figures(0.4456, 0.8076, 0.6142, 22.01, None, 24.46)
        ),
        _row(
            "QAT",
            _model(quantization="qat"),
            _figures(0.4459, 0.8073, 0.6135, 21.94, None, 24.46),
            rival="static INT8",
        ),
    )


# LogLoss, AUC, PRAUC, RCE with a teacher, then without; parameters and megabytes.
Quality = tuple[float, float, float, float]
OF_STUDENTS: dict[tuple[int, ...], tuple[Quality, Quality, int, float]] = {
    (128, 128, 128): ((0.4502, 0.8025, 0.6060, 21.20), (0.4460, 0.8071, 0.6134, 21.93), 12_040_792, 48.189),
    (64, 64, 64): ((0.4502, 0.8024, 0.6058, 21.20), (0.4463, 0.8068, 0.6125, 21.88), 11_990_616, 47.987),
    (32, 32, 32): ((0.4504, 0.8022, 0.6055, 21.16), (0.4471, 0.8060, 0.6111, 21.75), 11_971_672, 47.911),
    (16, 16): ((0.4507, 0.8019, 0.6048, 21.11), (0.4474, 0.8057, 0.6107, 21.70), 11_963_432, 47.875),
}


def _students() -> tuple[Cell, ...]:
    found = [_row(WHOLE, _model(), OF_WHOLE)]
    for widths, (taught, alone, parameters, size) in OF_STUDENTS.items():
        name = f"student of {widths[0]}"
        of_alone, of_taught = (_figures(*one, parameters, size) for one in (alone, taught))
        found.append(_row(f"{name}, alone", _model(widths), of_alone))
        build = _taught(widths, 0.5, 1.0, 5)
        found.append(_row(f"{name}, taught", build, of_taught, against=f"{name}, alone", rival=WHOLE))
        ours = replace(build, training=dict(build.training) | {"distill_twin": "train"})
        better = Cell(row=f"{name}, the better", builds=(ours,), against=f"{name}, alone", rival=WHOLE)
        found.append(better)
    return tuple(found)


# alpha, T: LogLoss, AUC of the validation part.
GRID: dict[tuple[float, float], tuple[float, float]] = {
    (0.01, 2): (0.4492, 0.8046), (0.02, 2): (0.4490, 0.8048), (0.04, 2): (0.4493, 0.8045),
    (0.05, 2): (0.4489, 0.8049), (0.07, 2): (0.4492, 0.8047), (0.1, 2): (0.4491, 0.8047),
    (0.15, 2): (0.4492, 0.8046), (0.2, 2): (0.4491, 0.8047), (0.4, 2): (0.4495, 0.8043),
    (0.6, 2): (0.4500, 0.8019), (0.95, 2): (0.4538, 0.7994), (0.2, 3): (0.4492, 0.8045),
    (0.4, 3): (0.4495, 0.8043), (0.2, 4): (0.4493, 0.8045), (0.4, 4): (0.4496, 0.8042),
    (0.6, 4): (0.4499, 0.8020), (0.2, 5): (0.4491, 0.8047), (0.4, 5): (0.4497, 0.8041),
    (0.1, 7): (0.4492, 0.8046), (0.2, 7): (0.4492, 0.8046), (0.4, 7): (0.4496, 0.8041),
    (0.1, 9): (0.4493, 0.8046), (0.2, 9): (0.4492, 0.8047), (0.1, 10): (0.4492, 0.8046),
    (0.2, 10): (0.4492, 0.8046), (0.1, 12): (0.4492, 0.8046), (0.2, 12): (0.4493, 0.8046),
}  # fmt: skip


def _grid() -> tuple[Cell, ...]:
    widths, alone = (200, 200, 200), "alone"
    first = Build(
        model="dnn", hyperparameters={"dim": 10, "hidden_units": list(widths)}, training={"epochs": 1}
    )
    found = [Cell(row=alone, builds=(first,), paper={CRITEO: Figures(logloss=0.4491, auc=0.8047)})]
    for (alpha, temperature), (loss, auc) in GRID.items():
        build = _taught(widths, alpha, float(temperature), 1, model="dnn")
        row = f"alpha {alpha:g}, T {temperature:g}"
        found.append(_row(row, build, Figures(logloss=loss, auc=auc), against=alone))
    return tuple(found)


def _ensembles() -> tuple[Cell, ...]:
    return (
        _row(WHOLE, _model(), OF_WHOLE),
        _row("QR 4, dynamic INT8", _qr(4, "dynamic"), _figures(0.4468, 0.8062, 0.6121, 21.80, None, 15.789)),
        _row("QR 4, static INT8", _qr(4, "static"), _figures(0.4468, 0.8061, 0.6120, 21.79, None, 15.777)),
        _row("QR 16, dynamic INT8", _qr(16, "dynamic"), _figures(0.4489, 0.8039, 0.6085, 21.44, None, 7.655)),
        _row("QR 16, static INT8", _qr(16, "static"), _figures(0.4489, 0.8038, 0.6083, 21.42, None, 7.643)),
    )


def _full_runs() -> tuple[Cell, ...]:
    return (
        _row(
            "EmbeddingBag, no layers, 30 epochs",
            _model((), epochs=30),
            _figures(0.4474, 0.8056, 0.6104, 21.69, 11_956_823, 47.84),
            against="EmbeddingBag, 30 epochs",
        ),
        _row(
            "EmbeddingBag, 30 epochs",
            _model(epochs=30),
            _figures(0.4450, 0.8082, 0.6152, 22.11, 12_436_824, 49.780),
            against="EmbeddingBag, 30 epochs",
        ),
        _row(
            "QR, 4 collisions, 30 epochs",
            _model(epochs=30, embedding="qr", collisions=4),
            _figures(0.4459, 0.8072, 0.6137, 21.96, 4_294_354, 17.216),
            against="EmbeddingBag, 30 epochs",
        ),
    )


# Milliseconds a batch on a CPU, by BATCHES; - where nothing is printed.
TIMES: dict[str, tuple[Build, str]] = {
    "EmbeddingBag, no layers": (_model(()), "1.681 1.996 2.210 4.046 6.388 11.334 20.628 41.170 107.660"),
    WHOLE: (_model(), "2.570 9.134 13.120 23.550 44.724 86.406 167.728 331.486 680.618"),
    "QR, 4 collisions": (_qr(4), "5.710 8.330 10.860 17.814 31.444 61.628 112.410 217.246 422.336"),
    "QR, 16 collisions": (_qr(16), "4.584 5.796 8.068 14.502 25.028 46.712 90.102 178.260 364.044"),
    "dynamic INT8": (
        _model(quantization="dynamic"),
        "2.376 - 3.516 5.858 9.132 15.876 27.849 54.623 118.678",
    ),
    "static INT8": (
        _model(quantization="static"),
        "5.462 - 5.934 7.844 11.139 15.902 26.946 48.102 98.914",
    ),
    "QAT": (_model(quantization="qat"), "6.057 - 8.724 - 14.047 18.672 32.102 61.676 144.016"),
    "QR 4, dynamic INT8": (_qr(4, "dynamic"), "5.180 - 6.494 8.038 11.406 16.702 37.160 58.712 121.752"),
    "QR 4, static INT8": (_qr(4, "static"), "5.166 - 6.770 8.414 11.386 16.178 28.106 50.376 103.644"),
    "QR 16, dynamic INT8": (_qr(16, "dynamic"), "4.178 - 5.082 7.232 10.446 16.482 30.586 56.124 119.338"),
    "QR 16, static INT8": (_qr(16, "static"), "5.516 - 6.318 8.128 11.036 16.990 29.040 52.546 109.302"),
}


def _times() -> tuple[Cell, ...]:
    found = [
        _row(row, build, Figures(milliseconds=_by_batch(times))) for row, (build, times) in TIMES.items()
    ]
    found += [
        Cell(row=f"student of {widths[0]}", builds=(_model(widths),), against=WHOLE) for widths in STUDENTS
    ]
    return tuple(found)


def _by_batch(times: str) -> dict[int, float]:
    return {batch: float(one) for batch, one in zip(BATCHES, times.split(), strict=True) if one != "-"}


SPLIT_DIFFERS = "the page trains on 6 days, validates and tests on halves of the 7th"
SAME_ROW = (
    "with one value a field an EmbeddingBag computes what an Embedding does: such rows are one model here, "
    "and sums are means"
)
TIME_DIFFERS = (
    "the page times PyTorch, in milliseconds of the wall clock, and gives one row for all students; here the "
    "graph in ONNX Runtime and PyTorch, processor time of one thread"
)
LOSS_DIFFERS = (
    "the page's teacher stays in training mode and its loss compares shares of a batch's probabilities; "
    "docs/distillation.md has what that costs"
)

PAPER = Paper(
    name="xsdeepfwfm",
    title="xsDeepFwFM (results of a thesis)",
    logs={CRITEO: ("criteo",)},
    training={"batch_size": 2048, "learning_rate": 1e-3, "embedding_l2": 3e-7, "schedule": "constant"},
    differs=(
        SPLIT_DIFFERS,
        "the page keeps INT8 tables with a scale a row; here a field's table has its scales",
    ),
    tables=(
        Table(
            name="quality",
            title="Storage and quantization",
            where="Criteo Dataset",
            cells=_quality(),
            differs=(
                SAME_ROW,
                "QR keeps a row an id in fields of fewer than 200 ids, as the code behind the page does",
                "qat keeps the static graph where training as INT8 is no better on the validation part",
            ),
        ),
        Table(
            name="students",
            title="Smaller perceptrons, taught and alone",
            where="Criteo Dataset",
            cells=_students(),
            differs=(
                "the page does not tell alpha and temperature of these rows; here 0.5 and 1",
                "two rows of a `new technique` that the page does not explain are left out",
                LOSS_DIFFERS,
                "the better: alone or taught, as the validation part prefers and an export keeps it",
            ),
        ),
        Table(
            name="grid",
            title="alpha x temperature of distillation, one epoch",
            where="Knowledge Distillation - TEST",
            cells=_grid(),
            differs=(
                "the page's figures are of the validation part, and of one seed; here of the test part",
            ),
        ),
        Table(
            name="ensembles",
            title="QR and quantization together",
            where="Ensembles",
            cells=_ensembles(),
        ),
        Table(
            name="full",
            title="Thirty epochs, stopped early",
            where="Full Runs",
            cells=_full_runs(),
        ),
        Table(
            name="latency",
            title="Milliseconds a batch",
            where="Embeddings, Quantization, Knowledge Distillation, Ensembles",
            cells=_times(),
            batches=BATCHES,
            differs=(TIME_DIFFERS,),
        ),
        TABLE,
    ),
)
