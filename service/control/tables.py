"""The state of a service, and its live calibrations, as small tables, for people."""

from __future__ import annotations

from collections.abc import Sequence

from service.control.protocol import ArmStatus, CalibrationStatus, CanaryStatus, ServiceStatus


def table_of(status: ServiceStatus) -> str:
    """Arms, workers, and the last reload."""
    arms = aligned(
        ("arm", "weight", "share", "state", "bundle", "before", "since", "by"),
        [_cells(arm, status.control_arm) for arm in status.arms],
    )
    workers = aligned(
        ("worker", "state", "revision", "bundles"),
        [
            (
                str(worker.pid),
                worker.state,
                str(worker.revision),
                "current" if worker.has_current_bundles else "before",
            )
            for worker in status.workers
        ],
    )
    lines = [f"revision {status.revision}", "", *arms, "", *workers]
    last = status.last_reload
    if last is not None:
        reason = f": {last.reason}" if last.reason else ""
        lines += ["", f"last {last.command}: {last.outcome} at {last.at}{reason}"]
    if status.canary is not None:
        lines += ["", f"canary: {canary_table_of(status.canary)}"]
    return "\n".join(lines)


def canary_table_of(canary: CanaryStatus | None) -> str:
    """A canary and its gates."""
    if canary is None:
        return "no canary was started since the service began"
    steps = ", ".join(f"{step:g} %" for step in canary.steps)
    by = f" by {canary.gate}" if canary.gate else ""
    state = f"{canary.arm} against {canary.control}: {_words(canary.verdict)}{by}, {canary.reason}"
    where = f"step {canary.step} of {steps}; {canary.share:.1%} of the traffic of both"
    lines = [
        state,
        f"{where}, {canary.requests:.0f} requests since {canary.since}",
        "",
        *aligned(
            ("gate", "used up", "what it knows"),
            [
                (each.gate, "-" if each.level is None else f"{each.level:.0%}", each.words)
                for each in canary.gates
            ],
        ),
    ]
    return "\n".join([*lines, *canary.notes])


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")


def calibration_table_of(calibrations: Sequence[CalibrationStatus]) -> str:
    """The live calibrations of arms."""
    rows = [
        (
            found.arm,
            f"{found.mode}, frozen" if found.is_frozen else found.mode,
            str(found.revision),
            f"{found.intercept:.4f}",
            f"{found.slope:.4f}",
            f"{found.clicks:.0f}",
            f"{found.dispersion:.2f}",
            _pcoc(found.pcoc_bundle),
            _pcoc(found.pcoc_live),
        )
        for found in calibrations
    ]
    heads = (
        "arm",
        "mode",
        "revision",
        "intercept",
        "slope",
        "clicks",
        "dispersion",
        "PCOC without",
        "PCOC with",
    )
    return "\n".join(aligned(heads, rows))


def _pcoc(found: float | None) -> str:
    return "-" if found is None else f"{found:.3f}"


def _cells(arm: ArmStatus, control_arm: str) -> tuple[str, ...]:
    state = "killed" if arm.is_killed else "control" if arm.name == control_arm else "serves"
    if arm.shadow is not None and not arm.is_killed:
        state = f"shadow of {arm.shadow.of}, {arm.shadow.share:.4g}"
    by = arm.by if arm.user is None else f"{arm.by} (user {arm.user})"
    return (
        arm.name,
        f"{arm.weight:g}",
        f"{arm.share:.1%}",
        state,
        arm.bundle,
        arm.previous_bundle or "-",
        arm.since,
        by,
    )


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns of equal width."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
