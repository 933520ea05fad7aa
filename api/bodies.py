"""What a client sends, taken piece by piece: a small JSON body whole, an upload part by part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Final

import anyio
from quart import Request
from quart.asgi import ASGIHTTPConnection
from quart.wrappers.request import Body
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from pipeline.errors import InvalidRequest, PayloadTooLarge, RequestTimeout

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

# Fed to the multipart decoder at once; what it holds back (a preamble, a part's headers) stays under the limit.
PIECE_BYTES: Final = 64 * 1024
HELD_BYTES: Final = 4 * PIECE_BYTES

# A client that is refused in the middle of an upload has so long to notice.
LINGER_SECONDS: Final = 5.0


class PacedBody(Body):
    """A body that is told when a piece of it was taken, and when no more will be."""

    def __init__(self, *limits: int | None) -> None:
        super().__init__(*limits)
        self._taken = asyncio.Event()
        self._left = False
        self.over = asyncio.Event()

    async def __anext__(self) -> bytes:
        piece = await super().__anext__()
        self._taken.set()
        return piece

    def __await__(self) -> Generator[Any, None, Any]:
        return self._whole().__await__()

    async def put(self, piece: bytes) -> None:
        """Append, and wait until it was taken."""
        if piece and not self._left:
            self._taken.clear()
            self.append(piece)
            await self._taken.wait()

    def set_complete(self) -> None:
        super().set_complete()
        self.over.set()

    def leave(self) -> None:
        """Nobody reads on: what still comes is dropped."""
        self._left = True
        self._taken.set()

    async def _whole(self) -> bytes:
        return b"".join([piece async for piece in self])


class PacedRequest(Request):
    body: PacedBody
    body_class: type[Body] = PacedBody


class PacedConnection(ASGIHTTPConnection):
    """Takes a piece from the client when the route has taken the last one: Quart itself would keep all that comes."""

    async def handle_messages(self, request: Request, receive: ASGIReceiveCallable) -> None:
        assert isinstance(request, PacedRequest)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if message["type"] == "http.request":
                await request.body.put(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()

    async def handle_request(self, request: Request, send: ASGISendCallable) -> None:
        """An answer before the end of a body is told at once and ended late.

        The server closes the connection when it ends, and a client that is still sending would lose what it was told.
        """
        assert isinstance(request, PacedRequest)
        body = request.body

        async def send_and_linger(message: ASGISendEvent) -> None:
            body.leave()
            if message["type"] == "http.response.body" and not message["more_body"]:
                with anyio.move_on_after(LINGER_SECONDS):
                    await body.over.wait()
            await send(message)

        await super().handle_request(request, send_and_linger)


async def in_time(body: AsyncIterator[bytes], stall_seconds: float) -> AsyncIterator[bytes]:
    """The pieces of ``body``. Raises ``RequestTimeout`` when the next one does not come within ``stall_seconds``."""
    while True:
        with anyio.move_on_after(stall_seconds) as waiting:
            piece = await anext(body, None)
        if waiting.cancelled_caught:
            raise RequestTimeout(f"Nothing more of the body came for {stall_seconds:g} s; send the request again.")
        if piece is None:
            return
        yield piece


async def read_whole(body: AsyncIterator[bytes], limit: int) -> bytes:
    """Raises ``PayloadTooLarge`` as soon as more than ``limit`` bytes have come."""
    whole = bytearray()
    async for piece in body:
        whole += piece
        require_at_most(len(whole), limit)
    return bytes(whole)


def require_at_most(size: int, limit: int) -> None:
    if size > limit:
        raise PayloadTooLarge(f"At most {limit} bytes are accepted here.")


class Parts:
    """The parts of a multipart body, one after the other; never more than one piece of it is held.

    Raises ``InvalidRequest`` where the body is not multipart or breaks off, ``PayloadTooLarge`` for endless headers.
    """

    def __init__(self, body: AsyncIterator[bytes], boundary: str) -> None:
        if not boundary:
            raise InvalidRequest("The Content-Type of a multipart body must name its boundary.")
        self._pieces = _in_pieces(body)
        self._decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), HELD_BYTES)

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Part:
        while not isinstance(event := await self.event(), Epilogue):
            if isinstance(event, Field | File):
                return Part(event.name or "", self)
        raise StopAsyncIteration

    async def event(self) -> Event:
        try:
            while isinstance(event := self._decoder.next_event(), NeedData):
                self._decoder.receive_data(await anext(self._pieces, None))
        except RequestEntityTooLarge:
            raise PayloadTooLarge("The headers of a part, or what surrounds the parts, are too long.") from None
        except ValueError:
            raise InvalidRequest("The multipart body is not well-formed, or it breaks off.") from None
        return event


class Part:
    """Iterates over the pieces of one part, for as long as the next part was not asked for."""

    def __init__(self, name: str, parts: Parts) -> None:
        self.name = name
        self._parts = parts
        self._more = True

    def __aiter__(self) -> Part:
        return self

    async def __anext__(self) -> bytes:
        while self._more:
            event = await self._parts.event()
            assert isinstance(event, Data)
            self._more = event.more_data
            if event.data:
                return event.data
        raise StopAsyncIteration


async def _in_pieces(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in body:
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
