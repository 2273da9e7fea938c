"""The language side of the photographs model: tokenizer, sizes, and the loss on conversations."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlavaProcessor, PreTrainedTokenizerFast

from smoothgate_lab.chat_models import llava_files
from smoothgate_lab.chat_models.chats import Message, conversation
from smoothgate_lab.chat_models.clip_encoder import ClipEncoder
from smoothgate_lab.chat_models.language_side import ChatEncoder, Served, answers_loss
from smoothgate_lab.photos.photo_augmentation import shifted
from smoothgate_lab.photos.photo_conversation import photo_subject
from smoothgate_lab.photos.photo_sets import PhotoSet
from smoothgate_lab.photos.photo_tower import PATCH
from smoothgate_lab.photos.photographs import CANVAS, Photographs

_CONVERSATIONS = 4000
# Weights of conversations about no, one and two pictures, and the share of pairs with one class twice.
_COUNTS = (0.06, 0.6, 0.34)
_EQUAL = 0.2


def build_tokenizer(photo_set: PhotoSet, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the sentences of the chats."""
    rng, subject = random.Random(seed), photo_subject(photo_set)
    texts: list[str] = []
    for _ in range(_CONVERSATIONS):
        nouns = rng.choices(photo_set.nouns, k=rng.randrange(3))
        texts += llava_files.texts_of(conversation(subject, nouns, rng))
    return llava_files.train_tokenizer(texts)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor. It takes the middle of pictures of any size, as a square of 32 x 32 (bicubic)."""
    return llava_files.build_processor(tokenizer, CANVAS, PATCH, crop=True)


def language_loss(
    model: LlamaForCausalLM,
    encoder: ClipEncoder,
    served: Served,
    chat: ChatEncoder,
    photographs: Photographs,
    gen: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers in synthetic conversations about photographs, one for two of them."""
    rng = random.Random(int(torch.randint(2**31, (1,), generator=gen)))
    with torch.no_grad():
        tokens = served.perturbed(encoder(shifted(photographs.canvases, gen)).float(), gen)
    nouns, subject = photographs.nouns, photo_subject(photographs.photo_set)
    chats: list[list[Message]] = []
    shown: list[int] = []
    for place in range(0, len(nouns) - 1, 2):
        pictures = [place, place + 1][: rng.choices((0, 1, 2), _COUNTS)[0]]
        if len(pictures) == 2 and rng.random() < _EQUAL:
            pictures[1] = rng.choice([i for i, noun in enumerate(nouns) if noun == nouns[place]])
        chats.append(conversation(subject, [nouns[i] for i in pictures], rng, turns=rng.randint(1, 4)))
        shown += pictures
    return answers_loss(model, chat, chats, tokens[shown])
