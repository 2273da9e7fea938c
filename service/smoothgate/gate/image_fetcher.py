"""Images that a request names by URL. They are fetched only from listed hosts on the public internet.

The URL is a stranger's, and so may be the DNS behind it. Each host is therefore resolved once, by us, and the
connection goes to the very address that was checked; TLS then proves that it is the listed host that answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Literal

import httpx

from smoothgate.compat.closing_transport import ClosingTransport
from smoothgate.errors import RequestError, TooLarge, Unacceptable

Resolve = Callable[[str], Awaitable[Sequence[str]]]

_MAX_URL_LENGTH = 8192
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "smoothgate", "Accept-Encoding": "identity"}

# The last label starts with a letter, which no form of an IPv4 address does: 127.1, 0x7f.1, 017700000001.
_NAME = re.compile(r"((?:[a-z0-9_-]{1,63}\.)*[a-z][a-z0-9-]{0,62})\.?")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `is_global` takes for public, in Python 3.11 at least.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # for protocols; Oracle's cloud has its metadata there
        "168.63.129.16/32",  # what Azure's cloud has for its own machines
        "::/3",  # this and the next two: all but 2000::/3, the part that public addresses come from
        "4000::/2",
        "8000::/1",
        "3fff::/20",  # documentation
    )
)


# A stranger chooses the names, and a resolver may hang for minutes: nothing else waits for these threads.
_resolving = ThreadPoolExecutor(4, "resolve-image-hosts")


async def resolve(host: str) -> list[str]:
    """The addresses of a host, the preferred one first."""
    lookup = partial(socket.getaddrinfo, host, 443, type=socket.SOCK_STREAM)
    entries = await asyncio.get_running_loop().run_in_executor(_resolving, lookup)
    return [str(address[0]) for *_, address in entries]


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet.

    An IPv6 address that stands for an IPv4 address (mapped, 6to4, NAT64) is as public as that; one of Teredo
    never is.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(ip.packed[-4:]) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or nat64 or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


class Fetcher:
    """Fetches images by https.

    Args:
        hosts: from which images may come: `images.example.com`, or `*.example.com` for all below example.com.
        max_bytes: the size of the largest image.
        timeout: seconds that one image may take, all redirects included.
        max_redirects: number of redirects that are followed. Each passes the same checks.
        resolve: the addresses of a host.
        verify: the certificates to trust, instead of those that come with httpx.

    Raises:
        ValueError: one of `hosts` is not a host name.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        timeout: float,
        max_redirects: int = 2,
        resolve: Resolve = resolve,
        verify: ssl.SSLContext | Literal[True] = True,
    ) -> None:
        self._names = frozenset(_listed(host) for host in hosts if not host.startswith("*."))
        self._domains = tuple("." + _listed(host[2:]) for host in hosts if host.startswith("*."))
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_redirects = max_redirects
        self._resolve = resolve
        # Not a client: that would keep cookies, log URLs and take proxies and passwords from the environment.
        # No connection is used twice: it is known by its address, but was verified for one host there.
        self._transport = ClosingTransport(
            verify=verify, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def fetch(self, url: str, param: str | None = None) -> bytes:
        """The file at a URL.

        Args:
            url: of the form `https://host/path`.
            param: the request field that held the URL, for the error.

        Raises:
            Unacceptable: the URL is not permitted (`url_not_allowed`), or brought no image in time
                (`url_failed`).
            TooLarge: more than `max_bytes` bytes.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._follow(url)
        except RequestError as error:
            error.param = param
            raise
        except TimeoutError as error:
            raise _failed(f"it took longer than {self._timeout:g} seconds", param) from error
        except (httpx.HTTPError, OSError) as error:
            raise _failed("its server cannot be reached, or broke off", param) from error

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def _follow(self, location: str) -> bytes:
        url = httpx.URL()
        for _ in range(1 + self._max_redirects):
            url = _joined(url, location)
            response = await self._get(url)
            async with aclosing(response):
                if response.status_code not in _REDIRECTS:
                    return await self._body(response)
                location = response.headers.get("Location", "")
        raise _failed("its server redirects too often")

    async def _get(self, url: httpx.URL) -> httpx.Response:
        """The open response of the host in a URL, if host and URL are permitted."""
        if url.scheme != "https" or url.userinfo or url.port not in (None, 443):
            raise _bad_url()
        host = _name(url)
        if host is None or not (host in self._names or host.endswith(self._domains)):
            raise _bad_host()
        addresses = await self._resolve(host)
        if not (addresses and all(map(is_public, addresses))):
            # In the words for a host that is not listed: nobody shall learn our internal names from us.
            raise _bad_host()
        request = httpx.Request(
            "GET",
            url.copy_with(host=addresses[0]),
            headers=_HEADERS | {"Host": host},
            extensions={"sni_hostname": host},
        )
        return await self._transport.handle_async_request(request)

    async def _body(self, response: httpx.Response) -> bytes:
        if not response.is_success:
            raise _failed(f"its server answered with status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _failed("its server sent it compressed")
        self._check_size(int(response.headers.get("Content-Length", 0)))
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            self._check_size(len(data))
        return bytes(data)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(f"The image is larger than {self._max_bytes} bytes.", code="image_too_large")


def _joined(base: httpx.URL, location: str) -> httpx.URL:
    try:
        url = base.join(location)
    except (httpx.InvalidURL, ValueError) as error:
        raise _bad_url() from error
    if len(str(url)) > _MAX_URL_LENGTH:
        raise _bad_url()
    return url


def _name(url: httpx.URL) -> str | None:
    """The host of a URL, in lower case, in ASCII and without the root's dot; None if it is no name."""
    match = _NAME.fullmatch(url.raw_host.decode("ascii"))
    return match[1] if match else None


def _listed(host: str) -> str:
    try:
        name = _name(httpx.URL(scheme="https", host=host))
    except httpx.InvalidURL:
        name = None
    if name is None:
        raise ValueError(f"{host!r} is not a host name.")
    return name


def _bad_url() -> Unacceptable:
    return Unacceptable(
        "The URL of an image must be of the form https://host/path, without user, password and port.",
        code="url_not_allowed",
    )


def _bad_host() -> Unacceptable:
    return Unacceptable("This service does not fetch images from that host.", code="url_not_allowed")


def _failed(why: str, param: str | None = None) -> Unacceptable:
    return Unacceptable(f"The image could not be fetched: {why}.", param=param, code="url_failed")
