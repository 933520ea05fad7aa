"""Webhooks on their way: signed, tried again, given up, and never leaving the addresses that may be reached."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from typing import Any

import anyio
import pytest
import structlog
from anyio.abc import ByteStream
from pydantic import SecretStr

from api.secret import spelled, webhook_key, webhook_master
from api.webhooks import WebhookSender, pause, signed
from pipeline.jobs import JobRequest, Tenant
from pipeline.settings import AuthSettings, DownloadSettings, QueueSettings, Settings, WebhookSettings
from pipeline.store import Delivery, Unavailable
from pipeline.store.memory import MemoryOutbox, MemoryStore
from pipeline.store.memory.rows import DeliveryRow
from tests.api.visiting import SECRET
from tests.stages.web import Answer, Asked, answer, hanging, lingering, redirect, serving

LOCAL = DownloadSettings(allow_networks=(IPv4Network("127.0.0.0/8"),), allow_ports=())


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        auth=AuthSettings(secret=SecretStr(SECRET)),
        download=LOCAL,
        queue=QueueSettings(poll_seconds=0.001),
        webhooks=WebhookSettings(max_tries=4),
    )


@asynccontextmanager
async def sending(store: MemoryStore, settings: Settings) -> AsyncIterator[None]:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(WebhookSender(store.outbox(), settings).run)
            yield
            group.cancel_scope.cancel()


async def ended(store: MemoryStore, url: str, tenant: str = "acme", **asked: Any) -> DeliveryRow:
    """A job that was cancelled, and the news of it."""
    jobs = store.tenant(Tenant(tenant))
    job = await jobs.submit(JobRequest(media_url="https://media.test/a", callback_url=url, **asked))
    await jobs.cancel(job.id)
    return next(row for row in store.deliveries.values() if row.job == job.id)


async def tried(row: DeliveryRow, times: int) -> None:
    while len(row.log) < times:
        await anyio.lowlevel.checkpoint()


async def until_done(row: DeliveryRow, clock: Clock) -> Sequence[float]:
    """Let time pass until the delivery is done with; the pauses before each further try."""
    pauses, tries = [], 0
    while row.url:
        if len(row.log) > tries:
            tries = len(row.log)
            pauses.append(row.next_try_at - clock.seconds)
            clock.seconds = row.next_try_at
        await anyio.lowlevel.checkpoint()
    return pauses


def one_after_the_other(*answers: Answer) -> Answer:
    left = iter(answers)

    async def send(stream: ByteStream, asked: Asked) -> None:
        await next(left)(stream, asked)

    return send


def verified(secret: str, asked: Asked) -> Any:
    """The payload, verified as the specification tells a receiver to."""
    assert secret.startswith("whsec_")
    key = base64.b64decode(secret[len("whsec_") :], validate=True)
    assert 24 <= len(key) <= 64
    message, moment = asked.headers["webhook-id"], asked.headers["webhook-timestamp"]
    assert abs(time.time() - int(moment)) < 300
    expected = hmac.new(key, f"{message}.{moment}.{asked.body.decode()}".encode(), hashlib.sha256).digest()
    given = [base64.b64decode(one.removeprefix("v1,")) for one in asked.headers["webhook-signature"].split(" ")]
    assert any(hmac.compare_digest(expected, one) for one in given)
    return json.loads(asked.body)


def secret_of(tenant: str, settings: Settings) -> str:
    return spelled(webhook_key(webhook_master(settings), Tenant(tenant)))


def test_a_signature_is_that_of_the_vector_published_with_the_specification() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_the_news_of_a_job_arrives_signed_and_tells_nothing_that_was_said(
    store: MemoryStore, settings: Settings
) -> None:
    async with serving() as web, sending(store, settings):
        web.answers["/hook"] = answer(status=204)
        row = await ended(store, web.url("/hook?key=hush"), external_id="call-1", prompt="hush")
        await tried(row, 1)
    [asked] = web.asked
    told = verified(secret_of("acme", settings), asked)
    assert (asked.path, asked.headers["content-type"]) == ("/hook?key=hush", "application/json")
    assert asked.headers["webhook-id"] == str(row.id)
    assert (told["type"], told["data"]["status"], told["data"]["external_id"]) == (
        "job.cancelled",
        "cancelled",
        "call-1",
    )
    assert told["data"]["job_id"] == str(row.job)
    assert "hush" not in asked.body.decode()
    assert row.url is None
    assert [(one.number, one.status, one.error) for one in row.log] == [(1, 204, None)]


async def test_a_signature_of_one_tenant_says_nothing_for_another(store: MemoryStore, settings: Settings) -> None:
    async with serving() as web, sending(store, settings):
        web.answers["/hook"] = answer()
        for tenant in ("acme", "globex"):
            await tried(await ended(store, web.url("/hook"), tenant), 1)
    mine, theirs = web.asked
    verified(secret_of("acme", settings), mine)
    verified(secret_of("globex", settings), theirs)
    with pytest.raises(AssertionError):
        verified(secret_of("acme", settings), theirs)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_what_may_pass_is_tried_again_under_the_same_id(
    store: MemoryStore, settings: Settings, clock: Clock, status: int
) -> None:
    async with serving() as web, sending(store, settings):
        web.answers["/hook"] = one_after_the_other(answer(status=status), answer(status=status), answer(status=200))
        row = await ended(store, web.url("/hook"))
        pauses = await until_done(row, clock)
    assert [one.status for one in row.log] == [status, status, 200]
    assert len({asked.headers["webhook-id"] for asked in web.asked}) == 1
    assert len({asked.body for asked in web.asked}) == 1
    assert [5.0 * 0.8 <= pauses[0] <= 5.0 * 1.2, 10.0 * 0.8 <= pauses[1] <= 10.0 * 1.2] == [True, True]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 410, 422])
async def test_a_refusal_is_the_end_of_it_and_redirects_are_not_followed(
    store: MemoryStore, settings: Settings, status: int
) -> None:
    async with serving() as web, sending(store, settings):
        web.answers |= {"/hook": redirect(web.url("/other"), status), "/other": answer()}
        row = await ended(store, web.url("/hook"))
        await tried(row, 1)
    assert ([one.status for one in row.log], row.url) == ([status], None)
    assert [asked.path for asked in web.asked] == ["/hook"]


async def hang_up(stream: ByteStream, asked: Asked) -> None:
    await stream.aclose()


async def no_http(stream: ByteStream, asked: Asked) -> None:
    await stream.send(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize(
    ("broken", "error"), [(hang_up, "RemoteProtocolError"), (no_http, "RemoteProtocolError"), (hanging, "timeout")]
)
async def test_a_server_that_does_not_answer_is_tried_to_the_last(
    store: MemoryStore, settings: Settings, clock: Clock, broken: Answer, error: str
) -> None:
    webhooks = settings.webhooks.model_copy(update={"timeout_seconds": 0.1})
    async with serving() as web, sending(store, settings.model_copy(update={"webhooks": webhooks})):
        web.answers["/hook"] = broken
        row = await ended(store, web.url("/hook"))
        await until_done(row, clock)
    assert [(one.number, one.status, one.error) for one in row.log] == [(n, None, error) for n in (1, 2, 3, 4)]
    assert row.url is None


async def test_nobody_listening_is_an_error_of_the_transport(store: MemoryStore, settings: Settings) -> None:
    async with serving() as web:
        pass
    async with sending(store, settings):
        row = await ended(store, web.url("/hook"))
        await tried(row, 1)
    assert [(one.status, one.error) for one in row.log] == [(None, "ConnectError")]
    assert row.url


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://localhost:9/hook", "ftp://127.0.0.1/hook"])
async def test_an_address_that_may_not_be_reached_is_not(store: MemoryStore, settings: Settings, url: str) -> None:
    """The door refuses what it can see; a name may lead elsewhere by the time of the news."""
    closed = settings.model_copy(update={"download": DownloadSettings(allow_ports=())})
    async with sending(store, closed):
        row = await ended(store, url)
        await tried(row, 1)
    assert ([(one.status, one.error) for one in row.log], row.url) == ([(None, "url-not-allowed")], None)


async def test_an_endless_answer_is_not_listened_to(store: MemoryStore, settings: Settings) -> None:
    left = anyio.Event()
    async with serving() as web, sending(store, settings):
        web.answers["/hook"] = lingering(answer(b"a", content_length=str(10**9)), left)
        row = await ended(store, web.url("/hook"))
        await tried(row, 1)
        await left.wait()
    assert [one.status for one in row.log] == [200]


async def test_each_tenant_has_two_hands_at_most_and_each_piece_is_told_once(
    store: MemoryStore, settings: Settings
) -> None:
    there, most, all_there = Counter[str](), Counter[str](), anyio.Event()

    async def count(stream: ByteStream, asked: Asked) -> None:
        there[asked.path] += 1
        most[asked.path] = max(most[asked.path], there[asked.path])
        if there == {"/acme": 2, "/globex": 2}:
            all_there.set()
        await all_there.wait()
        there[asked.path] -= 1
        await answer()(stream, asked)

    async with serving() as web:
        web.answers |= {"/acme": count, "/globex": count}
        rows = [await ended(store, web.url(f"/{name}"), name) for name in ("acme", "globex") for _ in range(6)]
        async with sending(store, settings):
            for row in rows:
                await tried(row, 1)
    assert most == {"/acme": 2, "/globex": 2}
    assert sorted(asked.headers["webhook-id"] for asked in web.asked) == sorted(str(row.id) for row in rows)


async def test_tenants_whose_endpoints_hang_hold_up_nobody_elses_news(store: MemoryStore, settings: Settings) -> None:
    async with serving() as web:
        web.answers |= {"/hangs": hanging, "/hook": answer()}
        stuck = [await ended(store, web.url("/hangs"), f"slow-{n}") for n in range(3) for _ in range(4)]
        quick = await ended(store, web.url("/hook"), "acme")
        async with sending(store, settings):
            await tried(quick, 1)
            assert not [row for row in stuck if row.log]
    assert quick.url is None


class Away(MemoryOutbox):
    """A database that cannot be reached for the first calls of each kind."""

    looked = told = 0

    async def due(self, **asked: Any) -> Sequence[Delivery]:
        self.looked += 1
        if self.looked < 3:
            raise Unavailable
        return await super().due(**asked)

    async def tried(self, delivery: Delivery, **told: Any) -> None:
        self.told += 1
        if self.told < 2:
            raise Unavailable
        await super().tried(delivery, **told)


async def test_a_database_that_is_away_costs_a_repetition_and_no_news(
    store: MemoryStore, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Away(store)
    monkeypatch.setattr(store, "outbox", lambda: outbox)
    async with serving() as web, sending(store, settings):
        web.answers["/hook"] = answer()
        row = await ended(store, web.url("/hook"))
        while outbox.told < 1:
            await anyio.lowlevel.checkpoint()
        clock.seconds += settings.webhooks.timeout_seconds + 60
        await tried(row, 1)
    assert [asked.headers["webhook-id"] for asked in web.asked] == [str(row.id)] * 2
    assert row.url is None


async def test_no_log_holds_an_address_or_a_signature(store: MemoryStore, settings: Settings, clock: Clock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving() as web, sending(store, settings):
            web.answers["/hook"] = one_after_the_other(answer(status=500), hang_up, answer())
            row = await ended(store, web.url("/hook?key=hush"))
            await until_done(row, clock)
    told = [line for line in logs if line["event"].startswith("webhook-")]
    assert [line["event"] for line in told] == ["webhook-failed", "webhook-failed", "webhook-delivered"]
    signatures = [asked.headers["webhook-signature"] for asked in web.asked]
    assert not [secret for secret in ["hush", "/hook", "127.0.0.1", *signatures] if secret in str(logs)]


def test_pauses_grow_from_seconds_to_hours_and_make_a_day() -> None:
    for tries in range(1, 40):
        usual = min(6 * 3600, 5 * 2 ** (tries - 1))
        assert 0.8 * usual <= pause(tries) <= 1.2 * usual
    whole = sum(min(6 * 3600, 5 * 2 ** (tries - 1)) for tries in range(1, WebhookSettings().max_tries))
    assert 20 * 3600 < whole < 28 * 3600
