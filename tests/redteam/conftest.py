"""Pictures for other people's tools, and what the service answers to them when asked without such a tool."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from smoothgate.bundled import DEMO
from smoothgate.pictures.images import to_picture
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision.png import encode_png, png_data_uri
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.demo.conversation import ONE_PICTURE, Facts
from smoothgate_lab.demo.digit_scenes import DigitScenes
from smoothgate_lab.evaluation.attacks import objectives
from smoothgate_lab.evaluation.attacks.pgd import pgd
from smoothgate_lab.evaluation.victims import Undefended
from tests.programs import left_out
from tests.whole_service import Gate

ROOT = Path(__file__).parents[2]
SCENES = 6
DIGIT = ONE_PICTURE[0]


@dataclass(frozen=True)
class Picture:
    """A picture that tools send: clean, or attacked on the undefended model with l_inf 16/255."""

    path: Path
    facts: Facts
    wanted: str
    attacked: bool

    @property
    def right(self) -> str:
        return DIGIT.answer(self.facts)

    @property
    def uri(self) -> str:
        return png_data_uri(self.path.read_bytes())


@pytest.fixture(scope="session")
def tool_python() -> Path:
    """The interpreter of the tools' environment."""
    python = Path(os.environ.get("REDTEAM", ROOT / ".venv-redteam")) / "bin" / "python"
    if not python.exists():
        left_out("the tools are missing: make redteam")
    return python


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, demo_encoder: UnitEncoder) -> list[Picture]:
    """Each held-out scene clean, then each of them attacked."""
    folder = tmp_path_factory.mktemp("pictures")
    scenes = DigitScenes(demo_encoder.adapter, SCENES, SCENES, 31)
    wanted = [DIGIT.answer(facts) for facts in scenes.twin_facts]
    gen = torch.Generator().manual_seed(31)
    victim, question = Undefended(demo_encoder), DIGIT.phrasings[0]
    loss = objectives.towards_answer(victim, Answerer(DEMO.model), question, wanted, gen)
    attacked = pgd(loss, scenes.canvases, "linf", 16 / 255, 20, gen)
    found = []
    for kind, canvases in (("clean", scenes.canvases), ("attacked", attacked)):
        for number, canvas in enumerate(canvases):
            path = folder / f"{kind}-{number}.png"
            path.write_bytes(encode_png(to_picture(canvas)))
            found.append(Picture(path, scenes.facts[number], wanted[number], kind == "attacked"))
    return found


@pytest.fixture
def scenes_file(pictures: Sequence[Picture], tmp_path: Path) -> Path:
    """The pictures as lines of JSON."""
    lines = [
        {"path": str(p.path), "question": DIGIT.phrasings[0], "right": p.right, "wanted": p.wanted}
        for p in pictures
    ]
    file = tmp_path / "scenes.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """Run a tool in a folder that is its home too, offline. Returns what it prints."""
    # No tool finds keys, proxies or settings of whoever runs the tests.
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=folder, env=kept | own | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def told(gate: Gate, text: str, picture: Picture, *, off: bool = False, text_first: bool = False) -> str:
    """The answer of the service, asked without a tool.

    Args:
        gate: the service.
        text: the question.
        picture: the picture.
        off: whether the answer is the undefended model's.
        text_first: whether the question comes before the picture.
    """
    parts = [{"type": "image_url", "image_url": {"url": picture.uri}}, {"type": "text", "text": text}]
    if text_first:
        parts.reverse()
    body = {
        "model": DEMO.served_name,
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": 40,
    }
    if off:
        body["smoothing"] = {"mode": "off"}
    response = gate.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer: str = response.json()["choices"][0]["message"]["content"]
    return answer
