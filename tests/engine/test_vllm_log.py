import pytest

from smoothgate.engine.vllm_log import parse_log_line


@pytest.mark.parametrize(
    ("line", "level", "text", "source"),
    [
        (
            "(APIServer pid=7) WARNING 11-22 10:08:20 [cpu.py:224] Triton is not installed.\n",
            "warning",
            "Triton is not installed.",
            {"process": "APIServer", "place": "cpu.py:224"},
        ),
        ("(EngineCore pid=7) INFO 11-22 10:08:06 [api_utils.py:347] \n", "info", "", None),
        ("(Worker pid=7) Traceback:", "info", "Traceback:", {"process": "Worker"}),
        ("ERROR:    Exception in ASGI application", "error", "Exception in ASGI application", {}),
        ("Loading:  0%\rLoading: 50%\rLoading: 100%\n", "info", "Loading: 100%", {}),
        ("(half a prefix", "info", "(half a prefix", {}),
    ],
)
def test_a_log_line_keeps_its_level(line: str, level: str, text: str, source: dict[str, str] | None) -> None:
    parsed = parse_log_line(line)
    assert parsed[:2] == (level, text)
    assert source is None or parsed[2] == source
