"""Forms with files (`multipart/form-data`, RFC 7578). A form that is cut off is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from smoothgate.errors import MalformedRequest


async def form_of(request: Request) -> FormData:
    """The fields of a form, in the order sent. The caller closes it.

    Raises:
        MalformedRequest: code `invalid_form`: this is no form, or it ends before its closing delimiter.
    """
    try:
        return await _Parser(request).parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The form cannot be read: {error.message}", code="invalid_form") from error


class _Parser(MultiPartParser):
    """Refuses a form that is cut off, where Starlette leaves out the last part and keeps the rest.

    A field may be as long as the body.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request.headers, self._whole(request.stream()), max_part_size=2**63)
        self._is_closed = False

    def on_end(self) -> None:
        self._is_closed = True

    async def _whole(self, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in stream:
            yield chunk
        if not self._is_closed:
            raise MultiPartException("It ends before its closing delimiter.")
