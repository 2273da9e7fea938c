"""Grafana's dashboard: by the types of Grafana's SDK, against the metrics, each query asked of Prometheus."""

import json
import math
import time
from typing import Any

import httpx
import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.prometheus import RULES, Prometheus
from tests.deploy.stack import ROOT, Gate, Stack
from tests.deploy.test_rules import names_in, names_of_service
from tests.waiting import wait_until
from tests.whole_service import data_uri

FOLDER = ROOT / "deploy/observability/grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboards/smoothgate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What no machine of the tests has: those panels say so.
NOT_RUN = [panel for panel in PANELS if panel["description"].startswith("Not run: ")]
QUERIES = [target["expr"] for panel in PANELS if panel not in NOT_RUN for target in panel["targets"]]
# Grafana's variables, as "All" and a scrape interval of a second make them.
_VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "30s"}


def test_grafana_knows_it_and_its_provisioning() -> None:
    known = Dashboard.from_json(DASHBOARD)
    assert known.uid == "smoothgate"
    assert known.panels is not None
    assert len(known.panels) == len(DASHBOARD["panels"])
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/smoothgate.yaml").read_text())[
        "providers"
    ]
    assert provider["type"] == "file"


def test_panels_do_not_overlap_and_each_says_what_it_shows() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"].endswith(".") for panel in PANELS)


def test_only_panels_of_gpus_are_not_run_and_a_row_says_so() -> None:
    assert {panel["title"] for panel in NOT_RUN} == {"GPUs busy", "Memory of GPUs", "Errors of GPUs"}
    for panel in NOT_RUN:
        assert all("DCGM_FI_" in target["expr"] for target in panel["targets"])
    assert any(panel["type"] == "row" and "not run" in panel["title"] for panel in DASHBOARD["panels"])


def test_it_asks_about_what_there_is_and_leaves_nothing_out() -> None:
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    asked = {name for query in QUERIES for name in names_in(query)}
    assert asked - recorded <= names_of_service()
    used = asked | {
        name for group in RULES["groups"] for rule in group["rules"] for name in names_in(rule["expr"])
    }
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in used}
    everything = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for name in names_of_service()
    }
    assert not everything - families


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_prometheus_answers_every_query(stack: Stack, prometheus: Prometheus) -> None:
    """After answers with a scrape between them: a rate needs two different values of a counter."""
    gate = stack.gates[0].url
    few = {"n_select": 16, "n_certify": 64}
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "stream": True}
    for turn in range(1, 4):
        chat = {
            "message": "What is it?",
            "images": [data_uri("seven.png")],
            "smoothing": few,
            "max_tokens": 3,
        }
        assert httpx.post(f"{gate}/v1/chat", json=chat, timeout=120).status_code == 200
        assert httpx.post(f"{gate}/v1/chat/completions", json=body, timeout=120).status_code == 200
        _wait_scraped(prometheus, stack.gates[0], 2 * turn)
    told = {}
    for query in QUERIES:
        asked = query
        for name, value in _VARIABLES.items():
            asked = asked.replace(name, value)
        told[query] = asked
    missing: list[str] = []

    def unanswered() -> list[str]:
        missing[:] = [query for query, asked in told.items() if not _answered(prometheus, asked)]
        return missing

    wait_until(lambda: not unanswered(), 60, lambda: missing)


def _wait_scraped(prometheus: Prometheus, gate: Gate, answers: int) -> None:
    """Until Prometheus knows of so many answers of a gate."""
    query = f'sum(smoothgate_request_seconds_count{{instance="127.0.0.1:{gate.metrics_port}",outcome="ok"}})'

    def known() -> float:
        return sum(float(series["value"][1]) for series in prometheus.ask("query", query=query)["result"])

    wait_until(lambda: known() >= answers, 60, lambda: f"{known()} of {answers}")


def _answered(prometheus: Prometheus, query: str) -> bool:
    """Whether there is a number in what it says of the last two minutes."""
    now = time.time()
    series = prometheus.ask("query_range", query=query, start=now - 120, end=now, step=1)["result"]
    return any(math.isfinite(float(value)) for each in series for _, value in each["values"])
