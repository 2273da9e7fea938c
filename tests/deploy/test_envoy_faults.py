"""What a real Envoy on `deploy/envoy/envoy.yaml` does about gates that die under a request, about answers
without an end, and when its memory is used up. The gates are sockets: what they would answer does not matter.
"""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.envoy import manager_of, read_configuration, running_envoy
from tests.waiting import wait_until

REFUSING = "overload.envoy.overload_actions.stop_accepting_requests.active"


class _Gate:
    """Answers probes, and ends as it is told to after it has read the head of any other request.

    Attributes:
        visits: requests that came, without probes.
    """

    def __init__(self, *, dies: bool) -> None:
        self.visits = 0
        self._dies = dies
        self._over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while head := connection.recv(65536):
                if b"/health/ready" in head:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.visits += 1
                if self._dies:
                    # A reset, as from a process that is gone.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not self._over.wait(0.05):
                    connection.sendall(b"1\r\na\r\n")


@contextmanager
def _gates(number: int, *, dies: bool) -> Iterator[list[_Gate]]:
    gates = [_Gate(dies=dies) for _ in range(number)]
    try:
        yield gates
    finally:
        for gate in gates:
            gate.close()


def _code(text: str) -> Any:
    return json.loads(text)["error"]["code"]


def test_a_request_that_ends_a_gate_visits_no_other(tmp_path: Path) -> None:
    with (
        _gates(3, dies=True) as gates,
        running_envoy(tmp_path, [gate.port for gate in gates], read_configuration()) as envoy,
    ):
        answer = httpx.post(f"{envoy.url}/v1/chat", json={"message": "Hello"}, timeout=30)
        assert answer.status_code == 503
        assert _code(answer.text).startswith("upstream_reset_before_response_started")
        assert sum(gate.visits for gate in gates) == 1


def test_an_answer_without_an_end_is_ended(tmp_path: Path) -> None:
    configuration = read_configuration()
    manager_of(configuration)["common_http_protocol_options"]["max_stream_duration"] = "1s"
    with (
        _gates(1, dies=False) as gates,
        running_envoy(tmp_path, [gate.port for gate in gates], configuration) as envoy,
    ):
        with (
            httpx.stream("POST", f"{envoy.url}/v1/chat", json={}, timeout=30) as answer,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            answer.read()
        assert envoy.statistic("http.http.downstream_rq_max_duration_reached") == 1


def test_it_takes_no_request_when_its_memory_is_used_up(tmp_path: Path) -> None:
    configuration = read_configuration()
    (heap,) = (
        each["typed_config"]
        for each in configuration["overload_manager"]["resource_monitors"]
        if each["name"].endswith("fixed_heap")
    )
    heap["max_heap_size_bytes"] = 1
    with (
        _gates(1, dies=True) as gates,
        running_envoy(tmp_path, [gate.port for gate in gates], configuration) as envoy,
    ):
        wait_until(lambda: envoy.statistic(REFUSING) == 1, 30, lambda: "it goes on")
        refused = httpx.post(f"{envoy.url}/v1/chat", json={}, timeout=30)
        assert (refused.status_code, _code(refused.text)) == (503, "overload")
        assert refused.headers["retry-after"]
        assert gates[0].visits == 0
