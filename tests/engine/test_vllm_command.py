from collections.abc import Sequence
from pathlib import Path

import pytest

from smoothgate.engine.vllm_command import (
    CLIENT_KEEPALIVE_SECONDS,
    VLLMOptions,
    vllm_command,
    vllm_environment,
)


def command(*, extra: Sequence[str] = (), on_cpu: bool = True) -> list[str]:
    options = VLLMOptions(
        model="model", served_model_name="name", max_model_len=64, kv_cache_gib=0.5, extra_args=extra
    )
    return vllm_command(options, Path("/s/v.sock"), on_cpu=on_cpu)


def test_the_command_takes_embeddings_and_no_pixels() -> None:
    line = " ".join(command(extra=["--tensor-parallel-size", "2"]))
    assert '--enable-mm-embeds --limit-mm-per-prompt {"image":0}' in line
    assert "--uds /s/v.sock" in line
    assert "--tensor-parallel-size 2" in line
    assert line.endswith("--max-model-len 64 --enforce-eager --kv-cache-memory-bytes 536870912")
    assert not {"--enforce-eager", "--kv-cache-memory-bytes"} & set(command(on_cpu=False))


@pytest.mark.parametrize(
    "argument",
    [
        "--limit-mm-per-prompt",
        "--limit-mm-per-prompt.image=2",
        "--limit_mm_per_prompt",
        "--limit-mm",
        "--host=0.0.0.0",
        "--config",
    ],
)
def test_arguments_that_the_service_sets_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match="cannot be set"):
        command(extra=[argument, "x"])


def test_the_environment_holds_no_settings_of_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SMOOTHGATE_SIGNING_KEY", "secret")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment = vllm_environment(str(tmp_path), tmp_path, on_cpu=True)
    assert not {"SMOOTHGATE_SIGNING_KEY", "VLLM_CPU_KVCACHE_SPACE"} & set(environment)
    assert environment["HOME"] == "/home/someone"
    assert environment["PYTHONPATH"].endswith("child_site:elsewhere")
    assert float(environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > CLIENT_KEEPALIVE_SECONDS
    assert environment["TORCH_COMPILE_DISABLE"] == "1"
    assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"
    assert environment["HF_HUB_OFFLINE"] == "1"
    hub = vllm_environment("someone/a-model", tmp_path, on_cpu=False)
    assert "HF_HUB_OFFLINE" not in hub
    assert not {"TORCH_COMPILE_DISABLE", "VLLM_ENABLE_V1_MULTIPROCESSING"} & set(hub)


def test_the_worker_has_no_process_of_its_own_on_a_cpu_unless_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    monkeypatch.delenv(name, raising=False)
    assert vllm_environment("model", tmp_path, on_cpu=True)[name] == "0"
    monkeypatch.setenv(name, "1")
    assert vllm_environment("model", tmp_path, on_cpu=True)[name] == "1"
