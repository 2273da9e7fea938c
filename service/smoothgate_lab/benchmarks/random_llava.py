"""LLaVA-1.5 with random weights at any size: what its encoder costs, without what it has learned."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from smoothgate.psm.calibration import calibrate
from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.diffusion_purifier import DiffusionConfig, DiffusionPurifier
from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig
from smoothgate.psm.purifier import LightUNet, LightUNetConfig
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import VisionAdapter, load
from smoothgate_lab.chat_models.chats import TEMPLATE
from smoothgate_lab.chat_models.llava_files import name_as_published
from smoothgate_lab.demo.demo_checkpoint import build_tokenizer

_CALIBRATED = 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the encoder. The defaults are those of LLaVA-1.5-7B and of a published U-Net.

    Attributes:
        side: of the canvas, in pixels.
        patch: side of a patch, in pixels.
        width, mlp, layers, heads: of the vision tower.
        hidden: width of the visual tokens.
        unet: channels of the diffusion purifier's U-Net at each resolution (`google/ddpm-celebahq-256`).
    """

    side: int = 336
    patch: int = 14
    width: int = 1024
    mlp: int = 4096
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    unet: tuple[int, ...] = (128, 128, 256, 256, 512, 512)


def random_adapter(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> VisionAdapter:
    """The vision part, loaded as any checkpoint is."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.mlp,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            image_size=sizes.side,
            patch_size=sizes.patch,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.hidden,
            intermediate_size=sizes.hidden,
            num_hidden_layers=1,
            num_attention_heads=4,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(sizes.side // sizes.patch) ** 2,
        vision_feature_layer=-2,
    )
    square = {"height": sizes.side, "width": sizes.side}
    images = CLIPImageProcessor(size={"shortest_edge": sizes.side}, crop_size=square)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106
        chat_template=TEMPLATE,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
        name_as_published(folder)
        processor.save_pretrained(folder)
        return load(name, device=device, dtype=dtype)


def with_purifier(adapter: VisionAdapter, purifier: nn.Module) -> UnitEncoder:
    """The encoder with a purifier, and with a mapper and a centre of its own."""
    assert adapter.canvas_shape is not None  # noqa: S101
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        x = torch.rand((_CALIBRATED, *adapter.canvas_shape), generator=generator)
        tokens = [adapter.tokens(each[None].to(adapter.device)).float().cpu() for each in x]
    torch.manual_seed(2)
    mapper = ResidualMapper(ResidualMapperConfig(adapter.hidden_size, adapter.token_grid))
    psm = PSM(purifier, mapper, model_digest=adapter.digest).eval().requires_grad_(False)
    return UnitEncoder(adapter, calibrate([torch.cat(tokens)], None, adapter.digest), psm)


def light_purifier(sizes: Sizes) -> nn.Module:
    """The purifier that the demo model was trained with, at its size, with new weights. Takes any canvas."""
    torch.manual_seed(3)
    return LightUNet(LightUNetConfig())


def diffusion_purifier(sizes: Sizes) -> nn.Module:
    """The purifier that published diffusion models give, with new weights."""
    torch.manual_seed(4)
    levels = len(sizes.unet)
    unet = UNet2DModel(
        sample_size=256,
        block_out_channels=sizes.unet,
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * (levels - 2) + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * (levels - 2),
    )
    scheduler: Any = DDPMScheduler()
    settings = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    abar = scheduler.alphas_cumprod
    return DiffusionPurifier(DiffusionConfig(settings, "epsilon", len(abar)), unet, abar)
