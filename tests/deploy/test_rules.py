"""The rules of Prometheus: they ask for what is counted, fire when they should, and say what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.control.canary_counts import FAILURES
from service.errors import ServiceError
from service.features.store import IS_MISSING_REASONS
from service.feedback.tokens import Reason
from tests.deploy.promql import (
    PROMTOOL,
    RULES,
    dashboard_queries,
    families,
    labels_of,
    needs_promtool,
    read_query,
    recorded,
    rules,
)
from tests.pages import REPOSITORY, Page

CASES = REPOSITORY / "tests/deploy/alerts.yml"
OPERATIONS = Page("docs/operations.md")
ALERTS = [rule for rule in rules() if "alert" in rule]
QUERIES = [(rule.get("alert") or rule["record"], str(rule["expr"])) for rule in rules()] + dashboard_queries()
# Labels whose values are the operator's, or Prometheus' own.
OPEN_LABELS = {"job", "instance", "arm", "alertname", "alertstate", "window"}
EACH_ALERT = pytest.mark.parametrize(
    "alert", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def errors() -> list[type[ServiceError]]:
    def below(error: type[ServiceError]) -> list[type[ServiceError]]:
        return [error, *(each for child in error.__subclasses__() for each in below(child))]

    return below(ServiceError)


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_what_rules_and_dashboard_name_exists(where: str, query: str) -> None:
    assert "$" not in query, f"{where}: give this variable a value in tests/deploy/promql.py: {query}"
    found = read_query(query)
    missing = [name for name in found.metrics if name not in recorded() and not exists(name)]
    assert not missing, (
        f"{where} asks for {missing}, which neither the service nor a recording rule has: {query}"
    )
    known = set().union(*map(labels_of, found.metrics)) if found.metrics else set()
    assert found.labels <= known, f"{where}: no metric has the labels {found.labels - known}: {query}"
    for metric, label, values in found.matchers:
        assert label in labels_of(metric), f"{where}: {metric} has no label {label}"
        if label not in OPEN_LABELS:
            unknown = set(values) - values_of(metric, label)
            assert not unknown, f"{where}: {label} of {metric} is never {unknown}"


def exists(metric: str) -> bool:
    try:
        labels_of(metric)
    except KeyError:
        return False
    return True


def values_of(metric: str, label: str) -> set[str]:
    """The values that a label has: bounds of buckets, or words that the help or the errors name."""
    family = families()[metric]
    if label == "le":
        return {more["le"] for _, more, _ in family.samples([0.0] * family.width) if more}
    codes = {error.code for error in errors()} | {"too_late"}
    return {
        *re.findall(r"\w+", family.help_text),
        *codes,
        *IS_MISSING_REASONS,
        *(each.label for each in Reason),
    }


def test_names_are_found_in_queries() -> None:
    found = read_query(
        'a_b / on (arm) group_left sum by (job, le) (rate(c:d{x="1|2", y!~"z"}[5m] offset 1d)) > bool 1e3 '
        "or e unless scalar(f)"
    )
    assert found.metrics == {"a_b", "c:d", "e", "f"}
    assert found.labels == {"arm", "job", "le"}
    assert found.matchers == (("c:d", "x", ("1", "2")), ("c:d", "y", ("z",)))


def test_unavailable_is_what_the_service_is_to_blame_for() -> None:
    (rule,) = recorded()["bidlight:unavailable:total"]
    ((_, _, counted),) = read_query(rule["expr"]).matchers
    blamed = {error.code for error in errors() if error.status == 429 or error.status >= 500}
    assert set(counted) == set(FAILURES) == blamed - {"bad_configuration"} | {"too_late"}


@EACH_ALERT
def test_an_alert_says_what_to_do_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "action", "runbook"}
    assert all(len(text) > 20 for text in alert["annotations"].values())
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert page == OPERATIONS.name
    assert anchor in OPERATIONS.anchors


@EACH_ALERT
def test_thresholds_are_in_one_place(alert: dict[str, Any]) -> None:
    """Only that something is more than nothing, or is 0, is said in an alert itself."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|[a-zA-Z_:][\w:]*', " ", alert["expr"])
    assert set(re.findall(r"[\d.]+", bare)) <= {"0"}


def test_every_limit_is_used() -> None:
    limits = yaml.safe_load((RULES / "limits.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    used = set().union(*(read_query(str(rule["expr"])).metrics for rule in rules()))
    assert {rule["record"] for rule in limits} <= used


def test_the_page_names_the_alerts_and_has_no_rule() -> None:
    named = [row[0].strip("`") for row in OPERATIONS.rows("alerts")]
    assert named == list(dict.fromkeys(alert["alert"] for alert in ALERTS))
    for page in (OPERATIONS.text, (REPOSITORY / "README.md").read_text(encoding="utf-8")):
        assert "- alert:" not in page


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, is_silent = set(), set()
    for case in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]:
        for check in case["promql_expr_test"]:
            (name,) = re.findall(r'alertname="(\w+)"', check["expr"])
            severities = re.findall(r'severity="(\w+)"', str(check["exp_samples"]))
            fires.update((name, severity) for severity in severities)
            if not severities:
                is_silent.add(name)
    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert is_silent == {alert["alert"] for alert in ALERTS}


@needs_promtool
def test_the_rules_are_rules() -> None:
    found = promtool("check", "rules", "--lint-fatal", *sorted(RULES.glob("*.yml")))
    assert found.returncode == 0, found.stdout + found.stderr


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    found = promtool("test", "rules", CASES)
    assert found.returncode == 0, found.stdout + found.stderr


@needs_promtool
def test_a_rule_that_does_not_fire_is_found(tmp_path: Path) -> None:
    """Cases that hold whatever the rules say would hold nothing."""
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    (chosen,) = [case for case in cases["tests"] if "BidlightRefuses" in str(case)]
    for limit, status in (("0.01", 0), ("0.9", 1)):
        for path in RULES.glob("*.yml"):
            text = path.read_text(encoding="utf-8")
            changed = text.replace(
                "refused_share\n        expr: 0.01", f"refused_share\n        expr: {limit}"
            )
            (tmp_path / path.name).write_text(changed, encoding="utf-8")
        names = [Path(file).name for file in cases["rule_files"]]
        one = {**cases, "rule_files": names, "tests": [chosen]}
        (tmp_path / "cases.yaml").write_text(yaml.safe_dump(one), encoding="utf-8")
        assert promtool("test", "rules", tmp_path / "cases.yaml").returncode == status
