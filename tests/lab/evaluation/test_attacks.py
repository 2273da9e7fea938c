"""The attacks: inside their balls, as an independent library makes them, strong on the undefended model."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from smoothgate.bundled import DEMO
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.chat_models.answerer import Answerer, ask
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.digit_scenes import DigitScenes
from smoothgate_lab.evaluation.attacks import objectives
from smoothgate_lab.evaluation.attacks.pgd import Norm, descend, lengths, pgd, project
from smoothgate_lab.evaluation.victims import SmoothedVictim, Undefended

DIGIT = ONE_PICTURE[0].phrasings[0]
SCENES = 8


@pytest.fixture(scope="module")
def encoder() -> UnitEncoder:
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    return UnitEncoder.load(adapter, DEMO.psm)


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(DEMO.model)


@pytest.fixture(scope="module")
def scenes(encoder: UnitEncoder) -> DigitScenes:
    return DigitScenes(encoder.adapter, SCENES, SCENES, 21)


def _gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_found_lies_within_the_ball_and_is_a_picture(norm: Norm) -> None:
    x, wanted = torch.rand(4, 3, 6, 6), torch.rand(4, 3, 6, 6)
    found = pgd(lambda z: (z - wanted).square().sum((1, 2, 3)), x, norm, 0.1, 10, _gen(), restarts=2)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    size = (found - x).abs().amax((1, 2, 3)) if norm == "linf" else lengths(found - x).flatten()
    assert bool((size <= 0.1 + 1e-6).all())
    assert bool((size > 0.09).all())


def test_projection_is_the_nearest_point() -> None:
    delta = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(project(delta, "l2", 1.0).flatten(), torch.tensor([0.6, 0.8, 0, 0]))
    torch.testing.assert_close(project(delta, "linf", 3.5).flatten(), torch.tensor([3.0, 3.5, 0, 0]))
    assert torch.equal(project(delta, "l2", 6.0), delta)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_makes_what_foolbox_makes(
    norm: Norm, encoder: UnitEncoder, answerer: Answerer, scenes: DigitScenes
) -> None:
    """On the cross-entropy of the answer, seen as a classifier of ten digits."""
    import foolbox
    from foolbox.models.pytorch import PyTorchModel

    victim = Undefended(encoder)
    digits = [f"The digit is {d}." for d in range(10)]
    x = scenes.canvases[:2]
    labels = torch.tensor([facts.digit for facts in scenes.facts[:2]])

    class Digits(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            tokens = victim.see(z, _gen()).tokens
            told = [-answerer.cross_entropy(DIGIT, [d] * len(z), tokens) for d in digits]
            return torch.stack(told, 1)

    network = Digits().eval()
    eps, steps = (8 / 255, 5) if norm == "linf" else (0.5, 5)
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    attack = kind(rel_stepsize=0.2, steps=steps, random_start=False)
    model = PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, _ = attack(model, x, labels, epsilons=eps)

    def loss(z: Tensor) -> Tensor:
        return -F.cross_entropy(network(z), labels, reduction="none")

    ours = descend(loss, x, torch.zeros_like(x), norm, eps, steps, 0.2 * eps)
    # Signs of gradients that are zero but for rounding may differ.
    assert float((ours - theirs).abs().mean()) < 1e-4
    torch.testing.assert_close(loss(ours), loss(theirs), rtol=1e-2, atol=1e-2)


def test_the_cross_entropy_is_that_of_the_greedy_answer(
    encoder: UnitEncoder, answerer: Answerer, scenes: DigitScenes
) -> None:
    tokens = Undefended(encoder).see(scenes.canvases, _gen()).tokens.detach()
    right = [f"The digit is {facts.digit}." for facts in scenes.facts]
    wrong = [f"The digit is {(facts.digit + 1) % 10}." for facts in scenes.facts]
    together = answerer.cross_entropy(DIGIT, right, tokens).detach()
    assert float(together.max()) < 0.69  # more probable than not
    assert float(answerer.cross_entropy(DIGIT, wrong, tokens).detach().min()) > 1
    pairs = zip(right, tokens, strict=True)
    alone = torch.cat([answerer.cross_entropy(DIGIT, [answer], one[None]) for answer, one in pairs])
    torch.testing.assert_close(alone.detach(), together, rtol=1e-3, atol=1e-4)


def test_the_undefended_model_falls_and_the_attack_reaches_through_the_noise(
    encoder: UnitEncoder, answerer: Answerer, scenes: DigitScenes
) -> None:
    victim, gen = Undefended(encoder), _gen()
    twins = [f"The digit is {(facts.digit + 3) % 10}." for facts in scenes.facts]
    loss = objectives.towards_answer(victim, answerer, DIGIT, twins, gen)
    found = pgd(loss, scenes.canvases, "linf", 16 / 255, 20, gen)
    assert ask(answerer, ONE_PICTURE[0], victim.see(found, gen).tokens.detach(), scenes.facts) <= 0.25

    smoothed = SmoothedVictim(encoder, 0.5, 4)
    x = scenes.canvases[:2]
    loss = objectives.towards_feature(smoothed, scenes.twins[:2], gen)
    found = pgd(loss, x, "l2", 4.0, 8, gen)
    many = SmoothedVictim(encoder, 0.5, 32)
    with torch.no_grad():
        t, moved = many.see(x, gen).features, many.see(found, gen).features
    assert float((t * moved).sum(1).max()) < 0.9


def test_a_crop_is_a_part_of_the_picture() -> None:
    rows = torch.linspace(0, 1, 16).view(1, 1, 16, 1).expand(8, 3, 16, 16)
    part = objectives.crop(rows, _gen())
    assert part.shape == rows.shape
    spans = part[:, 0, -1, 0] - part[:, 0, 0, 0]
    assert bool((spans < 1).any())
    assert bool((spans > 0.8).all())


def test_clusters_are_centres_and_the_plan_is_a_coupling() -> None:
    tokens = torch.cat([torch.zeros(1, 5, 4), torch.ones(1, 5, 4)], 1) + 0.01 * torch.randn(1, 10, 4)
    centres = objectives.clusters(tokens, 2)
    expected = torch.tensor([[[0.0] * 4, [1.0] * 4]])
    torch.testing.assert_close(centres.sort(1).values, expected, atol=0.05, rtol=0)
    plan = objectives.transport_plan(torch.tensor([[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]]))
    torch.testing.assert_close(plan.sum(2), torch.full((1, 2), 1 / 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((1, 3), 1 / 3), atol=1e-3, rtol=0)
    assert float(plan[0, 0, 0]) > 0.3


@pytest.mark.parametrize("kind", ["whole", "crops", "transport"])
def test_features_can_be_brought_to_those_of_the_target(
    encoder: UnitEncoder, scenes: DigitScenes, kind: str
) -> None:
    victim, gen = Undefended(encoder), _gen()
    x, target = scenes.canvases, scenes.twins
    loss = {
        "whole": lambda: objectives.towards_feature(victim, target, gen),
        "crops": lambda: objectives.towards_feature_by_crops(victim, target, gen),
        "transport": lambda: objectives.towards_feature_by_transport(
            victim, target, encoder.adapter.hidden_size, gen
        ),
    }[kind]()
    found = pgd(loss, x, "linf", 16 / 255, 40, gen)
    with torch.no_grad():
        nearer = torch.stack([loss(x) - loss(found) for _ in range(16)]).mean()
    assert float(nearer) > (0.05 if kind == "crops" else 0.4)
