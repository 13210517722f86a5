"""The dashboard of Grafana: all that is counted is on it, its queries parse, and Compose mounts it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics.families import Metrics
from tests.deploy.promql import (
    DASHBOARD,
    dashboard,
    dashboard_queries,
    families,
    measured_by,
    needs_promtool,
    process_metrics,
    read_query,
)
from tests.deploy.test_rules import promtool
from tests.pages import REPOSITORY
from tests.test_deploy import PROMETHEUS, SERVICES

# What no panel shows, and why.
LEFT_OUT = {
    "process_virtual_memory_bytes": "address space costs nothing; the panel of memory has what is resident",
    "process_start_time_seconds": "uptime is no state of the service; counters show a restart",
    "bidlight_refusal_timestamp_seconds": "the panel of refusals shows when they were",
    "bidlight_reload_timestamp_seconds": "the panel of reloads shows when they were",
}
ROWS = [
    "At a glance",
    "Traffic and latency",
    "Errors and shedding",
    "Batches and queue",
    "Bids and pCTR",
    "Feedback",
    "Live calibration",
    "Canary",
    "Features",
    "Stores and catalogue",
    "Process",
    "Shadow arms",
]
PANELS: list[dict[str, Any]] = dashboard()["panels"]
QUERIED = [panel for panel in PANELS if panel["type"] != "row"]
PROVISIONING = REPOSITORY / "deploy/grafana/provisioning"
EACH_PANEL = pytest.mark.parametrize("panel", QUERIED, ids=lambda panel: panel["title"])


def test_every_metric_is_on_the_dashboard_or_left_out_with_a_reason() -> None:
    asked = {name for _, query in dashboard_queries() for name in read_query(query).metrics}
    shown = {source for name in asked for source in measured_by(name)}
    shown_families = {families()[name].name for name in shown & families().keys()}
    every = Metrics().families.keys() | process_metrics()
    missing = sorted(every - shown_families - shown - LEFT_OUT.keys())
    assert not missing, (
        f"no panel shows {', '.join(missing)}: add each to a panel of {DASHBOARD.relative_to(REPOSITORY)}, "
        "or to LEFT_OUT in tests/deploy/test_dashboard.py with the reason"
    )
    assert LEFT_OUT.keys() <= every - shown


@needs_promtool
def test_the_queries_parse(tmp_path: Path) -> None:
    found = [
        {"record": f"dashboard:query{number}", "labels": {"panel": title}, "expr": query}
        for number, (title, query) in enumerate(dashboard_queries())
    ]
    for name, extra, status in (("all", [], 0), ("broken", [{"record": "x", "expr": "sum by ("}], 1)):
        file = tmp_path / f"{name}.yml"
        text = yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found + extra}]})
        file.write_text(text, encoding="utf-8")
        checked = promtool("check", "rules", file)
        assert checked.returncode == status, checked.stdout + checked.stderr


def test_its_rows_tell_the_way_of_a_request() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == ROWS
    assert PANELS[0]["type"] == "row"


@EACH_PANEL
def test_a_panel_is_what_grafana_reads(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("timeseries", "stat", "table", "heatmap")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == [chr(ord("A") + number) for number in range(len(letters))]
    assert letters
    for target in panel["targets"]:
        assert (target.get("format") == panel["type"]) == (panel["type"] in ("table", "heatmap"))
        if len(letters) > 1:
            assert target["legendFormat"]


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells
    for key in ("id", "title"):
        assert len({panel[key] for panel in PANELS}) == len(PANELS)


def test_the_variables_are_those_that_queries_use() -> None:
    text = DASHBOARD.read_text(encoding="utf-8")
    names = [variable["name"] for variable in dashboard()["templating"]["list"]]
    assert names == ["datasource", "arm"]
    assert "${datasource}" in text
    assert '=~\\"$arm\\"' in text


def test_compose_mounts_rules_and_dashboard_where_they_are_read() -> None:
    mounts = {
        name: dict(volume.split(":")[:2][::-1] for volume in SERVICES[name]["volumes"])
        for name in ("prometheus", "grafana")
    }
    for source in (*mounts["prometheus"].values(), *mounts["grafana"].values()):
        assert not source.startswith("./") or (REPOSITORY / source).exists(), source
    (pattern,) = PROMETHEUS["rule_files"]
    rules = REPOSITORY / mounts["prometheus"][str(Path(pattern).parent)]
    assert sorted(path.name for path in rules.glob(Path(pattern).name)) == [
        "alerts.yml",
        "limits.yml",
        "recorded.yml",
    ]
    assert (REPOSITORY / mounts["grafana"]["/etc/grafana/provisioning"]) == PROVISIONING
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/bidlight.yml").read_text(encoding="utf-8"))[
        "providers"
    ]
    folder = provider["options"]["path"]
    assert REPOSITORY / mounts["grafana"][folder] == DASHBOARD.parent
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"


def test_the_data_source_is_the_prometheus_of_compose() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert host in SERVICES
    assert any(
        job["static_configs"] == [{"targets": [f"localhost:{port}"]}] for job in PROMETHEUS["scrape_configs"]
    )
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


def test_grafana_can_be_looked_at_and_not_changed() -> None:
    settings = SERVICES["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert SERVICES["grafana"]["ports"] == ["127.0.0.1:3000:3000"]


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        if "image" in service:
            _, _, tag = service["image"].partition(":")
            assert tag[:1].isdigit() or tag.startswith("v"), name


@needs_promtool
def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy/prometheus.yml").read_text(encoding="utf-8")
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/etc/prometheus/rules", str(REPOSITORY / "deploy/rules")), encoding="utf-8")
    found = promtool("check", "config", file)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "3 rule files found" in found.stdout
