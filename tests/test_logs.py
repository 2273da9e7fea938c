"""The log as a person and as a collector read it: each test runs a process whose log it configures."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

LIBRARY = """
import logging
library = logging.getLogger("huggingface_hub")  # as huggingface_hub does it when it is imported
library.addHandler(logging.StreamHandler())
library.propagate = False
"""
EVENTS = """
import logging, threading, time, warnings
from smoothgate import logs
logs.configure({form!r}, "info")
logs.adopt_libraries()
log = logs.get_logger("serving")
log.info("started", n=3)
warnings.warn("this is\\n old")
logging.getLogger("huggingface_hub").warning("Retrying in 1s")
logging.getLogger("uvicorn.error").info("Application startup complete.")
log.info("long " + "x" * 3000)
vllm = logs.get_logger("vllm")
vllm.info("a banner of vLLM's")
vllm.warning("low memory")
logs.get_logger("vllm-last").info("the line before the end")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
"""
SPINNER = """
import time
from rich.console import Console
console = Console(stderr=True)
with console.status("Starting demo"):
    for number in range(5):
        log.warning(f"event {number}")
        time.sleep(0.15)
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _said(form: str, further: str = "") -> str:
    code = LIBRARY + EVENTS.format(form=form) + further
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == ""
    return ran.stderr


def test_where_no_person_reads_every_line_is_json_to_the_last() -> None:
    said = _said("auto", "raise RuntimeError('the end')\n")
    lines = [json.loads(line) for line in said.splitlines()]
    events = [line["event"] for line in lines]
    assert events[:3] == ["started", "this is old", "Retrying in 1s"]
    assert "a banner of vLLM's" in events
    assert "the line before the end" not in events
    assert "Application startup complete." not in events
    thread, main = lines[-2:]
    assert "ZeroDivisionError" in thread["exception"]
    assert thread["thread"]
    assert "RuntimeError: the end" in main["exception"]
    assert all(line["level"] and line["logger"] and line["timestamp"] for line in lines)


def test_a_person_sees_short_lines_and_of_vllm_only_warnings() -> None:
    said = _said("console")
    lines = said.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d \[info *\] started ", lines[0])
    assert max(map(len, lines)) == 200
    assert "x…" in said
    assert "a banner" not in said
    assert "low memory" in said
    assert "the line before the end" in said
    assert "this is old" in said


def test_all_lines_of_vllm_are_kept_in_a_file() -> None:
    said = _said("console", "print_to = logs.keep_engine_log()\nvllm.info('kept')\nlog.info(str(print_to))\n")
    path = Path(re.findall(r"/\S+smoothgate-vllm-\w+\.log", said)[0])
    try:
        (line,) = path.read_text().splitlines()
        assert re.fullmatch(r"\d\d:\d\d:\d\d info    kept", line)
        assert "kept" not in said
    finally:
        path.unlink()


def test_a_spinner_stays_below_the_lines() -> None:
    screen, terminal = pty.openpty()
    code = EVENTS.format(form="auto").partition("log.info")[0] + SPINNER
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "TTY_COMPATIBLE": "1"}
    ran = subprocess.Popen([sys.executable, "-c", code], stderr=terminal, env=environment)
    os.close(terminal)
    seen = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(screen)
    assert ran.wait() == 0
    text = seen.decode()
    assert "Starting demo" in text
    # What a line shows in the end is what was written after the last return to its start.
    shown = [CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n")]
    events = [line for line in shown if "event" in line]
    assert len(events) == 5
    assert not [line for line in events if "Starting" in line]
