from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from quart import Quart

from api import EngineFacts
from api.schemas import JobView
from pipeline.jobs import JobRequest, Tenant
from pipeline.settings import Settings
from pipeline.store import TenantTerms
from pipeline.store.memory import MemoryStore
from tests.api.visiting import FACTS, URL, Client, bearer, door

LIVE = tried(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


async def test_a_job_is_accepted_and_says_where_it_will_be(submit: Callable[..., Any], client: Client) -> None:
    answer = await submit(external_id="call-8841", metadata={"k": [1, None]}, language="en", priority="high")
    assert answer.status_code == 202
    body = await answer.get_json()
    assert answer.headers["Location"] == body["links"]["self"] == f"/v1/jobs/{body['id']}"
    assert int(answer.headers["Retry-After"]) > 0
    assert body["status"] == "pending"
    assert (body["external_id"], body["metadata"]) == ("call-8841", {"k": [1, None]})
    assert (body["result"], body["error"], body["last_error"], body["usage"]) == (None, None, None, None)
    assert body["progress"]["eta_seconds"] is None
    assert JobView.model_validate(body)
    assert (await client.get(answer.headers["Location"], headers=bearer())).status_code == 200


async def test_secrets_reach_the_chain_and_nobody_else(submit: Callable[..., Any], store: MemoryStore) -> None:
    url, headers = f"{URL}?X-Amz-Signature=hush", {"Authorization": "Bearer hush-too"}
    with structlog.testing.capture_logs() as logs:
        answer = await submit(media_url=url, media_headers=headers, callback_url=f"{URL}?key=hush-three")
    assert (await answer.get_json())["media_url"] == URL
    assert "hush" not in (await answer.get_data()).decode() + str(logs)
    claim = await store.queue().claim(replica="test", lease_seconds=60)
    assert claim
    assert (claim.job.request.media_url, claim.job.request.media_headers) == (url, headers)


async def test_the_trace_of_the_request_travels_with_the_job(client: Client, store: MemoryStore) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given_parent, kept in ((parent, {"traceparent": parent}), ("nonsense", {})):
        await client.post("/v1/jobs", headers=bearer(traceparent=given_parent), json={"media_url": URL})
        claim = await store.queue().claim(replica="test", lease_seconds=60)
        assert claim
        assert claim.trace == kept


@pytest.mark.parametrize(
    ("asked", "pointers"),
    [
        ({"media_urll": "x"}, ["/media_urll"]),
        ({"media_url": 7}, ["/media_url"]),
        ({"media_url": None}, ["/media_url"]),
        ({"word_timestamps": "yes"}, ["/word_timestamps"]),
        ({"prompt": 3, "quality": "best", "nope": 1}, ["/prompt", "/quality", "/nope"]),
        ({"tracks": [{"index": 0, "a/b~c": 1}, {"label": "x"}]}, ["/tracks/0/a~1b~0c", "/tracks/1/index"]),
        ({"tracks": "all"}, ["/tracks"]),
        ({"language": "tlh"}, ["/language"]),
        ({"metadata": {"a": "x" * 5000}}, ["/metadata"]),
        ({"external_id": "x" * 257}, ["/external_id"]),
        ({"external_id": "a\0b"}, ["/external_id"]),
        ({"metadata": {"a": ["b", "\0"], "\0": 1}}, ["/metadata/a/1", "/metadata"]),
        ({"metadata": {"a": float("inf")}}, ["/metadata/a"]),
        ({"retention_seconds": -1}, ["/retention_seconds"]),
        ({"retention_seconds": 2**31}, ["/retention_seconds"]),
        ({"media_headers": {"X": "a\r\nHost: b"}}, ["/media_headers/X"]),
        ({"media_headers": {"X Y": "a", "hOsT": "b", "Content-Length": "1"}},
         ["/media_headers/X Y", "/media_headers/hOsT", "/media_headers/Content-Length"]),
        ({"track_index": 1}, ["/track_index"]),
        ({"processing_mode": "select"}, ["/track_index"]),
        ({"processing_mode": "multitrack", "track_index": 0}, ["/track_index"]),
        ({"tracks": [{"index": 0}]}, ["/tracks"]),
        ({"processing_mode": "multitrack", "tracks": [{"index": 0}, {"index": 1}, {"index": 0}]}, ["/tracks"]),
        ({"processing_mode": "multitrack", "tracks": [{"index": -1}, {"index": 1, "language": "tlh"}]},
         ["/tracks/0/index", "/tracks/1/language"]),
        ({"processing_mode": "multitrack", "tracks": [{"index": 0, "label": ""}, {"index": 1, "offset_seconds": 1e6}]},
         ["/tracks/0/label", "/tracks/1/offset_seconds"]),
        ({"processing_mode": "multitrack", "tracks": [{"index": 0, "label": " \t"}, {"index": 1, "label": "\u202e"}]},
         ["/tracks/0/label", "/tracks/1/label"]),
        ({"processing_mode": "multitrack", "tracks": [{"index": 10**9}]}, ["/tracks/0/index"]),
        ({"processing_mode": "select", "track_index": 2**70}, ["/track_index"]),
        ({"processing_mode": "mix", "split_channels": "yes", "crosstalk": True},
         ["/processing_mode", "/split_channels", "/crosstalk"]),
        ({"media_headers": {"X": 1}}, ["/media_headers/X"]),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_pointed_at(
    submit: Callable[..., Any], asked: dict[str, Any], pointers: list[str]
) -> None:
    answer = await submit(**asked)
    body = await answer.get_json()
    assert (answer.status_code, body["code"]) == (422, "invalid-request")
    assert sorted(error["pointer"] for error in body["errors"]) == sorted(pointers)
    assert all(error["detail"].endswith(".") and "Input" not in error["detail"] for error in body["errors"])


async def test_bounds_are_told_as_whole_numbers(submit: Callable[..., Any]) -> None:
    beyond = [{"index": 0, "offset_seconds": seconds} for seconds in (1e6, -1e6)]
    body = await (await submit(processing_mode="multitrack", tracks=[*beyond, {"index": 10**6}])).get_json()
    assert [error["detail"] for error in body["errors"]] == [
        "This must be at most 43200.",
        "This must be at least -43200.",
        "This must be at most 10000.",
    ]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"target_language": "de"}, "/target_language"),
        ({"language": "ja"}, "/language"),
        ({"processing_mode": "multitrack", "tracks": [{"index": 1}, {"index": 0, "language": "ja"}]},
         "/tracks/1/language"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_and_not_ignored(
    submit: Callable[..., Any], store: MemoryStore, asked: dict[str, Any], pointer: str
) -> None:
    answer = await submit(**asked)
    body = await answer.get_json()
    assert (answer.status_code, body["code"]) == (422, "capability-unsupported")
    assert [error["pointer"] for error in body["errors"]] == [pointer]
    assert not store.rows


@pytest.mark.parametrize(
    "asked",
    [
        {"processing_mode": "select", "track_index": 3},
        {"processing_mode": "select", "track_index": 1, "split_channels": "always", "tracks": [{"index": 1}]},
        {"processing_mode": "multitrack"},
        {
            "processing_mode": "multitrack",
            "split_channels": "never",
            "crosstalk": "suppress",
            "tracks": [{"index": 0, "label": "agent", "language": "en"}, {"index": 1, "offset_seconds": -2.5}],
        },
    ],
    ids=str,
)
async def test_what_is_asked_of_tracks_reaches_the_chain(
    submit: Callable[..., Any], store: MemoryStore, asked: dict[str, Any]
) -> None:
    answer = await submit(**asked)
    assert (answer.status_code, (await answer.get_json())["processing_mode"]) == (202, asked["processing_mode"])
    claim = await store.queue().claim(replica="test", lease_seconds=60)
    assert claim
    assert claim.job.request == JobRequest(media_url=URL, **asked)


async def test_a_model_that_cannot_is_not_asked_to(store: MemoryStore, settings: Settings) -> None:
    facts = EngineFacts(translate=False, words=False, prompt=False, languages=FACTS.languages, model="turbo")
    modest = door(store, settings, engine=facts).test_client()
    asked = {"media_url": URL, "target_language": "en", "word_timestamps": True, "prompt": "Antiphon"}
    answer = await modest.post("/v1/jobs", headers=bearer(), json=asked)
    assert answer.status_code == 422
    assert {error["pointer"] for error in (await answer.get_json())["errors"]} == {
        "/target_language",
        "/word_timestamps",
        "/prompt",
    }


async def test_a_model_that_can_is_asked_to(submit: Callable[..., Any]) -> None:
    asked = {"target_language": "en", "word_timestamps": True, "prompt": "Antiphon"}
    assert (await submit(**asked)).status_code == 202


@pytest.mark.parametrize("quality", ["fast", "balanced", "accurate"])
async def test_every_quality_is_taken(submit: Callable[..., Any], quality: str) -> None:
    assert (await submit(quality=quality)).status_code == 202


@pytest.mark.parametrize(
    "url", ["", "ftp://media.test/a", "https://user:hush@media.test/a", "http://127.0.0.1/a", "a b"]
)
@pytest.mark.parametrize("member", ["media_url", "callback_url"])
async def test_an_address_that_may_not_be_reached_is_refused_in_one_wording(
    submit: Callable[..., Any], url: str, member: str
) -> None:
    body = await (await submit(**{member: url})).get_json()
    other = await (await submit(media_url="file:///etc/passwd")).get_json()
    assert (body["status"], body["code"]) == (422, "url-not-allowed")
    assert body["detail"] == other["detail"]
    assert body["errors"] == [{"pointer": f"/{member}", "detail": body["detail"]}]


async def test_a_tenant_with_as_much_as_it_may_have_is_told_to_wait(
    submit: Callable[..., Any], store: MemoryStore
) -> None:
    await store.terms().set(TenantTerms(Tenant("acme"), max_pending=1))
    assert (await submit()).status_code == 202
    answer = await submit()
    body = await answer.get_json()
    assert (answer.status_code, body["code"], body["retryable"]) == (429, "quota-exceeded", True)
    assert int(answer.headers["Retry-After"]) > 0
    assert (await submit("globex")).status_code == 202


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"media_url=x", b"\xff\xfe", b"[" * 60_000, b'{"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001],
    ids=lambda body: repr(body[:12]),
)
async def test_what_is_not_json_is_malformed(client: Client, body: bytes) -> None:
    headers = bearer(**{"Content-Type": "application/json"})
    answer = await client.post("/v1/jobs", headers=headers, data=body)
    assert (answer.status_code, (await answer.get_json())["code"]) == (400, "malformed-json")


@pytest.mark.parametrize("body", ["[]", "7", "null", '"text"'])
async def test_json_that_is_no_object_is_invalid(client: Client, body: str) -> None:
    headers = bearer(**{"Content-Type": "application/json; charset=utf-8"})
    answer = await client.post("/v1/jobs", headers=headers, data=body)
    assert (await answer.get_json())["errors"] == [{"pointer": "", "detail": "This must be a JSON object."}]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_refused(client: Client, content_type: str) -> None:
    answer = await client.post("/v1/jobs", headers=bearer(**{"Content-Type": content_type}), data=b"{}")
    assert (answer.status_code, (await answer.get_json())["code"]) == (415, "unsupported-media-type")


async def test_a_body_may_fill_its_limit_and_not_pass_it(client: Client, settings: Settings) -> None:
    asked = json.dumps({"media_url": URL}).encode()
    headers = bearer(**{"Content-Type": "application/json"})
    fits = asked.ljust(settings.http.max_body_bytes)
    assert (await client.post("/v1/jobs", headers=headers, data=fits)).status_code == 202
    answer = await client.post("/v1/jobs", headers=headers, data=fits + b" ")
    assert (answer.status_code, (await answer.get_json())["code"]) == (413, "payload-too-large")


async def test_an_answer_does_not_grow_with_the_nonsense_it_answers(submit: Callable[..., Any]) -> None:
    answer = await submit(**{f"unknown{number}": 1 for number in range(2000)})
    assert len((await answer.get_json())["errors"]) < 50


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["media_url", "media_headers", "tracks", "language", "metadata", "prompt", "priority", "other"]
)


@LIVE
@given(asked=JSON | st.dictionaries(MEMBERS, JSON), url=st.just(URL) | st.text(st.characters(codec="utf-8")))
async def test_no_json_whatever_breaks_the_door(app: Quart, asked: Any, url: str) -> None:
    if isinstance(asked, dict):
        asked = {"media_url": url, **asked}
    answer = await app.test_client().post("/v1/jobs", headers=bearer(), json=asked)
    assert answer.status_code in (202, 400, 422)
