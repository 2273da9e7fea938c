"""A tiny random checkpoint of every family: one builder each. See `tests.checkpoints` on the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import service  # noqa: F401  # repairs the imports of transformers
from tests.checkpoints import randomise, tokenizer_of

CONTEXT = 2048
HIDDEN = 64

Builder = Callable[[Path], None]
BUILDERS: dict[str, Builder] = {}


def builder(name: str) -> Callable[[Builder], Builder]:
    """Enter a builder into the table."""

    def enter(build: Builder) -> Builder:
        BUILDERS[name] = build
        return build

    return enter


def template(image: str) -> str:
    """A chat template that writes `image` for each image."""
    return (
        "{% for message in messages %}{{ message['role'] + ': ' }}"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}{{ '" + image + "' }}"
        "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
        "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )


def text_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Of the language model: two layers with heads of 32 channels, which vLLM's CPU attention takes."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def save(path: Path, model: Any, processor: Any) -> None:
    """Write model, with weights drawn anew, and processor."""
    model = model.float()
    randomise(model, 0)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(path)
    processor.save_pretrained(path)


def _qwen(path: Path, kind: str) -> None:
    import transformers as t

    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    chat = template("<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer = tokenizer_of(*names, chat_template=chat)
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True))
    special = {
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "tie_word_embeddings": False,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    common = {"num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    image = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}}
    if kind == "qwen3_vl":
        rope |= {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
        vision = common | {
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }
        config = t.Qwen3VLConfig(
            text_config=text_config(tokenizer, rope_parameters=rope), vision_config=vision, **special
        )
        model, processor = t.Qwen3VLForConditionalGeneration(config), t.Qwen3VLProcessor
        video: Any = t.Qwen3VLVideoProcessor
    elif kind == "qwen2_5_vl":
        vision = common | {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "out_hidden_size": HIDDEN,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        }
        config = t.Qwen2_5_VLConfig(
            text_config=text_config(tokenizer, rope_parameters=rope), vision_config=vision, **special
        )
        model, processor = t.Qwen2_5_VLForConditionalGeneration(config), t.Qwen2_5_VLProcessor
        video = t.Qwen2VLVideoProcessor
    else:
        vision = common | {"depth": 2, "embed_dim": 64, "hidden_size": HIDDEN, "mlp_ratio": 2}
        config = t.Qwen2VLConfig(
            text_config=text_config(tokenizer, rope_parameters=rope), vision_config=vision, **special
        )
        model, processor = t.Qwen2VLForConditionalGeneration(config), t.Qwen2VLProcessor
        video = t.Qwen2VLVideoProcessor
    frames = {"patch_size": 8, "merge_size": 2}
    save(path, model, processor(t.Qwen2VLImageProcessor(**image), tokenizer, video(**frames), chat_template=chat))


@builder("qwen2_vl")
def qwen2(path: Path) -> None:  # noqa: D103
    _qwen(path, "qwen2_vl")


@builder("qwen2_5_vl")
def qwen25(path: Path) -> None:  # noqa: D103
    _qwen(path, "qwen2_5_vl")


@builder("qwen3_vl")
def qwen3(path: Path) -> None:  # noqa: D103
    _qwen(path, "qwen3_vl")
