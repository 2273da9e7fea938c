"""The demo model's tokenizer, processor and sizes."""

from __future__ import annotations

import random

from transformers import LlamaConfig, LlavaProcessor, PreTrainedTokenizerFast

from smoothgate_lab.chat_models import llava_files
from smoothgate_lab.chat_models.chats import conversation
from smoothgate_lab.demo.conversation import DIGITS, Facts
from smoothgate_lab.demo.scenes import CANVAS, COLOURS, PATTERNS
from smoothgate_lab.demo.tower import PATCH, TEXT_HIDDEN


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the demo's own sentences."""
    rng = random.Random(seed)

    def facts() -> Facts:
        return Facts(rng.randrange(10), rng.choice(COLOURS), rng.choice(COLOURS), rng.choice(PATTERNS))

    texts: list[str] = [f" {n}" for n in range(19) for _ in range(50)]
    for _ in range(8000):
        texts += llava_files.texts_of(conversation(DIGITS, [facts() for _ in range(rng.randrange(3))], rng))
    return llava_files.train_tokenizer(texts)


def text_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The demo's language model: 4 layers, 1.4 M parameters."""
    return llava_files.llama_config(tokenizer, TEXT_HIDDEN, mlp=448, layers=4)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor. It resizes pictures of any size to 48 x 48 (bicubic) without a crop."""
    return llava_files.build_processor(tokenizer, CANVAS, PATCH, crop=False)
