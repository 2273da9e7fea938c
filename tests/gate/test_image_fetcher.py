"""The fetcher against a real https server, on an internet whose every address leads there."""

import asyncio
import datetime
import gzip
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smoothgate.errors import RequestError, TooLarge, Unacceptable
from smoothgate.gate.image_fetcher import Fetcher, is_public, resolve
from tests.waiting import eventually

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HOST = "images.example.com"
CDN = "cdn.example.net"
IDN = "xn--bcher-kva.example"
UNCERTIFIED = "uncertified.example.com"
HOSTS = (HOST, CDN, UNCERTIFIED, "bücher.example", "*.pictures.example")
PUBLIC, PUBLIC_TOO, PUBLIC_V6 = "93.184.216.34", "151.101.1.69", "2606:2800:220:1::1"
IMAGE = bytes(range(256)) * 4
MAX_BYTES = len(IMAGE)
BAD_HOST = "This service does not fetch images from that host."


def reply(body: bytes = IMAGE, *headers: str, status: int = 200, length: int | None = None) -> Answer:
    """An answer that leaves the connection open."""
    size = len(body) if length is None else length
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {size}", *headers])
    return raw(head.encode() + b"\r\n\r\n" + body)


def raw(data: bytes, *, end: bool = False) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if end:
            writer.close()

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return reply(b"", f"Location: {location}", status=status)


def chunked(*chunks: bytes) -> bytes:
    return b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks
    )


@dataclass
class Internet:
    """One server, the addresses that lead to it, and DNS.

    Attributes:
        names: the addresses of each host, or a list of such answers, which are given one after the other.
        answers: of the server, by path.
        asked: the hosts that were resolved.
        reached: the addresses and ports that were connected to.
        sni: the host that each TLS handshake asked for.
        requests: the head of each request.
        open: the connections that are served.
    """

    names: dict[str, Any] = field(default_factory=lambda: {host: [PUBLIC] for host in (HOST, CDN, IDN)})
    answers: dict[str, Answer] = field(default_factory=lambda: {"/a.png": reply()})
    asked: list[str] = field(default_factory=list)
    reached: list[tuple[str, int]] = field(default_factory=list)
    sni: list[str | None] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    open: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, f"No such name: {host}")
        addresses: list[Any] = self.names[host]
        found: list[str] = addresses.pop(0) if isinstance(addresses[0], list) else addresses
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(asyncio.current_task())
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head)
                await self.answers[head.split(" ")[1]](reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.open.discard(asyncio.current_task())


@dataclass(frozen=True)
class Certificates:
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a server that is HOST, CDN, IDN and all of *.pictures.example, and of a client that trusts it."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("issuer", "server")]

    def build(which: int, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
        builder = x509.CertificateBuilder(names[0], names[which], keys[which].public_key())
        builder = builder.serial_number(which + 1).not_valid_before(now - day).not_valid_after(now + day)
        shared = (
            (x509.BasicConstraints(ca=which == 0, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(keys[which].public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), False),
            (
                x509.KeyUsage(
                    digital_signature=which == 1,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=which == 0,
                    crl_sign=which == 0,
                    encipher_only=False,
                    decipher_only=False,
                ),
                True,
            ),
        )
        for extension, critical in (*shared, *extensions):
            builder = builder.add_extension(extension, critical)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    hosts = x509.SubjectAlternativeName([x509.DNSName(n) for n in (HOST, CDN, IDN, "*.pictures.example")])
    issuer = build(0)
    leaf = build(1, (hosts, False), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem.write_bytes(key + leaf)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    return Certificates(server, ssl.create_default_context(cadata=issuer.decode()))


def lead_to(port: int, internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection go to a port of this machine."""
    connect = asyncio.BaseEventLoop.create_connection

    async def create_connection(
        loop: asyncio.BaseEventLoop, protocol: Any, host: str, to: int, **options: Any
    ) -> Any:
        internet.reached.append((host, to))
        return await connect(loop, protocol, "127.0.0.1", port, **options)

    async def getaddrinfo(*_: Any, **__: Any) -> None:
        raise AssertionError("Somebody else resolves names.")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create_connection)
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest_asyncio.fixture
async def internet(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Internet]:
    internet = Internet()

    def on_hello(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        internet.sni.append(name)

    certificates.server.sni_callback = on_hello
    server = await asyncio.start_server(internet.serve, "127.0.0.1", 0, ssl=certificates.server)
    lead_to(server.sockets[0].getsockname()[1], internet, monkeypatch)
    yield internet
    server.close()


Make = Callable[..., Fetcher]


@pytest_asyncio.fixture
async def make(internet: Internet, certificates: Certificates) -> AsyncIterator[Make]:
    made = []

    def build(**options: Any) -> Fetcher:
        given: dict[str, Any] = {
            "hosts": HOSTS,
            "max_bytes": MAX_BYTES,
            "timeout": 5,
            "resolve": internet.resolve,
            "verify": certificates.client,
        } | options
        made.append(Fetcher(**given))
        return made[-1]

    yield build
    await eventually(lambda: not internet.open)  # each fetch has closed its connections
    for each in made:
        await each.aclose()


async def refusal(fetcher: Fetcher, url: str) -> RequestError:
    """The error, which names the field and gives nothing away."""
    with pytest.raises(RequestError) as caught:
        await fetcher.fetch(url, "images.0")
    error = caught.value
    assert error.param == "images.0"
    assert type(error) is (TooLarge if error.code == "image_too_large" else Unacceptable)
    for secret in (PUBLIC, PUBLIC_TOO, "10.0.0.5", "hunter2", "secret body"):
        assert secret not in error.message
    return error


@pytest.mark.asyncio
async def test_an_image(internet: Internet, make: Make) -> None:
    assert await make().fetch(f"https://{HOST}/a.png") == IMAGE
    assert (internet.asked, internet.reached, internet.sni) == ([HOST], [(PUBLIC, 443)], [HOST])
    line, *headers = internet.requests[0].lower().strip().split("\r\n")
    assert line == "get /a.png http/1.1"
    assert sorted(headers) == ["accept-encoding: identity", f"host: {HOST}", "user-agent: smoothgate"]


@pytest.mark.asyncio
async def test_path_and_query_arrive_as_they_were_sent(internet: Internet, make: Make) -> None:
    target = "/a%20b/c.png?sig=x%2Fy%3D&e=1"
    internet.answers[target] = reply()
    assert await make().fetch(f"https://{HOST}{target}#fragment") == IMAGE


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("IMAGES.Example.COM", HOST),
        (f"{HOST}.", HOST),
        (f"{HOST}:443", HOST),
        (f"{HOST}:", HOST),
        ("bücher.example", IDN),
        ("BÜCHER.example", IDN),
        (IDN, IDN),
        ("a.pictures.example", "a.pictures.example"),
    ],
)
async def test_ways_to_write_a_listed_host(internet: Internet, make: Make, host: str, name: str) -> None:
    internet.names[name] = [PUBLIC]
    assert await make().fetch(f"HTTPS://{host}/a.png") == IMAGE
    assert (internet.asked, internet.sni) == ([name], [name])
    assert f"host: {name}\r\n" in internet.requests[0].lower()


@pytest.mark.asyncio
async def test_the_list_is_written_in_any_way_too(internet: Internet, make: Make) -> None:
    fetcher = make(hosts=["Images.EXAMPLE.com.", "*.BÜCHER.example"])
    assert await fetcher.fetch(f"https://{HOST}/a.png") == IMAGE
    assert (await refusal(fetcher, f"https://a.{IDN}/a.png")).code == "url_failed"  # permitted, but unknown
    assert internet.asked == [HOST, f"a.{IDN}"]


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "*.*.com",
        "*example.com",
        "*.1",
        "a.*.com",
        "a..com",
        "a b.com",
        "a\nb.com",
        "\ud800.com",
        "https://a.com",
        "a.com/x",
        "a.com:443",
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "::1",
        "[::1]",
    ],
)
def test_a_list_of_something_else(entry: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        Fetcher([HOST, entry], max_bytes=1, timeout=1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/a.png",
        f"http://{HOST}:443/a.png",
        "file:///etc/passwd",
        f"file://{HOST}/etc/passwd",
        f"ftp://{HOST}/a.png",
        f"wss://{HOST}/a.png",
        "data:image/png;base64,AAAA",
        f"//{HOST}/a.png",
        "a.png",
        "",
        f" https://{HOST}/a.png",
        f"https://name:hunter2@{HOST}/a.png",
        f"https://name@{HOST}/a.png",
        f"https://:hunter2@{HOST}/a.png",
        f"https://{HOST}:8443/a.png",
        f"https://{HOST}:80/a.png",
        f"https://{HOST}:0/a.png",
        f"https://{HOST}:99999999/a.png",
        f"https://{HOST}:x/a.png",
        f"https://{HOST}/a\r\nX-Header: 1",
        f"https://{HOST}/\x00",
        f"https://{HOST}/\ud800",
        f"https://{HOST}/" + "a" * 8192,
        f"https://{HOST}/" + "ü" * 30_000,
        f"https://{HOST}/" + "a" * 70_000,
        "https://[::1/a.png",
    ],
)
async def test_urls_of_another_form(internet: Internet, make: Make, url: str) -> None:
    error = await refusal(make(), url)
    assert error.code == "url_not_allowed"
    assert "https://host/path" in error.message
    assert (internet.asked, internet.reached) == ([], [])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "other.example.com",
        f"a.{HOST}",
        f"evil-{HOST}",
        f"{HOST}.evil.org",
        f"{HOST}..",
        f".{HOST}",
        "pictures.example",
        "evil-pictures.example",
        "a.pictures.example.evil.org",
        "a..pictures.example",
        ".pictures.example",
        f"{'a' * 64}.pictures.example",
        f"{HOST}%2eevil.org",
        "evil.org%2f.pictures.example",
        "evil.org\\.pictures.example",
        "localhost",
        "127.0.0.1",
        PUBLIC,
        f"{PUBLIC}.",
        "[::1]",
        f"[{PUBLIC_V6}]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "017700000001",
        "127.1",
        "",
    ],
)
async def test_hosts_off_the_list(internet: Internet, make: Make, host: str) -> None:
    error = await refusal(make(), f"https://{host}/a.png")
    assert (error.code, error.message) == ("url_not_allowed", BAD_HOST)
    assert (internet.asked, internet.reached) == ([], [])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "url",
    [
        "https://0177.0.0.1/",
        "https://256.0.0.1/",
        "https://①②⑦.0.0.1/",
        "https://[fe80::1%25eth0]/",
        "https://[v1.x]/",
        f"https://{HOST}@evil.org/",
        f"https://evil.org\\@{HOST}/",
        f"https://{HOST}:443@evil.org/",
    ],
)
async def test_hosts_in_disguise(internet: Internet, make: Make, url: str) -> None:
    assert (await refusal(make(), url)).code == "url_not_allowed"
    assert (internet.asked, internet.reached) == ([], [])


@pytest.mark.asyncio
async def test_no_host_is_listed(internet: Internet, make: Make) -> None:
    assert (await refusal(make(hosts=[]), f"https://{HOST}/a.png")).message == BAD_HOST
    assert internet.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        PUBLIC,
        PUBLIC_V6,
        "172.15.255.255",
        "172.32.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "64:ff9b::808:808",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "4000::1",
        "8000::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "inside",
    [
        "0.0.0.0",
        "10.0.0.5",
        "100.64.0.1",
        "127.0.0.1",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "::ffff:{0}",
        "::{0}",
        "64:ff9b::{0}",
        "64:ff9b:1::{0}",
        "2002:{1:x}:{2:x}::1",
        "2001:0:808:808::{3:x}:{4:x}",
    ],
    ids=["mapped", "compatible", "nat64", "local-nat64", "6to4", "teredo"],
)
def test_private_addresses_inside_others(form: str, inside: str) -> None:
    high, low = struct.unpack(">HH", socket.inet_aton(inside))
    assert not is_public(form.format(inside, high, low, high ^ 0xFFFF, low ^ 0xFFFF))


def test_teredo_is_never_public() -> None:
    assert not is_public("2001:0:808:808::f7f7:f7f7")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.5"],
        ["127.0.0.1"],
        ["fd00::1"],
        ["10.0.0.5", PUBLIC],
        [PUBLIC, PUBLIC_V6, "10.0.0.5"],
        [PUBLIC, "::ffff:10.0.0.5"],
        [],
    ],
)
async def test_one_private_address_is_too_many(internet: Internet, make: Make, addresses: list[str]) -> None:
    fetcher = make(resolve=lambda host: asyncio.sleep(0, addresses))
    error = await refusal(fetcher, f"https://{HOST}/a.png")
    # An internal name is told from one that is not listed by nothing.
    assert (error.code, error.message) == ("url_not_allowed", BAD_HOST)
    assert internet.reached == []


@pytest.mark.asyncio
@pytest.mark.parametrize("first", [PUBLIC_TOO, PUBLIC_V6])
async def test_the_first_address_is_taken(internet: Internet, make: Make, first: str) -> None:
    internet.names[HOST] = [first, PUBLIC]
    assert await make().fetch(f"https://{HOST}/a.png") == IMAGE
    assert internet.reached == [(first, 443)]
    assert f"host: {HOST}\r\n" in internet.requests[0].lower()


@pytest.mark.asyncio
async def test_rebinding_gains_nothing(internet: Internet, make: Make) -> None:
    fetcher = make()
    internet.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
    assert await fetcher.fetch(f"https://{HOST}/a.png") == IMAGE
    assert (internet.asked, internet.reached) == ([HOST], [(PUBLIC, 443)])
    assert (await refusal(fetcher, f"https://{HOST}/a.png")).message == BAD_HOST
    assert (internet.asked, internet.reached) == ([HOST] * 2, [(PUBLIC, 443)])


@pytest.mark.asyncio
async def test_rebinding_between_two_hops(internet: Internet, make: Make) -> None:
    internet.answers["/first"] = redirect("/a.png")
    internet.names[HOST] = [[PUBLIC], [PUBLIC_TOO]]
    assert await make().fetch(f"https://{HOST}/first") == IMAGE
    assert internet.reached == [(PUBLIC, 443), (PUBLIC_TOO, 443)]
    internet.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
    assert (await refusal(make(), f"https://{HOST}/first")).message == BAD_HOST
    assert internet.reached[2:] == [(PUBLIC, 443)]


@pytest.mark.asyncio
async def test_names_are_resolved_by_the_system(
    internet: Internet, make: Make, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if host not in (HOST, CDN):
            return look_up(host, port, *args, **options)
        internet.asked.append(host)
        address = PUBLIC if host == HOST else "fe80::1%3"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    fetcher = Fetcher(HOSTS, max_bytes=MAX_BYTES, timeout=5, verify=certificates.client)
    assert await fetcher.fetch(f"https://{HOST}/a.png") == IMAGE
    assert internet.reached == [(PUBLIC, 443)]
    assert (await refusal(fetcher, f"https://{CDN}/a.png")).message == BAD_HOST
    await fetcher.aclose()


@pytest.mark.asyncio
async def test_a_name_that_does_not_exist(internet: Internet, make: Make) -> None:
    error = await refusal(make(), "https://nowhere.pictures.example/a.png")
    assert error.code == "url_failed"
    assert internet.reached == []


@pytest.mark.asyncio
async def test_a_certificate_for_another_name(internet: Internet, make: Make) -> None:
    fetcher = make()
    internet.names[UNCERTIFIED] = [PUBLIC]
    # The connection of one host is not there for another at the same address.
    assert await fetcher.fetch(f"https://{HOST}/a.png") == IMAGE
    assert (await refusal(fetcher, f"https://{UNCERTIFIED}/a.png")).code == "url_failed"
    assert internet.sni == [HOST, UNCERTIFIED]
    assert len(internet.requests) == 1


@pytest.mark.asyncio
async def test_a_certificate_that_nobody_vouches_for(internet: Internet, make: Make) -> None:
    assert (await refusal(make(verify=True), f"https://{HOST}/a.png")).code == "url_failed"
    assert (internet.sni, internet.requests) == ([HOST], [])


@pytest.mark.asyncio
async def test_nothing_is_taken_from_the_environment(
    internet: Internet, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login name password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    assert await make().fetch(f"https://{HOST}/a.png") == IMAGE
    assert internet.reached == [(PUBLIC, 443)]
    assert "authorization" not in internet.requests[0].lower()


@pytest.mark.asyncio
async def test_cookies_are_not_kept(internet: Internet, make: Make) -> None:
    cookie = "Set-Cookie: a=b; Path=/; Secure"
    internet.answers["/first"] = reply(b"", "Location: /a.png", cookie, status=302)
    internet.answers["/a.png"] = reply(IMAGE, cookie)
    fetcher = make()
    for _ in range(2):
        assert await fetcher.fetch(f"https://{HOST}/first") == IMAGE
    assert len(internet.requests) == 4
    assert "cookie" not in "".join(internet.requests).lower()


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(internet: Internet, make: Make, status: int) -> None:
    internet.answers["/first"] = redirect("second?x=1", status)
    internet.answers["/second?x=1"] = redirect(f"https://{CDN}/a.png", status)
    internet.names[CDN] = [PUBLIC_TOO]
    assert await make().fetch(f"https://{HOST}/first") == IMAGE
    assert internet.asked == internet.sni == [HOST, HOST, CDN]
    assert internet.reached == [(PUBLIC, 443), (PUBLIC, 443), (PUBLIC_TOO, 443)]
    assert [head.split("\r\n")[1].lower() for head in internet.requests] == [
        f"host: {host}" for host in (HOST, HOST, CDN)
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "location",
    [
        f"http://{HOST}/a.png",
        f"http://{HOST}:443/a.png",
        "file:///etc/passwd",
        "//evil.org/a.png",
        "https://evil.org/a.png",
        "https://127.0.0.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/a.png",
        f"https://name:hunter2@{HOST}/a.png",
        f"https://{HOST}:8443/a.png",
        f"https://{HOST}.evil.org/a.png",
        "https://[oops/a.png",
        "//[oops",
    ],
)
async def test_redirects_to_what_is_not_permitted(internet: Internet, make: Make, location: str) -> None:
    internet.answers["/first"] = redirect(location)
    assert (await refusal(make(), f"https://{HOST}/first")).code == "url_not_allowed"
    assert internet.reached == [(PUBLIC, 443)]


@pytest.mark.asyncio
async def test_redirect_to_a_private_address(internet: Internet, make: Make) -> None:
    internet.answers["/first"] = redirect(f"https://{CDN}/a.png")
    internet.names[CDN] = ["10.0.0.5"]
    assert (await refusal(make(), f"https://{HOST}/first")).message == BAD_HOST
    assert internet.reached == [(PUBLIC, 443)]


@pytest.mark.asyncio
@pytest.mark.parametrize("most", [0, 1, 2, 5])
async def test_too_many_redirects(internet: Internet, make: Make, most: int) -> None:
    internet.answers |= {f"/{n}": redirect(f"/{n + 1}") for n in range(most)}
    internet.answers[f"/{most}"] = reply()
    assert await make(max_redirects=most).fetch(f"https://{HOST}/0") == IMAGE
    internet.answers[f"/{most}"] = redirect("/a.png")
    error = await refusal(make(max_redirects=most), f"https://{HOST}/0")
    assert error.code == "url_failed"
    assert "redirects too often" in error.message
    assert len(internet.requests) == 2 * (most + 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [redirect("/first"), reply(b"", status=302)], ids=["loop", "no-location"])
async def test_redirects_that_lead_nowhere(internet: Internet, make: Make, answer: Answer) -> None:
    internet.answers["/first"] = answer
    assert (await refusal(make(), f"https://{HOST}/first")).code == "url_failed"
    assert len(internet.requests) == 3


@pytest.mark.asyncio
async def test_the_body_of_a_redirect_is_not_read(internet: Internet, make: Make) -> None:
    internet.answers["/first"] = reply(b"", "Location: /a.png", status=302, length=10**12)
    assert await make().fetch(f"https://{HOST}/first") == IMAGE


@pytest.mark.asyncio
async def test_size_by_content_length(internet: Internet, make: Make) -> None:
    # Nothing of the body ever comes: the length alone is enough.
    internet.answers["/a.png"] = reply(b"", length=MAX_BYTES + 1)
    error = await refusal(make(), f"https://{HOST}/a.png")
    assert (error.status, error.code) == (413, "image_too_large")
    assert error.message == f"The image is larger than {MAX_BYTES} bytes."


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("start", "end"),
    [(chunked(IMAGE[:500], IMAGE[500:]), b"0\r\n\r\n"), (b"HTTP/1.1 200 X\r\n\r\n" + IMAGE, b"")],
    ids=["chunked", "until-close"],
)
async def test_size_by_count(internet: Internet, make: Make, start: bytes, end: bytes) -> None:
    internet.answers["/a.png"] = raw(start + end, end=True)
    assert await make().fetch(f"https://{HOST}/a.png") == IMAGE
    error = await refusal(make(max_bytes=MAX_BYTES - 1), f"https://{HOST}/a.png")
    assert error.code == "image_too_large"


@pytest.mark.asyncio
async def test_an_endless_body_is_left(internet: Internet, make: Make) -> None:
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(chunked())
        while not writer.is_closing():
            writer.write(b"%x\r\n%b\r\n" % (MAX_BYTES, IMAGE))
            await writer.drain()
            sent += MAX_BYTES

    internet.answers["/a.png"] = pour
    assert (await refusal(make(max_bytes=10 * MAX_BYTES), f"https://{HOST}/a.png")).code == "image_too_large"
    await eventually(lambda: not internet.open)
    assert sent < 2**26  # what fits into buffers on the way


@pytest.mark.asyncio
async def test_an_empty_file(internet: Internet, make: Make) -> None:
    internet.answers["/a.png"] = reply(b"")
    assert await make().fetch(f"https://{HOST}/a.png") == b""


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def stall_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reply(IMAGE[:10], length=MAX_BYTES)(reader, writer)
    await reader.read()


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 X\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [stall, stall_in_the_body, drip])
async def test_slow_servers(internet: Internet, make: Make, answer: Answer) -> None:
    internet.answers["/a.png"] = answer
    started = time.monotonic()
    async with asyncio.timeout(60):
        error = await refusal(make(timeout=0.4), f"https://{HOST}/a.png")
    assert time.monotonic() - started > 0.35
    assert error.code == "url_failed"
    assert "longer than 0.4 seconds" in error.message


@pytest.mark.asyncio
async def test_the_time_is_that_of_all_hops(internet: Internet, make: Make) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        await redirect("/late")(reader, writer)

    internet.answers["/late"] = late
    error = await refusal(make(timeout=1, max_redirects=50), f"https://{HOST}/late")
    assert "longer than 1 seconds" in error.message
    assert 2 <= len(internet.requests) <= 20


@pytest.mark.asyncio
async def test_a_client_that_leaves_at_any_step_leaves_no_connection_open(
    internet: Internet, make: Make
) -> None:
    internet.answers["/old.png"] = redirect("/a.png")
    steps, task = 0, None
    while task is None or task.cancelled():
        task = asyncio.create_task(make().fetch(f"https://{HOST}/old.png"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: not internet.open)
        steps += 1
    assert await task == IMAGE
    assert len(internet.requests) > 2


@pytest.mark.asyncio
async def test_slow_dns(internet: Internet, make: Make) -> None:
    fetcher = make(timeout=0.1, resolve=lambda host: asyncio.sleep(60, [PUBLIC]))
    assert (await refusal(fetcher, f"https://{HOST}/a.png")).code == "url_failed"


@pytest.mark.asyncio
@pytest.mark.parametrize("cancelled", [False, True], ids=["time-is-up", "client-leaves"])
async def test_a_server_that_never_shakes_hands(
    internet: Internet, make: Make, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    came, left = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        monkeypatch.undo()
        lead_to(server.sockets[0].getsockname()[1], internet, monkeypatch)
        fetcher = make(timeout=60 if cancelled else 0.4)
        if cancelled:
            task = asyncio.create_task(fetcher.fetch(f"https://{HOST}/a.png"))
            await came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            error = await refusal(fetcher, f"https://{HOST}/a.png")
            assert "longer than 0.4 seconds" in error.message
        await asyncio.wait_for(left.wait(), 1)


@pytest.mark.asyncio
async def test_nobody_listens(internet: Internet, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.undo()
        lead_to(bound.getsockname()[1], internet, monkeypatch)
        assert (await refusal(make(), f"https://{HOST}/a.png")).code == "url_failed"


@pytest.mark.asyncio
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip"])
async def test_compressed_answers(internet: Internet, make: Make, coding: str) -> None:
    internet.answers["/a.png"] = reply(gzip.compress(IMAGE), f"Content-Encoding: {coding}")
    error = await refusal(make(), f"https://{HOST}/a.png")
    assert error.code == "url_failed"
    assert "compressed" in error.message


@pytest.mark.asyncio
async def test_identity_is_no_compression(internet: Internet, make: Make) -> None:
    internet.answers["/a.png"] = reply(IMAGE, "Content-Encoding: Identity")
    assert await make().fetch(f"https://{HOST}/a.png") == IMAGE


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 407, 500, 503])
async def test_other_statuses(internet: Internet, make: Make, status: int) -> None:
    internet.answers["/a.png"] = reply(b"" if status == 304 else b"secret body", status=status)
    error = await refusal(make(), f"https://{HOST}/a.png")
    assert error.code == "url_failed"
    assert str(status) in error.message


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    linger = struct.pack("ii", 1, 0)  # closing then sends RST
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def reset_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reply(IMAGE[:10], length=MAX_BYTES)(reader, writer)
    await reset(reader, writer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer",
    [
        reset,
        reset_in_the_body,
        raw(b"", end=True),
        raw(b"secret body, and no HTTP\r\n\r\n", end=True),
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc", end=True),
        raw(b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n", end=True),
        raw(b"HTTP/1.1 200 X\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", end=True),
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", end=True),
        raw(b"HTTP/1.1 200 X\r\nX: " + b"x" * 2**18, end=True),
        raw(chunked(b"abc"), end=True),
        raw(chunked() + b"zz\r\n", end=True),
    ],
    ids=[
        "reset",
        "reset-in-body",
        "silent",
        "no-http",
        "short",
        "negative-length",
        "vast-length",
        "two-lengths",
        "vast-head",
        "short-chunks",
        "no-chunk",
    ],
)
async def test_broken_answers(internet: Internet, make: Make, answer: Answer) -> None:
    internet.answers["/a.png"] = answer
    error = await refusal(make(), f"https://{HOST}/a.png")
    assert error.code == "url_failed"


@pytest.mark.asyncio
async def test_many_at_once(internet: Internet, make: Make) -> None:
    fetcher = make()
    found = await asyncio.gather(*(fetcher.fetch(f"https://{h}/a.png") for h in (HOST, CDN) * 5))
    assert found == [IMAGE] * 10
    assert Counter(internet.sni) == Counter([HOST, CDN] * 5)


@pytest.mark.asyncio
async def test_a_cancelled_fetch_leaves_nothing(internet: Internet, make: Make) -> None:
    internet.answers["/a.png"] = stall
    task = asyncio.create_task(make().fetch(f"https://{HOST}/a.png"))
    await eventually(lambda: bool(internet.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_names_that_hang_keep_nothing_else_from_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx resolves vLLM's name in asyncio's own threads."""
    over = threading.Event()
    look_up = socket.getaddrinfo

    def hang(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "hangs.example":
            over.wait(30)
            raise OSError
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    asked = [asyncio.create_task(resolve("hangs.example")) for _ in range(50)]
    try:
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
    finally:
        over.set()
        await asyncio.gather(*asked, return_exceptions=True)
