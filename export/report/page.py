"""Lays the findings out as one HTML page that needs no other file. It draws no figure itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from export.report import plots
from export.report.changes import float_layer_lines
from export.report.findings import Findings
from export.report.gain_text import gain_line, known_metric, offer_line, taught_line, verdict_line
from export.report.layout import change_ends, document, figure, section, table
from export.report.quality import histogram, meanings, quality_table
from export.report.segments import gain_in_words, segments_table
from service.bundle.calibration import Calibrator
from service.bundle.manifest import EmbeddingRows, Parity

PARTS_TOLD = ("calibration", "test")
FIELDS_SHOWN = 10


def page(findings: Findings) -> str:
    """The whole page: what is served and why, its quality, size and speed, and the data."""
    sections = [
        _head(findings),
        *_gain(findings),
        *_teachers(findings),
        section("Fields: what training did not see", fields_table(findings)),
        section("Quality on the test part", quality_table(findings), meanings(), histogram(findings)),
        section(
            "Calibration",
            figure(plots.reliability_figure(findings.reliability_before, findings.reliability_after)),
            calibration_table(findings),
            _rate_windows(findings),
            _segments(findings),
        ),
        section("Serving variant and what was kept out", serving_list(findings), ladder_table(findings)),
        section("Parity on the test part", parity_table(findings.parity)),
        section(
            "Size and speed", compression_table(findings), _speed_figures(findings), latency_table(findings)
        ),
        section("Training and pruning", _search(findings), _curves(findings), _matrices(findings)),
        section("Data", data_table(findings)),
    ]
    return document(f"{findings.bundle}: export report", sections)


def _head(findings: Findings) -> str:
    served = findings.evaluation[findings.serving_variant]
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in findings.warnings)
    return (
        f"<h1>{escape(findings.bundle)}</h1><p class='lead'>{escape(findings.model)}, "
        f"{findings.parameters:,} parameters, built {escape(findings.created_at)} on "
        f"{escape(findings.machine)}; serves "
        f"<b>{escape(findings.serving_variant)}</b>: AUC {known_metric('auc', served)}, LogLoss "
        f"{known_metric('logloss', served)}, ECE {served.ece:.4f}; 95 % intervals over {served.rows:,} test "
        f"rows, {served.clicks:,} clicks.</p>{warnings}"
    )


def _gain(findings: Findings) -> list[str]:
    """What the serving variant wins over the plain model, and the smaller bundle where that is nothing."""
    won, variant = findings.baseline, findings.serving_variant
    if won is None:
        return []
    verdict = f"<p><b>{escape(verdict_line(variant, won))}.</b> {escape(gain_line(variant, won))}.</p>"
    offer = offer_line(findings.graph_bytes[variant], won)
    if offer:
        offer = f"<p>{escape(offer[:1].upper() + offer[1:])}:</p><pre>{escape(won.command)}</pre>"
    return [section(f"What the model wins over {won.model}", verdict, offer)]


def _teachers(findings: Findings) -> list[str]:
    """The teachers of the model beside the serving variant; nothing where none taught it."""
    taught, variant = findings.distillation, findings.serving_variant
    if taught is None:
        return []
    rows: list[list[object]] = [
        [f"teacher {one.name}", one.model, one.auc, one.logloss] for one in taught.teachers
    ]
    if len(rows) > 1:
        rows.append(["teachers together", None, taught.auc, taught.logloss])
    served = findings.evaluation[variant]
    rows.append([f"student, {variant}", findings.model, served.auc, served.logloss])
    about = (
        f"<p>{escape(taught_line(variant, taught))}.</p><p>On the test part; LogLoss of teachers after a "
        "line that is fitted to the calibration part.</p>"
    )
    return [section("Teachers", about, table(["", "model", "AUC", "LogLoss"], rows))]


def calibration_table(findings: Findings) -> str:
    """The calibrator of each variant, and its quality on rows that the fit did not see."""
    rows = [
        [name, c.method_in_words, _shape(c), *(f"{getattr(c.before, key):.5f} → {getattr(c.after, key):.5f}"
         for key in ("logloss", "ece", "pcoc")), c.fit_rows]
        for name, c in findings.calibrators.items()
    ]  # fmt: skip
    head = ["variant", "method", "parameters", "LogLoss", "ECE", "PCOC", "rows"]
    about = (
        "Rows of the calibration part, before → after, each judged by a fit that did not see it; in a log "
        "with time an earlier one, so the later half is judged."
    )
    return f"<p>{about}</p>{table(head, rows)}"


def _rate_windows(findings: Findings) -> str:
    """The click rate over the log, and PCOC before and after calibration, of the serving variant."""
    if not findings.rate_windows:
        return ""
    rows = [
        [w.name, w.part, w.rows, f"{w.clicks / w.rows:.2%}", w.pcoc_before, w.pcoc_after]
        for w in findings.rate_windows
    ]
    head = ["window", "part", "rows", "click rate", "PCOC before", "after"]
    about = (
        f"How the click rate moved, and how far {escape(findings.serving_variant)} followed it; the "
        "calibrator was fitted on the calibration part alone."
    )
    details = f"<details><summary>{len(rows)} windows</summary>{table(head, rows)}</details>"
    return f"<p>{about}</p>{figure(plots.rate_figure(findings.rate_windows))}{details}"


def _segments(findings: Findings) -> str:
    """The values of the field of `--calibrate-by`, most frequent first; empty where none was chosen."""
    found = findings.segments
    if found is None:
        return ""
    told = f"Of {found.gain.field}: {gain_in_words(found.gain)}."
    shown = f"The {len(found.rows)} values with the most test rows, of {found.values:,}:"
    return f"<p>{escape(told)} {shown}</p>{table(*segments_table(found))}"


def _shape(calibrator: Calibrator) -> str | None:
    if calibrator.method == "platt":
        return f"{calibrator.slope:.3f} × logit {calibrator.intercept:+.3f}"
    if calibrator.method == "beta":
        slopes = f"{calibrator.low_slope:.3f} ln q − {calibrator.slope:.3f} ln(1 − q)"
        return f"{slopes} {calibrator.intercept:+.3f}"
    return f"{len(calibrator.knots)} knots" if calibrator.knots else None


def serving_list(findings: Findings) -> str:
    """The variant that serves, and why others are kept out."""
    kept = "".join(
        f"<li><b>{escape(name)}</b> is kept out: {escape(why)}</li>"
        for name, why in findings.kept_out.items()
    )
    choices = "".join(f"<li>{escape(choice)}</li>" for choice in findings.choices)
    return f"<ul><li><b>{escape(findings.serving_variant)}</b> is served</li>{kept}{choices}</ul>"


def ladder_table(findings: Findings) -> str:
    """The changes from graph to graph by which it was chosen what may serve."""
    if not findings.ladder:
        return ""
    about = (
        "<p>Chosen by rows of the validation part, each graph's LogLoss after a line fitted to its logits. "
        "A graph that loses more than is allowed does not serve.</p>"
    )
    return about + parity_table(findings.ladder)


def parity_table(parities: Sequence[Parity]) -> str:
    rows = [
        [f"{p.variant} − {p.reference}", p.max_abs_logit, p.auc_delta, change_ends(p.auc_interval),
         p.logloss_delta, change_ends(p.logloss_interval)]
        for p in parities
    ]  # fmt: skip
    return table(["variant", "max |Δ logit|", "Δ AUC", "95 % interval", "Δ LogLoss", "95 % interval"], rows)


def compression_table(findings: Findings) -> str:
    rows: list[list[object]] = [
        [f"bytes of model.{name}.onnx", size] for name, size in findings.graph_bytes.items()
    ]
    if found := findings.compression:
        rows += [[f"{name}: pruned (target {rate:.1%})", f"{found.reached.get(name, 0.0):.2%}"]
                 for name, rate in found.rates.items()]  # fmt: skip
        rows += [
            ["live neurons", f"{_joined(found.live_neurons)} of {_joined(findings.layer_widths)}"],
            ["live field pairs", f"{found.live_pairs:,} of {findings.field_pairs:,}"],
            ["embedding rows", f"{found.embedding_rows[1]:,} of {found.embedding_rows[0]:,}"],
        ]
    if narrow := findings.embedding_rows:
        rows += [
            ["bytes of INT8's embedding rows", narrow.bytes],
            *_by_bits(narrow),
            ["LogLoss that they are expected to add", f"{narrow.loss:.6f}"],
        ]
    if floats := findings.float_layers:
        rows += [["float32 in INT8", line] for line in float_layer_lines(floats)]
    return table([findings.compression.recipe if findings.compression else "no pruning", ""], rows)


def _by_bits(rows: EmbeddingRows) -> list[list[object]]:
    """The fields by the bits of their rows, the widest first; of several tables with the table's name."""
    fields: dict[int, list[str]] = {}
    for name, of_fields in rows.tables.items():
        prefix = f"{name}: " if len(rows.tables) > 1 else ""
        for field, bits in of_fields.items():
            fields.setdefault(bits, []).append(prefix + field)
    return [[f"at {bits} bits", ", ".join(fields[bits])] for bits in sorted(fields, reverse=True)]


def _joined(widths: Sequence[int]) -> str:
    return "-".join(str(width) for width in widths) or "none"


def latency_table(findings: Findings) -> str:
    if not findings.latency:
        return ""
    sizes = list(findings.latency[0].microseconds_a_row)
    rows = [
        [one.variant, *(f"{one.microseconds_a_row[size]:.2f}" for size in sizes)] for one in findings.latency
    ]
    return table(["microseconds a row", *(f"batch {size}" for size in sizes)], rows)


def data_table(findings: Findings) -> str:
    data = findings.data
    rows = [[part, rows, data.clicks[part], f"{data.clicks[part] / max(1, rows):.2%}"]
            for part, rows in data.rows.items()]  # fmt: skip
    window = " to ".join(
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(second)) for second in data.window or ()
    )
    about = (
        f"<p>{escape(data.source)}, split by {escape(data.split)}{', ' + window if window else ''}; "
        f"{data.skipped_rows:,} malformed rows skipped; share of non-clicks kept by the log: "
        f"{data.negative_sampling_rate:g}.</p>"
    )
    return about + table(["part", "rows", "clicks", "click rate"], rows)


def fields_table(findings: Findings) -> str:
    """Unseen and missing values by field, the most unseen first; all but the first few are folded away."""
    fields = sorted(
        findings.data.fields, key=lambda field: (-field.unseen["test"], -field.missing["test"], field.name)
    )
    rows = [[field.name, field.kind, field.role, field.cardinality,
             *(f"{shares[part]:.2%}" for shares in (field.unseen, field.missing) for part in PARTS_TOLD),
             "too few" if field.auc is None else f"{field.auc:.4f}"] for field in fields]  # fmt: skip
    shares = [f"{what} in {part}" for what in ("unseen", "missing") for part in PARTS_TOLD]
    head = ["field", "kind", "role", "ids", *shares, "AUC alone"]
    about = (
        "<p>Unseen: the share of values without an id of their own, since training showed them too rarely or "
        "never. AUC alone: of each value's click rate in training, on the validation part, or on all later "
        "rows where that has too few clicks or non-clicks.</p>"
    )
    more = rows[FIELDS_SHOWN:]
    folded = f"<details><summary>{len(more)} more fields</summary>{table(head, more)}</details>"
    return about + table(head, rows[:FIELDS_SHOWN]) + (folded if more else "")


def _search(findings: Findings) -> str:
    return "" if findings.search is None else f"<p>{escape(findings.search)}</p>"


def _curves(findings: Findings) -> str:
    if not (findings.training or findings.pruning):
        return "<p>The model was loaded from a checkpoint, not trained here.</p>"
    return figure(plots.curves_figure(findings))


def _speed_figures(findings: Findings) -> str:
    figures = [plots.sizes_figure(findings), *([plots.latency_figure(findings)] if findings.latency else [])]
    return '<div class="row">' + "".join(figure(svg) for svg in figures) + "</div>"


def _matrices(findings: Findings) -> str:
    figures = [plots.field_matrix_figure(matrix, title=f"field matrix R, {name}")
               for name, matrix in findings.field_matrices.items()]  # fmt: skip
    return '<div class="row">' + "".join(figure(svg) for svg in figures) + "</div>"
