"""A receiver of webhooks: it notes every event, and judges its signature for itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

HEAD_BYTES = 16_384


@dataclass(slots=True)
class Receiver:
    """``secrets``: each tenant's, as the command line prints it. ``heard``: the events' ids, by job."""

    secrets: Mapping[str, str]
    port: int = 0
    heard: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    came: int = 0
    forged: int = 0

    def url(self, tenant: str) -> str:
        return f"http://127.0.0.1:{self.port}/{tenant}?key=secret"

    async def answer(self, stream: SocketStream) -> None:
        try:
            async with stream:
                buffered = BufferedByteReceiveStream(stream)
                while True:
                    head = (await buffered.receive_until(b"\r\n\r\n", HEAD_BYTES)).decode("latin-1")
                    first, *lines = head.split("\r\n")
                    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                    body = await buffered.receive_exactly(int(headers["content-length"]))
                    self._note(first.split(" ")[1].partition("?")[0].removeprefix("/"), headers, body)
                    await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # a sender hangs up, or is killed

    def _note(self, tenant: str, headers: Mapping[str, str], body: bytes) -> None:
        self.came += 1
        if _signed(self.secrets[tenant], headers, body):
            self.heard[json.loads(body)["data"]["job_id"]].add(headers["webhook-id"])
        else:
            self.forged += 1


def _signed(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """By the Standard Webhooks specification: one of the signatures is that of id, time and body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.digest(key, message, hashlib.sha256)).decode()
    return any(hmac.compare_digest(wanted, given) for given in headers["webhook-signature"].split())


@asynccontextmanager
async def receiving(secrets: Mapping[str, str]) -> AsyncIterator[Receiver]:
    receiver = Receiver(secrets)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    receiver.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, receiver.answer)
        yield receiver
        group.cancel_scope.cancel()
