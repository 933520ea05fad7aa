from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pipeline.egress import REFUSAL, Resolve, check_url, judge, open_pool
from pipeline.errors import UrlNotAllowed
from pipeline.settings import DownloadSettings
from tests.stages.web import Web, answer, lingering, serving

PUBLIC = ["1.1.1.1", "93.184.215.14", "::ffff:1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"]
CLOSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.31.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.19.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

LOCAL = {"allow_networks": "127.0.0.0/8", "allow_ports": ""}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_fetched(address: str) -> None:
    assert judge(address)


@pytest.mark.parametrize("address", CLOSED)
def test_addresses_that_lead_inside_may_not_be_fetched(address: str) -> None:
    assert not judge(address)


@given(st.ip_addresses())
def test_nothing_is_allowed_that_python_knows_as_private_or_multicast(address: object) -> None:
    if judge(str(address)):
        known = ip_address(str(address))
        assert known.is_global
        assert not known.is_multicast


@given(st.ip_addresses(v=4))
def test_an_address_in_the_clothes_of_ipv6_is_judged_as_itself(address: IPv4Address) -> None:
    assert judge(f"::ffff:{address}") == judge(str(address))
    assert not judge(str(IPv6Network("64:ff9b::/96")[int(address)]))
    assert not judge(str(IPv6Address(int(address))))


def plain(address: str) -> IPv4Address | IPv6Address:
    known = ip_address(address)
    return getattr(known, "ipv4_mapped", None) or known


@given(st.ip_addresses().map(str), st.integers(0, 32))
def test_an_allowed_network_may_be_fetched_and_opens_nothing_else(address: str, prefix: int) -> None:
    network = ip_network(f"{plain(address)}/{prefix}", strict=False)
    assert judge(address, [network])
    assert all(plain(closed) in network for closed in CLOSED if judge(closed, [network]))


PERMITTED = [
    "http://example.com/a.flac",
    "HTTPS://Example.com:443/a?signature=x#t",
    "http://münchen.example/",
    "http://my_bucket.example/",
    "http://1.1.1.1/",
    "https://[2606:4700:4700::1111]/",
]
REFUSED = [
    "",
    "example.com/a",
    "//example.com/a",
    "ftp://example.com/",
    "file:///etc/passwd",
    "http:///a",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://example.com:22/",
    "http://example.com:0/",
    "http://example.com:99999/",
    "http://exam ple.com/",
    "http://example.com%2f@127.0.0.1/",
    "http://127.0.0.1/",
    "http://0x7f.1/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://①②⑦.0.0.1/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[fe80::1%25eth0]/",
    "http://[1:2]/",
    "http://[v1.a]/",
    "http://exam\nple.com/",
]


@pytest.mark.parametrize("url", PERMITTED)
def test_an_ordinary_url_passes(url: str) -> None:
    check_url(url, DownloadSettings())


@pytest.mark.parametrize("url", REFUSED)
def test_every_refusal_has_the_same_words(url: str) -> None:
    with pytest.raises(UrlNotAllowed) as caught:
        check_url(url, DownloadSettings())
    assert caught.value.detail == REFUSAL
    assert not caught.value.retryable


@given(st.text() | st.text(alphabet="htps:/@[]%.0123456789abcdefx#?\\").map("http://".__add__))
def test_whatever_is_typed_either_passes_or_is_refused(url: str) -> None:
    with suppress(UrlNotAllowed):
        check_url(url, DownloadSettings(allow_ports=()))


@given(st.ip_addresses(v=4), st.sampled_from([str, int, lambda ip: hex(int(ip)), lambda ip: f"0{int(ip):o}"]))
def test_a_literal_is_judged_in_every_spelling(address: IPv4Address, spell: Any) -> None:
    try:
        passed = bool(check_url(f"http://{spell(address)}/", DownloadSettings()))
    except UrlNotAllowed:
        passed = False
    assert passed == judge(str(address))


def test_an_allowed_network_and_an_empty_list_of_ports_open_what_they_say() -> None:
    check_url("http://example.com:8080/", DownloadSettings(allow_ports=()))
    check_url("http://127.0.0.1:8080/", DownloadSettings.model_validate(LOCAL))
    with pytest.raises(UrlNotAllowed):
        check_url("http://127.0.0.1:8080/", DownloadSettings.model_validate({"allow_networks": "127.0.0.0/8"}))


class Names:
    """A name service that answers from a list, each time with the next of its entries."""

    def __init__(self, *entries: Sequence[str]) -> None:
        self.entries = list(entries)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await anyio.lowlevel.checkpoint()
        return self.entries.pop(0)


async def get(url: str, resolve: Resolve, settings: dict[str, str] = LOCAL, connect: float = 10) -> int:
    async with open_pool(DownloadSettings.model_validate(settings), resolve) as pool:
        response = await pool.request("GET", url, extensions={"timeout": {"connect": connect}})
    return response.status


async def test_the_connection_goes_to_the_judged_address_and_the_name_stays_in_the_request() -> None:
    async with serving() as web:
        web.answers["/"] = answer(b"hello")
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        assert await get(f"http://media.test:{web.port}/", names) == 200
        assert web.asked[0].headers["host"] == f"media.test:{web.port}"
        assert names.entries == [["169.254.169.254"]]  # asked once: a second answer could be another


async def test_no_connection_is_kept_for_the_next_request() -> None:
    async with serving() as web:
        web.answers["/"] = lingering(answer(b"hello"))
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        async with open_pool(DownloadSettings.model_validate(LOCAL), names) as pool:
            await pool.request("GET", f"http://media.test:{web.port}/")
            with anyio.fail_after(10), pytest.raises(UrlNotAllowed):
                await pool.request("GET", f"http://media.test:{web.port}/")


@pytest.mark.parametrize("found", [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1%lo"]])
async def test_one_forbidden_address_of_a_name_forbids_the_name(found: list[str]) -> None:
    async with serving() as web:
        web.answers["/"] = answer(b"hello")
        with pytest.raises(UrlNotAllowed, match=REFUSAL):
            await get(f"http://media.test:{web.port}/", Names(found))
        assert web.asked == []


async def test_a_port_that_is_not_listed_is_not_even_looked_up() -> None:
    names = Names()
    with pytest.raises(UrlNotAllowed):
        await get("http://media.test:22/", names, {"allow_networks": "127.0.0.0/8"})


async def test_the_next_address_is_tried_where_one_refuses() -> None:
    async with serving() as web:
        web.answers["/"] = answer(b"hello")
        assert await get(f"http://media.test:{web.port}/", Names(["127.0.0.9", "127.0.0.1"])) == 200


async def test_a_name_without_an_address_cannot_be_connected_to() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    for resolve in (unknown, Names([])):
        with pytest.raises(httpcore2.ConnectError):
            await get("http://media.test/", resolve)


async def test_a_name_service_that_never_answers_is_given_up_on() -> None:
    async def silent(host: str, port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(httpcore2.ConnectTimeout):
        await get("http://media.test/", silent, connect=0.05)


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as proxy, serving() as web:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        web.answers["/"] = answer(b"hello")
        assert await get(f"http://media.test:{web.port}/", Names(["127.0.0.1"])) == 200
        assert proxy.asked == []


def certificate(folder: Path, name: str) -> Path:
    """A key and a certificate that vouches for itself, in one file."""
    key, day = ec.generate_private_key(ec.SECP256R1()), timedelta(days=1)
    issuer, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(issuer, issuer, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.public_bytes(Encoding.PEM)
    )
    return path


async def test_the_certificate_must_be_for_the_name_whatever_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "media.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    asked_for: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked_for.append(name)
    async with serving(server) as web:
        web.answers["/"] = answer(b"hello")
        assert await get_tls(web, "media.test") == 200
        with pytest.raises(httpcore2.ConnectError):
            await get_tls(web, "other.test")
    assert asked_for == ["media.test", "other.test"]


async def get_tls(web: Web, name: str) -> int:
    return await get(f"https://{name}:{web.port}/", Names(["127.0.0.1"]))
