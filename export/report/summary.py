"""What an export prints at its end: quality, size and speed by variant, and how to serve the bundle."""

from __future__ import annotations

import shlex
import sys

from export.report.changes import step_line
from export.report.gain_text import gain_line, known_metric, offer_line, taught_line, verdict_line
from export.report.text_table import aligned
from service.bundle.manifest import Baseline, Distillation, Metrics
from service.bundle.store import Bundle


def summary(bundle: Bundle) -> str:
    """A table of the variants, what is served, what it wins over LR, and the command line that serves it."""
    manifest = bundle.manifest
    lines = ["", *aligned(_table(bundle)), ""]
    variant, won = manifest.serving_variant, manifest.baseline
    served = manifest.evaluation.get(variant)
    if served and served.auc_of_true_pctr is not None:
        lines.append(
            f"AUC of the true click probability, which no model can beat: {served.auc_of_true_pctr:.4f}"
        )
    lines += [f"on the validation part {step_line(change)}" for change in manifest.ladder]
    lines.append(f"serves {variant}" + (f": {_known(served)}" if served else ""))
    if won is not None:
        lines += [gain_line(variant, won), *_verdict(variant, won, len(bundle.graphs[variant]))]
    if bundle.prior is not None and bundle.prior.test is not None:
        lines.append(_prior_line(bundle.prior.names, bundle.prior.test))
    if isinstance(manifest.distillation, Distillation):
        lines.append(taught_line(variant, manifest.distillation))
    lines += [f"{name} is kept out: {reason}" for name, reason in manifest.kept_out.items()]
    lines += [_red(f"warning: {text}") for text in manifest.warnings]
    lines += [
        f"wrote {manifest.id} to {bundle.folder}{_report(bundle)}",
        f"serve it: python -m service --arm control={shlex.quote(str(bundle.folder))}",
    ]
    return "\n".join(lines)


def _report(bundle: Bundle) -> str:
    """Where the report is, unless it was left out."""
    page = "report/index.html"
    return f"; the report is {bundle.folder / page}" if page in bundle.manifest.files else ""


def _known(metrics: Metrics) -> str:
    """AUC and LogLoss with their intervals, and of how many rows."""
    return (
        f"AUC {known_metric('auc', metrics)}, LogLoss {known_metric('logloss', metrics)}; 95 % intervals "
        f"over {metrics.rows:,} test rows, {metrics.clicks:,} clicks"
    )


def _prior_line(names: tuple[str, ...], metrics: Metrics) -> str:
    by = f"by {', '.join(names)}" if names else "the same for all rows"
    return f"the prior, without a model, {by}: AUC {metrics.auc:.4f}, LogLoss {metrics.logloss:.4f}"


def _verdict(variant: str, won: Baseline, served_bytes: int) -> list[str]:
    """That nothing is won, where that is so, and the smaller bundle; a worse model is among the warnings."""
    said = [verdict_line(variant, won)] if won.verdict == "no better" else []
    offer = offer_line(served_bytes, won)
    return [*said, *((f"{offer}: {won.command}",) if offer else ())]


def _red(text: str) -> str:
    """The text in red where a terminal shows it."""
    return f"\033[31m{text}\033[0m" if sys.stdout.isatty() else text


def _table(bundle: Bundle) -> list[list[str]]:
    """A head, then a row for PyTorch and each graph; a figure that was not measured is blank."""
    manifest = bundle.manifest
    sizes = manifest.compression.graph_bytes if manifest.compression else {}
    sizes = {**sizes, **{name: len(graph) for name, graph in bundle.graphs.items()}}
    times = {one.variant: one.microseconds_a_row for one in manifest.latency}
    batches = list(next(iter(times.values()))) if times else []
    rows = [["variant", "bytes", "AUC", "LogLoss", "ECE before", "after", "PCOC",
             *(f"us/row @{batch}" for batch in batches)]]  # fmt: skip
    for name in dict.fromkeys([*times, *manifest.evaluation]):
        after, before = manifest.evaluation.get(name), manifest.uncalibrated.get(name)
        cells = [name, f"{sizes[name]:,}" if name in sizes else ""]
        if after and before:
            cells += [f"{after.auc:.4f}", f"{after.logloss:.4f}", f"{before.ece:.4f}", f"{after.ece:.4f}",
                      f"{after.pcoc:.3f}"]  # fmt: skip
        else:
            cells += [""] * 5
        rows.append([*cells, *(f"{times[name][batch]:.2f}" for batch in batches if name in times)])
    return rows
