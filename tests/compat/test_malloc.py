"""The allocator takes the setting, where it is glibc's, and many threads then share few arenas."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from service.compat.malloc import share_arenas
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def hold():
    libc.malloc(1000)
    barrier.wait()
barrier = threading.Barrier(8)
threads = [threading.Thread(target=hold) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
libc.malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc")
@pytest.mark.parametrize(("call", "few"), [("assert share_arenas()", True), ("", False)])
def test_threads_share_arenas(call: str, few: bool) -> None:
    program = PROGRAM.format(call=call)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert (told.count("Arena ") <= 2) == few
