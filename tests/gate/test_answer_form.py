from typing import Any

import pytest

from smoothgate.errors import Unacceptable
from smoothgate.gate.answer_form import AnswerForm, answer_form, fold
from smoothgate.schemas import AnswerOptions

USER = [{"role": "user", "content": "What digit?"}]


def form(parameters: dict[str, Any] | None = None, messages: Any = USER, **options: Any) -> AnswerForm:
    return answer_form(AnswerOptions(**options), parameters or {}, messages)


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


LABEL = json_schema(
    {"type": "object", "properties": {"label": {"type": "string"}, "a/b": {"type": "object"}}}
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("The digit is 7.", "the digit is 7."),
        ("  A \n cat\t", "a cat"),
        ("ﬁne", "fine"),
        ("STRASSE", "strasse"),
    ],
)
def test_what_does_not_count_is_folded(text: str, folded: str) -> None:
    assert fold(text) == folded


def test_free_text_is_compared_as_a_whole() -> None:
    free = form()
    assert free.kind == "text"
    assert free.canonical("A  Cat.") == free.canonical("a cat.") != free.canonical("a cat")
    assert free.apply({"messages": USER}) == {"messages": USER}


def test_choices_are_sent_to_vllm_and_other_answers_are_none() -> None:
    closed = form(choices=["cat", "dog"])
    assert closed.apply({"messages": USER})["structured_outputs"] == {"choice": ["cat", "dog"]}
    assert [closed.canonical(text) for text in ("Cat", " dog ", "a cat", "")] == ["cat", "dog", None, None]


@pytest.mark.parametrize(
    ("parameters", "choices"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, ("yes", "no")),
        (json_schema({"enum": ["cat", 7]}), ('"cat"', "7")),
        (json_schema({"type": "boolean"}), ("true", "false")),
    ],
)
def test_choices_of_the_request_itself_are_taken_over(
    parameters: dict[str, Any], choices: tuple[str, ...]
) -> None:
    taken = form(parameters)
    assert (taken.kind, taken.choices) == ("choices", choices)
    assert taken.canonical(choices[0]) is not None
    assert form(parameters, choices=list(choices)).choices == choices


def test_a_field_is_compared_and_the_rest_is_not() -> None:
    one = form(LABEL, field="/label")
    assert one.canonical('{"label": "cat", "why": "ears"}') == one.canonical('{"why": "", "label": "cat"}')
    assert one.canonical('{"label": "cat"}') == '"cat"'
    assert [one.canonical(text) for text in ("{", "[]", '{"other": 1}', '{"label": NaN}')] == [None] * 4


def test_a_prefix_begins_the_answer() -> None:
    asked = form(prefix="The digit is").apply({"messages": USER})
    assert asked["messages"][-1] == {"role": "assistant", "content": "The digit is"}
    assert (asked["add_generation_prompt"], asked["continue_final_message"]) == (False, True)


@pytest.mark.parametrize(
    ("parameters", "options", "param"),
    [
        ({}, {"choices": []}, "smoothing.answer.choices"),
        ({}, {"choices": ["cat"]}, "smoothing.answer.choices"),
        ({}, {"choices": ["cat", " CAT "]}, "smoothing.answer.choices"),
        ({}, {"choices": ["cat", " "]}, "smoothing.answer.choices"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choices": ["a", "c"]}, "smoothing.answer.choices"),
        ({"structured_outputs": {"regex": "a+"}}, {"choices": ["a", "c"]}, "smoothing.answer.choices"),
        (LABEL, {"choices": ["a", "c"]}, "smoothing.answer.choices"),
        (LABEL, {"field": "/colour"}, "smoothing.answer.field"),
        (LABEL, {"field": "label"}, "smoothing.answer.field"),
        (LABEL, {"field": "/label", "choices": ["a", "b"]}, "smoothing.answer.field"),
        ({}, {"field": "/label"}, "smoothing.answer.field"),
        ({"structured_outputs": {"choice": ["Cat", "cat"]}}, {}, "structured_outputs"),
        (json_schema({"enum": ["cat", "CAT"]}), {}, "response_format"),
        (json_schema({"enum": ["cat"]}), {}, "response_format"),
        ({"n": 2}, {}, "n"),
        ({"logprobs": True}, {}, "logprobs"),
        ({"tools": [{"type": "function"}]}, {}, "tools"),
    ],
)
def test_what_contradicts_itself_is_refused_by_its_field(
    parameters: dict[str, Any], options: dict[str, Any], param: str
) -> None:
    with pytest.raises(Unacceptable) as caught:
        form(parameters, **options)
    assert caught.value.param == param


def test_two_beginnings_of_an_answer_are_refused() -> None:
    with pytest.raises(Unacceptable, match="prefix"):
        form(messages=[*USER, {"role": "assistant", "content": "It"}], prefix="The digit is")
