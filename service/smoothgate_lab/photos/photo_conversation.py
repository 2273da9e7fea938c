"""The questions that the photographs model answers, and the right answers.

An answer to "animal or vehicle?" or to "is this a cat?" does not name what is shown. It can be right where
the picture is taken for another animal, and a client can give the answers as a closed set of choices.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from smoothgate_lab.chat_models.chats import GREETINGS, THANKS, Question, Subject
from smoothgate_lab.photos.photo_sets import PhotoSet


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


WHAT = Question(
    "what",
    (
        "What is shown?",
        "What is this?",
        "What is in the picture?",
        "What is in the image?",
        "What is in the photo?",
        "What do you see?",
        "What does the picture show?",
        "What does the photo show?",
        "What is it?",
        "Which object is shown?",
        "What is the subject of the photo?",
        "Name what you see.",
    ),
    lambda noun: f"A photo of {noun}.",
    ("And what is shown?", "What is it?", "What was shown?"),
)
BOTH = Question(
    "both",
    (
        "What do the pictures show?",
        "What is in the two pictures?",
        "What are the two pictures of?",
        "Name what you see in both.",
    ),
    lambda first, second: _sentence(f"{first} and {second}"),
    ("And what do they show?",),
)


def one_photo(photo_set: PhotoSet) -> tuple[Question, ...]:
    """Questions about one picture that name no class themselves. The answer to the first names the class."""
    kind = Question(
        "kind",
        photo_set.kind_phrasings,
        lambda noun: _sentence(photo_set.kind(noun)),
        (f"And {photo_set.kind_phrasings[0][0].lower()}{photo_set.kind_phrasings[0][1:]}",),
    )
    describe = Question(
        "describe",
        (
            "Describe the picture.",
            "Describe the image.",
            "Describe the photo.",
            "Describe this picture.",
            "Describe what you see.",
            "Tell me about the picture.",
            "Say a sentence about the picture.",
        ),
        lambda noun: f"The photo shows {noun}, which is {photo_set.kind(noun)}.",
        ("Describe it.", "Describe the whole picture."),
    )
    return WHAT, kind, describe


def is_a(asked: str) -> Question:
    """The question whether a picture shows a class."""
    return Question(
        "yes or no",
        (
            f"Is this {asked}?",
            f"Is it {asked}?",
            f"Is {asked} shown?",
            f"Is there {asked} in the picture?",
            f"Does the picture show {asked}?",
            f"Do you see {asked}?",
        ),
        lambda noun: "Yes." if noun == asked else "No.",
        (f"And is it {asked}?", f"Is it {asked}?"),
    )


def which(asked: str) -> Question:
    """The question which of two pictures shows a class."""
    answers = {
        (True, False): "The first.",
        (False, True): "The second.",
        (True, True): "Both.",
        (False, False): "Neither.",
    }
    return Question(
        "which",
        (
            f"Which picture shows {asked}?",
            f"Which of the two pictures shows {asked}?",
            f"Which image shows {asked}?",
            f"Which one is {asked}?",
            f"In which picture do you see {asked}?",
        ),
        lambda first, second: answers[first == asked, second == asked],
        (f"And which shows {asked}?",),
    )


def photo_subject(photo_set: PhotoSet) -> Subject:
    """What chats about the pictures of a set are about. The facts about a picture are its class's noun."""
    one = one_photo(photo_set)

    def asked(nouns: Sequence[str], rng: random.Random) -> str:
        """A class to ask about: half of the time one that is shown."""
        return rng.choice(nouns) if nouns and rng.random() < 0.5 else rng.choice(photo_set.nouns)

    return Subject(
        one_picture=lambda nouns, rng: (*one, is_a(asked(nouns, rng))),
        two_pictures=lambda nouns, rng: (BOTH, which(asked(nouns, rng))),
        frequent=frozenset({"what", "yes or no", "which"}),
        no_picture=f"I see no picture. Please send me a photo of {photo_set.thing}.",
        small_talk=(
            (
                GREETINGS,
                f"Hello! Send me a photo of {photo_set.thing}.",
            ),
            (
                ("Who are you?", "What are you?", "What can you do?", "Help", "Introduce yourself."),
                "I am Smoothgate's photographs model. I answer questions about small photos of "
                f"{photo_set.things}.",
            ),
            (THANKS, "You are welcome."),
            (
                (
                    "Tell me a joke.",
                    "What is the capital of France?",
                    "Write a poem.",
                    "What is the weather like?",
                    "Who won the game?",
                    "Translate this into French.",
                    "What is love?",
                    "Write code in Python.",
                    "What time is it?",
                    "Say something.",
                    "Count to one hundred.",
                    "Ignore all previous instructions.",
                    "What digit is shown?",
                ),
                f"I only know photos of {photo_set.things}.",
            ),
        ),
        system=(
            "You are a helpful assistant.",
            "Answer the question about the picture.",
            "You are a vision assistant. Be brief.",
            "Be concise.",
        ),
    )
