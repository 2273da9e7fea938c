"""Tests, the fuzzer and the soak: how their processes share the cores."""

import os

# Threads that spin while they wait would take the cores from other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
