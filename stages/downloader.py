"""Fetches a job's media into the claim's scratch directory: from its URL, or from the store when it was uploaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

import anyio
import httpcore2
from anyio import AsyncFile, to_thread
from httpx2 import URL, Headers, InvalidURL

from pipeline import egress
from pipeline.claim import Claim
from pipeline.errors import MediaTimeout, MediaTooLarge, MediaUnreachable, MediaUnsupported, UrlNotAllowed
from pipeline.jobs import JobRequest
from pipeline.settings import DownloadSettings
from pipeline.stage import Map
from pipeline.store import JobQueue, Unavailable
from stages.messages import Media

# A connection that breaks more often is left to the job's next attempt.
RESUMES: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
RANGE_NOT_SATISFIABLE: Final = 416
# Besides 5xx: request timeout, too early, too many requests. A 403 is not: it is how an expired signature looks.
PASSING: Final = frozenset({408, 425, 429})
COMPRESSED: Final = frozenset({"gzip", "x-gzip", "deflate", "compress", "br", "zstd"})


class Downloader(Map[JobRequest, Media]):
    transient = (Unavailable,)

    def __init__(self, queue: JobQueue, settings: DownloadSettings) -> None:
        self._queue = queue
        self._settings = settings

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        async with egress.open_pool(self._settings) as self._pool:
            yield

    async def handle(self, claim: Claim, item: JobRequest) -> Media:
        claim.advance("downloading")
        if item.media_url is None:
            uploads = enumerate(claim.job.uploads)
            return Media(tuple([await self._receive(claim, upload, position) for position, upload in uploads]))
        return Media((await self._fetch(claim, _Place.of(item.media_url, item.media_headers, self._settings)),))

    async def _receive(self, claim: Claim, upload: UUID, position: int) -> Path:
        path = claim.scratch / f"media-{position}"
        async with _arriving(path, self._settings.max_bytes) as file:
            async for chunk in self._queue.read_upload(claim, upload):
                await file.append(chunk)
        claim.advance("downloading", (position + 1) / len(claim.job.uploads))
        return path

    async def _fetch(self, claim: Claim, place: _Place) -> Path:
        path = claim.scratch / "media-0"
        seconds = self._settings.total_seconds
        with anyio.move_on_after(seconds):
            async with _arriving(path, self._settings.max_bytes) as file:
                await _Download(self._pool, self._settings, claim, place, file).run()
            if not file.size:
                raise MediaUnsupported("The file is empty.")
            return path
        raise MediaTimeout(f"{place.host} did not deliver the whole file within {seconds:g} s.")


class _Arriving:
    """A media file on its way into scratch; ``size`` is what has arrived, in bytes."""

    def __init__(self, file: AsyncFile[bytes], limit: int) -> None:
        self._file = file
        self._limit = limit
        self.size = 0

    async def append(self, chunk: bytes) -> None:
        self.announce(len(chunk))
        self.size += await self._file.write(chunk)

    async def start_over(self) -> None:
        if self.size:
            await self._file.seek(0)
            await self._file.truncate()
            self.size = 0

    def announce(self, more: int) -> None:
        """Raises ``MediaTooLarge`` when so many further bytes would be too many."""
        if self.size + more > self._limit:
            raise MediaTooLarge(f"The file is larger than the {self._limit} bytes that this service accepts.")


@asynccontextmanager
async def _arriving(path: Path, limit: int) -> AsyncGenerator[_Arriving, None]:
    async with anyio.wrap_file(await to_thread.run_sync(_new_file, path)) as file:
        yield _Arriving(file, limit)


def _new_file(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path.open("wb")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the media may be: the client's own URL, or one it redirects to.

    ``host`` is always the client's own. ``own`` ends where a redirect leaves the origin, and does not come back.
    """

    url: URL
    headers: Mapping[str, str]
    host: str
    own: bool = True

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str], settings: DownloadSettings) -> _Place:
        parsed = egress.check_url(url, settings)
        own = {name: value for name, value in headers.items() if name.lower() not in egress.OUR_HEADERS}
        return cls(parsed, own, parsed.host)

    @property
    def name(self) -> str:
        """What errors call it: where the client's server redirects to may be nobody's business."""
        return self.host if self.own else f"A server that {self.host} redirects to"

    @property
    def origin(self) -> tuple[str, str, int | None]:
        return self.url.scheme, self.url.host, self.url.port

    def redirected(self, location: str, settings: DownloadSettings) -> _Place:
        """The client's headers are for its own origin: they are left behind, for good, where another begins."""
        try:
            url = str(self.url.join(location))
        except InvalidURL:
            raise UrlNotAllowed(egress.REFUSAL) from None
        there = replace(self, url=egress.check_url(url, settings))
        return there if there.origin == self.origin else replace(there, headers={}, own=False)

    def request(self, ours: Mapping[str, str], connect_seconds: float) -> httpcore2.Request:
        url = self.url
        headers = Headers({"Host": url.netloc.decode("ascii"), "User-Agent": "Antiphon", "Accept": "*/*"})
        headers.update(Headers(self.headers, encoding="utf-8"))
        headers.update(ours)
        return httpcore2.Request(
            "GET",
            httpcore2.URL(scheme=url.scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=headers.raw,
            extensions={"timeout": {"connect": connect_seconds}},
        )


@dataclass(slots=True)
class _Download:
    """One URL on its way into one file, over as many connections as it takes.

    ``version`` is the validator (RFC 9110, 8.8) of what has arrived, where the server gave one.
    """

    pool: httpcore2.AsyncConnectionPool
    settings: DownloadSettings
    claim: Claim
    start: _Place
    file: _Arriving
    version: str | None = None

    async def run(self) -> None:
        """Every connection begins at the client's own URL: what it redirected to may have expired since."""
        for _ in range(1 + RESUMES):
            place, response = await self._open()
            async with aclosing(response):
                if response.status == RANGE_NOT_SATISFIABLE and self._resume:
                    # Nothing lies behind what has come; whether that is the whole, only the whole can tell.
                    self.version = None
                    continue
                total = await self._begin(place, response)
                try:
                    await self._take(place, response, total)
                    return
                except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
                    continue
        raise MediaUnreachable(f"The connection to {place.name} broke {1 + RESUMES} times within the file.")

    async def _open(self) -> tuple[_Place, httpcore2.Response]:
        """Follow redirects to the first answer that is none; whoever calls closes it."""
        place = self.start
        for _ in range(1 + self.settings.max_redirects):
            response = await self._ask(place)
            location = Headers(response.headers).get("location")
            if response.status not in REDIRECTS or location is None:
                return place, response
            await response.aclose()
            place = place.redirected(location, self.settings)
        raise MediaUnreachable(
            f"{self.start.name} redirects more than {self.settings.max_redirects} times.", retryable=False
        )

    async def _ask(self, place: _Place) -> httpcore2.Response:
        headers = {"Accept-Encoding": "identity"} | self._resume
        request = place.request(headers, self.settings.connect_seconds)
        try:
            with anyio.fail_after(self.settings.connect_seconds + self.settings.stall_seconds):
                return await self.pool.handle_async_request(request)
        except (TimeoutError, httpcore2.TimeoutException):
            raise MediaTimeout(f"{place.name} did not answer in time.") from None
        except httpcore2.LocalProtocolError:  # its text holds the value
            raise MediaUnreachable("media_headers hold a name or a value that HTTP forbids.", retryable=False) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise MediaUnreachable(f"{place.name} could not be reached, or does not speak HTTP.") from error

    async def _begin(self, place: _Place, response: httpcore2.Response) -> int | None:
        """Judge the head of an answer and make the file ready for its body; the declared bytes of the whole file."""
        status, headers = response.status, Headers(response.headers)
        if not 200 <= status < 300:
            passing = status >= 500 or status in PASSING
            raise MediaUnreachable(f"{place.name} answered {status}.", retryable=passing)
        if status == 206 and not self._continues(headers):
            raise MediaUnreachable(f"{place.name} sent another part of the file than was asked for.")
        if (coding := headers.get("content-encoding", "").lower()) in COMPRESSED:
            raise MediaUnsupported(f"{place.name} sent the file compressed ({coding}), although that was declined.")
        if status != 206:
            await self.file.start_over()
            self.version = _strong_etag(headers) or headers.get("last-modified")
        if (length := headers.get("content-length")) is None:
            return None
        self.file.announce(int(length))
        return self.file.size + int(length)

    @property
    def _resume(self) -> dict[str, str]:
        """Headers that ask only for what is missing, if something has come and its version is known."""
        if not self.file.size or not self.version:
            return {}
        return {"Range": f"bytes={self.file.size}-", "If-Range": self.version}

    def _continues(self, headers: Headers) -> bool:
        begins = headers.get("content-range", "").startswith(f"bytes {self.file.size}-")
        return bool(self._resume and begins and (_strong_etag(headers) or self.version) == self.version)

    async def _take(self, place: _Place, response: httpcore2.Response, total: int | None) -> None:
        """Append the body as it comes. Bytes that trickle count as silence."""
        stall, least = self.settings.stall_seconds, self.settings.min_bytes_per_second
        since, before = anyio.current_time(), self.file.size
        async with aclosing(response.aiter_stream()) as chunks:
            while (chunk := await self._next(place, chunks)) is not None:
                await self.file.append(chunk)
                if total:
                    self.claim.advance("downloading", self.file.size / total)
                if (elapsed := anyio.current_time() - since) < stall:
                    continue
                if self.file.size - before < least * elapsed:
                    raise MediaTimeout(f"{place.name} sent less than {least} bytes a second for {stall:g} s.")
                since, before = anyio.current_time(), self.file.size

    async def _next(self, place: _Place, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            with anyio.fail_after(self.settings.stall_seconds):
                return await anext(chunks, None)
        except TimeoutError:
            raise MediaTimeout(f"{place.name} sent nothing for {self.settings.stall_seconds:g} s.") from None


def _strong_etag(headers: Headers) -> str | None:
    """Weak ones name what means the same, not the same bytes."""
    etag = headers.get("etag")
    return etag if etag and not etag.startswith("W/") else None
