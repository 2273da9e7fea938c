"""A tiny random checkpoint of every family: one builder each. See `tests.checkpoints` on the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smoothgate_lab.chat_models.llava_files import name_as_published
from tests.checkpoints import build, randomise, tokenizer_of

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


@builder("llava")
def llava(path: Path) -> None:
    """The one that most tests use."""
    build(path)


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
    common: dict[str, Any] = {
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
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
    save(
        path,
        model,
        processor(t.Qwen2VLImageProcessor(**image), tokenizer, video(**frames), chat_template=chat),
    )


@builder("qwen2_vl")
def qwen2(path: Path) -> None:
    _qwen(path, "qwen2_vl")


@builder("qwen2_5_vl")
def qwen25(path: Path) -> None:
    _qwen(path, "qwen2_5_vl")


@builder("qwen3_vl")
def qwen3(path: Path) -> None:
    _qwen(path, "qwen3_vl")


def _tiled_llava(path: Path, kind: str) -> None:
    import transformers as t

    one = kind == "llava_onevision"
    names = ["<image>", "<video>"] if one else ["<image>"]
    tokenizer = tokenizer_of(*names, chat_template=template("<image>"))
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    resolutions = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    if one:
        resolutions += [[96, 96], [128, 128]]
    common: dict[str, Any] = {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_grid_pinpoints": resolutions,
        "vision_feature_layer": -1 if one else -2,
        "vision_feature_select_strategy": "full" if one else "default",
    }
    strategy = common["vision_feature_select_strategy"]
    if one:
        config = t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**shape, vision_use_head=False),
            text_config=t.Qwen2Config(**text_config(tokenizer)),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            vision_aspect_ratio="anyres_max_9",
            **common,
        )
        images = t.LlavaOnevisionImageProcessor(
            size={"height": 32, "width": 32}, image_grid_pinpoints=resolutions
        )
        processor = t.LlavaOnevisionProcessor(
            images,
            tokenizer,
            t.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}),
            num_image_tokens=16,
            vision_feature_select_strategy=strategy,
            chat_template=template("<image>"),
        )
        save(path, t.LlavaOnevisionForConditionalGeneration(config), processor)
        return
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**shape),
        text_config=t.LlamaConfig(**text_config(tokenizer)),
        image_seq_length=16,
        **common,
    )
    images = t.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=resolutions
    )
    processor = t.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    save(path, t.LlavaNextForConditionalGeneration(config), processor)


@builder("llava_next")
def llava_next(path: Path) -> None:
    _tiled_llava(path, "llava_next")
    name_as_published(path)


@builder("llava_onevision")
def llava_onevision(path: Path) -> None:
    _tiled_llava(path, "llava_onevision")
    name_as_published(path)


@builder("internvl")
def internvl(path: Path) -> None:
    import transformers as t

    names = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    chat = template("<IMG_CONTEXT>\n")
    tokenizer = tokenizer_of(
        *names,
        chat_template=chat,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    vision = t.InternVLVisionConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=[32, 32],
        patch_size=[8, 8],
    )
    config = t.InternVLConfig(
        vision_config=vision,
        text_config=t.Qwen2Config(**text_config(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = t.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, min_patches=1, max_patches=4)
    video = t.InternVLVideoProcessor(size={"height": 32, "width": 32})
    processor = t.InternVLProcessor(images, tokenizer, video, image_seq_length=4, chat_template=chat)
    save(path, t.InternVLForConditionalGeneration(config), processor)


def _idefics3(path: Path, kind: str) -> None:
    import transformers as t

    tags = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>", *tags]
    tokenizer = tokenizer_of(*names, chat_template=template("<image>"))
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text_config(tokenizer, model_type="llama"),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
    }
    settings = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    chat = template("<image>")
    if kind == "smolvlm":
        model: Any = t.SmolVLMForConditionalGeneration(t.SmolVLMConfig(**common))
        video = t.SmolVLMVideoProcessor(
            size={"longest_edge": 32},
            max_image_size={"longest_edge": 32},
            video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 32}},
        )
        processor: Any = t.SmolVLMProcessor(
            t.SmolVLMImageProcessor(**settings), tokenizer, video, image_seq_len=4, chat_template=chat
        )
    else:
        model = t.Idefics3ForConditionalGeneration(t.Idefics3Config(**common))
        processor = t.Idefics3Processor(
            t.Idefics3ImageProcessor(**settings), tokenizer, image_seq_len=4, chat_template=chat
        )
    save(path, model, processor)


@builder("idefics3")
def idefics3(path: Path) -> None:
    _idefics3(path, "idefics3")


@builder("smolvlm")
def smolvlm(path: Path) -> None:
    _idefics3(path, "smolvlm")


def _pixtral(path: Path, kind: str) -> None:
    import transformers as t

    names = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    chat = template("[IMG]")
    tokenizer = tokenizer_of(*names, chat_template=chat)
    vision = t.PixtralVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=32,
        image_size=96,
        patch_size=8,
    )
    text = t.MistralConfig(**text_config(tokenizer, sliding_window=None))
    image_token = tokenizer.convert_tokens_to_ids("[IMG]")
    merge = 1
    if kind == "mistral3":
        merge = 2
        model: Any = t.Mistral3ForConditionalGeneration(
            t.Mistral3Config(
                vision_config=vision,
                text_config=text,
                image_token_index=image_token,
                spatial_merge_size=merge,
                tie_word_embeddings=False,
            )
        )
    else:
        model = t.LlavaForConditionalGeneration(
            t.LlavaConfig(
                vision_config=vision,
                text_config=text,
                image_token_index=image_token,
                vision_feature_layer=-1,
                vision_feature_select_strategy="full",
                tie_word_embeddings=False,
            )
        )
    images = t.PixtralImageProcessor(size={"longest_edge": 96}, patch_size={"height": 8, "width": 8})
    processor = t.PixtralProcessor(
        images, tokenizer, patch_size=8, spatial_merge_size=merge, chat_template=chat
    )
    save(path, model, processor)


@builder("pixtral")
def pixtral(path: Path) -> None:
    _pixtral(path, "pixtral")


@builder("mistral3")
def mistral3(path: Path) -> None:
    _pixtral(path, "mistral3")
