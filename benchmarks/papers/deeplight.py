"""The rows of DeepLight's Tables 4, 5 and 6, as data.

Reference: Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR Predictions in
Ad Serving", WSDM 2021. Structures are those of section 5.1.4. The dense rows of Table 6 are those of Table 3.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from benchmarks.papers.cells import Build, Cell, Figures, Paper, Table

CRITEO, AVAZU = "Criteo", "Avazu"
SHAPES: dict[str, dict[str, Any]] = {
    CRITEO: {"dim": 10, "hidden_units": [400, 400, 400], "dropout": 0.5},
    AVAZU: {"dim": 20, "hidden_units": [300, 300, 300], "dropout": 0.5},
}
PARTS = {"D": "dnn", "R": "field_matrix", "F": "embedding", "C": "interactions", "N": "neurons"}
NARROW = "N-75%"  # what has to go for a graph to be much faster, see docs/pruning.md
NONE = "No Pruning"
SCHEDULE_DIFFERS = (
    "the paper warms up for 2 epochs and prunes for 8; here a trained model is pruned for 1 epoch and "
    "trained on for 2 with its zeros held"
)
TWIN_DIFFERS = (
    "the dense row is trained on for as long as pruning takes where that makes it better, so that further "
    "training is no merit of pruning"
)
MAPS = "C are pairs of the CIN here, each with its weight in all maps; single weights in the paper"
TIME_DIFFERS = (
    "the paper's milliseconds are those of a program with compressed rows, its dense figure that program at "
    "full density; here a compacted graph in ONNX Runtime, beside the dense graph there and in PyTorch"
)

# Table 4: LogLoss, AUC of the sparse model, then the small one with as many parameters.
SPARSE = {
    CRITEO: """
        D-90% & R-0% & F-0%   0.4398 0.8120  N-87 0.4414 0.8104
        D-95% & R-0% & F-0%   0.4399 0.8120  N-51 0.4421 0.8098
        D-98% & R-0% & F-0%   0.4401 0.8117  N-25 0.4429 0.8089
        D-99% & R-0% & F-0%   0.4405 0.8113  N-15 0.4438 0.8078
        D-0% & R-0% & F-20%   0.4402 0.8116  E-8  0.4404 0.8115
        D-0% & R-0% & F-40%   0.4401 0.8118  E-6  0.4407 0.8113
        D-0% & R-0% & F-60%   0.4404 0.8116  E-4  0.4412 0.8106
        D-0% & R-0% & F-80%   0.4406 0.8114  E-2  0.4423 0.8094""",
    AVAZU: """
        D-90% & R-0% & F-0%   0.3747 0.7898  N-57 0.3757 0.7883
        D-95% & R-0% & F-0%   0.3747 0.7896  N-32 0.3762 0.7875
        D-99% & R-0% & F-0%   0.3748 0.7895  N-9  0.3769 0.7864
        D-99.5% & R-0% & F-0% 0.3749 0.7892  N-6  0.3771 0.7862
        D-0% & R-0% & F-20%   0.3750 0.7895  E-16 0.3752 0.7890
        D-0% & R-0% & F-40%   0.3751 0.7891  E-12 0.3750 0.7889
        D-0% & R-0% & F-60%   0.3762 0.7881  E-8  0.3765 0.7874
        D-0% & R-0% & F-80%   0.3773 0.7857  E-4  0.3770 0.7859""",
}
DENSE_OF_TABLE_4 = {CRITEO: Figures(logloss=0.4403, auc=0.8115), AVAZU: Figures(logloss=0.3751, auc=0.7893)}

# Table 5: LogLoss, AUC, parameters, milliseconds a row.
STRUCTURES = {
    CRITEO: """
        No Pruning            0.4403 0.8116 13739321 4.271
        D-90% & R-90% & F-40% 0.4395 0.8123  8012094 0.469
        D-90% & R-90% & F-90% 0.4404 0.8114  1376431 0.472
        D-99% & R-95% & F-40% 0.4405 0.8114  7413578 0.093""",
    AVAZU: """
        No Pruning            0.3751 0.7893 31208053 2.824
        D-90% & R-90% & F-20% 0.3748 0.7897 24808262 0.422
        D-90% & R-90% & F-60% 0.3753 0.7892  9322791 0.318
        D-98% & R-90% & F-0%  0.3753 0.7894 30859675 0.104""",
}
ALONE = {
    CRITEO: ("D-90%", "D-99%", "R-90%", "R-95%", "F-40%", "F-90%"),
    AVAZU: ("D-90%", "D-98%", "R-90%", "F-20%", "F-60%"),
}

# Table 3's dense models (LogLoss, AUC, parameters, milliseconds), then Table 6's sparse ones.
OTHERS = {
    CRITEO: """
        DeepFM          0.4495 0.8036 15064206 4.181
        NFM             0.4497 0.8030 15204206 4.091
        xDeepFM         0.4420 0.8102 15508958 40.85
        DeepFwFM        0.4403 0.8116 13739321 4.271
        Sparse DeepFM   0.4496 0.8032 - 0.114 D-98% & F-40%
        Sparse NFM      0.4494 0.8031 - 0.114 D-98% & F-40%
        Sparse xDeepFM  0.4421 0.8102 - 0.907 D-99% & C-99% & F-40%
        DeepLight       0.4405 0.8114 - 0.093 D-99% & R-95% & F-40%""",
    AVAZU: """
        DeepFM          0.3780 0.7852 32751433 2.719
        NFM             0.3777 0.7854 32689033 2.704
        xDeepFM         0.3749 0.7894 32927058 7.129
        DeepFwFM        0.3751 0.7893 31208053 2.824
        Sparse DeepFM   0.3782 0.7851 - 0.102 D-98% & F-20%
        Sparse NFM      0.3778 0.7854 - 0.102 D-98% & F-20%
        Sparse xDeepFM  0.3750 0.7893 - 0.927 D-98% & C-98% & F-0%
        DeepLight       0.3753 0.7894 - 0.104 D-98% & R-90% & F-0%""",
}
MODELS = {"DeepFM": "deepfm", "NFM": "nfm", "xDeepFM": "xdeepfm", "DeepFwFM": "deep_fwfm"}
DENSE_OF = {"DeepLight": "DeepFwFM"} | {f"Sparse {name}": name for name in ("DeepFM", "NFM", "xDeepFM")}


def rates_of(structure: str) -> dict[str, float]:
    """D-99% & R-95% & F-40% -> the share of each part that is pruned; N are whole neurons, which are ours."""
    found = re.findall(r"([DRFCN])-([\d.]+)%", structure)
    return {PARTS[part]: round(float(share) / 100, 6) for part, share in found if float(share)}


def _model(log: str, model: str = "deep_fwfm", **other: Any) -> Build:
    shape = dict(SHAPES[log])
    if model == "xdeepfm":
        shape["cin_maps"] = [100, 100, 50]
    return Build(model=model, hyperparameters=shape | other)


def _pruned(log: str, structure: str, model: str = "deep_fwfm", quantization: Any = "") -> Build:
    return replace(_model(log, model), rates=rates_of(structure), quantization=quantization)


def _twin(log: str, model: str = "deep_fwfm") -> Build:
    return replace(_model(log, model), trained_on=True)


def _sparse_against_small(log: str) -> list[Cell]:
    of = (log,)
    rows = [Cell(row=NONE, builds=(_twin(log),), paper={log: DENSE_OF_TABLE_4[log]})]
    small = [Cell(row="as trained", builds=(_model(log),), of=of, against=NONE)]
    for line in SPARSE[log].strip().splitlines():
        structure, loss, auc, name, small_loss, small_auc = re.split(r"\s{2,}|\s(?=[\dNE])", line.strip())
        figures = Figures(logloss=float(loss), auc=float(auc))
        build = _pruned(log, structure)
        rows.append(Cell(row=structure, builds=(build,), paper={log: figures}, against=NONE, rival=name))
        size = int(name[2:])
        other = {"dim": size} if name.startswith("E") else {"hidden_units": [size] * 3}
        beside = Figures(logloss=float(small_loss), auc=float(small_auc))
        small.append(Cell(row=name, builds=(_model(log, **other),), paper={log: beside}, against=NONE))
    return rows + small


def _structures(log: str) -> list[Cell]:
    found = []
    for line in STRUCTURES[log].strip().splitlines():
        structure, loss, auc, parameters, latency = re.split(r"\s{2,}|\s(?=\d)", line.strip())
        figures = Figures(
            logloss=float(loss), auc=float(auc), parameters=int(parameters), milliseconds={1: float(latency)}
        )
        build = _twin(log) if structure == NONE else _pruned(log, structure)
        against = "" if structure == NONE else NONE
        found.append(Cell(row=structure, builds=(build,), paper={log: figures}, against=against))
    of = (log,)
    for cell in tuple(found[1:]):
        int8 = _pruned(log, cell.row, quantization="static")
        found.append(Cell(row=f"{cell.row}, INT8", builds=(int8,), of=of, against=NONE, rival=cell.row))
    narrow = f"{found[3].row} & {NARROW}"
    for row, quantization in ((narrow, ""), (f"{narrow}, INT8", "static")):
        build = _pruned(log, narrow, quantization=quantization)
        found.append(Cell(row=row, builds=(build,), of=of, against=NONE))
    found += [
        Cell(row=f"{name} alone", builds=(_pruned(log, name),), of=of, against=NONE) for name in ALONE[log]
    ]
    return found


def _other_models(log: str) -> list[Cell]:
    found = []
    for line in OTHERS[log].strip().splitlines():
        words = line.split()
        place = 2 if words[0] == "Sparse" else 1
        name, figures, structure = " ".join(words[:place]), words[place : place + 4], words[place + 4 :]
        loss, auc, parameters, latency = figures
        printed = Figures(
            logloss=float(loss),
            auc=float(auc),
            parameters=None if parameters == "-" else int(parameters),
            milliseconds={1: float(latency)},
        )
        dense = DENSE_OF.get(name, "")
        model = MODELS[dense or name]
        pruned = " ".join(structure)
        build = _pruned(log, pruned, model) if structure else _twin(log, model)
        row = f"{name} ({pruned})" if structure else name
        note = MAPS if "interactions" in build.rates else ""
        found.append(Cell(row=row, builds=(build,), paper={log: printed}, against=dense, note=note))
    return found


def _of_both(rows: Any) -> tuple[Cell, ...]:
    return tuple(cell for log in (CRITEO, AVAZU) for cell in rows(log))


PAPER = Paper(
    name="deeplight",
    title="DeepLight (WSDM 2021)",
    logs={CRITEO: ("criteo",), AVAZU: ("avazu",)},
    training={"batch_size": 2048, "learning_rate": 1e-3, "embedding_l2": 3e-7, "schedule": "constant"},
    differs=("the paper splits at random (Criteo 90/10, Avazu 80/20); here parts follow each other",),
    tables=(
        Table(
            name="4",
            title="DeepFwFMs with sparse DNN components or embeddings against smaller ones",
            where="section 5.3",
            cells=_of_both(_sparse_against_small),
            differs=(SCHEDULE_DIFFERS, TWIN_DIFFERS),
        ),
        Table(
            name="5",
            title="Structural pruning of DeepFwFM",
            where="section 5.3.4",
            cells=_of_both(_structures),
            batches=(1, 64, 1024),
            differs=(
                SCHEDULE_DIFFERS,
                TWIN_DIFFERS,
                TIME_DIFFERS,
            ),
        ),
        Table(
            name="6",
            title="Sparse models, each beside its dense one (Table 3)",
            where="section 5.4; dense rows: Table 3, section 5.2",
            cells=_of_both(_other_models),
            batches=(1, 64, 1024),
            differs=(
                SCHEDULE_DIFFERS,
                TWIN_DIFFERS,
                "the structure of each model is the one that the paper found to keep AUC on its own log",
                TIME_DIFFERS,
            ),
        ),
    ),
)
