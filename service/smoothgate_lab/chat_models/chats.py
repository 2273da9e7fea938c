"""Chats about pictures: template, questions with their answers, and synthetic conversations.

A conversation is a list of OpenAI chat messages with image parts `{"type": "image"}` in the order of its
pictures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
#: Texts of small talk that every model answers in its own words.
GREETINGS = ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning", "Hi there")
THANKS = ("Thanks", "Thanks!", "Thank you", "Thank you!", "Great, thanks.")
SPECIAL_TOKENS = ("<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>")


@dataclass(frozen=True, slots=True)
class Question:
    """A kind of question, its phrasings and its answer. Measurements use the first phrasing."""

    name: str
    phrasings: tuple[str, ...]
    answer: Callable[..., str]
    follow_ups: tuple[str, ...] = ()


Questions = Callable[[Sequence[Any], random.Random], Sequence[Question]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What the chats of a model are about.

    Attributes:
        one_picture, two_pictures: the facts about the pictures (about none, where none was sent) and a random
            generator -> the questions that may be asked.
        frequent: names of questions that are asked more often, because others depend on them.
        no_picture: the answer where no picture was sent.
        small_talk: texts about other things, and the answer to each group of them.
        system: system messages.
    """

    one_picture: Questions
    two_pictures: Questions
    frequent: frozenset[str]
    no_picture: str
    small_talk: tuple[tuple[tuple[str, ...], str], ...]
    system: tuple[str, ...]


def user_message(images: int, text: str) -> Message:
    """A user's message with `images` pictures before a text."""
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def _vary(text: str, rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.12:
        text = text.lower()
    if roll > 0.88:
        text = text.rstrip("?.!")
    if 0.12 < roll < 0.2:
        text = rng.choice(("Please: ", "Look at the picture. ", "Question: ")) + text
    return text


def _user(images: int, text: str, rng: random.Random) -> Message:
    pictures = [{"type": "image"} for _ in range(images)]
    parts = [{"type": "text", "text": text}]
    return {"role": "user", "content": pictures + parts if rng.random() < 0.7 else parts + pictures}


def _ask(
    questions: Sequence[Question], frequent: Container[str], first: bool, rng: random.Random
) -> tuple[Question, str]:
    question = rng.choice(questions)
    if rng.random() < 0.35:
        question = rng.choice([q for q in questions if q.name in frequent])
    phrasings = (
        question.phrasings if first or rng.random() < 0.4 else question.phrasings + question.follow_ups * 2
    )
    return question, _vary(rng.choice(phrasings), rng)


def conversation(
    subject: Subject, facts: Sequence[Any], rng: random.Random, *, turns: int = 4
) -> list[Message]:
    """A synthetic chat of up to `turns` turns about no, one or two pictures, of which `facts` are true.

    Three in four chats about two pictures send both in the first message. The others send the second one
    later, and their questions about one picture are then about the newest.
    """
    messages: list[Message] = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": rng.choice(subject.system)})

    def say(user: Message, answer: str) -> None:
        messages.extend([user, {"role": "assistant", "content": answer}])

    def small_talk() -> None:
        texts, answer = rng.choice(subject.small_talk)
        say({"role": "user", "content": _vary(rng.choice(texts), rng)}, answer)

    if rng.random() < 0.06 or not facts:
        small_talk()
    if not facts:
        questions = rng.choice((subject.one_picture, subject.two_pictures))
        _, text = _ask(questions(facts, rng), subject.frequent, True, rng)
        say({"role": "user", "content": text}, subject.no_picture)
        return messages
    together = len(facts) == 2 and (turns == 1 or rng.random() < 0.75)
    change_at = rng.randint(1, turns - 1) if len(facts) == 2 and not together else -1
    shown = len(facts) if together else 1
    for turn in range(turns):
        new = (shown if turn == 0 else 0) or (1 if turn == change_at else 0)
        if turn == change_at:
            shown = 2
        if turn and rng.random() < 0.05 and not new:
            small_talk()
            continue
        if shown == 2 and (together or rng.random() < 0.5):
            asked = subject.two_pictures(facts, rng)
            question, text = _ask(asked, subject.frequent, turn == 0, rng)
            answer = question.answer(*facts)
        else:
            newest = facts[shown - 1]
            asked = subject.one_picture([newest], rng)
            question, text = _ask(asked, subject.frequent, turn == 0 or bool(new), rng)
            answer = question.answer(newest)
        say(_user(new, text, rng), answer)
    return messages
