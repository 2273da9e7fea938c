from smoothgate.bundled import DEMO
from smoothgate_lab.demo.conversation import ONE_PICTURE


def test_the_questions_that_ship_are_those_that_the_demo_model_is_measured_with() -> None:
    assert tuple(question.phrasings[0] for question in ONE_PICTURE) == DEMO.questions
