"""Tells tenants how their jobs ended: takes what is due from the outbox, signs it, posts it, writes down how it went.

Signed as Standard Webhooks are (https://www.standardwebhooks.com). Each delivery is made at least once: whoever gets
one twice knows it by its ``webhook-id``.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
import httpcore2
import structlog

from api.secret import webhook_key, webhook_master
from pipeline import egress
from pipeline.errors import UrlNotAllowed
from pipeline.jitter import jittered
from pipeline.jobs import Tenant
from pipeline.settings import Settings
from pipeline.store import Delivery, Outbox, Unavailable

# Seconds; doubling from one to the other, so that an endpoint may be away for a night.
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 6 * 3600.0
PASSING: Final = frozenset({408, 429})  # besides 5xx; whatever else is refused will be refused again
# Deliveries of one tenant at once: its endpoint may hang, and hands are for everybody's news.
SHARE: Final = 2
# Beyond a try's own time, for writing down how it went while the database is slow.
LEASE_MARGIN: Final = 30.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tried:
    """How a try ended: with the answer's ``status``, or with an ``error`` before there was any."""

    status: int | None = None
    error: str | None = None
    hopeless: bool = False

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def may_pass(self) -> bool:
        if self.status is not None:
            return self.status in PASSING or self.status >= 500
        return not self.hopeless


class WebhookSender:
    """Raises ``ConfigError`` for a master secret that is too short."""

    def __init__(self, outbox: Outbox, settings: Settings) -> None:
        self._outbox = outbox
        self._settings = settings.webhooks
        self._download = settings.download
        self._poll_seconds = settings.queue.poll_seconds
        self._master = webhook_master(settings)
        self._looking = anyio.Lock()
        self._sending: list[Tenant] = []  # whose news is in whose hands
        # A tenant whose endpoint hangs has half of the hands; the others' news go through the other half.
        self._share = max(1, self._settings.workers // 2)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with egress.open_pool(self._download) as pool, anyio.create_task_group() as group:
            for _ in range(self._settings.workers):
                group.start_soon(self._work, pool)

    async def _work(self, pool: httpcore2.AsyncConnectionPool) -> None:
        while True:
            delivery = await self._next()
            began = anyio.current_time()
            tried = await self._try(pool, delivery)
            self._sending.remove(delivery.tenant)
            with suppress(Unavailable):  # the delivery comes again when its lease has run out
                await self._tell(delivery, tried, anyio.current_time() - began)

    async def _next(self) -> Delivery:
        """One hand looks and the others wait behind it, so that an idle outbox is asked once a poll."""
        async with self._looking:
            while True:
                with suppress(Unavailable):
                    for delivery in await self._due():
                        self._sending.append(delivery.tenant)
                        return delivery
                await anyio.sleep(self._poll_seconds)

    async def _due(self) -> Sequence[Delivery]:
        """One at most."""
        lease_seconds = self._settings.timeout_seconds + LEASE_MARGIN
        besides = {tenant for tenant in self._sending if self._sending.count(tenant) >= SHARE}
        return await self._outbox.due(limit=1, lease_seconds=lease_seconds, besides=besides)

    async def _try(self, pool: httpcore2.AsyncConnectionPool, delivery: Delivery) -> Tried:
        try:
            with anyio.fail_after(self._settings.timeout_seconds):
                response = await pool.handle_async_request(self._request(delivery))
                await response.aclose()  # what else it says is of no interest
                return Tried(status=response.status)
        except UrlNotAllowed as error:
            return Tried(error=error.code, hopeless=True)
        except (TimeoutError, httpcore2.TimeoutException):
            return Tried(error="timeout")
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            return Tried(error=type(error).__name__)  # its text may name addresses

    def _request(self, delivery: Delivery) -> httpcore2.Request:
        """Raises ``UrlNotAllowed``: the rules may have become stricter since the URL was given."""
        url = egress.check_url(delivery.url, self._download)
        body = delivery.body.encode()
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": "Antiphon",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **signed(webhook_key(self._master, delivery.tenant), str(delivery.id), int(time.time()), body),
        }
        return httpcore2.Request(
            "POST",
            httpcore2.URL(scheme=url.scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=list(headers.items()),
            content=body,
            extensions={"timeout": {"connect": self._settings.timeout_seconds}},
        )

    async def _tell(self, delivery: Delivery, tried: Tried, seconds: float) -> None:
        again = tried.may_pass and delivery.tries < self._settings.max_tries
        retry_in = pause(delivery.tries) if again else None
        log.info(
            "webhook-delivered" if tried.delivered else "webhook-failed",
            delivery_id=str(delivery.id),
            tenant_id=delivery.tenant,
            job_id=str(delivery.job),
            tries=delivery.tries,
            status=tried.status,
            error=tried.error,
            retry_in=retry_in,
        )
        await self._outbox.tried(delivery, seconds=seconds, status=tried.status, error=tried.error, retry_in=retry_in)


def signed(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one try. ``timestamp``: Unix seconds."""
    signature = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def pause(tries: int) -> float:
    """Seconds from the end of so many tries to the next; endpoints that failed together are not tried together."""
    seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tries - 1))
    return jittered(seconds)
