"""Tiny random LLaVA checkpoints: every part is real except that nothing was learned.

Weights are drawn larger than a usual initialisation, so that logits depend visibly on the image and a
comparison of two ways to the same answer is not vacuous. `head_dim` is 32: vLLM's CPU attention rejects 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from smoothgate_lab.chat_models.llava_files import name_as_published

MODEL_NAME = "tiny"
IMAGE_TOKEN = "<image>"
HIDDEN_SIZE = 64
IMAGE_SIZE = 32
PATCH_SIZE = 8
# Room for answers that take minutes.
CONTEXT = 131_072
TOKENS_PER_IMAGE = (IMAGE_SIZE // PATCH_SIZE) ** 2

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

_CORPUS = [
    "user: What digit is shown? assistant: The digit is a seven, blue on white.",
    "user: Describe the image. assistant: A red nine on a dark background.",
    "system: You answer questions about pictures. Which one is larger, and what is the sum?",
]


def build(path: Path, tower: Literal["clip", "siglip"] = "clip", seed: int = 0) -> Path:
    """Write a checkpoint that transformers and vLLM both load, and return its path."""
    tokenizer = tokenizer_of(IMAGE_TOKEN, chat_template=CHAT_TEMPLATE)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    shape = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    clip = tower == "clip"
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape) if clip else SiglipVisionConfig(**shape),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=TOKENS_PER_IMAGE,
        vision_feature_layer=-2 if clip else -1,
        # CLIP's first token is its class token, which "default" drops; SigLIP has none.
        vision_feature_select_strategy="default" if clip else "full",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config).float()
    randomise(model, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path)
    name_as_published(path)
    processor_kwargs = {"crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}} if clip else {}
    image_processor = (CLIPImageProcessor if clip else SiglipImageProcessor)(
        size={"shortest_edge": IMAGE_SIZE} if clip else {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        **processor_kwargs,
    )
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1 if clip else 0,
    ).save_pretrained(path)
    return path


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw all weights anew, larger than usual."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(0.0, 1.5 * fan_in**-0.5, generator=generator)


def tokenizer_of(
    *placeholders: str, chat_template: str, **named: str | dict[str, str]
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows these placeholders; `named` are attributes that processors read."""
    special = ["<pad>", "<s>", "</s>", *placeholders]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(placeholders),
        **named,
    )
    tokenizer.chat_template = chat_template
    return tokenizer
