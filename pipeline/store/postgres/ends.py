"""How an attempt ends: one statement for every outcome, which begins by taking the lease away."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pipeline.claim import Claim
from pipeline.jobs import Problem, Progress, Tenant, Usage
from pipeline.settings import QueueSettings
from pipeline.store.postgres.database import Connection
from pipeline.store.postgres.queries import SQL
from pipeline.store.postgres.rows import NOTICES
from pipeline.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Said:
    """A transcript as it is stored, and what is stored of it besides."""

    transcript: str
    warnings: str
    model: str

    @classmethod
    def of(cls, transcript: Transcript) -> Said:
        """Blocks: 0.18 s were seen for the 42 MB that a day of words may take."""
        warnings = NOTICES.dump_json(transcript.warnings).decode()
        return cls(transcript.model_dump_json(), warnings, transcript.engine.model)


@dataclass(frozen=True, slots=True)
class End:
    """What is known of an attempt that ends. What becomes of its job is the statement's to say.

    ``outcome`` is ``completed``, ``failed``, ``given back``, ``cancelled`` or ``lost``. ``None`` in ``progress`` stands
    for what the lease knows, in ``retry_in`` for no further attempt, in ``engine_seconds`` for a worker that is silent.
    """

    outcome: str
    progress: Progress | None = None
    engine_seconds: float | None = None
    problem: Problem | None = None
    retry_in: float | None = None
    said: Said | None = None
    usage: Usage | None = None

    @classmethod
    def of(
        cls,
        claim: Claim,
        outcome: str,
        *,
        problem: Problem | None = None,
        retry_in: float | None = None,
        said: Said | None = None,
        usage: Usage | None = None,
    ) -> End:
        return cls(outcome, claim.progress, claim.engine_seconds, problem, retry_in, said, usage)


async def settle(connection: Connection, job_id: UUID, token: UUID, end: End, settings: QueueSettings) -> Tenant | None:
    """Whose attempt has ended, and may be woken; ``None``: there is no such lease, and nothing was written."""
    tenant: Tenant | None = await connection.fetchval(
        SQL["settle"],
        job_id,
        token,
        end.outcome,
        end.progress and end.progress.model_dump_json(),
        end.problem and end.problem.model_dump_json(),
        end.retry_in,
        settings.max_losses,
        end.engine_seconds,
        end.said and end.said.transcript,
        end.said and end.said.warnings,
        end.usage and end.usage.model_dump_json(),
        end.said and end.said.model,
    )
    if tenant is not None:
        await connection.execute(SQL["forget"], job_id)
    return tenant
