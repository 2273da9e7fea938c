"""Stands in for vLLM in this process: for tests that need *an* answer, or a fault that vLLM rarely has."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from smoothgate.bundled import DEMO

Json = dict[str, Any]

TEXT = "The digit is 7."
#: The demo model's placeholder of one visual token, and its number.
IMAGE, IMAGE_TOKEN = "<image>", 5
USAGE = {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46}

# The gate's own id of a request, and the number of a sample.
_OF_VOTE = re.compile("([0-9a-f]{32})-[0-9]+")


@dataclass
class FakeVllm:
    """What the fake answers.

    Attributes:
        url: its address.
        text: of every answer; streamed word by word.
        calls: of tools, after the text of every answer: names and arguments; each is streamed in halves.
        stop: the stop sequence that ends every answer.
        fault: what is wrong with it; empty: nothing. `_FAULTS` and `_STREAM_FAULTS` list broken answers;
            `unwell` fails its health check, `slow` answers after `slow_seconds`, and `hangs up` closes the
            connection.
        open: while it is cleared, answers wait; streams after their first piece.
        bodies: of the chats that it was asked, in order; pictures and video that it refused left out, and
            those of requests that began before the last reset (a vote that is over leaves some on their way).
        model: the name that it serves.
        version: which vLLM it says it is; None: it does not say.
        takes: the kinds of media that it takes, `image` and `video`.
        asked: the kinds of media that it was sent, in order.
        answers: the answer to a noisy copy, by the number of its sample; None: `text`.
        lists: how it takes lists of prompts: `no` (it has no route for them), `yes`, or `refused` (as without
            `--enable-prompt-embeds`).
        prompts: how many each list had, in order.
    """

    url: str = ""
    text: str = TEXT
    calls: list[tuple[str, str]] = field(default_factory=list)
    stop: str | None = None
    fault: str = ""
    slow_seconds: float = 3.0
    open: threading.Event = field(default_factory=threading.Event)
    bodies: list[Json] = field(default_factory=list)
    model: str = DEMO.served_name
    version: str | None = "0.32.0"
    takes: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    answers: Callable[[int], str] | None = None
    lists: Literal["no", "yes", "refused"] = "no"
    prompts: list[int] = field(default_factory=list)
    _begun: set[str] = field(default_factory=set)
    _earlier: set[str] = field(default_factory=set)

    def reset(self) -> None:
        """As at the start."""
        self.text, self.fault = TEXT, ""
        self.calls, self.stop = [], None
        self.model, self.version = DEMO.served_name, "0.32.0"
        self.bodies, self.asked = [], []
        self._earlier |= self._begun
        self.takes = set()
        self.answers = None
        self.lists, self.prompts = "no", []
        self.open.set()

    def is_new(self, identifier: str) -> bool:
        """Whether what is asked under this id is not part of a vote that began before the last reset."""
        vote = _OF_VOTE.fullmatch(identifier)
        if vote is None:
            return True
        self._begun.add(vote[1])
        return vote[1] not in self._earlier


_FAULTS = {
    "not json": (200, b"<html>It works!</html>"),
    "no message": (200, b'{"choices": []}'),
    "a list": (200, b"[]"),
    "failure": (500, b"Internal Server Error"),
    "full": (429, b"{}"),
}
_STREAM_FAULTS = {
    "cut off": b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n',
    "nonsense in a stream": b"data: what\n\n",
    "no chunk": b'data: {"choices": 5}\n\n',
}


@contextmanager
def running() -> Iterator[FakeVllm]:
    """A fake behind a port of its own."""
    fake = FakeVllm()
    fake.reset()

    class Handler(_Handler):
        vllm = fake

    server = _Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    # Short polls, since shutting down takes as long as one.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.open.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # hundreds of clients come at a time


class _Handler(BaseHTTPRequestHandler):
    vllm: FakeVllm

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, json.dumps({"data": [{"id": self.vllm.model}]}).encode())
        elif self.path == "/version" and self.vllm.version is not None:
            self._send(200, json.dumps({"version": self.vllm.version}).encode())
        elif self.path == "/health":
            self._send(503 if self.vllm.fault == "unwell" else 200, b"")
        else:
            self._send(404, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.vllm.lists != "no" and self.path in ("/tokenize", "/v1/completions"):
            self._list(body)
            return
        if self.path != "/v1/chat/completions":
            self._send(404, b"{}")
            return
        media = _media(body)
        self.vllm.asked += media
        if refused := [kind for kind in media if kind not in self.vllm.takes]:
            message = f"At most 0 {refused[0]}(s) may be provided in one prompt."
            self._send(400, json.dumps({"error": {"message": message, "code": 400}}).encode())
            return
        if self.vllm.is_new(self.headers.get("X-Request-Id", "")):
            self.vllm.bodies.append(body)
        fault = self.vllm.fault
        if fault == "slow":
            time.sleep(self.vllm.slow_seconds)
        if fault == "hangs up":
            self.close_connection = True
        elif fault in _FAULTS:
            self._send(*_FAULTS[fault])
        elif fault in _STREAM_FAULTS:
            self._send(200, _STREAM_FAULTS[fault], "text/event-stream")
        elif body.get("stream"):
            self._stream(body)
        else:
            self.vllm.open.wait()
            self._send(200, json.dumps(self._completion(body)).encode())

    def _list(self, body: Json) -> None:
        """The prompt of a list, or its answers."""
        if self.path == "/tokenize":
            visual = json.dumps(body["messages"]).count(IMAGE)
            tokens = [IMAGE_TOKEN] * visual + [0] * (USAGE["prompt_tokens"] - visual)
            self._send(200, json.dumps({"tokens": tokens, "max_model_len": 1024}).encode())
            return
        number = len(body["prompt_embeds"])
        if self.vllm.is_new(self.headers.get("X-Request-Id", "")):
            self.vllm.prompts.append(number)
        if self.vllm.lists == "refused":
            message = "You must set `--enable-prompt-embeds` to input `prompt_embeds`"
            self._send(400, json.dumps({"error": {"message": message, "code": 400}}).encode())
        elif self.vllm.fault in _FAULTS:
            self._send(*_FAULTS[self.vllm.fault])
        else:
            self.vllm.open.wait()
            choices = [{"index": i, "text": self._text(i), "finish_reason": "stop"} for i in range(number)]
            usage = {name: value * number for name, value in USAGE.items()}
            self._send(200, json.dumps({**_head(body), "choices": choices, "usage": usage}).encode())

    def _text(self, after: int = 0) -> str:
        """The answer to the sample that a request names, or to one after it; else that to every request."""
        # The gate numbers the samples of a vote.
        _, numbered, number = self.headers["X-Request-Id"].rpartition("-")
        if self.vllm.answers is None or not numbered:
            return self.vllm.text
        return self.vllm.answers(int(number) + after)

    def _completion(self, body: Json) -> Json:
        message: Json = {"role": "assistant", "content": self._text()}
        if self.vllm.calls:
            message["tool_calls"] = [
                {"id": f"call-{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for i, (name, arguments) in enumerate(self.vllm.calls)
            ]
        choice = {"index": 0, "message": message, **self._end()}
        return {**_head(body), "object": "chat.completion", "choices": [choice], "usage": USAGE}

    def _stream(self, body: Json) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, choices in enumerate(self._pieces()):
            if number == 1:
                self.vllm.open.wait()
            self._event(body, {"choices": choices})
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event(body, {"choices": [], "usage": USAGE})
        self._write(b"data: [DONE]\n\n")

    def _pieces(self) -> Iterator[list[Json]]:
        yield [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        words = self.vllm.text.split(" ")
        deltas: list[Json] = [
            {"content": word if number == 0 else f" {word}"} for number, word in enumerate(words)
        ]
        for number, (name, arguments) in enumerate(self.vllm.calls):
            half = len(arguments) // 2
            begun = {"index": number, "id": f"call-{number}", "type": "function"}
            function = {"name": name, "arguments": arguments[:half]}
            deltas.append({"tool_calls": [begun | {"function": function}]})
            deltas.append({"tool_calls": [{"index": number, "function": {"arguments": arguments[half:]}}]})
        for delta in deltas[:-1]:
            yield [{"index": 0, "delta": delta, "finish_reason": None}]
        yield [{"index": 0, "delta": deltas[-1], **self._end()}]

    def _end(self) -> Json:
        return {
            "finish_reason": "tool_calls" if self.vllm.calls else "stop",
            "stop_reason": self.vllm.stop,
        }

    def _event(self, body: Json, fields: Json) -> None:
        chunk = {**_head(body), "object": "chat.completion.chunk", **fields}
        self._write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._write(body)

    def _write(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has left
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def _media(body: Json) -> list[str]:
    """The kinds of media in a chat."""
    contents = [message.get("content") for message in body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    kinds = [part["type"].removesuffix("_url") for part in parts if isinstance(part, dict)]
    return [kind for kind in kinds if kind in ("image", "video")]


def _head(body: Json) -> Json:
    return {"id": "chatcmpl-fake", "created": 0, "model": body.get("model")}
