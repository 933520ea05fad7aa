"""A web server for tests: real sockets, and answers that are scripted to the byte."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener


@dataclass(frozen=True, slots=True)
class Asked:
    path: str
    headers: dict[str, str]
    body: bytes = b""


Answer = Callable[[ByteStream, Asked], Awaitable[None]]


@dataclass
class Web:
    """``answers`` by path without query; ``asked`` is every request so far."""

    port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def handle(self, stream: ByteStream) -> None:
        # A client that hangs up is what many tests are about.
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with stream:
                received = b""
                while b"\r\n\r\n" not in received:
                    received += await stream.receive()
                head, _, body = received.partition(b"\r\n\r\n")
                first, *fields = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in fields)}
                while len(body) < int(headers.get("content-length", 0)):
                    body += await stream.receive()
                asked = Asked(first.split(" ")[1], headers, body)
                self.asked.append(asked)
                await self.answers[asked.path.partition("?")[0]](stream, asked)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Answer:
    """``etag=…`` and the like become headers; the length is told unless ``content_length`` says otherwise."""
    told = {"content_length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} -", *(f"{name.replace('_', '-')}: {value}" for name, value in told.items())]

    async def send(stream: ByteStream, asked: Asked) -> None:
        await stream.send("\r\n".join([*lines, "", ""]).encode() + body)

    return send


def redirect(location: str, status: int = 302) -> Answer:
    return answer(status=status, location=location)


def dripping(head: bytes, drop: bytes, pause: float = 0.01) -> Answer:
    """``head``, then ``drop`` after ``drop`` for as long as the client listens."""

    async def send(stream: ByteStream, asked: Asked) -> None:
        await stream.send(head)
        while True:
            await stream.send(drop)
            await anyio.sleep(pause)

    return send


def lingering(first: Answer, left: anyio.Event | None = None) -> Answer:
    """``first``, on a connection that stays open until the client closes it, which sets ``left``."""

    async def send(stream: ByteStream, asked: Asked) -> None:
        await first(stream, asked)
        try:
            await stream.receive()
        finally:
            if left:
                left.set()

    return send


async def hanging(stream: ByteStream, asked: Asked) -> None:
    await anyio.sleep_forever()


@asynccontextmanager
async def serving(tls: SSLContext | None = None) -> AsyncGenerator[Web, None]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    web = Web(listener.extra(SocketAttribute.local_port))
    async with listener, anyio.create_task_group() as tasks:
        served = TLSListener(listener, tls, standard_compatible=False) if tls else listener
        tasks.start_soon(served.serve, web.handle)
        try:
            yield web
        finally:
            tasks.cancel_scope.cancel()
