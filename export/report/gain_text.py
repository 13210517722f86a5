"""What a bundle wins over the plain model beside it, and how near it is to its teachers, in words."""

from __future__ import annotations

from export.report.changes import change_line
from service.bundle.manifest import Baseline, Distillation, Metrics


def gain_line(variant: str, baseline: Baseline) -> str:
    """The two differences with their intervals, and how good the plain model is."""
    rival = baseline.metrics
    return (
        f"{variant} against {baseline.model}, trained beside it: {change_line(baseline)}; {baseline.model} "
        f"alone has AUC {rival.auc:.4f}, LogLoss {rival.logloss:.4f}"
    )


def verdict_line(variant: str, baseline: Baseline) -> str:
    """The verdict as a sentence without its end."""
    return {
        "better": f"{variant} is better than {baseline.model} beyond noise",
        "no better": f"{variant} wins nothing over {baseline.model} beyond noise",
        "worse": f"{variant} is worse than {baseline.model} beyond noise",
    }[baseline.verdict]


def offer_line(served_bytes: int, baseline: Baseline) -> str:
    """What the plain model's bundle saves, before the command that makes it; empty where it saves nothing."""
    if not baseline.command:
        return ""
    share = 1 - baseline.graph_bytes / served_bytes
    return (
        f"the graph of {baseline.model} has {baseline.graph_bytes:,} bytes in place of {served_bytes:,}, "
        f"{100 * share:.0f} % less; this makes its bundle"
    )


def gain_warning(variant: str, baseline: Baseline) -> str:
    """The warning of a model that is worse than the plain one."""
    return (
        f"{verdict_line(variant, baseline)}: {change_line(baseline)} on the test part; serve "
        f"{baseline.model}, or train this model otherwise"
    )


def taught_line(variant: str, taught: Distillation) -> str:
    """Who taught the model, how, and how near it came."""
    names = " and ".join(one.name for one in taught.teachers)
    together = " together" if len(taught.teachers) > 1 else ""
    return (
        f"{variant} against {names}{together}, by which it was taught (alpha {taught.alpha:g}, temperature "
        f"{taught.temperature:g}): {change_line(taught)}; {'they have' if together else 'it has'} AUC "
        f"{taught.auc:.4f}, LogLoss {taught.logloss:.4f}"
    )


def known_metric(name: str, metrics: Metrics) -> str:
    """AUC or LogLoss with its interval: `0.7563 (0.7341 to 0.7785)`."""
    value, interval = getattr(metrics, name), getattr(metrics, f"{name}_interval")
    return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
