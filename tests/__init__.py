"""Tests, the fuzzer and the soak: how their processes share the cores."""

import os

# Threads that spin while they wait would take the cores from other processes. vLLM's CPU build would bind its
# threads to the first cores, which all vLLMs of a run would then share while others are idle.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
