"""The whole service without its door: files from a web server in, transcripts in the store, nothing left in scratch."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from pipeline.errors import EngineLost
from pipeline.jobs import JobRequest, JobStatus
from pipeline.observer import Ending
from tests.conformance.store_suite.making import ACME, claim, submit, upload
from tests.stages.replica import Service
from tests.stages.waiting import until
from tests.stages.web import Asked, Web, answer, hanging, serving

CLIPS = ("jfk.flac", "austen_0880.flac", "leopard_de.flac", "sonnet_clip.mp3", "sonnet_clip.mp4", "sonnet_clip.webm")


@pytest.fixture
async def web(media: Path) -> AsyncGenerator[Web, None]:
    """Serves the clips, a silent recording, and all that can be wrong with one."""
    async with serving() as web:
        for name in CLIPS:
            web.answers[f"/{name}"] = answer(await anyio.Path(media / name).read_bytes())
        web.answers |= {"/text.mp3": answer(b"This is not a recording. " * 100), "/silent.wav": answer(silent_wav(20))}
        web.answers |= {"/empty.wav": answer(), "/gone.flac": answer(status=404), "/hangs.flac": hanging}
        yield web


def silent_wav(seconds: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * 16_000 * seconds))
    return written.getvalue()


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


async def test_ten_jobs_at_once_complete_once_each_and_a_bad_file_among_them_fails_alone(
    web: Web, service: Service
) -> None:
    names = [*CLIPS, "text.mp3", *CLIPS[:3]]
    jobs = await service.do(*({"media_url": web.url(f"/{name}")} for name in names))
    bad = jobs.pop(names.index("text.mp3"))
    assert (bad.status, bad.error and bad.error.code) == (JobStatus.FAILED, "media-unsupported")
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert {job.attempt for job in jobs} == {1}
    assert sorted(service.ledger.endings.values()) == [[Ending.FAILURE], *[[Ending.RESULT]] * 9]
    transcripts = [await service.transcript(job) for job in jobs]
    assert all(transcript.segments for transcript in transcripts)
    assert transcripts[:3] == transcripts[-3:], "the same recording gave two transcripts"
    assert service.left() == []


@pytest.mark.parametrize("name", CLIPS)
async def test_once_gives_the_transcript_that_run_gives(web: Web, tmp_path: Path, name: str) -> None:
    asked: dict[str, Any] = {"media_url": web.url(f"/{name}"), "word_timestamps": True}
    beside = Service(tmp_path / "run")
    [job] = await beside.do(asked)
    inline = Service(tmp_path / "once")
    await submit(inline.store, **asked)
    taken = await claim(inline.store)
    taken.scratch = tmp_path / "files"
    await inline.chain.once(taken, taken.job.request)
    assert await inline.transcript(taken.job) == await beside.transcript(job)


async def test_an_uploaded_file_is_transcribed_and_erased(service: Service, media: Path) -> None:
    jobs = service.store.tenant(ACME)
    sound = await anyio.Path(media / "jfk.flac").read_bytes()
    file = await upload(service.store, sound[:500_000], sound[500_000:])
    job = await jobs.submit(JobRequest(), uploads=[file])
    async with service.at_work():
        await until(lambda: len(service.ledger.endings) == 1)
    transcript = await service.transcript(job)
    assert transcript.duration == pytest.approx(11.0, abs=0.1)
    assert transcript.language == "en"
    assert service.store.files == {}


async def test_a_silent_recording_completes_without_a_word(web: Web, service: Service) -> None:
    [job] = await service.do({"media_url": web.url("/silent.wav")})
    assert job.status is JobStatus.COMPLETED
    transcript = await service.transcript(job)
    assert (transcript.text, transcript.segments, transcript.tracks[0].status) == ("", (), "silent")
    assert [notice.code for notice in job.warnings] == ["track-silent"]


@pytest.mark.parametrize(
    ("path", "prompt", "code"),
    [
        ("/gone.flac", None, "media-unreachable"),
        ("/empty.wav", None, "media-unsupported"),
        ("/jfk.flac", "window", "engine-failed"),
    ],
)
async def test_a_job_that_cannot_be_done_says_why_and_leaves_nothing(
    web: Web, service: Service, path: str, prompt: str | None, code: str
) -> None:
    [job] = await service.do({"media_url": web.url(path), "prompt": prompt})
    assert (job.status, job.error and job.error.code) == (JobStatus.FAILED, code)
    assert service.left() == []


async def test_a_drained_service_ends_what_it_has_and_takes_no_more(web: Web, tmp_path: Path) -> None:
    async def held(stream: ByteStream, asked: Asked) -> None:
        await opened.wait()
        await web.answers["/jfk.flac"](stream, asked)

    opened, service = anyio.Event(), Service(tmp_path, jobs_in_flight=2)
    web.answers["/held.flac"] = held
    jobs = [await submit(service.store, media_url=web.url("/held.flac")) for _ in range(3)]
    async with service.at_work():
        await until(lambda: len(web.asked) == 2)
        service.chain.drain()
        opened.set()
    after = [await service.now(job) for job in jobs]
    assert [job.status for job in after] == [JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.PENDING]
    assert after[-1].attempt == 0
    assert service.left() == []


async def test_a_stopped_service_gives_back_what_it_has_and_no_attempt_is_counted(web: Web, tmp_path: Path) -> None:
    service = Service(tmp_path, jobs_in_flight=2)
    jobs = [
        await submit(service.store, media_url=web.url("/jfk.flac"), prompt="hang"),
        await submit(service.store, media_url=web.url("/hangs.flac")),
        await submit(service.store, media_url=web.url("/jfk.flac")),
    ]
    async with service.at_work():
        await until(lambda: service.hands() == {"downloader": 1, "demuxer": 0, "transcriber": 1, "interleaver": 0})
        service.chain.stop()
    after = [await service.now(job) for job in jobs]
    assert [(job.status, job.attempt) for job in after] == [(JobStatus.PENDING, 0)] * 3
    assert [*service.ledger.endings.values()] == [[Ending.GIVEN_UP]] * 2
    assert service.left() == []


async def test_a_lost_engine_ends_the_service_and_leaves_its_jobs_to_their_leases(web: Web, service: Service) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await service.do({"media_url": web.url("/jfk.flac"), "prompt": "lost"})
    assert caught.value.subgroup(EngineLost)
    health = await service.store.queue().health()
    assert (health.pending, health.running) == (0, 1)
    assert [*service.ledger.endings.values()] == [[Ending.FORFEITED]]
    assert service.left() == []
