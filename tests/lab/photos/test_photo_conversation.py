import random

from smoothgate_lab.chat_models.chats import conversation
from smoothgate_lab.chat_models.language_side import ChatEncoder
from smoothgate_lab.chat_models.llava_files import texts_of
from smoothgate_lab.photos.photo_conversation import (
    BOTH,
    DESCRIBE,
    KIND,
    NO_PICTURE,
    PHOTOS,
    WHAT,
    is_a,
    which,
)
from smoothgate_lab.photos.photo_language import build_processor, build_tokenizer
from smoothgate_lab.photos.photographs import CLASSES


def test_the_answers_are_sentences_about_what_is_shown() -> None:
    assert WHAT.answer("cat") == "A photo of a cat."
    assert WHAT.answer("airplane") == "A photo of an airplane."
    assert [KIND.answer(name) for name in ("frog", "ship")] == ["An animal.", "A vehicle."]
    assert DESCRIBE.answer("truck") == "The photo shows a truck, which is a vehicle."
    assert BOTH.answer("automobile", "deer") == "An automobile and a deer."


def test_six_of_ten_classes_are_animals() -> None:
    assert [KIND.answer(name) for name in CLASSES].count("An animal.") == 6


def test_yes_or_no_is_about_the_class_that_is_asked_for() -> None:
    assert "Is this an automobile?" in is_a("automobile").phrasings
    assert [is_a("cat").answer(name) for name in ("cat", "dog")] == ["Yes.", "No."]


def test_which_of_two_pictures_has_four_answers() -> None:
    pairs = [("dog", "cat"), ("cat", "dog"), ("dog", "dog"), ("cat", "ship")]
    assert [which("dog").answer(*pair) for pair in pairs] == [
        "The first.",
        "The second.",
        "Both.",
        "Neither.",
    ]


def test_half_of_the_questions_with_yes_or_no_are_about_what_is_shown() -> None:
    rng = random.Random(0)
    asked = [PHOTOS.one_picture(["cat"], rng)[-1] for _ in range(1000)]
    yes = sum(question.answer("cat") == "Yes." for question in asked)
    assert 500 < yes < 600  # half, and a tenth of the other half


def test_a_chat_without_a_picture_asks_for_one() -> None:
    messages = conversation(PHOTOS, [], random.Random(1))
    assert not any(isinstance(message["content"], list) for message in messages)
    assert messages[-1]["content"] == NO_PICTURE


def test_training_reads_what_the_template_writes() -> None:
    tokenizer = build_tokenizer(1)
    chat = ChatEncoder(tokenizer, 64)
    processor = build_processor(tokenizer)
    rng = random.Random(0)
    for shown in ([], ["cat"], ["cat", "truck"]) * 10:
        messages = conversation(PHOTOS, shown, rng)
        ids, labels = chat(messages)
        text = processor.apply_chat_template(messages, tokenize=False)
        expected = tokenizer(text.replace("<image>", "<image>" * 64), add_special_tokens=False).input_ids
        assert ids == expected
        answers = [m for m in messages if m["role"] == "assistant"]
        assert tokenizer.decode([i for i in labels if i >= 0]) == "".join(
            f"{text}<|end|>" for text in texts_of(answers)
        )


def test_names_are_words_of_the_tokenizer() -> None:
    tokenizer = build_tokenizer(1)
    for name in CLASSES:
        assert len(tokenizer(f" {name}", add_special_tokens=False).input_ids) == 1
