from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from pipeline.claim import Claim, Why
from pipeline.errors import (
    AntiphonError,
    MediaTimeout,
    MediaTooLarge,
    MediaUnreachable,
    MediaUnsupported,
    UrlNotAllowed,
)
from pipeline.jobs import Job, JobRequest, Tenant
from pipeline.settings import DownloadSettings
from pipeline.store.memory import MemoryStore
from stages.downloader import RESUMES, Downloader
from tests.stages.web import Answer, Asked, Web, answer, dripping, hanging, lingering, redirect, serving

RECORDING = bytes(range(256)) * 1000
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture
async def web() -> AsyncGenerator[Web, None]:
    async with serving() as web:
        yield web


@pytest.fixture
def claim(make_job: Callable[..., Job], tmp_path: Path) -> Claim:
    return Claim(make_job(), scratch=tmp_path)


def downloader(store: MemoryStore | None = None, **limits: Any) -> Downloader:
    limits = {"allow_networks": "127.0.0.0/8", "allow_ports": "", "total_seconds": 20, **limits}
    return Downloader((store or MemoryStore()).queue(), DownloadSettings(**limits))


async def fetch(claim: Claim, url: str, headers: dict[str, str] | None = None, **limits: Any) -> bytes:
    stage = downloader(**limits)
    async with stage.running():
        media = await stage.handle(claim, JobRequest(media_url=url, media_headers=headers or {}))
    (path,) = media.paths
    assert path == claim.scratch / "media-0"
    return await anyio.Path(path).read_bytes()


async def test_the_file_arrives_whole_and_progress_reaches_the_end_of_the_stage(web: Web, claim: Claim) -> None:
    web.answers["/a.flac"] = answer(RECORDING)
    assert await fetch(claim, web.url("/a.flac?signature=s3cret")) == RECORDING
    assert claim.progress.stage == "downloading"
    assert claim.progress.fraction == pytest.approx(0.05)
    (asked,) = web.asked
    assert asked.path == "/a.flac?signature=s3cret"
    assert asked.headers["host"] == f"127.0.0.1:{web.port}"
    assert asked.headers["accept-encoding"] == "identity"


async def test_the_clients_headers_are_sent_but_cannot_reframe_the_request(web: Web, claim: Claim) -> None:
    web.answers["/a"] = answer(RECORDING)
    ours = {"Host": "metadata", "RANGE": "bytes=5-", "Proxy-Connection": "keep-alive"}
    headers = {"Authorization": "Bearer café", "accept": "audio/*", **ours}
    assert await fetch(claim, web.url("/a"), headers) == RECORDING
    told = web.asked[0].headers
    assert told["authorization"].encode("latin-1").decode() == "Bearer café"
    assert told["accept"] == "audio/*"
    assert told["host"] == f"127.0.0.1:{web.port}"
    assert told.keys().isdisjoint({"range", "proxy-connection"})


@pytest.mark.parametrize("headers", [{"X-Key": "a\r\nHost: evil"}, {"no token": "a"}, {"": "a"}])
async def test_headers_that_http_forbids_are_refused_without_being_repeated(
    web: Web, claim: Claim, headers: dict[str, str]
) -> None:
    with pytest.raises(MediaUnreachable, match="media_headers") as caught:
        await fetch(claim, web.url("/a"), headers)
    assert not caught.value.retryable
    assert "evil" not in caught.value.detail
    assert web.asked == []


async def test_redirects_are_followed_and_the_headers_stay_with_their_origin(web: Web, claim: Claim) -> None:
    async with serving() as other:
        web.answers |= {"/1": redirect("/2", 301), "/2": redirect(other.url("/3"), 307)}
        other.answers |= {"/3": redirect(web.url("/4"), 308)}
        web.answers["/4"] = answer(RECORDING)
        assert await fetch(claim, web.url("/1"), {"Authorization": "Bearer s3cret"}) == RECORDING
        told = ["authorization" in asked.headers for asked in web.asked]
        assert told == [True, True, False]  # not even back at home: the other server chose what is asked there
        assert "authorization" not in other.asked[0].headers


async def test_a_server_that_redirects_is_left_before_the_next_is_asked(web: Web, claim: Claim) -> None:
    left = anyio.Event()

    async def send(stream: ByteStream, asked: Asked) -> None:
        await left.wait()
        await answer(RECORDING)(stream, asked)

    web.answers |= {"/1": lingering(answer(b"moved", 302, location="/2"), left), "/2": send}
    assert await fetch(claim, web.url("/1")) == RECORDING


async def test_a_circle_of_redirects_ends(web: Web, claim: Claim) -> None:
    web.answers["/a"] = redirect("/a")
    with pytest.raises(MediaUnreachable, match="more than 3 times") as caught:
        await fetch(claim, web.url("/a"), max_redirects=3)
    assert not caught.value.retryable
    assert len(web.asked) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "//10.0.0.1/",
        "file:///etc/passwd",
        "http://u:p@127.0.0.1/",
        "http://[/",
        "http://[1:2]/",
    ],
)
async def test_a_redirect_to_a_forbidden_address_is_refused_like_a_forbidden_url(
    web: Web, claim: Claim, location: str
) -> None:
    web.answers["/a"] = redirect(location)
    with pytest.raises(UrlNotAllowed) as by_redirect:
        await fetch(claim, web.url("/a"))
    with pytest.raises(UrlNotAllowed) as at_once:
        await fetch(claim, "http://192.168.0.1/")
    assert by_redirect.value.detail == at_once.value.detail


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(304, False), (403, False), (404, False), (416, False), (408, True), (425, True), (429, True), (503, True)],
)
async def test_an_answer_without_the_file_is_named_by_its_status(
    web: Web, claim: Claim, status: int, retryable: bool
) -> None:
    web.answers["/a"] = answer(status=status)
    with pytest.raises(MediaUnreachable, match=f"^127.0.0.1 answered {status}\\.$") as caught:
        await fetch(claim, web.url("/a?signature=s3cret"))
    assert caught.value.retryable is retryable


async def test_errors_do_not_tell_where_a_redirect_leads(web: Web, claim: Claim) -> None:
    web.answers["/a"] = redirect("http://127.8.9.10:1/inner")
    with pytest.raises(MediaUnreachable, match=r"^A server that 127\.0\.0\.1 redirects to could not") as caught:
        await fetch(claim, web.url("/a"))
    assert "127.8" not in caught.value.detail


async def test_a_refused_connection_is_worth_another_attempt(claim: Claim) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    with pytest.raises(MediaUnreachable, match="could not be reached") as caught:
        await fetch(claim, f"http://127.0.0.1:{port}/a")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        (hanging, "did not answer in time"),
        (dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"), "did not answer in time"),
        (dripping(ENDLESS, b"a"), "less than 4096 bytes a second"),
        # Extensions of a chunk are bytes on the wire, but none of the file.
        (dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a"), "sent nothing"),
    ],
)
async def test_a_slow_server_cannot_hold_a_worker(web: Web, claim: Claim, script: Answer, detail: str) -> None:
    web.answers["/a"] = script
    with pytest.raises(MediaTimeout, match=detail):
        await fetch(claim, web.url("/a"), connect_seconds=0.3, stall_seconds=0.3, min_bytes_per_second=4096)


@pytest.mark.parametrize("script", [dripping(ENDLESS, b"a" * 65536, 0), answer(content_length="1000001")])
async def test_a_file_that_is_too_large_does_not_fill_the_disk(web: Web, claim: Claim, script: Answer) -> None:
    web.answers["/a"] = script
    with pytest.raises(MediaTooLarge, match="larger than the 1000000 bytes"):
        await fetch(claim, web.url("/a"), max_bytes=1_000_000)
    assert (claim.scratch / "media-0").stat().st_size <= 1_000_000


@pytest.mark.parametrize(
    ("script", "error", "detail"),
    [
        (answer(content_length="5"), MediaUnreachable, f"broke {1 + RESUMES} times"),
        (answer(), MediaUnsupported, "is empty"),
        (answer(status=204), MediaUnsupported, "is empty"),
        (answer(RECORDING, content_encoding="gzip"), MediaUnsupported, "compressed"),
        (answer(RECORDING, 206, content_range="bytes 0-255999/256000"), MediaUnreachable, "another part"),
    ],
)
async def test_an_answer_that_is_not_the_whole_file_as_it_is_says_so(
    web: Web, claim: Claim, script: Answer, error: type[AntiphonError], detail: str
) -> None:
    web.answers["/a"] = script
    with pytest.raises(error, match=detail):
        await fetch(claim, web.url("/a"))


async def test_the_whole_takes_a_bounded_time_however_lively_it_is(web: Web, claim: Claim) -> None:
    web.answers["/a"] = dripping(ENDLESS, b"a" * 10_000)
    with pytest.raises(MediaTimeout, match=r"the whole file within 0\.3 s"):
        await fetch(claim, web.url("/a"), total_seconds=0.3)


def breaking(breaks: int, etags: tuple[str, ...] = ('"v1"',), header: str = "etag") -> Answer:
    """Sends a tenth of what is left and hangs up, ``breaks`` times; honours Range and If-Range; ``etags`` in turn."""
    turns = iter(range(1000))

    async def send(stream: ByteStream, asked: Asked) -> None:
        turn = next(turns)
        etag = etags[min(turn, len(etags) - 1)]
        partial = asked.headers.get("if-range") == etag
        begin = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")) if partial else 0
        left = RECORDING[begin:]
        span = {"content_range": f"bytes {begin}-{len(RECORDING) - 1}/{len(RECORDING)}"} if partial else {}
        sent = left[: len(left) // 10] if turn < breaks else left
        await answer(sent, 206 if partial else 200, content_length=str(len(left)), **{header: etag}, **span)(
            stream, asked
        )

    return send


@pytest.mark.parametrize("header", ["etag", "last_modified"])
async def test_a_broken_connection_is_taken_up_where_it_broke(web: Web, claim: Claim, header: str) -> None:
    web.answers["/a"] = breaking(RESUMES, header=header)
    assert await fetch(claim, web.url("/a")) == RECORDING
    begins = [int(asked.headers.get("range", "bytes=0-")[6:-1]) for asked in web.asked]
    assert begins[0] == 0
    assert begins == sorted(set(begins))


async def test_when_only_the_end_mark_was_lost_the_file_is_fetched_anew(web: Web, claim: Claim) -> None:
    async def send(stream: ByteStream, asked: Asked) -> None:
        if "range" in asked.headers:
            await answer(status=416, content_range=f"bytes */{len(RECORDING)}")(stream, asked)
        elif len(web.asked) == 1:
            await stream.send(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n')
            await stream.send(b"%x\r\n%b\r\n" % (len(RECORDING), RECORDING))
        else:
            await answer(RECORDING)(stream, asked)

    web.answers["/a"] = send
    assert await fetch(claim, web.url("/a")) == RECORDING
    assert [asked.headers.get("range") for asked in web.asked] == [None, f"bytes={len(RECORDING)}-", None]


async def test_a_file_that_changed_meanwhile_is_fetched_anew(web: Web, claim: Claim) -> None:
    web.answers["/a"] = breaking(2, etags=('"v1"', '"v2"', '"v2"'))
    assert await fetch(claim, web.url("/a")) == RECORDING
    assert [asked.headers.get("if-range") for asked in web.asked] == [None, '"v1"', '"v2"']


async def test_a_file_without_a_strong_validator_is_fetched_anew(web: Web, claim: Claim) -> None:
    web.answers["/a"] = breaking(1, etags=('W/"v1"',))
    assert await fetch(claim, web.url("/a")) == RECORDING
    assert ["range" in asked.headers for asked in web.asked] == [False, False]


async def test_nothing_is_left_of_a_longer_file_that_was_replaced(web: Web, claim: Claim) -> None:
    async def send(stream: ByteStream, asked: Asked) -> None:
        await (answer(b"short") if "range" in asked.headers else breaking(1))(stream, asked)

    web.answers["/a"] = send
    assert await fetch(claim, web.url("/a")) == b"short"


@pytest.mark.parametrize("wrong", [{"content_range": "bytes 7-9/10"}, {}, {"etag": '"v2"'}])
async def test_a_part_that_does_not_fit_is_never_appended(web: Web, claim: Claim, wrong: dict[str, str]) -> None:
    first, begin = breaking(1), len(RECORDING) // 10
    fitting = f"bytes {begin}-{len(RECORDING) - 1}/{len(RECORDING)}"
    wrong = {"content_range": fitting, **wrong} if "etag" in wrong else wrong

    async def send(stream: ByteStream, asked: Asked) -> None:
        again = answer(RECORDING[begin:], 206, **wrong)
        await (again if "range" in asked.headers else first)(stream, asked)

    web.answers["/a"] = send
    with pytest.raises(MediaUnreachable, match="another part"):
        await fetch(claim, web.url("/a"))


async def test_an_abandoned_claim_lets_go_of_the_server(web: Web, claim: Claim) -> None:
    begun, gone = anyio.Event(), anyio.Event()

    async def send(stream: ByteStream, asked: Asked) -> None:
        begun.set()
        try:
            await dripping(ENDLESS, b"a" * 1000)(stream, asked)
        finally:
            gone.set()

    web.answers["/a"] = send
    stage = downloader()
    with anyio.fail_after(10):
        async with stage.running(), anyio.create_task_group() as tasks:
            with claim.holding(tasks.cancel_scope):
                tasks.start_soon(stage.handle, claim, JobRequest(media_url=web.url("/a")))
                await begun.wait()
                claim.abandon(Why.CANCELLED)
        await gone.wait()


async def test_secrets_of_a_url_and_of_headers_do_not_reach_the_log(
    web: Web, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    web.answers |= {"/a": redirect("/b?signature=s3cret"), "/b": answer(RECORDING, set_cookie="s3cret")}
    await fetch(claim, web.url("/a?signature=s3cret"), {"X-Key": "s3cret"})
    assert "s3cret" not in caplog.text


async def submitted(store: MemoryStore, files: list[list[bytes]], scratch: Path) -> Claim:
    jobs, uploads = store.tenant(Tenant("acme")), []
    for chunks in files:
        async with jobs.upload() as upload:
            for chunk in chunks:
                await upload.write(chunk)
        uploads.append(upload.id)
    await jobs.submit(JobRequest(), uploads=uploads)
    claim = await store.queue().claim(replica="r", lease_seconds=60)
    assert claim is not None
    claim.scratch = scratch
    return claim


async def test_uploads_are_read_from_the_store_in_their_order(tmp_path: Path) -> None:
    store = MemoryStore()
    claim = await submitted(store, [[b"a", b"b"], [b"c"]], tmp_path)
    media = await downloader(store).handle(claim, claim.job.request)
    assert [(path.name, path.read_bytes()) for path in media.paths] == [("media-0", b"ab"), ("media-1", b"c")]
    assert claim.progress.fraction == pytest.approx(0.05)


async def test_an_empty_upload_is_left_to_fail_by_itself(tmp_path: Path) -> None:
    store = MemoryStore()
    claim = await submitted(store, [[b"a"], []], tmp_path)
    media = await downloader(store).handle(claim, claim.job.request)
    assert [path.read_bytes() for path in media.paths] == [b"a", b""]
