"""The command line and the environment of our own vLLM server."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from smoothgate.tracing import TRACES_PATH

CHILD_SITE = Path(__file__).resolve().parent.parent / "compat" / "child_site"

# Arguments that an operator may not pass on, since the way of a request and its robustness hang on them.
RESERVED_ARGUMENTS = (
    "--config",
    "--model",
    "--uds",
    "--host",
    "--port",
    "--served-model-name",
    "--shutdown-timeout",
    "--limit-mm-per-prompt",
    "--enable-mm-embeds",
    "--no-enable-mm-embeds",
    "--enable-prompt-embeds",
    "--no-enable-prompt-embeds",
)


def vllm_command(
    model: str,
    socket: Path,
    *,
    served_model_name: str,
    dtype: str,
    max_model_len: int | None,
    kv_cache_gib: float,
    drain_seconds: float,
    tracing_url: str | None = None,
    media_limits: Mapping[str, int] | None = None,
    prompt_embeds: bool = False,
    on_cpu: bool,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command line of vLLM: on a Unix socket, taking embeddings and no pixels.

    Args:
        model, socket, served_model_name, dtype, max_model_len, drain_seconds, tracing_url: see `LocalEngine`.
        media_limits, prompt_embeds: see `LocalEngine`.
        on_cpu: whether there is no GPU.
        extra: further arguments.

    Raises:
        ValueError: `extra` holds an argument that is not the operator's to choose.
    """
    for argument in extra:
        # vLLM takes underscores, dotted keys and unambiguous abbreviations too.
        name = re.split("[=.]", argument, maxsplit=1)[0].replace("_", "-")
        if name.startswith("--") and any(reserved.startswith(name) for reserved in RESERVED_ARGUMENTS):
            raise ValueError(f"{argument} cannot be set: the service sets it itself.")
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", *extra]
    command += ["--model", model, "--served-model-name", served_model_name, "--dtype", dtype]
    command += ["--uds", str(socket), "--disable-uvicorn-access-log"]
    limits = json.dumps(dict(media_limits or {"image": 0}), separators=(",", ":"))
    command += ["--enable-mm-embeds", "--limit-mm-per-prompt", limits]
    if prompt_embeds:
        command += ["--enable-prompt-embeds"]
    command += ["--shutdown-timeout", str(round(drain_seconds))]
    if tracing_url is not None:
        command += ["--otlp-traces-endpoint", tracing_url.rstrip("/") + TRACES_PATH]
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    if on_cpu:
        command += ["--enforce-eager", "--kv-cache-memory-bytes", str(round(kv_cache_gib * 2**30))]
    return command


def vllm_environment(model: str, scratch: Path, *, on_cpu: bool) -> dict[str, str]:
    """The environment of vLLM: ours without our own settings, which hold secrets."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SMOOTHGATE_")}
    # vLLM would take it before the argument that `vllm_command` gives.
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    path = [str(CHILD_SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "TMPDIR": str(scratch),
        "VLLM_NO_USAGE_STATS": "1",
        # Our client closes idle connections. vLLM's own 5 s may, after a stall, be over before its server has
        # read the request that waits in the socket.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "300",
        # Idle threads that spin would take the encoder's cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if Path(model).exists():
        environment["HF_HUB_OFFLINE"] = "1"
    if on_cpu:
        # vLLM's samplers are compiled on first use, with the system's C++ compiler: half a minute within a
        # request that asks for log-probabilities, and the end of the engine where there is no compiler.
        environment["TORCH_COMPILE_DISABLE"] = "1"
    return environment
