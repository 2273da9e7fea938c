"""Attacks by other people's tools: right where the right value is known, and held to our own attacks."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from smoothgate.bundled import DEMO
from smoothgate.cli.main import app
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate_lab.chat_models.answerer import Answerer, answers
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.digit_scenes import DigitScenes
from smoothgate_lab.evaluation.attacks.art_attacks import art_square, hop_skip_jump
from smoothgate_lab.evaluation.attacks.auto_attack import auto_attack
from smoothgate_lab.evaluation.attacks.pgd import Norm, lengths
from smoothgate_lab.evaluation.running_service import RemoteModel, Reply

PLANS = Path(__file__).parents[3] / "docs" / "plans"
CLASSES = 3


class Linear:
    """A linear classifier around grey, whose distance to the next class is known."""

    def __init__(self) -> None:
        gen = torch.Generator().manual_seed(3)
        self._rows = torch.randn(CLASSES, 3 * 6 * 6, generator=gen)
        self.x = 0.5 + 0.02 * torch.randn(8, 3, 6, 6, generator=gen)
        self.asked = 0
        self.labels = self(self.x).argmax(1)

    def __call__(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return (x - 0.5).flatten(1) @ self._rows.T

    def distances(self, norm: Norm) -> Tensor:
        """To the nearest other class, for each picture: margin over dual norm of the difference of rows."""
        told = self(self.x)
        found = []
        for logits, label in zip(told, self.labels.tolist(), strict=True):
            others = [c for c in range(CLASSES) if c != label]
            rows = self._rows[label] - self._rows[others]
            dual = rows.abs().sum(1) if norm == "linf" else rows.norm(dim=1)
            found.append(((logits[label] - logits[others]) / dual).min())
        return torch.stack(found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_turns_what_can_be_turned_and_stays_in_the_ball(norm: Norm) -> None:
    model = Linear()
    distances = model.distances(norm)
    eps = float(distances.median()) * 1.02
    state = torch.get_rng_state()
    found = auto_attack(model, model.x, model.labels, norm, eps, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(found).argmax(1) != model.labels, distances < eps)
    delta = found - model.x
    size = delta.flatten(1).abs().amax(1) if norm == "linf" else lengths(delta).flatten()
    assert float(size.max()) <= eps + 1e-5
    assert torch.equal(found, auto_attack(model, model.x, model.labels, norm, eps, 7))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hop_skip_jump_comes_near_the_boundary_and_keeps_to_its_queries(norm: Norm) -> None:
    model = Linear()
    x, labels = model.x[:2], model.labels[:2].tolist()
    known = model.distances(norm)[:2]
    model.asked = 0
    far = hop_skip_jump(model, x, labels, CLASSES, norm, 100.0, 1000, 7)
    assert model.asked == 2 * 1000
    assert bool((model(far).argmax(1) != model.labels[:2]).all())
    delta = far - x
    size = delta.flatten(1).abs().amax(1) if norm == "linf" else lengths(delta).flatten()
    assert bool((size >= known - 1e-5).all()), "nearer than is possible"
    assert bool((size < 3 * known).all())
    # What lies outside of the ball has failed.
    assert torch.equal(hop_skip_jump(model, x, labels, CLASSES, norm, float(known.min()) / 2, 200, 7), x)


def test_square_of_art_stays_in_the_ball_and_turns_answers() -> None:
    model = Linear()
    eps = 3 * float(model.distances("linf").max())
    model.asked = 0
    found = art_square(model, model.x, model.labels.tolist(), CLASSES, eps, 90, 7)
    assert model.asked <= 8 * 90
    assert float((found - model.x).abs().max()) <= eps + 1e-6
    assert float((model(found).argmax(1) != model.labels).float().mean()) >= 0.5


def test_the_first_of_the_logits_is_the_answer(demo_encoder: UnitEncoder) -> None:
    answerer, digit = Answerer(DEMO.model), ONE_PICTURE[0]
    scenes = DigitScenes(demo_encoder.adapter, 8, 0, 21)
    tokens = demo_encoder.adapter.tokens(scenes.canvases).float()
    choices = [f"The digit is {d}." for d in range(10)]
    question = digit.phrasings[0]
    with torch.no_grad():
        told = answerer.choice_logits(question, choices, tokens)
        one = answerer.cross_entropy(question, [choices[0]] * 8, tokens)
        other = answerer.cross_entropy(question, [choices[7]] * 8, tokens)
    assert [choices[k] for k in told.argmax(1).tolist()] == answers(answerer, question, tokens)
    # After the digit, nothing is in doubt.
    torch.testing.assert_close(told[:, 7] - told[:, 0], one - other, atol=0.05, rtol=0.01)
    with pytest.raises(ValueError, match="differ in 0 tokens"):
        answerer.choice_logits(question, choices[:1], tokens)


def test_probabilities_are_those_that_the_service_states(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [Reply("b", -0.5), Reply("no choice", 0.0), Reply("a", -2.0)]
    monkeypatch.setattr(RemoteModel, "ask", lambda *_: replies)
    with RemoteModel("http://127.0.0.1:9", "?", {}) as remote:
        told = remote.probabilities(["a", "b"], torch.zeros(3, 3, 4, 4))
    assert told.argmax(1).tolist() == [1, 2, 1], "0.14 for a leaves more for the others"
    torch.testing.assert_close(told.sum(1), torch.ones(3))
    assert float(told[0, 1]) == pytest.approx(0.6065, abs=1e-4)


@pytest.mark.parametrize(
    ("objective", "setting", "more", "complaint"),
    [
        ("auto-attack", "transferred", "linf = [8]", "adaptive"),
        ("art-square", "adaptive", "linf = [8]", "running service"),
        ("art-square", "service", "l2 = [1]", "l_inf"),
        ("hop-skip-jump", "service", "l2 = [1]\nquestion = 'parity'", "ten digits"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(
    tmp_path: Path, objective: str, setting: str, more: str, complaint: str
) -> None:
    file = tmp_path / "plan.toml"
    attack = f"[[attacks]]\nname = 'a'\nobjective = '{objective}'\nsetting = '{setting}'\n{more}\n"
    file.write_text("defences = []\n" + attack)
    result = CliRunner().invoke(app, ["evaluate", str(file), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert complaint in result.output


def _fewer(plan: Path, published: str, here: str) -> str:
    """A published plan with fewer scenes."""
    text = plan.read_text()
    assert text.count(published) == 1
    return text.replace(published, here)


def _evaluated(plan: str, folder: Path) -> dict[tuple[str, str], dict[str, object]]:
    """The rows of a plan, by defence and attack."""
    (folder / "plan.toml").write_text(plan)
    command = [
        "evaluate",
        str(folder / "plan.toml"),
        "--output",
        str(folder),
        "--json",
        str(folder / "out.json"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads((folder / "out.json").read_text())["rows"]
    assert sum(row["contradictions"] for row in rows) == 0
    return {(row["defence"], row["attack"]): row for row in rows}


@pytest.mark.long
def test_autoattack_on_the_pipeline_beside_our_pgd(tmp_path: Path) -> None:
    undefended = '{ name = "none", parts = "none", n = 1 }, '
    plan = _fewer(PLANS / "results-autoattack.toml", "n = 4", "n = 1")
    rows = _evaluated(plan.replace("defences = [", f"defences = [{undefended}"), tmp_path)
    for (defence, attack), row in rows.items():
        assert row["n"] == 1, defence
        # Where AutoAttack finds nothing, as on one defended picture, it returns the picture itself.
        found = (defence, attack) != ("FS + PSM, fine-tuned", "AutoAttack")
        assert attack == "clean" or not found or 0 < float(str(row["l2"])) < 48 * 48 * 3
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert max(line["linf"] for line in lines) <= 16 / 255 + 1e-6


@pytest.mark.long
@pytest.mark.engine
def test_art_on_the_running_service(demo_vllm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHGATE_ENGINE_URL", demo_vllm)
    plan = _fewer(PLANS / "results-art.toml", "n = 4", "n = 2")
    square = (
        "\n[[attacks]]\nname = 'Square (ART)'\nobjective = 'art-square'\nsetting = 'service'\nlinf = [16]\n"
    )
    rows = _evaluated(plan + square, tmp_path)
    assert {attack for _, attack in rows} == {"clean", "HopSkipJump (ART)", "Square (ART)"}
    near = {defence: float(str(row["l2"])) for (defence, attack), row in rows.items() if "Hop" in attack}
    assert near["FS + PSM, fine-tuned"] > near["none"], "noise keeps the search further away"
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["linf" if line["norm"] == "linf" else "l2"] <= line["eps"] + 1e-5
