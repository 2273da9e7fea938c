"""The language model reads given visual tokens as a picture's own. See also the tests of families."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smoothgate.errors import SmoothgateError
from smoothgate.vision import VisionAdapter, load
from smoothgate_lab.psm_training.frozen_language_model import FrozenLanguageModel, picture_size
from tests import checkpoints

QUESTION = "What digit is shown?"
SHAPE = (3, checkpoints.IMAGE_SIZE, checkpoints.IMAGE_SIZE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> VisionAdapter:
    return load(str(checkpoint), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def language_model(checkpoint: Path, adapter: VisionAdapter) -> FrozenLanguageModel:
    return FrozenLanguageModel(str(checkpoint), adapter, answer_tokens=6)


def tokens(adapter: VisionAdapter) -> Tensor:
    with torch.no_grad():
        return adapter.tokens(torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)))


def test_answers_are_greedy_and_end_with_their_end(
    adapter: VisionAdapter, language_model: FrozenLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tokens(adapter)
    first = language_model.answer(QUESTION, SHAPE, seen)
    assert first.tokens.shape == (4, 6)
    assert torch.equal(first.log_probabilities.argmax(-1)[first.asked], first.tokens[first.asked])
    # Were a token that it says the end, answers would stop there.
    end = first.tokens[0, 2]
    monkeypatch.setattr(language_model, "_ends", end[None])
    shorter = language_model.answer(QUESTION, SHAPE, seen)
    place = int((first.tokens[0] == end).nonzero()[0])
    assert shorter.asked[0].tolist() == [i <= place for i in range(shorter.asked.shape[1])]


def test_gradients_reach_the_visual_tokens_and_no_weight(
    adapter: VisionAdapter, language_model: FrozenLanguageModel
) -> None:
    seen = tokens(adapter).requires_grad_()
    answers = language_model.answer(QUESTION, SHAPE, seen)
    spoken = language_model.log_probabilities(answers, seen)
    torch.testing.assert_close(spoken, answers.log_probabilities)
    (gradient,) = torch.autograd.grad(spoken[..., 0].sum(), seen)
    assert gradient.any(-1).all()
    assert not any(p.requires_grad for p in language_model.model.parameters())


def test_an_answer_may_hold_the_token_of_an_image(
    adapter: VisionAdapter, language_model: FrozenLanguageModel
) -> None:
    answers = language_model.answer(QUESTION, SHAPE, tokens(adapter))
    image = torch.full_like(answers.tokens, language_model.model.config.image_token_id)
    spoken = language_model.log_probabilities(replace(answers, tokens=image), tokens(adapter))
    torch.testing.assert_close(spoken[:, 0], answers.log_probabilities[:, 0])
    assert spoken.isfinite().all()


def test_rows_are_independent(adapter: VisionAdapter, language_model: FrozenLanguageModel) -> None:
    seen = tokens(adapter)
    together, alone = (language_model.answer(QUESTION, SHAPE, each) for each in (seen, seen[2:3]))
    kept = together.of(torch.tensor([2]))
    assert torch.equal(kept.tokens[:, : alone.tokens.shape[1]], alone.tokens)
    torch.testing.assert_close(
        kept.log_probabilities[:, : alone.tokens.shape[1]], alone.log_probabilities, atol=1e-4, rtol=1e-4
    )


def test_a_checkpoint_that_cannot_chat_is_refused(adapter: VisionAdapter, tmp_path: Path) -> None:
    path = checkpoints.build(tmp_path)
    (path / "chat_template.jinja").unlink()
    settings = path / "tokenizer_config.json"
    kept = {
        name: value for name, value in json.loads(settings.read_text()).items() if name != "chat_template"
    }
    settings.write_text(json.dumps(kept))
    with pytest.raises(SmoothgateError, match="no chat template") as caught:
        FrozenLanguageModel(str(path), adapter)
    assert caught.value.code == "unsupported_model"


def test_a_canvas_that_no_picture_has_is_refused(adapter: VisionAdapter) -> None:
    assert picture_size(adapter, SHAPE, checkpoints.TOKENS_PER_IMAGE) == SHAPE[1:]
    with pytest.raises(SmoothgateError, match="No picture has a canvas of 8 x 8"):
        picture_size(adapter, (3, 8, 8), checkpoints.TOKENS_PER_IMAGE)
