"""A real Prometheus with the rules as they are deployed: a fault of the real thing makes each alert fire, its
end makes it clear.
"""

import base64
import io
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from smoothgate.bundled import DEMO
from smoothgate.gate.certificate_store import FILE as STORE_FILE
from smoothgate.gate.commitment_log import FILE
from smoothgate.psm.calibration import Calibration
from smoothgate.psm.checkpoint import PSM
from smoothgate_lab.benchmarks.serving_bench import picture_uri
from tests import processes
from tests.deploy.prometheus import RULES, Prometheus
from tests.deploy.stack import (
    Gate,
    Stack,
    started,
    stopped,
)
from tests.whole_service import data_uri

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

# What the tests below make fire, by the fault.
CRASHES = {"SmoothgateEngineRestarts"}
BAD_PSM = {"SmoothgateCanaryDrift", "SmoothgateMixedModels"}
FLOOD = {"SmoothgateRefusals", "SmoothgateQueueWait"}
BAD_PICTURES = {"SmoothgateUncertified", "SmoothgateScoreDrift"}
# Gates whose own parts are broken. A shared vLLM that hangs takes none of them out of rotation.
NOT_READY = {"SmoothgateDown", "SmoothgateNotReady"}
BURNING = {"SmoothgateBudgetBurnsFast", "SmoothgateBudgetBurnsSlowly"}
HUNG_ENGINE = {"SmoothgateEngineDown", "SmoothgateFailures", "SmoothgateTargetDown"} | BURNING
# The terms on which `_nothing` states nothing.
NOTHING: dict[str, object] = {"sigma": 0.25, "n_certify": 512, "eps": [0.4]}
HUNG_GATES = {"SmoothgateAbsent", "SmoothgateTargetDown"}
# While another process holds the log of a gate, that gate cannot write it.
HELD_LOG = {"SmoothgateLogDown"}
# A gate whose file of certificates is a folder.
LOST_STORE = {"SmoothgateStoreFails"}
# promtool alone: no device of this machine loses a batch when it is told to.
BY_PROMTOOL = {"SmoothgateSamplerFails"}
HELD_UP = {"SmoothgateEventLoopLag", "SmoothgateDecodersDie"}


def test_every_alert_is_made_to_fire() -> None:
    alerts = {rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
    faults = (CRASHES, BAD_PSM, NOT_READY, FLOOD, BAD_PICTURES, HUNG_ENGINE, HUNG_GATES, HELD_LOG, HELD_UP)
    assert alerts == set().union(*faults, LOST_STORE, BY_PROMTOOL)


@contextmanager
def again_and_again(
    work: Callable[[httpx.Client], None], url: str, pause: float, clients: int = 1
) -> Iterator[None]:
    """Clients that do the same until the end of the block, and then hang up."""
    over = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=url, timeout=10) as http:
            while not over.wait(pause):
                with suppress(httpx.HTTPError):  # the service drops what is no longer waited for
                    work(http)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _certify(http: httpx.Client, picture: str, **smoothing: object) -> str | None:
    """The outcome, or None where it is refused."""
    answer = http.post("/v1/certify", json={"images": [picture], "smoothing": smoothing})
    return str(answer.json()["certificates"][0]["outcome"]) if answer.is_success else None


@contextmanager
def _killing(parent: Callable[[], int], kind: str) -> Iterator[None]:
    """Every process of this kind that a gate starts is killed at once."""

    def kill() -> None:
        for pid, command in processes.descendants(parent()).items() if parent() else ():
            if kind in command and "guard.py" not in command:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with _repeating(kill):
        yield


@contextmanager
def _holding_up(pid: int) -> Iterator[None]:
    """A process that has no CPU two thirds of the time."""

    def hold() -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(pid, signal.SIGCONT)

    with _repeating(hold, pause=0.3):
        yield


@contextmanager
def _repeating(work: Callable[[], None], pause: float = 0.1) -> Iterator[None]:
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(pause):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _with_other_scores(folder: Path) -> Path:
    """Nearly the bundled PSM, as if it had been calibrated to half of its scores."""
    shutil.copytree(DEMO.psm, folder)
    psm = PSM.load(folder)
    next(psm.parameters()).mul_(1.01)
    psm.save(folder)
    calibration = Calibration.load(folder)
    figures = calibration.figures
    halved = {sigma: score / 2 for sigma, score in figures.scores.items()}
    calibration.with_smoothed(figures.scores, figures.chance, psm.digest, halved).save(folder)
    return folder


@pytest.mark.long
def test_an_engine_that_crashes_and_an_encoder_that_is_not_what_it_was(
    stack: Stack, prometheus: Prometheus, tmp_path: Path
) -> None:
    alerts = CRASHES | BAD_PSM | NOT_READY
    prometheus.wait_clear(alerts)
    crashing = Gate(tmp_path, {"CANARY_SECONDS": "0"}, until="/health/live")
    psm = _with_other_scores(tmp_path / "psm")
    drifting = Gate(tmp_path, {"ENGINE_URL": stack.vllm.url, "PSM": str(psm)}, until="/health/live")
    good = [gate.metrics_port for gate in stack.gates]
    prometheus.scrape("smoothgate", crashing.metrics_port, drifting.metrics_port)
    try:
        with ExitStack() as faults:
            faults.enter_context(_killing(lambda: crashing.pid, "vllm.entrypoints"))
            faults.enter_context(started(crashing, drifting))
            prometheus.wait_firing(alerts)
    finally:
        prometheus.scrape("smoothgate", *good)
    prometheus.wait_clear(alerts)


def _nothing() -> str:
    """A picture that shows nothing: at a small sigma its features have no common direction."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.long
def test_a_flood_and_pictures_that_cannot_be_certified(stack: Stack, prometheus: Prometheus) -> None:
    one, two = stack.gates
    with httpx.Client(base_url=two.url, timeout=120) as http:
        for _ in range(200):  # what is usual: the first is sampled, the others known
            assert _certify(http, data_uri("seven.png")) == "bounded"
        assert _certify(http, _nothing(), **NOTHING) == "vacuous"
    alerts = FLOOD | BAD_PICTURES
    prometheus.wait_clear(alerts)
    numbers = iter(range(10**6))

    def flood(http: httpx.Client) -> None:
        _certify(http, picture_uri(next(numbers)), n_select=64, n_certify=16_000)

    def hopeless(http: httpx.Client) -> None:
        _certify(http, _nothing(), **NOTHING)

    with again_and_again(flood, one.url, 0.05, clients=6), again_and_again(hopeless, two.url, 0.3):
        prometheus.wait_firing(alerts)
    prometheus.wait_clear(alerts)


@pytest.mark.long
def test_a_vllm_that_hangs(stack: Stack, prometheus: Prometheus) -> None:
    prometheus.wait_clear(HUNG_ENGINE)

    def ask(http: httpx.Client) -> None:
        http.post("/v1/chat", json={"message": "Hello", "max_tokens": 2})

    with stopped(stack.vllm.pid), again_and_again(ask, stack.gates[0].url, 0.3):
        prometheus.wait_firing(HUNG_ENGINE)
    prometheus.wait_clear(HUNG_ENGINE)


def test_gates_that_hang(stack: Stack, prometheus: Prometheus) -> None:
    prometheus.wait_clear(HUNG_GATES)
    with stopped(*(gate.pid for gate in stack.gates)):
        prometheus.wait_firing(HUNG_GATES)
    prometheus.wait_clear(HUNG_GATES)


def test_a_log_that_another_process_holds(stack: Stack, prometheus: Prometheus) -> None:
    prometheus.wait_clear(HELD_LOG)
    store = Path(stack.gates[0].settings["STORE"])
    with closing(sqlite3.connect(store / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        prometheus.wait_firing(HELD_LOG)
        other.execute("ROLLBACK")
    prometheus.wait_clear(HELD_LOG)


def test_a_store_that_cannot_be_written(stack: Stack, prometheus: Prometheus) -> None:
    prometheus.wait_clear(LOST_STORE)
    gate = stack.gates[0]
    file = Path(gate.settings["STORE"]) / STORE_FILE
    kept = file.rename(file.with_suffix(".kept")) if file.exists() else None
    file.mkdir()

    def certify(http: httpx.Client) -> None:
        _certify(http, data_uri("seven.png"))

    try:
        with again_and_again(certify, gate.url, 0.3):
            prometheus.wait_firing(LOST_STORE)
    finally:
        file.rmdir()
        if kept is not None:
            kept.rename(file)
    prometheus.wait_clear(LOST_STORE)


def test_a_gate_without_cpu_and_decoders_that_are_killed(stack: Stack, prometheus: Prometheus) -> None:
    one, two = stack.gates
    prometheus.wait_clear(HELD_UP)

    def certify(http: httpx.Client) -> None:
        _certify(http, data_uri("seven.png"))

    with (
        _holding_up(one.pid),
        _killing(lambda: two.pid, "decoder_child"),
        again_and_again(certify, two.url, 0.05, clients=2),
    ):
        prometheus.wait_firing(HELD_UP)
    prometheus.wait_clear(HELD_UP)
