"""Fine-tuning of the PSM on answers, a few steps: it learns, and the model stays as it is."""

from pathlib import Path

import pytest
import torch

from smoothgate.bundled import DEMO
from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import Calibration
from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.evaluation.answer_tuning import AnswerTuning
from smoothgate_lab.training_loop import Schedule, seeded


def tuning() -> AnswerTuning:
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    return AnswerTuning(UnitEncoder.load(adapter, DEMO.psm), seed=1)


def losses(mine: AnswerTuning) -> float:
    """Cross-entropy of right answers in the first three batches, attacked anew."""
    return sum(mine.loss(batch)[1]["answers"] for batch in range(3))


@pytest.mark.long
def test_purifier_and_mapper_learn_and_the_model_does_not(tmp_path: Path) -> None:
    mine = tuning()
    encoder = mine.encoder
    start = encoder.psm.digest
    x = mine._scenes(seeded(4, 0))[0]
    tokens = encoder.adapter.tokens(x).detach()
    language = {name: p.clone() for name, p in mine.answerer.model.named_parameters()}
    # The same batches, with the same attacks' seeds, before and after having been trained on.
    before = losses(mine)
    mine.run(tmp_path, Schedule(steps=3, muon_lr=0.002, adam_lr=4e-4, warmup=1))
    assert losses(mine) < before
    assert encoder.psm.digest != start
    assert torch.equal(encoder.adapter.tokens(x), tokens)
    assert all(torch.equal(language[name], p) for name, p in mine.answerer.model.named_parameters())
    encoder.psm.save(tmp_path / "psm")
    saved = PSM.load(tmp_path / "psm")
    assert saved.digest == encoder.psm.digest
    assert saved.training_facts["tuned_on_answers"]["from"] == start
    assert "recipe" in saved.training_facts, "what came before is not forgotten"
    with pytest.raises(SmoothgateError, match="another model, start or recipe"):
        mine.run(tmp_path, Schedule(steps=3, muon_lr=0.002, adam_lr=4e-4, warmup=1))


def test_for_votes_each_sample_answers_by_itself_and_no_picture_is_attacked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tuning()
    mine.votes = True
    asked: list[int] = []
    cross_entropy = mine.answerer.cross_entropy

    def counted(question: str, wanted: list[str], tokens: torch.Tensor) -> torch.Tensor:
        asked.append(len(tokens))
        return cross_entropy(question, wanted, tokens)

    monkeypatch.setattr(mine.answerer, "cross_entropy", counted)
    mine.run(tmp_path, Schedule(steps=1, muon_lr=0.002, adam_lr=4e-4, warmup=1))
    assert asked == [32], "two noises of sixteen pictures, once"
    assert mine.encoder.psm.training_facts["tuned_on_answers"]["votes"]


def test_a_psm_without_weights_is_refused(tmp_path: Path) -> None:
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    bare = AnswerTuning(UnitEncoder(adapter, Calibration.load(DEMO.psm)), seed=1)
    with pytest.raises(SmoothgateError, match="no weights"):
        bare.run(tmp_path, Schedule(steps=1, muon_lr=0.002, adam_lr=4e-4))


def test_an_attack_costs_the_right_answer_some_likelihood() -> None:
    mine = tuning()
    gen = seeded(5, 0)
    x, facts = mine._scenes(gen)
    for first, second in zip(facts[::2], facts[1::2], strict=True):
        assert first.digit != second.digit
        assert (first.ink, first.background, first.pattern) == (
            second.ink,
            second.background,
            second.pattern,
        )
    question = ONE_PICTURE[0]
    right = [question.answer(each) for each in facts]
    sigma, everyone = torch.full((len(x),), 0.5), torch.ones(len(x), dtype=torch.bool)
    attacked = mine._attack(x, sigma, everyone, question, right, gen)
    assert float((attacked - x).abs().max()) > 0
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    levels = sigma.repeat(2)

    def wrong(z: torch.Tensor) -> float:
        noise = torch.randn(2 * len(z), *z.shape[1:], generator=seeded(6, 0))
        with torch.inference_mode():
            units = mine.encoder.units(z.repeat(2, 1, 1, 1) + 0.5 * noise, levels)
            return float(
                mine.answerer.cross_entropy(question.phrasings[0], right, mine._served(units)).mean()
            )

    assert wrong(attacked) > wrong(x)
