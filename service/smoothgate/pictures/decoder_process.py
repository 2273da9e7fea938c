"""A decoder in a process of its own, which can be killed: `decoder_child` from the outside.

A picture that makes its decoder hang or crash costs that decoder, which starts again for the next picture.
What comes back is JSON and pixels. Reading them runs no code of the child's, as reading a pickle could.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import IO, Any

import numpy as np

from smoothgate import errors
from smoothgate.errors import RequestError, Unacceptable
from smoothgate.pictures.images import DecodedImage

# What a decoder may take on top of itself: copies of the file, and of the pixels in their widest form.
_FIXED_BYTES = 2**27
_COPIES_OF_FILE = 4
_BYTES_PER_PIXEL = 48
_ENVIRONMENT = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")


class DecoderDied(Exception):
    """The process has ended before it has answered. The text says how."""


class DecoderProcess:
    """A process that decodes one picture at a time; started by `start`, and again after its end.

    One thread at a time may start it and decode. Any thread may kill it.

    Args:
        max_bytes: size of an encoded image.
        max_pixels: width times height of an image.
        seconds: after as long on one image, the process ends even where nobody kills it.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int, seconds: float) -> None:
        memory = _FIXED_BYTES + _COPIES_OF_FILE * max_bytes + _BYTES_PER_PIXEL * max_pixels
        module = "smoothgate.pictures.decoder_child"
        # What Pillow warns about would be lines of another form in the log.
        python = [sys.executable, "-P", "-W", "ignore"]
        self._command = [*python, "-m", module, str(max_pixels), str(seconds), str(memory)]
        self._process: subprocess.Popen[bytes] | None = None
        # A killed process runs for some milliseconds more, and may have answered before.
        self._killed: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process unless it runs. Takes a fifth of a second.

        Raises:
            DecoderDied: it ends at once.
            OSError: it cannot be started.
        """
        if self._process is not None:
            if self._process is not self._killed and self._process.poll() is None:
                return
            self._close(self._process)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # In a session of its own, so that a Ctrl-C on the terminal does not reach it.
        self._process = subprocess.Popen(  # noqa: S603
            self._command,
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._pipes()[1].readline() != b"ready\n":
            raise self._death()

    def decode(self, data: bytes, param: str | None) -> DecodedImage:
        """Decode one file. Blocks until the answer, or until the process is killed.

        Raises:
            RequestError: as `smoothgate.pictures.images.decode`; code `decoder_memory`: the picture
                takes more memory than a decoder may have.
            DecoderDied: the process has ended.
        """
        files, answers = self._pipes()
        try:
            files.write(b"%d\n" % len(data))
            files.write(data)
            files.flush()
        except OSError as error:
            raise self._death() from error
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        header = json.loads(line)
        if "error" in header:
            raise _refusal(header, param)
        shape = header["shape"]
        pixels = answers.read(math.prod(shape))
        if len(pixels) < math.prod(shape):
            raise self._death()
        return DecodedImage(pixels=np.frombuffer(pixels, np.uint8).reshape(shape), **header["image"])

    def kill(self) -> None:
        """End the process at once.

        A thread that waits for its answer gets `DecoderDied`. The next `start` starts another process.
        """
        self._killed = self._process
        if self._killed is not None:
            self._killed.kill()

    def close(self) -> None:
        """End the process and its pipes. No thread may be decoding."""
        if self._process is not None:
            self._close(self._process)
            self._process = None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process is not None  # noqa: S101
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        return self._process.stdin, self._process.stdout

    def _death(self) -> DecoderDied:
        assert self._process is not None  # noqa: S101
        self._process.kill()
        status = self._process.wait()
        return DecoderDied(f"ended by signal {-status}" if status < 0 else f"exited with status {status}")

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()


def _refusal(header: dict[str, Any], param: str | None) -> RequestError:
    kind = getattr(errors, header["error"], Unacceptable)
    refusal: RequestError = kind(header["message"], param=param, code=header["code"])
    return refusal
