import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, LlavaForConditionalGeneration

from smoothgate.errors import SmoothgateError
from smoothgate.vision import DecodedImage, VisionAdapter, decode, load
from tests import checkpoints

TOWERS = ("clip", "siglip")


@pytest.fixture(scope="module", params=TOWERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> VisionAdapter:
    return open_adapter(checkpoint)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def open_adapter(path: Path, dtype: torch.dtype = torch.float32) -> VisionAdapter:
    return load(str(path), device="cpu", dtype=dtype)


def edit(path: Path, **changes: Any) -> None:
    """Set entries of a JSON file. A dict is merged into the present one."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))


def rewrite(path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    file = path / "model.safetensors"
    weights = dict(change(name, weight) for name, weight in load_file(file).items())
    save_file(weights, file, metadata={"format": "pt"})


def picture(height: int = 50, width: int = 70) -> DecodedImage:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return decode(buffer.getvalue(), max_pixels=10**6)


def noisy(adapter: VisionAdapter, count: int = 3) -> torch.Tensor:
    assert adapter.canvas_shape is not None
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, *adapter.canvas_shape), generator=generator) * 0.5 + 0.5


def test_properties_match_the_checkpoint(adapter: VisionAdapter) -> None:
    assert adapter.family == "llava"
    assert adapter.placeholders == (checkpoints.IMAGE_TOKEN,)
    assert adapter.prompt(50, 70).runs == (checkpoints.TOKENS_PER_IMAGE,)
    assert adapter.canvas_shape == (3, checkpoints.IMAGE_SIZE, checkpoints.IMAGE_SIZE)
    assert adapter.token_grid == (4, 4)
    assert adapter.tokens_per_image == checkpoints.TOKENS_PER_IMAGE
    assert adapter.hidden_size == checkpoints.HIDDEN_SIZE
    assert (adapter.dtype, adapter.device) == (torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("layer", [-1, -2, 1, 2])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_tokens_are_those_of_the_whole_model(copy: Path, layer: int, strategy: str) -> None:
    edit(copy / "config.json", vision_feature_layer=layer, vision_feature_select_strategy=strategy)
    adapter = open_adapter(copy)
    x = noisy(adapter)
    processor = AutoImageProcessor.from_pretrained(copy)
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    whole = LlavaForConditionalGeneration.from_pretrained(copy, dtype=torch.float32)
    with torch.no_grad():
        expected = whole.get_image_features(
            pixel_values=(x - mean) / std,
            vision_feature_layer=layer,
            vision_feature_select_strategy=strategy,
        ).pooler_output
        tokens = adapter.tokens(x)
    assert tokens.shape == (3, adapter.tokens_per_image, adapter.hidden_size)
    assert (tokens - torch.stack(list(expected))).abs().max() < 1e-5 * tokens.abs().max()


def test_a_batch_is_the_same_as_one_by_one(adapter: VisionAdapter) -> None:
    x = noisy(adapter, 5)
    with torch.no_grad():
        together, alone = adapter.tokens(x), torch.cat([adapter.tokens(one[None]) for one in x])
    assert (together - alone).abs().max() < 1e-4


def test_gradients_reach_every_pixel_and_no_weight(adapter: VisionAdapter) -> None:
    x = noisy(adapter).requires_grad_()
    tokens = adapter.tokens(x)
    (gradient,) = torch.autograd.grad(tokens.square().sum(), x)
    assert (gradient != 0).all()
    # A step along the gradient changes the function as the gradient predicts.
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        difference = adapter.tokens(x + step).square().sum() - adapter.tokens(x - step).square().sum()
    assert difference / 2e-3 == pytest.approx(gradient.norm().item(), rel=0.02)


def test_canvas_and_native_canvas(checkpoint: Path, adapter: VisionAdapter) -> None:
    image = picture()
    canvas, native = adapter.canvas(image), adapter.canvas_native(image)
    for x in (canvas.x, native):
        assert (x.shape, x.dtype) == (adapter.canvas_shape, torch.float32)
        assert 0 <= x.min() < x.max() <= 1
    assert 0.5 < canvas.upload_norm < 0.7
    assert 0 < (canvas.x - native).abs().max() < 0.1
    # The native canvas is what the processor gives to the model, before its normalisation.
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    expected = processor(images=Image.fromarray(image.pixels), return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    assert ((native - mean) / std - expected).abs().max() < 1e-5


def test_an_image_of_the_canvas_size_is_not_changed(adapter: VisionAdapter) -> None:
    image = picture(checkpoints.IMAGE_SIZE, checkpoints.IMAGE_SIZE)
    canvas = adapter.canvas(image)
    assert torch.equal(canvas.x, torch.from_numpy(image.pixels / np.float32(255)).permute(2, 0, 1))
    assert canvas.upload_norm == pytest.approx(1, rel=3e-6)


def test_only_the_vision_part_is_kept(checkpoint: Path, adapter: VisionAdapter) -> None:
    kept = sum(p.numel() for p in adapter.vision_model.parameters())  # type: ignore[attr-defined]
    weights = load_file(checkpoint / "model.safetensors")
    vision = sum(w.numel() for name, w in weights.items() if "vision_tower" in name or "projector" in name)
    assert kept <= vision < sum(w.numel() for w in weights.values())


def test_bfloat16_is_close_and_has_the_same_digest(checkpoint: Path, adapter: VisionAdapter) -> None:
    half = open_adapter(checkpoint, torch.bfloat16)
    x = noisy(adapter)
    with torch.no_grad():
        tokens, exact = half.tokens(x), adapter.tokens(x)
    assert tokens.dtype == half.dtype == torch.bfloat16
    assert (tokens.float() - exact).norm() < 0.05 * exact.norm()
    assert half.digest == adapter.digest


def test_older_weight_names_load_too(adapter: VisionAdapter, copy: Path) -> None:
    def renamed(name: str, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
        if name.startswith("language_model.lm_head."):
            return name.removeprefix("language_model."), weight
        return "model." + name.replace("language_model.model.", "language_model."), weight

    rewrite(copy, renamed)
    other = open_adapter(copy)
    x = noisy(adapter)
    with torch.no_grad():
        assert torch.equal(other.tokens(x), adapter.tokens(x))
    assert other.digest == adapter.digest


def test_digest_changes_with_everything_that_determines_h(adapter: VisionAdapter, copy: Path) -> None:
    def changed(part: str) -> str:
        def change(name: str, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
            return name, torch.nextafter(weight, weight + 1) if part in name else weight

        rewrite(copy, change)
        return open_adapter(copy).digest

    assert open_adapter(copy).digest == adapter.digest
    assert changed("language_model") == adapter.digest
    seen = {adapter.digest, changed("patch_embedding.weight"), changed("multi_modal_projector.linear_2.bias")}
    edit(copy / "config.json", projector_hidden_act="relu")
    seen.add(open_adapter(copy).digest)
    edit(copy / "processor_config.json", image_processor={"image_mean": [0.5, 0.5, 0.4]})
    seen.add(open_adapter(copy).digest)
    assert len(seen) == 5


def refusal(path: Path) -> str:
    with pytest.raises(SmoothgateError) as caught:
        open_adapter(path)
    assert caught.value.code == "unsupported_model"
    return caught.value.message


def test_unknown_families_are_refused_with_the_list(copy: Path) -> None:
    edit(copy / "config.json", model_type="a-model-of-tomorrow")
    message = refusal(copy)
    assert "a-model-of-tomorrow are not supported. Supported are: llava, qwen2_vl" in message


def test_unsupported_settings_are_refused_with_the_reason(copy: Path) -> None:
    config = copy / "config.json"
    original = config.read_text()
    for changes, reason in (
        ({"vision_feature_layer": [-2, -1]}, "only a single layer"),
        ({"vision_feature_layer": -3}, "it has 2 layers"),
        ({"vision_feature_layer": 3}, "it has 2 layers"),
        ({"vision_config": {"image_size": 40}}, "32 x 32 pixels, its vision tower takes 40 x 40"),
        ({"vision_config": {"model_type": "dinov2"}}, "vision tower dinov2 is none of"),
        ({"vision_config": {"model_type": "pixtral"}}, "has no longest_edge"),
    ):
        edit(config, **changes)
        assert reason in refusal(copy)
        config.write_text(original)


def test_missing_weights_are_refused_by_name(copy: Path) -> None:
    def change(name: str, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
        return name.replace("linear_1.bias", "linear_1.prejudice"), weight

    rewrite(copy, change)
    assert "multi_modal_projector.linear_1.bias" in refusal(copy)
