"""What rules and dashboard ask Prometheus for: the metrics and labels of a query, and which exist.

promtool parses the language; here names are found, in queries that promtool accepts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import yaml

from service.metrics.families import Metrics
from service.metrics.series import Family
from tests.pages import REPOSITORY

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")

RULES = REPOSITORY / "deploy/rules"
DASHBOARD = REPOSITORY / "deploy/grafana/dashboards/bidlight.json"
# What Grafana puts in place of its variables, and what is any of it.
VARIABLES = {"$__rate_interval": "5m", "$arm": ".*"}
# Of Prometheus itself: what it scraped, and which alerts it has.
PROMETHEUS_METRICS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}
TARGET_LABELS = {"job", "instance"}

_WORDS = {
    "and",
    "or",
    "unless",
    "by",
    "on",
    "bool",
    "offset",
    "ignoring",
    "without",
    "group_left",
    "group_right",
}
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_LABEL_LIST = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^()]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_NAME = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])")


@dataclass(frozen=True)
class Query:
    """The names of a query: `metrics`, matchers (metric, label, values), and the `labels` it groups by."""

    metrics: frozenset[str]
    matchers: tuple[tuple[str, str, tuple[str, ...]], ...]
    labels: frozenset[str]


def read_query(text: str) -> Query:
    """The names of a query in which no Grafana variable is left."""
    matchers = tuple(
        (metric, label, tuple(values.split("|")))
        for metric, inside in _SELECTOR.findall(text)
        for label, _, values in _MATCHER.findall(inside)
    )
    labels = {each.strip() for found in _LABEL_LIST.findall(text) for each in found.split(",")} - {""}
    bare = _RANGE.sub(" ", _SELECTOR.sub(r"\1 ", text))
    bare = _LABEL_LIST.sub(" ", bare)
    return Query(frozenset(_NAME.findall(bare)) - _WORDS, matchers, frozenset(labels))


@cache
def rules() -> tuple[dict[str, Any], ...]:
    """All rules, in the order of files."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULES.glob("*.yml"))]
    return tuple(rule for file in files for group in file["groups"] for rule in group["rules"])


def recorded() -> dict[str, list[dict[str, Any]]]:
    """The recording rules of each name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in rules():
        if "record" in rule:
            found.setdefault(rule["record"], []).append(rule)
    return found


@cache
def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana reads it."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def dashboard_queries() -> list[tuple[str, str]]:
    """Title of the panel and query, of each query, with values in place of variables."""
    return [
        (panel["title"], _without_variables(target["expr"]))
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def _without_variables(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


@cache
def families() -> dict[str, Family[Any]]:
    """The families of the service, by the name of each of their samples."""
    return {
        family.name + suffix: family
        for family in Metrics().families.values()
        for suffix, _, _ in family.samples([0.0] * family.width)
    }


@cache
def process_metrics() -> frozenset[str]:
    """What a process says of itself."""
    text = Metrics().exposition()[0].decode()
    return frozenset(re.findall(r"^# HELP (process_\w+) ", text, flags=re.MULTILINE))


def labels_of(metric: str) -> set[str]:
    """The labels that a metric has, or may have if it is recorded. Raises KeyError if there is none."""
    if metric in families():
        return {*families()[metric].label_names, *TARGET_LABELS} | (
            {"le"} if metric.endswith("_bucket") else set()
        )
    if metric in process_metrics():
        return TARGET_LABELS
    if metric in PROMETHEUS_METRICS:
        return PROMETHEUS_METRICS[metric]
    found: set[str] = set()
    for rule in recorded()[metric]:
        found |= rule.get("labels", {}).keys()
        for name in read_query(str(rule["expr"])).metrics:
            found |= labels_of(name)
    return found


def measured_by(metric: str) -> Iterator[str]:
    """The metrics of the service or of Prometheus that a metric is computed from, or itself."""
    if metric not in recorded():
        yield metric
    for rule in recorded().get(metric, ()):
        for name in read_query(str(rule["expr"])).metrics:
            yield from measured_by(name)
