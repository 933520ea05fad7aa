"""The chain's face on PostgreSQL: claims, leases, and the ends of attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

from pipeline.claim import Claim
from pipeline.jobs import Problem, Usage
from pipeline.store import Fenced, Renewal
from pipeline.store.postgres import uploads as files
from pipeline.store.postgres.database import CHAIN, Connection, Database
from pipeline.store.postgres.notices import Notices
from pipeline.store.postgres.queries import SQL
from pipeline.store.postgres.rows import NOTICES, TRACE, job_of, read
from pipeline.store.rules import ORPHAN_SECONDS, Secrets, unite, worker_lost
from pipeline.transcript import Transcript


class PostgresJobQueue:
    def __init__(self, database: Database, notices: Notices) -> None:
        self._database, self._notices = database, notices

    async def claim(self, *, replica: str, lease_seconds: float) -> Claim | None:
        token = uuid4()
        # Not durable: a claim lost in a crash of the server is a lease that nobody has, and its token is refused.
        row = await self._database.unit(
            CHAIN, lambda c: c.fetchrow(SQL["claim"], token, replica, lease_seconds), durable=False
        )
        if row is None:
            return None
        job = job_of(row)
        job = replace(job, request=unite(job.request, read(Secrets, row["secrets"])))
        return Claim(job, token=token, trace=TRACE.validate_json(row["trace"]), progress=job.progress)

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        jobs, tokens = _keys(claims)
        rows = await self._database.unit(
            CHAIN, lambda c: c.fetch(SQL["renew"], jobs, tokens, lease_seconds), durable=False
        )
        return Renewal(kept=frozenset(row["token"] for row in rows), cancelled=frozenset())

    async def report(self, claims: Sequence[Claim]) -> None:
        jobs, tokens = _keys(claims)
        progress = [claim.progress.model_dump_json() for claim in claims]
        await self._database.unit(CHAIN, lambda c: c.execute(SQL["report"], jobs, tokens, progress), durable=False)

    async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
        await self._settle(
            claim,
            "commit",
            "completed",
            claim.progress.at("committing", 1.0).model_dump_json(),
            transcript.model_dump_json(),
            usage.model_dump_json(),
            NOTICES.dump_json(transcript.warnings).decode(),
        )

    async def fail(self, claim: Claim, problem: Problem, *, retry_in: float | None) -> None:
        values = ("failed", problem.model_dump_json(), retry_in, claim.progress.model_dump_json())
        await self._settle(claim, "fail", "failed", *values)

    async def give_back(self, claim: Claim) -> None:
        await self._settle(claim, "give_back", "given back", claim.progress.model_dump_json())
        self._notices.ring()

    async def cancel(self, claim: Claim) -> None:
        await self._settle(claim, "cancel", "cancelled", claim.progress.model_dump_json())

    async def rescue(self) -> int:
        await self._database.unit(CHAIN, lambda c: c.execute(SQL["discard_orphans"], ORPHAN_SECONDS))
        return await self._rescue(every=False)

    async def void_leases(self) -> int:
        return await self._rescue(every=True)

    async def work(self, *, poll_seconds: float) -> None:
        await self._notices.wait(poll_seconds)

    def read_upload(self, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
        return files.send(self._database, claim, upload)

    async def _settle(self, claim: Claim, name: str, outcome: str, *values: object) -> None:
        """End the attempt, unless its lease is gone: then it must have ended in this very way, or is ``Fenced``."""

        async def settle(connection: Connection) -> bool:
            ended = await connection.fetchval(SQL[name], claim.job.id, claim.token, *values)
            return bool(ended or await connection.fetchval(SQL["settled"], claim.token, outcome))

        if not await self._database.unit(CHAIN, settle):
            raise Fenced

    async def _rescue(self, *, every: bool) -> int:
        """A lost worker is a failed attempt that is tried again at once; batches keep the transactions short."""

        async def rescue(connection: Connection) -> int:
            leases = await connection.fetch(SQL["expired"], every)
            for lease in leases:
                problem = worker_lost(lease["attempt"], last=lease["attempt"] >= lease["max_attempts"])
                values = ("lost", problem.model_dump_json(), 0.0, None)
                await connection.execute(SQL["fail"], lease["job_id"], lease["token"], *values)
            return len(leases)

        rescued = 0
        while batch := await self._database.unit(CHAIN, rescue):
            rescued += batch
            self._notices.ring()
        return rescued


def _keys(claims: Sequence[Claim]) -> tuple[list[UUID], list[UUID]]:
    return [claim.job.id for claim in claims], [claim.token for claim in claims]
