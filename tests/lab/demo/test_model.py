"""The bundled model as it ships; its accuracy is `smoothgate demo evaluate`'s to print."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smoothgate.bundled import DEMO
from smoothgate.psm.calibration import Calibration
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.chats import TEMPLATE, conversation
from smoothgate_lab.chat_models.language_side import ChatEncoder
from smoothgate_lab.demo.conversation import DIGITS, Facts
from smoothgate_lab.demo.demo_checkpoint import build_processor, build_tokenizer
from smoothgate_lab.demo.demo_evaluation import labelled_scenes, plain_pictures, run
from smoothgate_lab.demo.sample_pictures import write_samples
from smoothgate_lab.psm_training.stages import Recipe


def test_it_is_small_enough_to_ship() -> None:
    size = sum(path.stat().st_size for path in DEMO.model.iterdir())
    assert size <= 15 * 2**20


def test_its_weights_have_the_names_that_vllm_s_own_image_path_knows() -> None:
    names = load_file(DEMO.model / "model.safetensors")
    tower = [name for name in names if name.startswith("vision_tower.")]
    assert tower
    assert all(name.startswith("vision_tower.vision_model.") for name in tower)


def test_the_calibration_belongs_to_the_model() -> None:
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    calibration = Calibration.load(DEMO.psm)
    UnitEncoder(adapter, calibration)
    figures = calibration.figures
    assert abs(figures.chance_mean) < 0.1
    assert figures.twin_mean is not None
    assert figures.twin_mean < 0.2
    assert figures.flip_point == pytest.approx(((1 + figures.twin_mean) / 2) ** 0.5)


def test_the_psm_is_of_the_default_recipe_and_small_enough_to_ship() -> None:
    facts = json.loads((DEMO.psm / "psm.json").read_text())
    assert facts["training"]["recipe"] == json.loads(json.dumps(asdict(Recipe())))
    assert sum(path.stat().st_size for path in DEMO.psm.iterdir()) <= 5_000_000


def test_training_reads_what_the_template_writes() -> None:
    tokenizer = build_tokenizer(1)
    chat = ChatEncoder(tokenizer, 36)
    processor = build_processor(tokenizer)
    rng = random.Random(0)
    facts = [Facts(3, "red", "blue", "striped"), Facts(7, "black", "white", "plain")]
    for count in (0, 1, 2) * 10:
        messages = conversation(DIGITS, facts[:count], rng)
        text = processor.apply_chat_template(messages, tokenize=False)
        ids, labels = chat(messages)
        assert tokenizer(text.replace("<image>", "<image>" * 36)).input_ids == ids
        answers = "".join(m["content"] + "<|end|>" for m in messages if m["role"] == "assistant")
        assert tokenizer.decode([i for i in labels if i >= 0]) == answers


def test_the_shipped_template_is_the_one_trained_with() -> None:
    assert (DEMO.model / "chat_template.jinja").read_text() == TEMPLATE


def test_the_shipped_samples_are_made_by_the_command(tmp_path: Path) -> None:
    for name in write_samples(tmp_path):
        assert (tmp_path / name).read_bytes() == (DEMO.samples / name).read_bytes(), name


@pytest.mark.long
def test_a_small_evaluation() -> None:
    """A smoke test of the command's figures with bounds far below what it prints on 1,000 scenes."""
    figures = run(Answerer(DEMO.model), 60, 3)
    assert set(figures["asked"].values()) == {60}
    assert figures["accuracy"]["digit"] > 0.9
    assert figures["accuracy"]["sum"] > 0.8
    assert figures["twin_cosine"] < 0.3


def test_plain_pictures_are_of_many_sizes() -> None:
    pictures = plain_pictures(100, 0)
    assert min(min(p.size) for p, _ in pictures) < 40
    assert max(max(p.size) for p, _ in pictures) > 600


def test_answers_do_not_depend_on_the_batch() -> None:
    answerer = Answerer(DEMO.model)
    scenes, _ = labelled_scenes("held-out", 6, 5)
    tokens = answerer.tokens([scene.picture for scene in scenes])
    chats = [
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}], [each])
        for each, text in zip(tokens, ("Describe the image.", "What digit is shown?") * 3, strict=True)
    ]
    assert answerer(chats) == [answerer([chat])[0] for chat in chats]
