"""The command line and the environment of our own vLLM server."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smoothgate.tracing import TRACES_PATH

CHILD_SITE = Path(__file__).resolve().parent.parent / "compat" / "child_site"

KEEPALIVE_SECONDS = 300
#: The client's part: it closes first.
CLIENT_KEEPALIVE_SECONDS = 240.0

# Arguments that an operator may not pass on: the path of a request and its robustness depend on them.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMOptions:
    """How our own vLLM server runs.

    Attributes:
        model: a checkpoint's folder or Hugging Face id.
        served_model_name: the name that requests carry in `model`.
        dtype: vLLM's arithmetic. Embeddings are sent in the same.
        max_model_len: context length in tokens, or None for the checkpoint's own.
        kv_cache_gib: size of the key/value cache on a CPU, in GiB.
        drain_seconds: how long requests in flight may take to finish when the service stops.
        tracing_url: OTLP/HTTP collector for vLLM's spans, or None.
        media_limits: media of each kind per prompt. The service sends no pixels in any case.
        prompt_embeds: whether prompts may hold embeddings in place of text.
        extra_args: further arguments.
    """

    model: str
    served_model_name: str
    dtype: str = "auto"
    max_model_len: int | None = None
    kv_cache_gib: float = 1.0
    drain_seconds: float = 20.0
    tracing_url: str | None = None
    media_limits: Mapping[str, int] = field(default_factory=lambda: {"image": 0})
    prompt_embeds: bool = False
    extra_args: Sequence[str] = ()


def vllm_command(options: VLLMOptions, socket: Path, *, on_cpu: bool) -> list[str]:
    """The command line of a vLLM server on a Unix socket that takes embeddings.

    Args:
        options: how it runs.
        socket: the path of its socket.
        on_cpu: whether there is no GPU.

    Raises:
        ValueError: `options.extra_args` holds an argument that the service sets itself.
    """
    for argument in options.extra_args:
        # vLLM also takes underscores, dotted keys and unambiguous abbreviations.
        name = re.split("[=.]", argument, maxsplit=1)[0].replace("_", "-")
        if name.startswith("--") and any(reserved.startswith(name) for reserved in RESERVED_ARGUMENTS):
            raise ValueError(f"SMOOTHGATE_ENGINE_ARGS: {argument} cannot be set: the service sets it itself.")
    limits = json.dumps(dict(options.media_limits), separators=(",", ":"))
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", *options.extra_args]
    command += ["--model", options.model, "--served-model-name", options.served_model_name]
    command += ["--dtype", options.dtype]
    command += ["--uds", str(socket), "--disable-uvicorn-access-log"]
    command += ["--enable-mm-embeds", "--limit-mm-per-prompt", limits]
    if options.prompt_embeds:
        command += ["--enable-prompt-embeds"]
    command += ["--shutdown-timeout", str(round(options.drain_seconds))]
    if options.tracing_url is not None:
        command += ["--otlp-traces-endpoint", options.tracing_url.rstrip("/") + TRACES_PATH]
    if options.max_model_len is not None:
        command += ["--max-model-len", str(options.max_model_len)]
    if on_cpu:
        command += ["--enforce-eager", "--kv-cache-memory-bytes", str(round(options.kv_cache_gib * 2**30))]
    return command


def vllm_environment(model: str, scratch: Path, *, on_cpu: bool) -> dict[str, str]:
    """The environment of a vLLM server: ours without the service's own settings, which hold secrets.

    Args:
        model: a checkpoint's folder or Hugging Face id.
        scratch: the folder for vLLM's temporary files.
        on_cpu: whether there is no GPU.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SMOOTHGATE_")}
    # vLLM prefers it to the argument that `vllm_command` gives.
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    path = [str(CHILD_SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "TMPDIR": str(scratch),
        "VLLM_NO_USAGE_STATS": "1",
        # `EngineClient` closes idle connections. With vLLM's own limit of 5 s, a server that has stalled may
        # close a connection before it has read the request that waits in the socket.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEPALIVE_SECONDS),
        # Idle threads that spin would take cores from the encoder.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if Path(model).exists():
        environment["HF_HUB_OFFLINE"] = "1"
    if on_cpu:
        # vLLM compiles its samplers on first use, with the system's C++ compiler. This takes half a minute in
        # a request for log-probabilities, and without a compiler it ends the engine.
        environment["TORCH_COMPILE_DISABLE"] = "1"
        # In spite of its name: with 0, vLLM's server keeps its only worker in the process of the engine. A
        # worker in a process of its own takes a whole core for a second after each step, while it waits.
        environment.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # oneDNN keeps a kernel for each length of a prompt, 1,024 of them if left alone: hundreds of MiB for
        # the demo model, and no faster.
        environment.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    return environment
