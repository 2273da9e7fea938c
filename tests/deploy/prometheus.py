"""A real Prometheus with the configuration and the rules that are deployed.

A minute of the rules is a second here: `for` and ranges are divided by 60, and it scrapes every second. vLLM
is scraped as it is in Kubernetes, under the job `vllm`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from smoothgate_lab.evaluation.running_service import free_port
from tests.deploy.stack import ROOT, Stack, answers, process
from tests.programs import program
from tests.waiting import wait_until

FOLDER = ROOT / "deploy/observability"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
PATIENCE = 240


@dataclass(frozen=True)
class Prometheus:
    url: str
    folder: Path

    def ask(self, path: str, **parameters: object) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()  # type: ignore[arg-type]
        assert answer["status"] == "success", answer
        return answer["data"]

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def scrape(self, job: str, *ports: int) -> None:
        """These are its targets from now on."""
        listed = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        path = self.folder / f"{job}.json"
        path.with_suffix(".new").write_text(json.dumps(listed))
        path.with_suffix(".new").rename(path)

    def wait_firing(self, alerts: set[str]) -> None:
        """Until each of them has fired. Some clear by themselves before others fire."""
        fired: set[str] = set()

        def all_fired() -> bool:
            fired.update(self.firing())
            return alerts <= fired

        wait_until(all_fired, PATIENCE, lambda: f"not firing: {alerts - fired}")

    def wait_clear(self, alerts: set[str]) -> None:
        wait_until(lambda: not alerts & self.firing(), PATIENCE, lambda: f"firing: {alerts & self.firing()}")


def _scaled(duration: str) -> str:
    number, unit = int(duration[:-1]), duration[-1]
    return f"{number * {'m': 1, 'h': 60, 'd': 1440}[unit]}s"


def _fast(rules: dict[str, Any]) -> dict[str, Any]:
    groups = json.loads(json.dumps(rules))
    for rule in (rule for group in groups["groups"] for rule in group["rules"]):
        rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{_scaled(found[1])}]", rule["expr"])
        if "for" in rule:
            rule["for"] = _scaled(rule["for"])
    found: dict[str, Any] = groups
    return found


@contextmanager
def scraping(stack: Stack, folder: Path) -> Iterator[Prometheus]:
    """Prometheus as it is deployed, with these targets and in a hurry."""
    command = program("prometheus", package="the Debian package prometheus")
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"].append({"job_name": "vllm"})
    for job in configuration["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["file_sd_configs"] = [{"files": [f"{job['job_name']}.json"], "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "rules.yaml").write_text(yaml.safe_dump(_fast(RULES)))
    port = free_port()
    it = Prometheus(f"http://127.0.0.1:{port}", folder)
    it.scrape("vllm", stack.vllm.port)
    it.scrape("smoothgate", *(gate.metrics_port for gate in stack.gates))
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "log"
    with process([command, *arguments], log):
        wait_until(lambda: answers(f"{it.url}/-/ready"), 60, log.read_text)
        wait_until(
            lambda: len(it.ask("query", query="up == 1")["result"]) == 3, 60, lambda: it.ask("targets")
        )
        yield it
