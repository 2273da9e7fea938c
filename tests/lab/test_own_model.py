"""The commands of docs/own-model.md, one after another, on a tiny random checkpoint of the same family."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from smoothgate import logs, server
from smoothgate.bundled import DEMO
from smoothgate.cli.main import app
from smoothgate.psm.calibration import Calibration
from smoothgate.psm.checkpoint import PSM
from smoothgate.settings import Settings
from tests.fake_vllm import FakeVllm
from tests.families import checkpoints
from tests.families.pictures import picture
from tests.programs import program
from tests.whole_service import Gate, opened

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "own-model.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
CHECKPOINT = "Qwen/Qwen2.5-VL-3B-Instruct"
#: What makes each command short.
SHORTER = {
    "train": [f"--{stage}-steps=2" for stage in ("denoise", "purifier", "mapper", "joint", "served")],
    "evaluate": ["--n=8", "--n-select=8", "--n-certify=8"],
    "tune": ["--steps=1"],
    "calibrate": [],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the checkpoint and two folders of pictures."""
    folder = tmp_path_factory.mktemp("own")
    checkpoints.BUILDERS["qwen2_5_vl"](folder / CHECKPOINT)
    for name, count in (("pictures", 24), ("evaluation", 8)):
        (folder / name).mkdir()
        for seed in range(count):
            Image.fromarray(picture(32, 64, seed)).save(folder / name / f"{seed}.jpg")
    Image.fromarray(picture(32, 64, 99)).save(folder / "picture.jpg")
    return folder


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(logs, "configure", lambda log_format, level: None)


def _commands(word: str) -> list[str]:
    found = [line for line in COMMANDS if word in line]
    assert found
    return found


def _run(line: str) -> str:
    words = shlex.split(line)
    assert words[:2] == ["smoothgate", "psm"]
    result = CliRunner().invoke(app, [*words[1:], *SHORTER[words[2]]], env={"COLUMNS": "300"})
    assert result.exit_code == 0, (line, result.output, result.exception)
    return result.output


def test_every_command_of_the_page_is_run_here() -> None:
    kinds = ("smoothgate psm ", "smoothgate serve ", "curl ", "python examples/compare_answers.py ")
    assert all(any(kind in line for kind in kinds) for line in COMMANDS)
    assert {shlex.split(line)[2] for line in _commands("smoothgate psm ")} == set(SHORTER)


@pytest.mark.long
def test_a_model_is_trained_evaluated_and_tuned_for_votes() -> None:
    for line in _commands("psm train"):
        _run(line)
    trained = PSM.load(Path("psm-qwen"))
    assert not trained.is_identity
    for line in _commands("psm evaluate"):
        said = _run(line)
        assert all(name in said for name in ("both", "identity", "unrelated", "clean", "samples/s"))
    for line in _commands("psm tune"):
        _run(line)
    assert PSM.load(Path("psm-qwen-votes")).digest != trained.digest


def test_a_model_is_calibrated() -> None:
    for line in _commands("psm calibrate"):
        said = _run(line)
        assert "score at sigma 0.1" in said
        assert "24 pictures are too few" in said
    assert set(Calibration.load(Path("psm-qwen")).figures.scores) >= {"0.1"}


def _served(line: str, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings with which a command starts the service, in front of the fake vLLM."""
    words = shlex.split(line)
    start = words.index("smoothgate")
    variables = dict(word.split("=", 1) for word in words[:start])
    started: list[Settings] = []

    def serve(settings: Settings, console: object) -> bool:
        started.append(settings)
        return True

    monkeypatch.setattr(server, "serve", serve)
    result = CliRunner().invoke(
        app,
        words[start + 1 :],
        env=variables | {"SMOOTHGATE_ENGINE_URL": vllm.url, "SMOOTHGATE_THREADS": "1"},
    )
    assert result.exit_code == 0, result.output
    (settings,) = started
    return settings


@pytest.fixture
def gates(vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Gate, list[str]]]:
    """Each service of the page in turn, and the commands between it and the next one."""

    def each() -> Iterator[tuple[Gate, list[str]]]:
        starts = [at for at, line in enumerate(COMMANDS) if "smoothgate serve" in line]
        for at, following in zip(starts, [*starts[1:], len(COMMANDS)], strict=True):
            settings = _served(COMMANDS[at], vllm, monkeypatch)
            # The tiny model is uncalibrated for want of pictures, and random.
            quick: dict[str, Any] = {"canary_seconds": 0, "n_select": 16, "batch_size": 16}
            quick["served_model_name"] = DEMO.served_name
            with opened(settings.model_copy(update=quick)) as gate:
                gate.wait_ready(60)
                yield gate, COMMANDS[at + 1 : following]

    return each()


def test_it_is_served_asked_and_compared(
    gates: Iterator[tuple[Gate, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """After the tests above, which made what is served. Where the training is left out, its PSM is."""
    if not Path("psm-qwen-votes").exists():
        shutil.copytree("psm-qwen", "psm-qwen-votes")
    curl = program("curl", package="the Debian package curl")
    certified, sigmas, compared = [], [], 0
    for gate, lines in gates:
        sigmas.append(gate.settings.sigma)
        for line in lines:
            words = shlex.split(line.replace("http://127.0.0.1:8000", gate.url))
            if words[0] == "curl":
                asked = subprocess.run([curl, "-sS", *words[1:]], capture_output=True, text=True, check=True)
                answer = json.loads(asked.stdout)
                assert answer.get("answer"), answer
                certified.append("features" if answer["certificates"] else "answer")
            elif words[0] == "python":
                runpy.run_path(str(ROOT / words[1]))["main"](gate.url, *words[3:])
                assert capsys.readouterr().out.endswith("8 of 8 answers are the same\n")
                compared += 1
    assert sigmas == [0.1, 0.25, 0.1]
    assert certified == ["features", "answer"]
    assert compared == 1
