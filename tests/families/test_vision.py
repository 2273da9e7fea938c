"""Every family's vision part against its whole model in transformers, without vLLM; LLaVA-1.5's
has tests of its own (`tests/vision`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from smoothgate.errors import SmoothgateError, Unacceptable
from smoothgate.psm.calibration import calibrate
from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig
from smoothgate.psm.picture_files import clean_tokens, list_pictures, read_pictures
from smoothgate.psm.purifier import LightUNet, LightUNetConfig
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import DecodedImage, VisionAdapter, load
from smoothgate.vision.families import FAMILIES, UNSUPPORTED
from smoothgate.vision.processor_adapter import ProcessorAdapter
from smoothgate_lab.evaluation.psm_evaluation import FolderSubjects, Sampling, run
from smoothgate_lab.psm_training.folder_pictures import FolderPictures
from smoothgate_lab.psm_training.frozen_language_model import FrozenLanguageModel, picture_size
from smoothgate_lab.psm_training.stages import Recipe, Trainer
from smoothgate_lab.psm_training.vote_tuning import VoteRecipe, VoteTuning
from tests.families.checkpoints import BUILDERS
from tests.families.pictures import picture

SIZES = [(40, 50), (64, 64), (31, 97), (200, 133), (240, 320)]


@pytest.fixture(scope="module", params=[name for name in BUILDERS if name != "llava"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp(request.param) / request.param
    BUILDERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> ProcessorAdapter:
    adapter = load(str(checkpoint), device="cpu", dtype=torch.float32)
    assert isinstance(adapter, ProcessorAdapter)
    assert adapter.family == checkpoint.name
    return adapter


def decoded(height: int, width: int, seed: int = 0) -> DecodedImage:
    return DecodedImage(picture(height, width, seed), "PNG", "")


@torch.no_grad()
def received(checkpoint: Path, adapter: ProcessorAdapter, image: DecodedImage) -> torch.Tensor:
    """What the language model of the whole model gets at the places of the visual tokens."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    inputs = adapter.processor(
        images=[Image.fromarray(image.pixels)],
        text=[adapter.image_token],
        return_tensors="pt",
        add_special_tokens=False,
    )
    seen: dict[str, Any] = {}
    language = getattr(model.model, "language_model", None) or model.model.text_model
    language.register_forward_pre_hook(lambda module, args, named: seen.update(named), with_kwargs=True)
    model(**inputs)
    token = adapter.processor.tokenizer.convert_tokens_to_ids(adapter.visual_token())
    tokens = seen["inputs_embeds"][inputs["input_ids"] == token]
    return torch.cat([tokens, *(seen.get("deepstack_visual_embeds") or [])], -1)


def test_tokens_are_those_of_the_whole_model(checkpoint: Path, adapter: ProcessorAdapter) -> None:
    for size in SIZES:
        image = decoded(*size)
        canvas, native = adapter.canvas(image), adapter.canvas_native(image)
        tokens = adapter.tokens(native[None], canvas.layout)[0]
        assert adapter.prompt(*size).tokens == len(tokens)
        torch.testing.assert_close(tokens, received(checkpoint, adapter, image), atol=2e-4, rtol=1e-4)
        # The processor rounds to 8 bits after each resize.
        assert canvas.x.shape == native.shape
        assert canvas.x.numel() == adapter.canvas_values(*size)
        assert float((canvas.x - native).abs().mean()) < 0.5 / 255


#: Of the tiny checkpoints: three tiles, and less than the canvas of a large image.
LIMIT = 3 * 32 * 32


def test_the_canvas_of_a_large_image_keeps_the_operators_limit(
    checkpoint: Path, adapter: ProcessorAdapter
) -> None:
    """Canvas, prompt and tokens are those of a checkpoint with smaller settings; the digest stays."""
    limited = load(str(checkpoint), device="cpu", dtype=torch.float32, max_canvas_pixels=LIMIT)
    assert isinstance(limited, ProcessorAdapter)
    assert limited.digest == adapter.digest
    for size in [(400, 400), (200, 133), (40, 50), (64, 200)]:
        image = decoded(*size)
        canvas, native = limited.canvas(image), limited.canvas_native(image)
        assert canvas.x[0].numel() <= LIMIT
        assert canvas.x.numel() == limited.canvas_values(*size)
        assert canvas.x.shape == native.shape
        assert float((canvas.x - native).abs().mean()) < 0.5 / 255
        tokens = limited.tokens(canvas.x[None], canvas.layout)[0]
        assert len(tokens) == limited.prompt(*size).tokens
    assert limited.canvas_values(400, 400) < adapter.canvas_values(400, 400)


def test_a_limit_below_every_canvas_is_refused(checkpoint: Path) -> None:
    with pytest.raises(SmoothgateError, match="the smallest canvas of this checkpoint has") as caught:
        load(str(checkpoint), device="cpu", dtype=torch.float32, max_canvas_pixels=50)
    assert caught.value.code == "canvas_limit_too_small"


def test_an_image_too_long_for_the_limit_is_refused(tmp_path: Path) -> None:
    BUILDERS["qwen2_vl"](tmp_path)
    limited = load(str(tmp_path), device="cpu", dtype=torch.float32, max_canvas_pixels=1024)
    with pytest.raises(Unacceptable, match="takes at most 1024") as caught:
        limited.canvas_values(16, 3000)
    assert caught.value.code == "canvas_too_large"


def test_a_batch_is_as_good_as_a_loop_and_has_gradients(adapter: ProcessorAdapter) -> None:
    canvas = adapter.canvas(decoded(200, 133))
    noise = torch.randn((3, *canvas.x.shape), generator=torch.Generator().manual_seed(0))
    z = (canvas.x + 0.1 * noise).requires_grad_()
    together = adapter.tokens(z, canvas.layout)
    alone = torch.cat([adapter.tokens(each[None], canvas.layout) for each in z])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(together.square().sum(), z)
    assert gradient.flatten(1).any(1).all()


def test_the_frozen_language_model_says_what_the_whole_model_does(
    checkpoint: Path, adapter: ProcessorAdapter
) -> None:
    """Of the next tokens of an answer, from a picture that fills its canvas."""
    frozen = FrozenLanguageModel(str(checkpoint), adapter, answer_tokens=4)
    for height, width in SIZES[:3]:
        x = adapter.canvas_native(decoded(*adapter.filling_size(height, width)))[None]
        # A canvas stands for the first picture that has such tiles.
        size = picture_size(adapter, x.shape[1:], adapter.tokens(x).shape[1])
        image = decoded(*size)
        x = adapter.canvas_native(image)[None]
        tokens = adapter.tokens(x, adapter.layout(*size))
        answers = frozen.answer("What is shown?", tuple(x.shape[1:]), tokens)
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}]
        text = adapter.processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = adapter.processor(
            images=[Image.fromarray(image.pixels)],
            text=[text],
            return_tensors="pt",
            add_special_tokens=False,
        )
        with torch.no_grad():
            greedy = frozen.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert greedy[0, inputs["input_ids"].shape[1] :].tolist() == answers.tokens[0].tolist()


def test_a_full_canvas_needs_no_layout(adapter: VisionAdapter) -> None:
    for size in SIZES:
        full = adapter.canvas(decoded(*adapter.filling_size(*size)))
        torch.testing.assert_close(adapter.tokens(full.x[None]), adapter.tokens(full.x[None], full.layout))


def test_the_norm_bounds_what_a_change_of_the_upload_does(adapter: ProcessorAdapter) -> None:
    """Power iteration finds the change of the greatest effect, which must not exceed the stated norm."""
    height, width = 90, 70
    bound = adapter.canvas(decoded(height, width)).upload_norm
    resizes = adapter.resizes(height, width)
    change = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    for _ in range(30):
        change /= np.linalg.norm(change)
        pieces = [each.linear(change) for each in resizes]
        gain = float(torch.linalg.norm(adapter.assemble([torch.from_numpy(each) for each in pieces])))
        assert gain <= bound
        change = sum(
            (
                np.stack([each.rows.T @ colour @ each.columns for colour in piece], -1)
                for each, piece in zip(resizes, pieces, strict=True)
            ),
            start=np.zeros_like(change),
        )
    assert gain > 0.8 * bound  # a bound, but not an idle one


def test_calibration_and_psm_take_any_canvas(adapter: ProcessorAdapter) -> None:
    torch.manual_seed(0)
    sizes = [SIZES[seed % len(SIZES)] for seed in range(16)]
    pictures = (decoded(*size, seed) for seed, size in enumerate(sizes))
    calibration = calibrate(clean_tokens(adapter, pictures), None, adapter.digest, per_channel=True)
    assert calibration.mu.shape == (1, adapter.hidden_size)
    purifier = LightUNet(LightUNetConfig(width=16, core_width=24, heads=2, noise_width=16))
    config = ResidualMapperConfig(adapter.hidden_size, adapter.token_grid, width=16, heads=2, noise_width=8)
    psm = PSM(purifier, ResidualMapper(config), model_digest=adapter.digest, training={})
    for parameter in psm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    encoder = UnitEncoder(adapter, calibration, psm.eval().requires_grad_(False))
    sigma = torch.tensor([0.1])
    for size in SIZES:
        canvas = adapter.canvas(decoded(*size))
        (unit,) = encoder.units(canvas.x[None], sigma, canvas.layout)
        assert float(unit.norm()) == pytest.approx(1, abs=1e-5)
        assert encoder.served_tokens(unit).shape == (adapter.prompt(*size).tokens, adapter.hidden_size)
        height = adapter.tile_height
        if height is not None:  # the purifier sees one tile at a time
            pure = encoder.purified(canvas.x[None], sigma)[:, :, height : 2 * height]
            tile = canvas.x[None, :, height : 2 * height]
            if tile.numel():
                torch.testing.assert_close(pure, psm.purifier(tile, sigma), atol=1e-5, rtol=1e-4)


def test_a_psm_is_trained_and_scored_on_pictures_of_any_size(
    checkpoint: Path, adapter: ProcessorAdapter, tmp_path: Path
) -> None:
    """Through every stage, on files; far too little to learn anything."""
    for number in range(10):
        Image.fromarray(picture(*SIZES[number % len(SIZES)], number)).save(tmp_path / f"{number}.png")
    paths = list_pictures(tmp_path)
    features = clean_tokens(adapter, read_pictures(paths, []))
    calibration = calibrate(features, None, adapter.digest, per_channel=True)
    recipe = Recipe(
        batch=4,
        denoise_steps=1,
        purifier_steps=1,
        mapper_steps=1,
        joint_steps=1,
        served_steps=1,
        adversarial_steps=1,
    )
    pictures = FolderPictures(adapter, paths, seed=0)

    def trainer(name: str) -> Trainer:
        return Trainer(adapter, calibration, pictures, pictures, recipe, tmp_path / name)

    torch.manual_seed(0)
    purifier = LightUNet(LightUNetConfig(width=16, core_width=24, heads=2, noise_width=16))
    psm = trainer("tuned").train_adversarially(trainer("first").run(purifier))
    votes = VoteTuning(
        FrozenLanguageModel(str(checkpoint), adapter, answer_tokens=2), VoteRecipe(steps=1, attacked=True)
    )
    encoder = UnitEncoder(adapter, calibration, trainer("votes").train_for_votes(psm, votes))
    sampling = Sampling(sigmas=(0.25,), eps=(0.1,), n_select=4, n_certify=8, alpha=0.01, seed=0)
    (row,) = run(encoder, ("both",), FolderSubjects(adapter, tmp_path, 4), sampling)["rows"]
    assert -1 <= row["fcsb"]["0.1"] <= row["score"] <= 1


def test_every_family_has_a_checkpoint() -> None:
    assert set(BUILDERS) == set(FAMILIES)


@pytest.mark.parametrize("model_type", [*UNSUPPORTED, "never_heard_of"])
def test_others_are_refused_with_the_list(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SmoothgateError, match="Supported are: llava, qwen2_vl") as caught:
        load(str(tmp_path), device="cpu", dtype=torch.float32)
    assert caught.value.code == "unsupported_model"
    assert model_type in str(caught.value)
    assert UNSUPPORTED.get(model_type, "") in str(caught.value)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_the_tags_of_all_tiles_are_placeholders(name: str, tmp_path: Path) -> None:
    """Also those of tiles that only a larger image than the adapter has tried would have."""
    BUILDERS[name](tmp_path)
    adapter = load(str(tmp_path), device="cpu", dtype=torch.float32)
    assert {f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)} <= set(
        adapter.placeholders
    )


def test_qwen_refuses_what_its_processor_does(tmp_path: Path) -> None:
    BUILDERS["qwen2_vl"](tmp_path)
    adapter = load(str(tmp_path), device="cpu", dtype=torch.float32)
    with pytest.raises(Unacceptable, match="aspect ratio"):
        adapter.canvas(decoded(1, 300))
