"""Who is let in, before a body is read: API keys, their limits, and the limits of the service itself.

Every path asks for a key but those listed here, and those of a page that is served beside (`playground`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from smoothgate import metrics
from smoothgate.errors import NotReady, Overloaded, SmoothgateError, Unauthorized
from smoothgate.gate.accounts import Account, AccountBook
from smoothgate.http import error_responses
from smoothgate.http.request_context import InFlight
from smoothgate.settings import Settings

#: Probes, and the public halves of the signing keys: who checks a certificate need not be a client.
OPEN = frozenset({"/health/live", "/health/ready", "/.well-known/jwks.json"})

_REFRESH_SECONDS = 1.0
_DRAIN_RETRY_SECONDS = 5.0

log = structlog.get_logger("access")


class Bucket:
    """A limit per minute, as a bucket of one minute's worth that fills evenly.

    Args:
        per_minute: what the bucket holds.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._since = time.monotonic()

    def take(self, amount: int) -> float:
        """Take out, or say after how many seconds there will be enough; a full bucket gives anything."""
        now = time.monotonic()
        self._level = min(self._per_minute, self._level + (now - self._since) * self._per_minute / 60)
        self._since = now
        needed = min(amount, self._per_minute)
        if self._level < needed:
            return (needed - self._level) * 60 / self._per_minute
        self._level -= amount
        return 0.0


@dataclass(slots=True)
class _Buckets:
    requests: Bucket | None
    samples: Bucket | None


class Gatekeeper:
    """Knows the accounts and what each has used.

    Raises:
        SmoothgateError: code `bad_accounts`.
    """

    def __init__(self, settings: Settings) -> None:
        self._book = None if settings.accounts is None else AccountBook(settings.accounts)
        self._buckets: dict[Account, _Buckets] = {}
        self._looked = time.monotonic()
        self.draining = False
        if self._book is None:
            log.warning("no accounts are set: whoever can connect may ask", host=settings.host)

    def admit(self, headers: Headers) -> Account | None:
        """The client that a request comes from; None where there are no accounts.

        Raises:
            Unauthorized: no key, or a wrong one.
            Overloaded: more requests than the client may send.
        """
        if self._book is None:
            return None
        self._refresh(self._book)
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        account = self._book.find(key.strip()) if scheme.lower() == "bearer" else None
        if account is None:
            raise Unauthorized("A valid API key is needed: Authorization: Bearer KEY.")
        _take(self._of(account).requests, 1, "requests")
        return account

    def charge(self, account: Account | None, samples: int) -> None:
        """Take what a request may draw from its client's samples.

        Raises:
            Overloaded: more than the client may draw now.
        """
        if account is not None:
            _take(self._of(account).samples, samples, "samples")

    def _of(self, account: Account) -> _Buckets:
        if account not in self._buckets:
            self._buckets[account] = _Buckets(
                _bucket(account.requests_per_minute), _bucket(account.samples_per_minute)
            )
        return self._buckets[account]

    def _refresh(self, book: AccountBook) -> None:
        if time.monotonic() - self._looked < _REFRESH_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            if book.refresh():
                log.info("accounts read again")
        except SmoothgateError as error:
            log.error("accounts not read again; the old ones hold", reason=error.message)


def _bucket(per_minute: int | None) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute)


def _take(bucket: Bucket | None, amount: int, of: str) -> None:
    if bucket is not None and (seconds := bucket.take(amount)):
        raise Overloaded(
            f"Your limit of {of} per minute is used up.", code=f"{of}_per_minute", retry_after=seconds
        )


class Access:
    """Refuses who may not be answered, in the one shape.

    Args:
        app: the routes.
        gatekeeper: who decides.
        in_flight: requests under way.
        max_requests: of these.
        public: paths that ask for no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        gatekeeper: Gatekeeper,
        in_flight: InFlight,
        max_requests: int,
        public: frozenset[str] = OPEN,
    ) -> None:
        self._app = app
        self._gatekeeper = gatekeeper
        self._in_flight = in_flight
        self._max_requests = max_requests
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        try:
            scope["state"]["account"] = self._gatekeeper.admit(Headers(scope=scope))
            if scope["path"] != "/metrics":
                self._require_room()
        except SmoothgateError as error:
            metrics.REFUSALS.labels(error.code).inc()
            await error_responses.response_of(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _require_room(self) -> None:
        if self._gatekeeper.draining:
            raise NotReady("The service is shutting down.", code="draining", retry_after=_DRAIN_RETRY_SECONDS)
        if self._in_flight.count > self._max_requests:
            raise Overloaded(
                f"More than {self._max_requests} requests are under way.",
                code="too_many_requests",
                retry_after=1,
            )
