from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline.settings import Settings
from pipeline.store.memory import MemoryStore
from tests.api.visiting import Client, bearer

BOUNDARY = "cut-here"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def asking(**asked: Any) -> bytes:
    return part("request", json.dumps(asked).encode())


MULTITRACK = asking(processing_mode="multitrack")
SELECTING = asking(processing_mode="select", track_index=0)


async def post(client: Client, body: bytes, **headers: str) -> Any:
    return await client.post("/v1/jobs", headers=bearer(**{**HEADERS, **headers}), data=body)


async def uploaded(store: MemoryStore) -> list[bytes]:
    """The files of the job that waits."""
    claim = await store.queue().claim(replica="test", lease_seconds=60)
    assert claim
    read = store.queue().read_upload
    return [b"".join([chunk async for chunk in read(claim, upload)]) for upload in claim.job.uploads]


@pytest.mark.parametrize("order", ["file first", "request first"])
async def test_a_recording_arrives_byte_by_byte_in_either_order(
    client: Client, store: MemoryStore, media: Path, order: str
) -> None:
    sent = await anyio.Path(media / "sonnet_clip.mp4").read_bytes()
    parts = [part("file", sent, "clip.mp4"), asking(language="en", external_id="x")]
    answer = await post(client, form(*(parts if order == "file first" else parts[::-1])))
    assert answer.status_code == 202
    body = await answer.get_json()
    assert (body["media_url"], body["external_id"]) == (None, "x")
    assert await uploaded(store) == [sent]


async def test_a_file_needs_no_request_part(client: Client, store: MemoryStore) -> None:
    assert (await post(client, form(part("file", b"RIFF....")))).status_code == 202
    assert await uploaded(store) == [b"RIFF...."]


@pytest.mark.parametrize("place", range(5))
async def test_several_files_are_the_tracks_of_one_job_in_the_order_of_their_parts(
    client: Client, store: MemoryStore, place: int
) -> None:
    sent = [b"agent", b"caller", b"caller", b"a" * 100_000]
    parts = [part("file", content) for content in sent]
    answer = await post(client, form(*parts[:place], MULTITRACK, *parts[place:]))
    assert answer.status_code == 202
    assert (await answer.get_json())["processing_mode"] == "multitrack"
    assert await uploaded(store) == sent
    assert len(store.rows) == 1


async def test_pieces_of_any_size_make_the_same_file(client: Client, store: MemoryStore) -> None:
    sent = f"\r\n--{BOUNDARY}x\r\n--cut".encode() * 40
    body = form(part("file", sent, "a.wav"), asking())
    async with client.request("/v1/jobs", method="POST", headers=bearer(**HEADERS)) as connection:
        for at in range(0, len(body), 7):
            await connection.send(body[at : at + 7])
        await connection.send_complete()
    assert (await connection.as_response()).status_code == 202
    assert await uploaded(store) == [sent]


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (form(asking()), "invalid-request", "/file"),
        (form(part("file", b"a"), part("audio", b"b")), "invalid-request", "/audio"),
        (form(part("file", b"a"), asking(), asking()), "invalid-request", "/request"),
        (form(part("file", b"a"), part("file", b"b")), "invalid-request", "/processing_mode"),
        (form(asking(), part("file", b"a"), part("file", b"b")), "invalid-request", "/processing_mode"),
        (form(part("file", b"a"), part("file", b"b"), SELECTING), "invalid-request", "/processing_mode"),
        (form(part("file", b"a"), SELECTING, part("file", b"b")), "invalid-request", "/processing_mode"),
        (form(MULTITRACK, *[part("file", b"a")] * 5), "invalid-request", "/file"),
        (form(*[part("file", b"a")] * 5, MULTITRACK), "invalid-request", "/file"),
        (form(part("file", b"a"), asking(tracks=[{"index": 0}])), "invalid-request", "/tracks"),
        (form(part("file", b"a"), asking(media_url="https://m.test/a")), "invalid-request", "/media_url"),
        (form(part("file", b"a"), asking(media_headers={"A": "b"})), "invalid-request", "/media_headers"),
        (form(part("file", b"a"), asking(nope=1)), "invalid-request", "/nope"),
        (form(part("file", b"a"), asking(language="ja")), "capability-unsupported", "/language"),
        (form(part("file", b"a"), part("request", b"{")), "malformed-json", None),
        (part("file", b"breaks off"), "invalid-request", None),
        (b"not multipart at all", "invalid-request", None),
        (form(b"--cut-here\r\nContent-Type: text/plain\r\n\r\nnameless\r\n"), "invalid-request", None),
        (form(part("file", b"a"), part("request", b" " * 65 * 1024)), "payload-too-large", None),
        (form(part("file", b"a" * (512 * 1024 + 1))), "payload-too-large", None),
        (b"x" * 10**6, "payload-too-large", None),
    ],
    ids=lambda value: repr(value[-40:]) if isinstance(value, bytes) else str(value),
)
async def test_a_form_that_is_refused_leaves_nothing_behind(
    client: Client, store: MemoryStore, body: bytes, code: str, pointer: str | None
) -> None:
    told = await (await post(client, body)).get_json()
    assert told["code"] == code
    assert [error["pointer"] for error in told["errors"]] == ([] if pointer is None else [pointer])
    assert (store.files, store.rows) == ({}, {})


async def test_a_file_may_fill_its_limit(client: Client, settings: Settings) -> None:
    assert (await post(client, form(part("file", b"a" * settings.download.max_bytes)))).status_code == 202


async def test_a_form_without_a_boundary_is_refused(client: Client) -> None:
    answer = await post(client, form(), **{"Content-Type": "multipart/form-data"})
    assert answer.status_code == 422


async def test_a_client_that_goes_away_leaves_nothing_behind(client: Client, store: MemoryStore) -> None:
    async with client.request("/v1/jobs", method="POST", headers=bearer(**HEADERS)) as connection:
        await connection.send(part("file", b"a" * 100_000) * 2 + part("request", b"")[:-2])
        while sum(file.received for file in store.files.values()) < 2:
            await anyio.lowlevel.checkpoint()
        await connection.disconnect()
    assert (store.files, store.rows) == ({}, {})


async def test_an_upload_is_taken_no_faster_than_it_is_stored(client: Client, store: MemoryStore) -> None:
    pieces, piece = 8, b"a" * 50_000
    async with client.request("/v1/jobs", method="POST", headers=bearer(**HEADERS)) as connection:
        await connection.send(part("file", b"")[:-2])
        for _ in range(pieces):
            await connection.send(piece)
        await connection.send(b"\r\n" + form())
        await connection.send_complete()
        waiting = connection._send_queue  # type: ignore[attr-defined]  # what the door has not asked for yet
        while waiting.qsize() > 2:  # the ends of the form and of the body are no pieces
            await anyio.lowlevel.checkpoint()
        stored = sum(len(chunk) for file in store.files.values() for chunk in file.chunks)
        assert stored >= (pieces - 2) * len(piece)
    assert [len(file) for file in await uploaded(store)] == [pieces * len(piece)]
