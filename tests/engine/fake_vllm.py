"""A stand-in for vLLM with faults that the real one rarely has.

python fake_vllm.py SOCKET FAULT

It takes half a second over a chat. With the fault "waits" it first waits for a file called `answer` next to
the socket.
"""

import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

path, fault = sys.argv[1:]
answered = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        global answered
        answered += 1
        if fault == "hangs" and answered > 2:
            time.sleep(600)
        self.send_response(503 if fault == "unwell" and answered > 2 else 200)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if fault == "core hangs":
            time.sleep(600)
        if fault == "waits":
            while not Path(path).with_name("answer").exists():
                time.sleep(0.02)
        time.sleep(0.5)
        content = b'{"choices": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


# Like the real one, it has a child process that survives it.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", path])
if fault == "fails":
    raise RuntimeError("no such model")
if fault == "never ready":
    time.sleep(600)
ThreadingUnixStreamServer.daemon_threads = True
ThreadingUnixStreamServer(path, Handler).serve_forever()
