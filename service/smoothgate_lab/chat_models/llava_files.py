"""A bundled model as Hugging Face files: tokenizer, processor and the assembled LLaVA."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from smoothgate_lab.chat_models.chats import SPECIAL_TOKENS, TEMPLATE, Message
from smoothgate_lab.chat_models.clip_encoder import ClipEncoder

MAX_TOKENS = 2048


def texts_of(messages: Iterable[Message]) -> list[str]:
    """The texts of a conversation."""
    texts = []
    for message in messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [p["text"] for p in content if "text" in p]
    return texts


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the texts. Their words are tokens; other text is spelt."""
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


def llama_config(tokenizer: PreTrainedTokenizerFast, width: int, mlp: int, layers: int) -> LlamaConfig:
    """A small language model with heads of 32 channels: vLLM's CPU attention rejects 16."""
    heads = width // 32
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<pad>"),
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, canvas: int, patch: int, *, crop: bool
) -> LlavaProcessor:
    """The processor. It resizes pictures of any size to squares of side `canvas` (bicubic).

    Args:
        tokenizer: of the model.
        canvas: side of the canvas, in pixels.
        patch: side of a patch, in pixels.
        crop: whether the middle of a picture is taken, or its aspect is changed.
    """
    square = {"height": canvas, "width": canvas}
    images = CLIPImageProcessor(
        size={"shortest_edge": canvas} if crop else square,
        do_center_crop=crop,
        crop_size=square,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106
        chat_template=TEMPLATE,
    )


def assemble(
    encoder: ClipEncoder, language: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """The LLaVA from a trained encoder and a trained language model."""
    config = LlavaConfig(
        vision_config=encoder.tower.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=encoder.tokens,
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


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write everything that `from_pretrained` and vLLM need into a folder."""
    model.save_pretrained(folder)
    name_as_published(folder)
    processor.save_pretrained(folder)


def name_as_published(folder: Path) -> None:
    """Give the weights of a saved LLaVA the published names, which vLLM's own image path requires."""
    file = folder / "model.safetensors"
    tower = "vision_tower.vision_model."
    tensors = {
        name if name.startswith(tower) else name.replace("vision_tower.", tower, 1): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
