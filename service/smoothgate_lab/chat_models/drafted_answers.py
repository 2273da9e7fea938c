"""Greedy answers of a bundled model about many pictures at once: much faster than one token after another.

The picture stands first in the prompt, so its keys and values are computed once for all questions. An answer
is drafted from earlier answers, and one forward checks the whole draft (Leviathan et al. 2023, speculative
decoding, at temperature 0). Drafts cost or save time. They do not change an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.chats import user_message

_MOST_TOKENS = 40

_Ids = tuple[int, ...]


class DraftedAnswers:
    """Answers to the same few questions, in their order. Not to be shared by threads.

    Args:
        answerer: of the model.
        questions: texts, each asked in a chat of its own.
    """

    def __init__(self, answerer: Answerer, questions: Sequence[str]) -> None:
        self._model = answerer.model
        self._tokenizer = answerer.processor.tokenizer
        self._end: int = self._tokenizer.eos_token_id
        self._image: int = self._model.config.image_token_index
        self._tokens: int = self._model.config.image_seq_length
        prompts = [self._prompt(answerer, question) for question in questions]
        self._seen: list[Counter[_Ids]] = [Counter() for _ in prompts]
        # All prompts begin alike, up to the last visual token.
        start = prompts[0].index(self._image) + self._tokens
        self._start = torch.tensor(prompts[0][:start])
        self._rests: list[_Ids] = [tuple(prompt[start:]) for prompt in prompts]

    def forget(self) -> None:
        """Draft no more from the answers so far. For another picture they are poor drafts."""
        for seen in self._seen:
            seen.clear()

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> list[list[str]]:
        """For each question, the answer to each of the pictures' visual tokens (B, T, D)."""
        language = self._model.model.language_model
        start = self._model.get_input_embeddings()(self._start.expand(len(tokens), -1)).clone()
        start[:, self._start == self._image] = tokens
        cache = DynamicCache(config=self._model.config.text_config)
        language(inputs_embeds=start, past_key_values=cache)
        kept = [(layer.keys, layer.values) for layer in cache.layers]
        return [self._answers(number, kept, len(tokens)) for number in range(len(self._rests))]

    def _prompt(self, answerer: Answerer, question: str) -> list[int]:
        text = answerer.processor.apply_chat_template(
            [user_message(1, question)], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self._tokenizer(text.replace("<image>", "<image>" * self._tokens)).input_ids
        return ids

    def _answers(self, number: int, kept: list[tuple[Tensor, Tensor]], count: int) -> list[str]:
        """The answers to one question. `kept`: keys and values (B, H, L, D) of each layer."""
        known: list[_Ids] = [()] * count
        open_rows = list(range(count))
        while open_rows:
            drafts = [self._draft(number, known[row]) for row in open_rows]
            unfinished = []
            for row, draft, best in zip(
                open_rows, drafts, self._check(number, kept, open_rows, drafts), strict=True
            ):
                agreed = next((i for i, token in enumerate(draft) if best[i] != token), len(draft))
                known[row] = (*draft[:agreed], best[agreed]) if agreed < len(draft) else draft
                if known[row][-1] == self._end or len(known[row]) >= _MOST_TOKENS:
                    self._seen[number][known[row]] += 1
                else:
                    unfinished.append(row)
            open_rows = unfinished
        # Greedy answers repeat: each is decoded once.
        texts = {ids: self._tokenizer.decode(ids, skip_special_tokens=True) for ids in set(known)}
        return [texts[ids] for ids in known]

    def _draft(self, number: int, known: _Ids) -> _Ids:
        """The most frequent answer that begins with what is known, else the rest of the most frequent one."""
        ranked = [ids for ids, _ in self._seen[number].most_common()]
        for ids in ranked:
            if ids[: len(known)] == known:
                return ids
        return known + (ranked[0][len(known) :] if ranked and len(ranked[0]) > len(known) else (self._end,))

    def _check(
        self, number: int, kept: list[tuple[Tensor, Tensor]], rows: list[int], drafts: list[_Ids]
    ) -> list[list[int]]:
        """For each draft, the token that the model would have in each of its places."""
        rest = self._rests[number]
        longest = max(map(len, drafts))
        ids = torch.tensor([(*rest, *draft, *[self._end] * (longest - len(draft))) for draft in drafts])
        if len(rows) < len(kept[0][0]):
            kept = [(keys[rows], values[rows]) for keys, values in kept]
        hidden = self._model.model.language_model(
            inputs_embeds=self._model.get_input_embeddings()(ids[:, :-1]), past_key_values=DynamicCache(kept)
        ).last_hidden_state
        best: list[list[int]] = self._model.lm_head(hidden[:, len(rest) - 1 :]).argmax(-1).tolist()
        return best
