"""Prometheus' rules: by promtool, and against what the service has."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from smoothgate import metrics
from tests.deploy.stack import ROOT
from tests.programs import program

FOLDER = ROOT / "deploy/observability"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]


@pytest.mark.parametrize(
    "command",
    ["check config prometheus.yml", "check rules rules.yaml", "test rules rules_test.yaml"],
)
def test_promtool_is_content(command: str) -> None:
    promtool = program("promtool", package="the Debian package prometheus")
    told = subprocess.run(
        [promtool, *command.split()], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_to_fire_and_to_clear(alert: str) -> None:
    cases = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    told = [
        [bool(each["exp_alerts"]) for each in case["alert_rule_test"] if each["alertname"] == alert]
        for case in cases
    ]
    assert [False, True, False] in told


def test_every_alert_says_where_its_runbook_is() -> None:
    for rule in RULES:
        if "alert" in rule:
            address = rule["annotations"]["runbook_url"]
            assert address.endswith("/docs/operations.md#alerts"), rule["alert"]


@pytest.mark.parametrize("alert", ALERTS)
def test_operations_say_what_to_do_about_an_alert(alert: str) -> None:
    assert f"| `{alert}` |" in (ROOT / "docs/operations.md").read_text()


def test_the_operator_gets_the_same_groups() -> None:
    resource = yaml.safe_load((ROOT / "deploy/components/monitoring/prometheusrule.yaml").read_text())
    assert (resource["kind"], resource["spec"]["groups"]) == ("PrometheusRule", GROUPS)


def names_of_service() -> set[str]:
    """Every name under which a metric of the service is scraped."""
    suffixes = {
        "counter": ["_total"],
        "histogram": ["_bucket", "_sum", "_count"],
        "gauge": [""],
        "info": ["_info"],
    }
    ours = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    return {metric._name + suffix for metric in ours for suffix in suffixes[str(metric._type)]}


def names_in(expression: str) -> Iterator[str]:
    """The metrics of ours, and the recorded ones, in an expression."""
    yield from re.findall(
        r"(?:[a-z]+:)?smoothgate_[\w:]+|\bgen_ai_server_\w+|\bgen_ai_client_\w+", expression
    )


def test_what_an_endpoint_picker_reads_is_there() -> None:
    guide = (ROOT / "docs/deploy.md").read_text()
    section = guide.partition("**An Endpoint Picker")[2].partition("\n## ")[0]
    assert {"smoothgate_queued_seconds", "smoothgate_requests_in_flight"} == set(names_in(section))
    assert set(names_in(section)) <= names_of_service()


def test_a_rule_asks_about_what_there_is() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {name for rule in RULES for name in names_in(rule["expr"])}
    assert asked - recorded <= names_of_service()
    assert recorded
