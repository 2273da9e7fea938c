import random
from collections import Counter

import pytest

from smoothgate.bundled import PHOTOS
from smoothgate_lab.chat_models.chats import conversation
from smoothgate_lab.chat_models.language_side import ChatEncoder
from smoothgate_lab.chat_models.llava_files import texts_of
from smoothgate_lab.photos.photo_conversation import BOTH, is_a, one_photo, photo_subject, which
from smoothgate_lab.photos.photo_language import build_processor, build_tokenizer
from smoothgate_lab.photos.photo_sets import CIFAR10, FASHION_MNIST, PhotoSet

SETS = pytest.mark.parametrize("photo_set", [CIFAR10, FASHION_MNIST], ids=lambda each: each.name)


def test_the_answers_are_sentences_about_what_is_shown() -> None:
    what, kind, describe = one_photo(CIFAR10)
    assert what.answer("a cat") == "A photo of a cat."
    assert [kind.answer(noun) for noun in ("a frog", "a ship")] == ["An animal.", "A vehicle."]
    assert describe.answer("a truck") == "The photo shows a truck, which is a vehicle."
    assert BOTH.answer("an automobile", "a deer") == "An automobile and a deer."
    what, kind, describe = one_photo(FASHION_MNIST)
    assert what.answer("an ankle boot") == "A photo of an ankle boot."
    assert [kind.answer(noun) for noun in ("a bag", "a coat")] == ["An accessory.", "A garment."]
    assert describe.answer("a sandal") == "The photo shows a sandal, which is footwear."


def test_the_questions_and_choices_that_ship_are_those_that_the_model_is_measured_with() -> None:
    what, kind, describe = one_photo(FASHION_MNIST)
    yes_or_no = is_a("a bag")
    assert PHOTOS.questions == tuple(each.phrasings[0] for each in (what, kind, yes_or_no, describe))
    assert PHOTOS.choices == tuple(what.answer(noun) for noun in FASHION_MNIST.nouns)


def test_the_kinds_are_of_the_right_size() -> None:
    assert Counter(CIFAR10.kinds) == {"an animal": 6, "a vehicle": 4}
    assert Counter(FASHION_MNIST.kinds) == {"a garment": 6, "footwear": 3, "an accessory": 1}


def test_yes_or_no_is_about_the_class_that_is_asked_for() -> None:
    assert "Is this an automobile?" in is_a("an automobile").phrasings
    assert [is_a("a cat").answer(noun) for noun in ("a cat", "a dog")] == ["Yes.", "No."]


def test_which_of_two_pictures_has_four_answers() -> None:
    dog, cat, ship = "a dog", "a cat", "a ship"
    pairs = [(dog, cat), (cat, dog), (dog, dog), (cat, ship)]
    assert [which(dog).answer(*pair) for pair in pairs] == [
        "The first.",
        "The second.",
        "Both.",
        "Neither.",
    ]


def test_half_of_the_questions_with_yes_or_no_are_about_what_is_shown() -> None:
    rng = random.Random(0)
    subject = photo_subject(CIFAR10)
    asked = [subject.one_picture(["a cat"], rng)[-1] for _ in range(1000)]
    yes = sum(question.answer("a cat") == "Yes." for question in asked)
    assert 500 < yes < 600  # half, and a tenth of the other half


@SETS
def test_a_chat_without_a_picture_asks_for_one(photo_set: PhotoSet) -> None:
    messages = conversation(photo_subject(photo_set), [], random.Random(1))
    assert not any(isinstance(message["content"], list) for message in messages)
    wanted = f"I see no picture. Please send me a photo of {photo_set.thing}."
    assert messages[-1]["content"] == wanted


@SETS
def test_training_reads_what_the_template_writes(photo_set: PhotoSet) -> None:
    tokenizer = build_tokenizer(photo_set, 1)
    chat = ChatEncoder(tokenizer, 64)
    processor = build_processor(tokenizer)
    rng, subject = random.Random(0), photo_subject(photo_set)
    for pictures in (0, 1, 2) * 10:
        messages = conversation(subject, photo_set.nouns[1 : 1 + pictures], rng)
        ids, labels = chat(messages)
        text = processor.apply_chat_template(messages, tokenize=False)
        expected = tokenizer(text.replace("<image>", "<image>" * 64), add_special_tokens=False).input_ids
        assert ids == expected
        answers = [m for m in messages if m["role"] == "assistant"]
        assert tokenizer.decode([i for i in labels if i >= 0]) == "".join(
            f"{text}<|end|>" for text in texts_of(answers)
        )


def test_names_are_words_of_the_tokenizer() -> None:
    tokenizer = build_tokenizer(CIFAR10, 1)
    for noun in CIFAR10.nouns:
        assert len(tokenizer(f" {noun}", add_special_tokens=False).input_ids) == 2
