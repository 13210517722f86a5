"""Lays a comparison of models out as one self-contained HTML page; draws no figure itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape

from export.compare import plots
from export.compare.records import Comparison
from export.compare.tables import cells, failure_lines, headline, legend
from export.judge.bootstrap import Delta
from export.report.layout import CSS, change_ends, document, figure, section, table, value_ends

ABOUT = (
    "Each interval holds by itself: of many models that do not differ, one in twenty seems to. Quality is "
    "that of the served graph after calibration; s/epoch counts training steps alone, without a gbdt's "
    "trees; microseconds a row were measured interleaved in one run, on one thread."
)
COLORS = "Colours: blue above, orange below {}, grey neither; a bar behind a dot is its interval."
# The table of all figures is wide, so its page is too, and its first column stays visible.
WIDE = """
body { max-width: 84rem; }
table { max-width: 100%; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--ground); }
.failed { color: var(--bad); }
@media (min-width: 40rem) { .costs figure { flex-basis: 34rem; } }
pre { font-size: .8rem; overflow-x: auto; }
"""


def comparison_page(comparison: Comparison) -> str:
    """The whole page: the table, AUC with its intervals, AUC against cost, failures, options."""
    return document(
        f"{comparison.log.source}: models compared",
        [
            _head(comparison),
            section("Models", table(*_table(comparison)), _legend(comparison)),
            _failures(comparison),
            section("AUC", figure(plots.auc_figure(comparison)), _differences(comparison)),
            section("What AUC costs", _costs(comparison)),
            section("The log", _log(comparison)),
            section("How each was trained", _settings(comparison), _options(comparison)),
        ],
        css=CSS + WIDE,
    )


def _head(comparison: Comparison) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    best = comparison.rows[0]
    equals = [row.model for row in comparison.rows[1:] if row.against_best.sign == 0]
    also = f"; not distinguishable from it: {', '.join(equals)}" if equals else ""
    return (
        f"<h1>{len(comparison.rows)} models on {escape(comparison.log.source)}</h1>"
        f"<p class='lead'>{escape(headline(comparison))}; {escape(versions)}; "
        f"{escape(comparison.created_at)}</p>"
        f"<p>Best: <b>{escape(best.model)}</b>, AUC {best.auc:.4f}, LogLoss {best.logloss:.4f}"
        f"{escape(also)}.</p>"
    )


def _table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    head, *rows = cells(comparison)
    return head, rows


def _legend(comparison: Comparison) -> str:
    return "".join(f"<p class='lead'>{escape(line)}</p>" for line in (*legend(comparison), ABOUT))


def _failures(comparison: Comparison) -> str:
    if not comparison.failures:
        return ""
    lines = "".join(f"<li class='failed'>{escape(line)}</li>" for line in failure_lines(comparison))
    return section("Without a result", f"<ul>{lines}</ul>")


def _differences(comparison: Comparison) -> str:
    """The intervals behind the marks."""
    reference = comparison.reference
    head = ["model", "AUC", "95 % interval", f"AUC − {comparison.best}", "95 % interval"]
    head += [f"AUC − {reference}", "95 % interval"] if reference else []
    rows = [
        [
            row.model,
            f"{row.auc:.5f}",
            value_ends(row.auc_interval),
            *_difference(None if row.model == comparison.best else row.against_best),
            *(_difference(None if row.model == reference else row.against_reference) if reference else []),
        ]
        for row in comparison.rows
    ]
    colors = f"<p class='lead'>{COLORS.format(escape(reference))}</p>" if reference else ""
    return (
        f"{colors}<details><summary>{len(rows)} models with intervals</summary>{table(head, rows)}</details>"
    )


def _difference(difference: Delta | None) -> list[str | None]:
    if difference is None:
        return [None, None]
    return [f"{difference.delta:+.5f}", change_ends((difference.low, difference.high))]


def _costs(comparison: Comparison) -> str:
    batches = list(comparison.rows[0].microseconds_a_row)
    figures = [*(plots.speed_figure(comparison, batch) for batch in (batches[0], batches[-1])),
               plots.size_figure(comparison)]  # fmt: skip
    about = "<p>The line joins the models that no other beats in both.</p>"
    return about + '<div class="row costs">' + "".join(figure(svg) for svg in figures) + "</div>"


def _log(comparison: Comparison) -> str:
    log = comparison.log
    rows = [[part, count, log.clicks[part], f"{log.clicks[part] / max(1, count):.2%}"]
            for part, count in log.rows.items()]  # fmt: skip
    about = (
        f"<p>{escape(log.source)} by the schema {escape(log.schema)}, split by {escape(log.split)}; "
        f"{log.skipped_rows:,} malformed rows skipped; {log.columns} columns of ids.</p>"
    )
    return about + table(["part", "rows", "clicks", "click rate"], rows)


def _settings(comparison: Comparison) -> str:
    """The hyperparameters of each model, and where its training differs from that of most."""
    configs = [asdict(row.config) for row in comparison.rows]
    usual = {name: _most_common([config[name] for config in configs]) for name in configs[0]}
    rows = []
    for row, config in zip(comparison.rows, configs, strict=True):
        unusual = {name: value for name, value in config.items() if value != usual[name]}
        rows.append(
            [
                row.model,
                _words(row.hyperparameters),
                _words(unusual),
                f"{row.best_epoch} of {row.epochs}",
                row.calibration,
                ", ".join(map(str, row.seeds)),
                f"{row.seconds:,.0f}",
                "; ".join(f"{name} {why}" for name, why in row.kept_out.items()) or "–",
            ]
        )
    head = ["model", "hyperparameters", "other training settings", "best epoch", "calibration", "seeds"]
    head += ["seconds in all", "kept out"]
    about = f"<p>All models but those below: {escape(_words(usual))}.</p>"
    return f"{about}<details><summary>{len(rows)} models</summary>{table(head, rows)}</details>"


def _most_common(values: list[object]) -> object:
    return max(values, key=values.count)


def _words(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in values.items()) or "–"


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _options(comparison: Comparison) -> str:
    told = escape(json.dumps(comparison.options, indent=2, ensure_ascii=False))
    return f"<details><summary>the options of the comparison</summary><pre>{told}</pre></details>"
