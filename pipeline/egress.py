"""Which addresses may be fetched: every address a name resolves to is judged, and the judged one is connected to."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Final

import anyio
from anyio import to_thread
from httpcore2 import (
    SOCKET_OPTION,
    AnyIOBackend,
    AsyncConnectionPool,
    AsyncNetworkBackend,
    AsyncNetworkStream,
    ConnectError,
    ConnectTimeout,
    default_ssl_context,
)
from httpx2 import URL, InvalidURL

from pipeline.errors import UrlNotAllowed
from pipeline.settings import DownloadSettings, Network

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

# One wording for every reason, so that nobody can map a network by reading refusals.
REFUSAL: Final = (
    "This address may not be fetched; give a public http or https URL on a usual port, without user name and password."
)
SCHEMES: Final = {"http": 80, "https": 443}
# What frames a request is the service's to say, whatever the headers say that a client wants sent along.
OUR_HEADERS: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "if-range", "keep-alive"}
    | {"proxy-authorization", "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade"}
)
HOST: Final = re.compile(r"[a-z0-9._:-]+", re.IGNORECASE)
# More are not tried: each gets its share of the time to connect.
TRIED_ADDRESSES: Final = 4

# IANA's special-purpose registries (RFC 6890), multicast, 6to4 relays, and the metadata service of Azure. Listed here
# because ipaddress.is_global differs between versions of Python and calls several of these global.
CLOSED_V4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
)
# The only part of IPv6 that is handed out, less Teredo and other protocols, examples, and 6to4.
OPEN_V6: Final = IPv6Network("2000::/3")
CLOSED_V6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


def judge(address: str, allow_networks: Iterable[Network] = ()) -> bool:
    """Whether a resolved address may be connected to: it is public, or in one of ``allow_networks``.

    Raises ``ValueError`` for what is not an address.
    """
    if "%" in address:  # a scope id: only local addresses have one
        return False
    ip = ip_address(address)
    if ip.version == 6 and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if any(ip in network for network in allow_networks):
        return True
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in CLOSED_V4)
    return ip in OPEN_V6 and not any(ip in network for network in CLOSED_V6)


def check_url(url: str, settings: DownloadSettings) -> URL:
    """Check what can be seen without asking the name service, and return the parsed URL.

    Raises ``UrlNotAllowed`` for a scheme, port, host or literal address that may not be fetched, and for user names.
    """
    try:
        parsed = URL(url)
    except InvalidURL:
        raise UrlNotAllowed(REFUSAL) from None
    host = parsed.raw_host.decode("ascii")
    if parsed.scheme not in SCHEMES or parsed.userinfo or not HOST.fullmatch(host):
        raise UrlNotAllowed(REFUSAL)
    port = SCHEMES[parsed.scheme] if parsed.port is None else parsed.port
    literal = _literal(host)
    if not _open_port(port, settings) or (literal and not judge(literal, settings.allow_networks)):
        raise UrlNotAllowed(REFUSAL)
    return parsed


def _open_port(port: int, settings: DownloadSettings) -> bool:
    return port in settings.allow_ports if settings.allow_ports else 0 < port < 1 << 16


def _literal(host: str) -> str | None:
    """The address that ``host`` spells out, if it does; name services read ``0x7f.1`` and ``2130706433`` as one too."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host if ":" in host else None


async def look_up(host: str, port: int) -> Sequence[str]:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class JudgedBackend(AsyncNetworkBackend):
    """Connects to judged addresses only.

    The pool above keeps the name for the Host header, for SNI and for the check of the certificate.
    """

    def __init__(self, settings: DownloadSettings, resolve: Resolve = look_up) -> None:
        self._settings = settings
        self._resolve = resolve
        self._network = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Raises ``UrlNotAllowed`` when the port or any one of the name's addresses may not be fetched."""
        with anyio.move_on_after(timeout):
            addresses = (await self._judged(host, port))[:TRIED_ADDRESSES]
            share = timeout / len(addresses) if timeout else None
            for address in addresses:
                try:
                    return await self._network.connect_tcp(address, port, share, local_address, socket_options)
                except (ConnectError, ConnectTimeout) as error:
                    failure = error
            raise failure
        raise ConnectTimeout

    async def _judged(self, host: str, port: int) -> Sequence[str]:
        if not _open_port(port, self._settings):
            raise UrlNotAllowed(REFUSAL)
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long or empty
            raise ConnectError("the name could not be resolved") from error
        if not addresses:
            raise ConnectError("the name has no address")
        # One forbidden address among public ones is an attempt to have it picked.
        if not all(judge(address, self._settings.allow_networks) for address in addresses):
            raise UrlNotAllowed(REFUSAL)
        return addresses


@asynccontextmanager
async def open_pool(
    settings: DownloadSettings, resolve: Resolve = look_up
) -> AsyncGenerator[AsyncConnectionPool, None]:
    """Connections to judged addresses: no proxies from the environment, no cookies, no redirects, no decoding.

    None is kept for a second request, so that nothing of one tenant's exchange can reach another's.
    """
    # At DEBUG it writes headers and query strings, which are secrets.
    logging.getLogger("httpcore2").setLevel(logging.INFO)
    tls = await to_thread.run_sync(default_ssl_context)
    backend = JudgedBackend(settings, resolve)
    async with AsyncConnectionPool(
        tls, max_connections=None, max_keepalive_connections=0, network_backend=backend
    ) as pool:
        yield pool
