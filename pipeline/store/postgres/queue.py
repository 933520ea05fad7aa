"""The chain's face on PostgreSQL: claims, leases, and the ends of attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

import anyio
from asyncpg import Record
from pydantic import ValidationError

from pipeline.claim import Claim
from pipeline.errors import Internal
from pipeline.jobs import JobRequest, Problem, Tenant, Usage
from pipeline.settings import QueueSettings
from pipeline.store import Fenced, QueueHealth, Renewal, Swept, Tended, Unavailable
from pipeline.store.postgres import uploads as files
from pipeline.store.postgres.database import CHAIN, Connection, Database, Result
from pipeline.store.postgres.ends import End, Said, settle
from pipeline.store.postgres.notices import Notices
from pipeline.store.postgres.queries import SQL
from pipeline.store.postgres.rows import TRACE, job_of, read
from pipeline.store.postgres.tending import Tending
from pipeline.store.postgres.turn import Taker, next_tenant, take, take_alone
from pipeline.store.rules import Secrets, unite
from pipeline.transcript import Transcript

UNREADABLE_SECONDS: Final = 60.0  # in three attempts most rolling upgrades have gone by


class PostgresJobQueue:
    """``beats``: connections of their own for heartbeats, which must not wait behind anything."""

    def __init__(self, database: Database, beats: Database, notices: Notices, settings: QueueSettings) -> None:
        self._database, self._beats, self._notices, self._settings = database, beats, notices, settings
        self._tending = Tending(database, settings)
        self._unheard: dict[UUID, float] = {}  # tokens of claims whose answer was lost, and when their leases run out

    async def claim(self, *, replica: str, lease_seconds: float, besides: Collection[Tenant] = ()) -> Claim | None:
        """A transaction a tenant, so that one holds no two: whoever turns out to have no work has left the turn."""
        taker = Taker(uuid4(), replica, lease_seconds, self._settings.max_running)
        passed = list(besides)

        async def serve(connection: Connection) -> tuple[Tenant | None, Record | None]:
            if (tenant := await next_tenant(connection, passed)) is None:
                return None, None
            return tenant, await take(connection, taker, tenant)

        while True:
            tenant, row = await self._lease(taker, serve)
            if row is not None:
                if claim := await self._readable(row, taker.token):
                    return claim
                return await self.claim(replica=replica, lease_seconds=lease_seconds, besides=besides)
            if tenant is None:
                return None
            passed.append(tenant)

    async def claim_alone(self, *, replica: str, lease_seconds: float, idle: bool) -> Claim | None:
        taker = Taker(uuid4(), replica, lease_seconds, self._settings.max_running)
        row = await self._lease(taker, lambda c: take_alone(c, taker, idle=idle))
        return await self._readable(row, taker.token) if row else None

    async def begin(self, claim: Claim) -> None:
        if not await self._database.unit(CHAIN, lambda c: c.fetchval(SQL["begin"], claim.job.id, claim.token)):
            raise Fenced

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        jobs, tokens = _keys(claims)
        rows = await self._beats.unit(
            CHAIN, lambda c: c.fetch(SQL["renew"], jobs, tokens, lease_seconds), durable=False
        )
        cancelled = frozenset(row["token"] for row in rows if row["cancelled"])
        return Renewal(kept=frozenset(row["token"] for row in rows) - cancelled, cancelled=cancelled)

    async def report(self, claims: Sequence[Claim]) -> None:
        jobs, tokens = _keys(claims)
        progress = [claim.progress.model_dump_json() for claim in claims]
        values = (jobs, tokens, progress, [claim.engine_seconds for claim in claims])
        await self._database.unit(CHAIN, lambda c: c.execute(SQL["report"], *values), durable=False)

    async def keep(self, claim: Claim, drafts: Mapping[bytes, str]) -> None:
        job_id = claim.job.id

        async def keep(connection: Connection) -> bool:
            if not await connection.fetchval(SQL["hold"], job_id, claim.token):
                return False
            await connection.execute(SQL["keep"], job_id, claim.job.tenant, list(drafts), list(drafts.values()))
            return True

        if not await self._database.unit(CHAIN, keep):
            raise Fenced

    async def kept(self, claim: Claim) -> Mapping[bytes, str]:
        rows = await self._database.unit(CHAIN, lambda c: c.fetch(SQL["kept"], claim.job.id))
        return {row["asked"]: row["draft"] for row in rows}

    async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
        with anyio.CancelScope(shield=True):
            said = await anyio.to_thread.run_sync(Said.of, transcript)
        await self._settle(claim, End.of(claim, "completed", said=said, usage=usage))

    async def fail(self, claim: Claim, problem: Problem, *, retry_in: float | None) -> None:
        await self._settle(claim, End.of(claim, "failed", problem=problem, retry_in=retry_in))

    async def give_back(self, claim: Claim, *, retry_in: float = 0.0) -> None:
        await self._settle(claim, End.of(claim, "given back", retry_in=retry_in))

    async def cancel(self, claim: Claim) -> None:
        await self._settle(claim, End.of(claim, "cancelled"))

    async def tend(self) -> Tended:
        await self._return_unheard()
        tended = await self._tending.tend()
        if tended != Tended():
            self._notices.ring()
        return tended

    async def sweep(self) -> Swept:
        swept = await self._tending.sweep()
        if swept.repaired:
            self._notices.ring()
        return swept

    async def void_leases(self) -> int:
        voided = await self._tending.rescue(every=True)
        self._notices.ring()
        return voided

    async def work(self, *, poll_seconds: float) -> None:
        await self._notices.wait(poll_seconds)

    async def cancels(self) -> None:
        await self._notices.wait_cancel()

    def read_upload(self, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
        return files.send(self._database, claim, upload)

    async def health(self) -> QueueHealth:
        return await self._tending.health()

    async def _lease(self, taker: Taker, act: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Not durable: a claim lost in a crash of the server is a lease that nobody has, and its token is refused."""
        try:
            return await self._database.unit(CHAIN, act, durable=False)
        except Unavailable:
            self._unheard[taker.token] = anyio.current_time() + taker.lease_seconds
            raise

    async def _readable(self, row: Record, token: UUID) -> Claim | None:
        """``None``: it asks for what only a newer release knows. A replica of that may be the next to take it."""
        try:
            return _claim_of(row, token)
        except ValidationError:
            error = Internal("This release cannot read the request, which came in through a newer one.", retryable=True)
            problem = Problem.of(error, attempt=row["attempt"])
            end = End("failed", engine_seconds=0.0, problem=problem, retry_in=UNREADABLE_SECONDS)
            await self._end(row["id"], token, end)
            return None

    async def _return_unheard(self) -> None:
        """Give back what was claimed though the claim failed: nobody works on it, and no worker of it was lost.

        A commit may come through after the answer was given up, so a token is asked for until its lease has run out.
        """
        now = anyio.current_time()
        self._unheard = {token: until for token, until in self._unheard.items() if until > now}
        if self._unheard:
            await self._tending.give_back(list(self._unheard))

    async def _settle(self, claim: Claim, end: End) -> None:
        await self._end(claim.job.id, claim.token, end)

    async def _end(self, job_id: UUID, token: UUID, end: End) -> None:
        """End the attempt, unless its lease is gone: then it must have ended in this very way, or is ``Fenced``."""

        async def act(connection: Connection) -> bool:
            tenant = await settle(connection, job_id, token, end, self._settings)
            if tenant is None:
                return bool(await connection.fetchval(SQL["settled"], token, end.outcome))
            await connection.execute(SQL["wake"], [tenant])
            return True

        if not await self._database.unit(CHAIN, act):
            raise Fenced
        self._notices.ring()  # its tenant may have room again, or the job be ready


def _claim_of(row: Record, token: UUID) -> Claim:
    job = job_of(row)
    return Claim(
        replace(job, request=unite(read(JobRequest, row["request"]), read(Secrets, row["secrets"]))),
        token=token,
        weight=row["weight"],
        resumes=row["resumes"],
        trace=TRACE.validate_json(row["trace"]),
        progress=job.progress,
    )


def _keys(claims: Sequence[Claim]) -> tuple[list[UUID], list[UUID]]:
    return [claim.job.id for claim in claims], [claim.token for claim in claims]
