from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from api.schemas import JobView
from pipeline.claim import Claim
from pipeline.errors import MediaCorrupt
from pipeline.jobs import Job, JobStatus, Problem, Progress
from pipeline.store import Store
from pipeline.store.memory import MemoryStore
from pipeline.transcript import Notice
from tests.api.visiting import Client, bearer, complete, make_segment, make_transcript


async def job_of(answer: Any) -> str:
    return str((await answer.get_json())["links"]["self"])


async def claim_of(store: Store) -> Claim:
    claim = await store.queue().claim(replica="test", lease_seconds=60)
    assert claim
    return claim


async def test_a_completed_job_carries_its_transcript_usage_and_warnings(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    path = await job_of(await submit())
    transcript = make_transcript(make_segment(0, "Hello")).model_copy(
        update={"warnings": (Notice(code="track-silent", track=None, detail="…"),)}
    )
    await complete(store, transcript)
    body = await (await client.get(path, headers=bearer())).get_json()
    assert body["status"] == "completed"
    assert body["result"]["text"] == "Hello"
    assert body["usage"]["media_seconds"] == 4.0
    assert body["warnings"] == body["result"]["warnings"] == [{"code": "track-silent", "track": None, "detail": "…"}]
    assert body["completed_at"].endswith("Z")
    assert JobView.model_validate(body).result == transcript


async def test_a_failed_job_tells_where_it_broke_as_a_problem(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    path = await job_of(await submit())
    problem = Problem.of(MediaCorrupt("Cut short."), stage="demuxer", attempt=1)
    await store.queue().fail(await claim_of(store), problem, retry_in=None)
    body = await (await client.get(path, headers=bearer())).get_json()
    assert (body["status"], body["result"]) == ("failed", None)
    told = {"code": "media-corrupt", "detail": "Cut short.", "stage": "demuxer", "attempt": 1, "instance": path}
    assert {name: body["error"][name] for name in told} == told


async def test_an_attempt_that_will_be_repeated_is_the_last_error(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    path = await job_of(await submit())
    await store.queue().fail(await claim_of(store), Problem.of(MediaCorrupt(), attempt=1), retry_in=60)
    body = await (await client.get(path, headers=bearer())).get_json()
    assert (body["status"], body["attempt"], body["error"]) == ("pending", 1, None)
    assert body["last_error"]["code"] == "media-corrupt"
    assert body["next_attempt_at"]


@pytest.mark.parametrize("leaf", ["", "/transcript"])
async def test_foreign_absent_and_malformed_ids_are_answered_alike(
    client: Client, submit: Callable[..., Any], leaf: str
) -> None:
    foreign = await job_of(await submit("globex"))
    bodies = []
    for path in (foreign, f"/v1/jobs/{uuid4()}", "/v1/jobs/7", "/v1/jobs/%7B%7D", f"/v1/jobs/{uuid4().hex}"):
        answer = await client.get(path + leaf, headers=bearer("acme"))
        assert answer.status_code == 404
        body = await answer.get_json()
        bodies.append({name: told for name, told in body.items() if name not in ("instance", "request_id")})
    assert all(body == bodies[0] for body in bodies)
    assert (await client.get(foreign, headers=bearer("globex"))).status_code == 200


async def test_a_transcript_before_the_end_is_worth_asking_for_again(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    path = await job_of(await submit())
    for _ in ("pending", "running"):
        answer = await client.get(f"{path}/transcript", headers=bearer())
        body = await answer.get_json()
        assert (answer.status_code, body["code"], body["retryable"]) == (409, "job-not-finished", True)
        assert int(answer.headers["Retry-After"]) > 0
        claim = await store.queue().claim(replica="test", lease_seconds=60)
    assert claim is None


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_transcript_that_will_never_be_is_not(
    client: Client, store: MemoryStore, submit: Callable[..., Any], end: str
) -> None:
    path = await job_of(await submit())
    claim = await claim_of(store)
    if end == "failed":
        await store.queue().fail(claim, Problem.of(MediaCorrupt()), retry_in=None)
    else:
        await store.queue().cancel(claim)
    answer = await client.get(f"{path}/transcript", headers=bearer())
    body = await answer.get_json()
    assert (answer.status_code, body["code"], body["retryable"]) == (409, "job-not-finished", False)
    assert end in body["detail"]
    assert "Retry-After" not in answer.headers


def test_the_end_is_foretold_only_from_audio_that_is_done(make_job: Callable[..., Job]) -> None:
    began = datetime.now(UTC) - timedelta(seconds=30)
    running = replace(make_job(), status=JobStatus.RUNNING, started_at=began)
    assert JobView.of(running).progress.eta_seconds is None
    fetched = replace(running, progress=Progress(stage="downloading", fraction=0.04))
    assert JobView.of(fetched).progress.eta_seconds is None
    quarter = replace(running, progress=Progress(stage="transcribing", fraction=0.25, audio_seconds_done=15.0))
    assert JobView.of(quarter).progress.eta_seconds == pytest.approx(90, abs=5)
    ended = replace(quarter, status=JobStatus.CANCELLED)
    assert JobView.of(ended).progress.eta_seconds is None
