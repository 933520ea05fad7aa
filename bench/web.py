"""A media server that is as far away as it is told to be: every answer waits first, then comes whole."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import anyio
from anyio.abc import SocketAttribute, SocketStream


@dataclass(slots=True)
class Web:
    """``latency``: the shortest and longest wait before an answer, in seconds, drawn evenly from a seed of its own."""

    files: Mapping[str, bytes]
    latency: tuple[float, float]
    port: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(0))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    async def answer(self, stream: SocketStream) -> None:
        try:
            async with stream:
                while name := await _asked(stream):
                    await anyio.sleep(self._chance.uniform(*self.latency))
                    body = self.files[name]
                    await stream.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        except anyio.BrokenResourceError:
            pass  # a client may hang up at any time


async def _asked(stream: SocketStream) -> str | None:
    """The file that the next request of this connection is for; None: there is no next one."""
    head = b""
    try:
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
    except anyio.EndOfStream:
        return None
    return head.split(b" ", 2)[1].decode().removeprefix("/")


@asynccontextmanager
async def serving(recordings: Path, names: Sequence[str], latency: tuple[float, float]) -> AsyncIterator[Web]:
    files = {name: await anyio.Path(recordings / name).read_bytes() for name in names}
    web = Web(files, latency)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    web.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, web.answer)
        yield web
        group.cancel_scope.cancel()


@contextmanager
def serving_apart(recordings: Path, names: Sequence[str], latency: float) -> Iterator[Sequence[str]]:
    """The recordings' addresses at a server in a process of its own, which takes nothing from the one measured."""
    spawning = get_context("spawn")
    here, there = spawning.Pipe()
    server = spawning.Process(target=_serve, args=(there, recordings, names, latency), daemon=True)
    server.start()
    try:
        yield here.recv()
    finally:
        server.terminate()
        server.join()


def _serve(tell: Connection, recordings: Path, names: Sequence[str], latency: float) -> None:
    async def serve() -> None:
        async with serving(recordings, names, (latency, latency)) as web:
            tell.send([web.url(name) for name in names])
            await anyio.sleep_forever()

    anyio.run(serve)
