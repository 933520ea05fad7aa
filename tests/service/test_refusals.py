"""Bad input: each a clear problem with its code, and nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from api.security import issue_token
from pipeline.settings import AuthSettings
from tests.conversation import RECORDING
from tests.service.installation import Installation, Service, until
from tests.stages.making import film
from tests.stages.web import Web, answer, dripping, hanging

pytestmark = pytest.mark.postgres

SECRET = "the-key-of-this-service-is-long-enough"
SETTINGS = {
    "AUTH__SECRET": SECRET,
    "DOWNLOAD__CONNECT_SECONDS": "0.5",
    "DOWNLOAD__STALL_SECONDS": "0.5",
    "DOWNLOAD__TOTAL_SECONDS": "1.5",
    "DOWNLOAD__MAX_BYTES": "3000000",
    "QUEUE__MAX_ATTEMPTS": "2",
}
LEFT = """
    SELECT (SELECT count(*) FROM antiphon.uploads) AS uploads, (SELECT count(*) FROM antiphon.upload_chunks) AS chunks,
        (SELECT count(*) FROM antiphon.leases) AS leases, (SELECT count(secrets) FROM antiphon.jobs) AS secrets,
        (SELECT count(*) FROM antiphon.transcripts) AS transcripts
"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n"
URL = "http://127.0.0.1/a.mp3"


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_behind(home: Installation, service: Service) -> Iterator[None]:
    """After all tests of this module, none of which has a transcript to show for itself."""
    yield
    until(lambda: not home.files())
    until(lambda: not any(home.rows(LEFT)[0].values()))


def problem(answered: httpx2.Response) -> tuple[int, str]:
    """Status and code; every problem also has what a person needs."""
    told = answered.json()
    assert answered.headers["Content-Type"] == "application/problem+json"
    assert told["title"]
    assert told["detail"]
    assert told["request_id"] == answered.headers["X-Request-ID"]
    return answered.status_code, told["code"]


def failed(service: Service, job_id: str) -> dict[str, Any]:
    job = service.ended(job_id)
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"]["title"]
    return dict(job["error"])


def test_without_a_token_nothing_is_answered_but_401(service: Service, media: Path) -> None:
    expired = issue_token(AuthSettings(secret=SecretStr(SECRET)), "acme", seconds=-1)
    for headers in ({}, {"Authorization": f"Bearer {expired}"}, {"Authorization": "Bearer nonsense"}):
        with httpx2.Client(base_url=service.address, headers=headers, trust_env=False) as stranger:
            refused = stranger.post("/v1/jobs", files={"file": ("jfk.flac", (media / "jfk.flac").read_bytes())})
        assert problem(refused) == (401, "unauthenticated")
        assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_a_body_that_is_not_json_is_malformed(service: Service) -> None:
    refused = service.http.post("/v1/jobs", content=b'{"media_url": ', headers={"Content-Type": "application/json"})
    assert problem(refused) == (400, "malformed-json")


def test_an_unknown_member_is_pointed_at(service: Service) -> None:
    refused = service.post(URL, speed="high")
    assert problem(refused) == (422, "invalid-request")
    assert refused.json()["errors"] == [{"pointer": "/speed", "detail": "There is no such member."}]


def test_an_upload_with_a_bad_request_is_refused_whole(service: Service, media: Path) -> None:
    assert problem(service.upload(media / "jfk.flac", speed="high")) == (422, "invalid-request")


def test_a_file_above_the_limit_is_refused_at_the_door(service: Service, tmp_path: Path) -> None:
    large = tmp_path / "large.wav"
    large.write_bytes(b"RIFF" + bytes(3_000_000))
    assert problem(service.upload(large)) == (413, "payload-too-large")


def test_an_address_that_may_not_be_fetched_is_refused_at_the_door(service: Service) -> None:
    assert problem(service.post("file:///etc/passwd")) == (422, "url-not-allowed")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("talk.mp3", b"Minutes of the meeting, typed, not recorded.\n" * 100, "media-unsupported"),
        ("empty.wav", b"", "media-unsupported"),
    ],
)
def test_a_file_that_is_no_recording_fails_its_job(
    service: Service, tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    (tmp_path / name).write_bytes(content)
    error = failed(service, service.submit(tmp_path / name))
    assert (error["code"], error["retryable"], error["attempt"]) == (code, False, 1)


def test_a_video_without_sound_fails_its_job(service: Service, tmp_path: Path) -> None:
    error = failed(service, service.submit(film(tmp_path / "silent.mp4", sound=None)))
    assert error["code"] == "media-unsupported"
    assert "no audio" in error["detail"]


@pytest.mark.parametrize(("index", "split"), [(3, "auto"), (3, "always"), (1000, "never")])
def test_a_track_that_is_not_there_fails_its_job_and_is_named(service: Service, index: int, split: str) -> None:
    job_id = service.submit(RECORDING, processing_mode="select", track_index=index, split_channels=split)
    error = failed(service, job_id)
    assert (error["code"], error["attempt"]) == ("track-not-found", 1)
    assert str(index) in error["detail"]


def test_a_job_of_which_every_track_is_broken_fails(service: Service, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("agent.wav", "customer.wav")]
    for file in files:
        file.write_bytes(b"Minutes of the meeting, typed, not recorded.\n" * 100)
    error = failed(service, service.submit(*files, processing_mode="multitrack"))
    assert (error["code"], error["attempt"]) == ("media-unsupported", 1)


def test_several_files_are_refused_where_they_are_not_tracks(service: Service, media: Path) -> None:
    refused = service.upload(media / "austen_0880.flac", media / "austen_0890.flac")
    assert problem(refused) == (422, "invalid-request")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/processing_mode"]


def test_an_mp4_whose_index_is_missing_fails_and_says_so(service: Service, media: Path, tmp_path: Path) -> None:
    whole = (media / "sonnet_clip.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    error = failed(service, service.submit(tmp_path / "half.mp4"))
    assert error["code"] == "media-corrupt"
    assert "index" in error["detail"]


def test_a_url_that_answers_404_is_not_asked_again(service: Service, web: Web) -> None:
    web.answers["/gone.mp3"] = answer(status=404)
    error = failed(service, service.submit(web.url("/gone.mp3")))
    assert (error["code"], error["attempt"]) == ("media-unreachable", 1)
    assert "404" in error["detail"]


def test_a_url_that_hangs_is_tried_again_and_then_given_up(service: Service, web: Web) -> None:
    web.answers["/hangs.mp3"] = hanging
    error = failed(service, service.submit(web.url("/hangs.mp3")))
    assert (error["code"], error["attempt"]) == ("media-timeout", 2)
    assert len([asked for asked in web.asked if asked.path == "/hangs.mp3"]) == 2


def test_a_url_that_never_ends_is_cut_off_by_time(service: Service, web: Web) -> None:
    web.answers["/drips.mp3"] = dripping(HEAD, b"a" * 2000)
    error = failed(service, service.submit(web.url("/drips.mp3")))
    assert error["code"] == "media-timeout"


def test_a_url_that_never_ends_is_cut_off_by_size(service: Service, web: Web) -> None:
    web.answers["/pours.mp3"] = dripping(HEAD, b"a" * 1_000_000)
    error = failed(service, service.submit(web.url("/pours.mp3")))
    assert (error["code"], error["attempt"]) == ("media-too-large", 1)
