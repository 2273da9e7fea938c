"""A typed client of a running service, over HTTP. It needs no torch."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import Base64Bytes, BaseModel, ValidationError

from smoothgate.errors import SmoothgateError
from smoothgate.schemas import (
    CertifyAnswer,
    CertifyRequest,
    ChatAnswer,
    ChatRequest,
    Health,
    IssuedCertificate,
    KeySet,
    ModelCard,
    ModelList,
    RefusalAnswer,
    SmoothingOptions,
)

#: A picture: where its file is, or the bytes of it (PNG, JPEG, WebP or GIF).
Picture = Path | bytes

Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(SmoothgateError):
    """The service refused a request, failed, or could not be reached.

    Attributes:
        status_code: of the response, or None where none came.
        certificates: what was certified, where the service refused because its policy was not met.
    """

    default_code = "no_answer"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        status_code: int | None = None,
        certificates: Sequence[IssuedCertificate] = (),
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after)
        self.status_code = status_code
        self.certificates = list(certificates)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The smoothed features of a picture: a unit vector float32, and its certificate."""

    vector: npt.NDArray[np.float32]
    certificate: IssuedCertificate


class _Embedded(BaseModel):
    embedding: Base64Bytes


class _EmbeddingList(BaseModel):
    data: list[_Embedded]
    certificates: list[IssuedCertificate]


class Client:
    """Asks one service. Use it as a context manager, or call `close`.

    Every method raises `ServiceError` where the service gives no answer. A value that no service takes raises
    `pydantic.ValidationError` before anything is sent.

    Args:
        url: of the service, such as `http://127.0.0.1:8000`.
        api_key: key of an account, where the service asks for one.
        timeout: longest silence of the service, in seconds.
        transport: what sends the requests, such as `httpx.HTTPTransport(retries=3)`.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def chat(
        self,
        message: str,
        pictures: Sequence[Picture] = (),
        *,
        smoothing: SmoothingOptions | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        history: Sequence[dict[str, Any]] = (),
    ) -> ChatAnswer:
        """Ask about pictures. The answer comes with a certificate for each picture.

        Args:
            message: the question.
            pictures: what it is about.
            smoothing: how to smooth; left out: as the operator set it.
            max_tokens: longest answer, in tokens.
            temperature: of the language model; 0 for the most likely answer.
            history: earlier messages of this chat, in OpenAI's form.
        """
        request = ChatRequest(
            message=message,
            smoothing=smoothing,
            max_tokens=max_tokens,
            temperature=temperature,
            history=list(history),
        )
        return self._post("/v1/chat", request, pictures, ChatAnswer)

    def certify(
        self, pictures: Sequence[Picture], *, smoothing: SmoothingOptions | None = None
    ) -> CertifyAnswer:
        """Certify pictures without asking the language model anything."""
        return self._post("/v1/certify", CertifyRequest(smoothing=smoothing), pictures, CertifyAnswer)

    def embed(
        self, pictures: Sequence[Picture], *, smoothing: SmoothingOptions | None = None
    ) -> list[Embedding]:
        """The smoothed features of pictures, each with its certificate."""
        parts = [{"type": "image_url", "image_url": {"url": _data_uri(each)}} for each in pictures]
        wishes = {} if smoothing is None else smoothing.model_dump(mode="json", exclude_defaults=True)
        body = {"messages": [{"role": "user", "content": parts}], "encoding_format": "base64"}
        response = self._send("POST", "/v1/embeddings", json=body | {"smoothing": wishes})
        answer = _parsed(response, _EmbeddingList)
        return [
            Embedding(np.frombuffer(each.embedding, dtype="<f4"), certificate)
            for each, certificate in zip(answer.data, answer.certificates, strict=True)
        ]

    def models(self) -> list[ModelCard]:
        """The models that the service answers with."""
        return _parsed(self._send("GET", "/v1/models"), ModelList).data

    def health(self) -> Health:
        """Whether the service takes requests; it does not while it starts and while it ends."""
        response = self._send("GET", "/health/ready", allowed=(httpx.codes.SERVICE_UNAVAILABLE,))
        return _parsed(response, Health)

    def key_set(self) -> KeySet:
        """What certificates are checked with: `signing.verify(jws, client.key_set().model_dump())`."""
        return _parsed(self._send("GET", "/.well-known/jwks.json"), KeySet)

    def _post(
        self, path: str, request: BaseModel, pictures: Sequence[Picture], answer: type[Answer]
    ) -> Answer:
        fields = request.model_dump(mode="json", exclude_defaults=True)
        files = [("image", each if isinstance(each, bytes) else each.read_bytes()) for each in pictures]
        if files:
            form = {
                name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()
            }
            response = self._send("POST", path, data=form, files=files)
        else:
            response = self._send("POST", path, json=fields)
        return _parsed(response, answer)

    def _send(self, method: str, path: str, *, allowed: Sequence[int] = (), **content: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise ServiceError(f"{method} {path} got no answer: {error}.") from error
        if not response.is_success and response.status_code not in allowed:
            raise _refusal(response)
        return response


def _data_uri(picture: Picture) -> str:
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    # The service looks at the file and not at what it is called.
    return "data:image/*;base64," + base64.b64encode(data).decode()


def _refusal(response: httpx.Response) -> ServiceError:
    status = response.status_code
    try:
        refusal = RefusalAnswer.model_validate_json(response.content)
    except ValidationError:  # a proxy on the way, for example
        return ServiceError(f"The service answered with status {status}.", status_code=status)
    wait = response.headers.get("Retry-After", "")
    return ServiceError(
        refusal.error.message,
        param=refusal.error.param,
        code=refusal.error.code,
        retry_after=float(wait) if wait.isdecimal() else None,
        status_code=status,
        certificates=refusal.certificates or (),
    )


def _parsed(response: httpx.Response, model: type[Answer]) -> Answer:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise ServiceError(
            f"This is not an answer of a version known here: {error.errors()[0]['msg']}.",
            status_code=response.status_code,
        ) from error
