"""The door behind its real server, on real sockets: what a test client cannot do, and clients in the wild do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart

from pipeline.jobs import JobRequest, Tenant
from pipeline.settings import DownloadSettings, Settings
from pipeline.store.memory import MemoryStore
from tests.api.visiting import URL, bearer, door

UPLOAD = b'--cut\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
HANDSHAKE = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


@asynccontextmanager
async def served(app: Quart) -> AsyncIterator[int]:
    """The port that ``app`` is served at. Does not end while any connection has a task left."""
    door, stop, config = socket.create_server(("127.0.0.1", 0)), anyio.Event(), Config()
    config.bind, config.errorlog = [f"fd://{door.fileno()}"], None
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: serve(app, config, shutdown_trigger=stop.wait))
            yield door.getsockname()[1]
            while connections():
                await anyio.lowlevel.checkpoint()
            stop.set()
    door.detach()  # the server has closed it


def connections() -> int:
    return sum("_server_callback" in repr(task) for task in asyncio.all_tasks())


def request(method: str, path: str, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: door", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def posting(size: int, **headers: str) -> bytes:
    kind = {"Content-Type": "multipart/form-data; boundary=cut", "Content-Length": str(size)}
    return request("POST", "/v1/jobs", **{**kind, **headers})


async def everything(stream: SocketStream) -> bytes:
    return b"".join([piece async for piece in stream])


async def test_a_client_refused_in_the_middle_of_its_upload_learns_why(app: Quart) -> None:
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(posting(3_000_000, Connection="close") + UPLOAD)
        for _ in range(29):
            await client.send(b"a" * 100_000)
        await client.send(b"a" * (100_000 - len(UPLOAD)))
        answer = await everything(client)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"code":"unauthenticated"' in answer


async def test_a_client_that_falls_silent_after_its_refusal_keeps_nothing_open(app: Quart) -> None:
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(posting(3_000_000) + UPLOAD + b"a" * 1_000_000)
        answer = b""
        while b'"errors":[]}' not in answer:
            answer += await client.receive()
        await client.aclose()
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("sent", [0, 10, 1_000_000])
async def test_a_connection_cut_in_an_upload_leaves_nothing_behind(app: Quart, store: MemoryStore, sent: int) -> None:
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(posting(3_000_000, **bearer()) + UPLOAD + b"a" * sent)
        while not store.files:
            await anyio.lowlevel.checkpoint()
        await client.aclose()
    assert (store.files, store.rows) == ({}, {})


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=cut"])
async def test_a_body_that_stalls_is_told_so_and_erased(store: MemoryStore, settings: Settings, kind: str) -> None:
    impatient = settings.model_copy(update={"download": DownloadSettings(stall_seconds=0.2)})
    app = door(store, impatient)
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(posting(3_000_000, **bearer(**{"Content-Type": kind})) + UPLOAD + b"a" * 20_000)
        answer = b""
        while b'"errors":[]}' not in answer:
            answer += await client.receive()
        await client.aclose()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request-timeout"' in answer
    assert (store.files, store.rows) == ({}, {})


async def test_a_connection_serves_one_request_after_the_other(app: Quart) -> None:
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        for path, status in (("/v1/jobs/7", b"404"), ("/nowhere", b"404"), ("/livez", b"200"), ("/readyz", b"200")):
            last = {"Connection": "close"} if path == "/readyz" else {}
            await client.send(request("GET", path, **bearer(), **last))
            answer = b""
            while not answer.endswith(b"}"):
                answer += await client.receive()
            assert answer.split()[1] == status


async def test_a_websocket_is_closed_before_it_opens(app: Quart) -> None:
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(request("GET", "/v1/jobs", Connection="Upgrade", **HANDSHAKE))
        assert (await everything(client)).startswith(b"HTTP/1.1 403 ")


async def test_an_answer_without_a_body_has_no_type_and_no_length(app: Quart, store: MemoryStore) -> None:
    job = await store.tenant(Tenant("acme")).submit(JobRequest(media_url=URL))
    async with served(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(request("DELETE", f"/v1/jobs/{job.id}", **bearer(), Connection="close"))
        head = (await everything(client)).lower()
    assert head.startswith(b"http/1.1 204 ")
    assert head.endswith(b"\r\n\r\n")
    assert b"content-" not in head.replace(b"x-content-", b"")
