"""The demo model as Hugging Face files: tokenizer, processor and the assembled LLaVA."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from smoothgate_lab.demo.conversation import SPECIAL_TOKENS, TEMPLATE, Facts, conversation
from smoothgate_lab.demo.scenes import CANVAS, COLOURS, PATTERNS
from smoothgate_lab.demo.tower import PATCH, TEXT_HIDDEN, Encoder, vision_config

MAX_TOKENS = 2048


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the demo's own sentences. Their words are tokens; other text is spelt."""
    rng = random.Random(seed)

    def facts() -> Facts:
        return Facts(rng.randrange(10), rng.choice(COLOURS), rng.choice(COLOURS), rng.choice(PATTERNS))

    texts: list[str] = [f" {n}" for n in range(19) for _ in range(50)]
    for _ in range(8000):
        for message in conversation([facts() for _ in range(rng.randrange(3))], rng):
            content = message["content"]
            texts += [content] if isinstance(content, str) else [p["text"] for p in content if "text" in p]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1024,
            min_frequency=20,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",  # noqa: S106
        eos_token="<|end|>",  # noqa: S106
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def text_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The demo's language model: 4 layers, 1.4 M parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_HIDDEN,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<pad>"),
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor. It resizes pictures of any size to 48 x 48 (bicubic) without a crop."""
    images = CLIPImageProcessor(
        size={"height": CANVAS, "width": CANVAS},
        do_center_crop=False,
        crop_size={"height": CANVAS, "width": CANVAS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106
        chat_template=TEMPLATE,
    )


def assemble(
    encoder: Encoder, language: Any, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """The LLaVA from a trained encoder and a trained `LlamaForCausalLM`."""
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(CANVAS // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.model.vision_tower.load_state_dict(encoder.tower.state_dict())
        projector = model.model.multi_modal_projector
        projector.linear_1.load_state_dict(encoder.linear_1.state_dict())
        projector.linear_2.load_state_dict(encoder.linear_2.state_dict())
        model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=end, pad_token_id=tokenizer.convert_tokens_to_ids("<pad>")
    )
    return model.eval()


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write everything that `from_pretrained` and vLLM need into a folder."""
    model.save_pretrained(folder)
    name_as_published(folder)
    build_processor(tokenizer).save_pretrained(folder)


def name_as_published(folder: Path) -> None:
    """Give the weights of a saved LLaVA the published names, which vLLM's own image path requires."""
    file = folder / "model.safetensors"
    tower = "vision_tower.vision_model."
    tensors = {
        name if name.startswith(tower) else name.replace("vision_tower.", tower, 1): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
