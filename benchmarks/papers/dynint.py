"""The rows of DynInt's Tables 1 to 4, as data.

Reference: Yan & Li, "DynInt: Dynamic Interaction Modeling for Large-scale Click-Through Rate Prediction",
DLP-KDD 2022. Embeddings have 16 numbers (section 4.1.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.papers.cells import Build, Cell, Figures, Paper, Table

CRITEO, AVAZU, IPINYOU = LOGS = ("Criteo", "Avazu", "iPinYou")
DIM = 16
FTRL = {"optimizer": "ftrl", "embedding_optimizer": "ftrl"}
GROUP_FTRL = {"optimizer": "ftrl", "embedding_optimizer": "group-lasso-ftrl"}
DYNAMIC = ("dynint_da", "dynint_dgp", "dynint_dwp")
INTERACTING = ("xdeepint", *DYNAMIC)

# Table 1: AUC, LogLoss on Criteo, Avazu, iPinYou.
TABLE_1 = """
    LR            lr             0.7924 0.4577  0.7533 0.3952  0.7692 0.005605
    FM            fm             0.8030 0.4487  0.7652 0.3889  0.7737 0.005576
    DNN           dnn            0.8051 0.4461  0.7627 0.3895  0.7732 0.005749
    Wide&Deep     wide_deep      0.8062 0.4451  0.7637 0.3889  0.7763 0.005589
    DeepFM        deepfm         0.8069 0.4445  0.7665 0.3879  0.7749 0.005609
    DeepCrossing  deep_crossing  0.8068 0.4456  0.7628 0.3891  0.7706 0.005657
    DCN           dcn            0.8056 0.4457  0.7661 0.3880  0.7758 0.005682
    PNN           pnn            0.8083 0.4433  0.7663 0.3882  0.7783 0.005584
    xDeepFM       xdeepfm        0.8077 0.4439  0.7668 0.3878  0.7772 0.005664
    AutoInt       autoint        0.8053 0.4462  0.7650 0.3883  0.7732 0.005758
    FiBiNET       fibinet        0.8082 0.4439  0.7652 0.3886  0.7756 0.005679
    DCN_V2        dcn_v2         0.8086 0.4433  0.7662 0.3882  0.7765 0.005593
    xDeepInt      xdeepint       0.8111 0.4408  0.7672 0.3876  0.7790 0.005567
    DynInt-DA     dynint_da      0.8125 0.4398  0.7677 0.3871  0.7802 0.005552
    DynInt-DGP    dynint_dgp     0.8127 0.4397  0.7686 0.3867  0.7813 0.005547
    DynInt-DWP    dynint_dwp     0.8132 0.4393  0.7671 0.3878  0.7798 0.005564"""

# Table 2, Criteo alone: interaction layers without a DNN.
TABLE_2 = """
    DeepFM        fm             0.8030 0.4487
    DCN           dcn            0.7941 0.4566
    PNN           pnn            0.8066 0.4451
    xDeepFM       xdeepfm        0.8065 0.4454
    AutoInt       autoint        0.8056 0.4458
    DCN_V2        dcn_v2         0.8082 0.4436
    xDeepInt      xdeepint       0.8111 0.4408
    DynInt-DA     dynint_da      0.8125 0.4398
    DynInt-DGP    dynint_dgp     0.8127 0.4397
    DynInt-DWP    dynint_dwp     0.8132 0.4393"""

# Tables 3 and 4: AUC, then LogLoss, by layers and by sub-spaces; means of the three dynamic models.
LAYERS = (0, 1, 2, 3, 4, 5)
TABLE_3 = {
    CRITEO: (
        (0.7921, 0.8058, 0.8068, 0.8075, 0.8085, 0.8081),
        (0.4580, 0.4455, 0.4445, 0.4440, 0.4432, 0.4436),
    ),
    AVAZU: (
        (0.7547, 0.7664, 0.7675, 0.7682, 0.7678, 0.7670),
        (0.3985, 0.3882, 0.3870, 0.3868, 0.3872, 0.3877),
    ),
    IPINYOU: (
        (0.7690, 0.7749, 0.7787, 0.7797, 0.7785, 0.7774),
        (0.005604, 0.005575, 0.005569, 0.005565, 0.005578, 0.005582),
    ),
}
SUB_SPACES = (1, 2, 4, 8, 16)
TABLE_4 = {
    CRITEO: ((0.8079, 0.8085, 0.8092, 0.8107, 0.8125), (0.4439, 0.4433, 0.4421, 0.4408, 0.4397)),
    AVAZU: ((0.7670, 0.7677, 0.7684, 0.7678, 0.7672), (0.3875, 0.3872, 0.3867, 0.3872, 0.3873)),
    IPINYOU: (
        (0.7782, 0.7792, 0.7796, 0.7790, 0.7784),
        (0.005579, 0.005568, 0.005565, 0.005568, 0.005582),
    ),
}


def _model(name: str, **other: Any) -> Build:
    shape: dict[str, Any] = {} if name == "lr" else {"dim": DIM}
    if name == "pnn":
        shape["product"] = "both"
    training: dict[str, Any] = {}
    if name in ("lr", "fm"):
        training = FTRL
    elif name in INTERACTING:
        training = GROUP_FTRL
    return Build(model=name, hyperparameters=shape | other, paper_training=training)


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def _of_logs(figures: list[str]) -> dict[str, Figures]:
    """AUC and LogLoss of as many logs as there are, in their order."""
    pairs = zip(figures[::2], figures[1::2], strict=True)
    return {
        log: Figures(auc=float(auc), logloss=float(loss))
        for log, (auc, loss) in zip(LOGS, pairs, strict=False)
    }


def _table_1() -> tuple[Cell, ...]:
    return tuple(
        Cell(
            row=row.replace("_", " "),
            builds=(_model(model),),
            paper=_of_logs(figures),
            against="" if row == "LR" else "LR",
            rival="xDeepInt" if model in DYNAMIC else "",
        )
        for row, model, *figures in _lines(TABLE_1)
    )


def _table_2() -> tuple[Cell, ...]:
    """With its DNN each model stands beside itself without."""
    found = []
    for row, model, *figures in _lines(TABLE_2):
        name, has_dnn = row.replace("_", " "), model not in INTERACTING
        with_dnn = next(line[1] for line in _lines(TABLE_1) if line[0] == row)
        bare: dict[str, Any] = {"hidden_units": []} if has_dnn and model != "fm" else {}
        against = ""
        if has_dnn:
            against = f"{name} with its DNN"
            printed = _of_logs(next(line[2:] for line in _lines(TABLE_1) if line[0] == row))
            found.append(Cell(row=against, builds=(_model(with_dnn),), paper={CRITEO: printed[CRITEO]}))
        found.append(
            Cell(
                row=name,
                builds=(_model(model, **bare),),
                paper=_of_logs(figures),
                against=against or ("" if name == "xDeepInt" else "xDeepInt"),
            )
        )
    return tuple(found)


def _at(table: Mapping[str, tuple[Sequence[float], Sequence[float]]], place: int) -> dict[str, Figures]:
    """The figures at a place of Table 3 or 4, by log."""
    return {log: Figures(auc=aucs[place], logloss=losses[place]) for log, (aucs, losses) in table.items()}


def _by_layers() -> tuple[Cell, ...]:
    found = []
    for place, layers in enumerate(LAYERS):
        builds = tuple(_model(name, layers=layers, sub_spaces=1) for name in DYNAMIC)
        found.append(
            Cell(
                row=f"{layers} layers",
                builds=builds if layers else (_model("lr"),),
                paper=_at(TABLE_3, place),
                against=f"{LAYERS[place - 1]} layers" if layers else "",
                note="" if layers else "lr, which the paper calls equivalent",
            )
        )
    return tuple(found)


def _by_sub_spaces() -> tuple[Cell, ...]:
    found = []
    for place, spaces in enumerate(SUB_SPACES):
        found.append(
            Cell(
                row=f"{spaces} sub-spaces",
                builds=tuple(_model(name, layers=3, sub_spaces=spaces) for name in DYNAMIC),
                paper=_at(TABLE_4, place),
                against="" if place == 0 else f"{SUB_SPACES[place - 1]} sub-spaces",
            )
        )
    return tuple(found)


MEANS = "AUC and LogLoss are means of DynInt-DA, DynInt-DGP and DynInt-DWP, as in the paper"

PAPER = Paper(
    name="dynint",
    title="DynInt (DLP-KDD 2022)",
    logs={CRITEO: ("criteo",), AVAZU: ("avazu",), IPINYOU: ("ipinyou", "ipinyou_features")},
    training={"batch_size": 4096, "learning_rate": 1e-3},
    differs=(
        "the paper splits at random (70/10/20); here parts follow each other",
        "the paper searches widths, layers and sub-spaces of each model; here they are Bidlight's defaults",
        "the paper leaves out values with fewer than 20 rows",
    ),
    tables=(
        Table(name="1", title="Models with their DNNs", where="section 4.2", cells=_table_1()),
        Table(
            name="2",
            title="Interaction layers without a DNN",
            where="section 4.3",
            log=CRITEO,
            cells=_table_2(),
            differs=("each model stands beside itself with its DNN (Table 1), where it has one",),
        ),
        Table(
            name="3",
            title="Number of layers, one sub-space",
            where="section 4.4.1",
            cells=_by_layers(),
            differs=(MEANS,),
        ),
        Table(
            name="4",
            title="Number of sub-spaces, three layers",
            where="section 4.4.2",
            cells=_by_sub_spaces(),
            differs=(MEANS,),
        ),
    ),
)
