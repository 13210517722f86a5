"""The quality of the variants as HTML: their metrics, what each metric means, and how pCTR is spread."""

from __future__ import annotations

from html import escape

from export.report import plots
from export.report.findings import Findings
from export.report.layout import figure, table, value_ends
from service.bundle.manifest import Metrics

METRICS = {
    "auc": ("AUC", "how often a click gets a higher pCTR than a non-click: 0.5 is chance, 1 is perfect"),
    "logloss": ("LogLoss", "the mean of −ln of the probability given to what happened: lower is better"),
    "prauc": ("PRAUC", "the mean precision over all clicks, by falling pCTR: the click rate is chance"),
    "rce": ("RCE %", "how much of the LogLoss of the constant click rate is saved: 0 is none"),
    "ece": ("ECE", "how far pCTR is from the click rate, on average over 20 bins of pCTR: 0 is right"),
    "ne": ("NE", "LogLoss over that of the constant click rate: below 1 something was learned"),
    "pcoc": ("PCOC", "predicted clicks over clicks: above 1 bids are too high on average"),
}
WITH_INTERVALS = ("auc", "logloss")


def quality_table(findings: Findings) -> str:
    """The metrics of every variant before and after calibration, of the plain model and of the prior."""
    oracle = any(metrics.auc_of_true_pctr is not None for metrics in findings.evaluation.values())
    head = [
        "variant",
        *(
            text
            for key, (name, _) in METRICS.items()
            for text in (name, *(["95 %"] if key in WITH_INTERVALS else []))
        ),
        *(["AUC of true pCTR"] if oracle else []),
    ]

    def row(name: str, metrics: Metrics) -> list[object]:
        cells: list[object] = [name]
        for key in METRICS:
            cells.append(getattr(metrics, key))
            if key in WITH_INTERVALS:
                known = getattr(metrics, f"{key}_interval")
                cells.append(None if known is None else value_ends(known))
        return [*cells, *([metrics.auc_of_true_pctr] if oracle else [])]

    rows = []
    for name, metrics in findings.evaluation.items():
        rows += [
            row(f"{name}, uncalibrated", findings.uncalibrated[name]),
            row(f"{name}, calibrated", metrics),
        ]
    if findings.baseline is not None:
        rows.append(row(f"{findings.baseline.model} beside it, calibrated", findings.baseline.metrics))
    if findings.prior is not None:
        name = " and ".join(findings.prior.fields) or "one click rate"
        rows.append(row(f"the prior, without a model: {name}", findings.prior.test))
    return table(head, rows)


def meanings() -> str:
    """A line for each metric."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in METRICS.values())
    return f"<dl>{lines}</dl>"


def histogram(findings: Findings) -> str:
    if findings.histogram is None:
        return ""
    about = (
        f"pCTR of the test rows by {escape(findings.serving_variant)}, of clicks and of non-clicks: the "
        "further apart, the higher the AUC."
    )
    return f"<p>{about}</p>{figure(plots.histogram_figure(findings.histogram))}"
