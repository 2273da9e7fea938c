"""The few fields of vLLM's answers that the service reads. All others pass through unchanged."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from smoothgate.errors import EngineFailed


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message


class Completion(BaseModel):
    """A whole answer."""

    choices: list[_Choice] = Field(min_length=1)
    usage: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text of the first choice. It is empty if the answer is a tool call."""
        return self.choices[0].message.content or ""

    @property
    def texts(self) -> list[str]:
        """The text of each choice, in the order of their indices."""
        ordered = sorted(self.choices, key=lambda choice: choice.index)
        return [choice.message.content or "" for choice in ordered]


class _Delta(BaseModel):
    content: str | None = None


class _ChunkChoice(BaseModel):
    index: int = 0
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class Chunk(BaseModel):
    """A piece of a streamed answer."""

    choices: list[_ChunkChoice] | None = None
    usage: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text that this piece adds."""
        return "".join(choice.delta.content or "" for choice in self.choices or ())

    @property
    def added(self) -> list[tuple[int, str]]:
        """The text that this piece adds to each of its choices, by index."""
        return [(choice.index, choice.delta.content or "") for choice in self.choices or ()]

    @property
    def ends_answer(self) -> bool:
        """Whether a choice ends here, or all have ended: the usage at the end of a stream has no choices."""
        return not self.choices or any(choice.finish_reason for choice in self.choices)


_Model = TypeVar("_Model", Completion, Chunk)


def read_completion(answer: dict[str, Any]) -> Completion:
    """Read a whole answer.

    Raises:
        EngineFailed: the answer holds no message.
    """
    return _read(Completion, answer, "The engine's answer holds no message.")


def read_chunk(chunk: dict[str, Any]) -> Chunk:
    """Read a piece of a streamed answer.

    Raises:
        EngineFailed: it is not a piece of an answer.
    """
    return _read(Chunk, chunk, "The engine's stream holds something that is no piece of an answer.")


def _read(model: type[_Model], value: dict[str, Any], failure: str) -> _Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise EngineFailed(failure) from error
