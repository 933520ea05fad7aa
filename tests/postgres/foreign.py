"""Two tenants with a row in every table each, and names that a third might come with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID, uuid4

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Nobody is called so; each is a way in, if names were anything but values.
NAMES = (
    "nobody",
    "ACME",
    "acme ",
    "аcme",  # its first letter is Cyrillic
    "acme\u200b",
    "%",
    "*",
    "_cme",
    "' OR 1=1 --",
    "acme' OR '1'='1",
    '"; DROP TABLE antiphon.jobs; --',
    "$1",
    "\\",
    "{acme,globex}",
)

ROWS = """
INSERT INTO antiphon.jobs (id, tenant_id, request, secrets, uploads, priority, max_attempts, progress, external_id)
VALUES ('{job}', '{tenant}', '{{"media_url":"https://{tenant}.test/a"}}', '{{}}', '{{{upload}}}', 0, 3, '{{}}', 'call');
UPDATE antiphon.jobs SET status = 'running', attempt = 1, started_at = now() WHERE id = '{job}';
INSERT INTO antiphon.leases (job_id, token, tenant_id, replica, lease_until, progress)
VALUES ('{job}', gen_random_uuid(), '{tenant}', 'one', now() + interval '1 hour', '{{}}');
INSERT INTO antiphon.attempts (token, job_id, tenant_id, replica, started_at, outcome)
VALUES (gen_random_uuid(), '{job}', '{tenant}', 'one', now(), 'given back');
INSERT INTO antiphon.transcripts (job_id, tenant_id, transcript) VALUES ('{job}', '{tenant}', '{{"text":"{tenant}"}}');
INSERT INTO antiphon.uploads (id, tenant_id, job_id, chunks) VALUES ('{upload}', '{tenant}', '{job}', 1);
INSERT INTO antiphon.uploads (id, tenant_id, chunks) VALUES ('{loose}', '{tenant}', 0);
INSERT INTO antiphon.upload_chunks (upload_id, number, tenant_id, bytes) VALUES ('{upload}', 0, '{tenant}', '{tenant}');
INSERT INTO antiphon.tenants (tenant_id, ready) VALUES ('{tenant}', true);
INSERT INTO antiphon.charges (tenant_id, delta, seconds) VALUES ('{tenant}', 0, 1);
INSERT INTO antiphon.checkpoints (job_id, tenant_id, asked, draft)
VALUES ('{job}', '{tenant}', '0123456789abcdef', '{{"text":"{tenant}"}}');
INSERT INTO antiphon.idempotency_keys (tenant_id, key, digest, job_id) VALUES ('{tenant}', 'once', 'digest', '{job}');
INSERT INTO antiphon.usage (job_id, tenant_id, attempt, outcome, mode, created_at)
VALUES ('{job}', '{tenant}', 1, 'completed', 'downmix', now());
INSERT INTO antiphon.deliveries (id, tenant_id, job_id, url, status)
VALUES ('{delivery}', '{tenant}', '{job}', 'https://{tenant}.test/hook', 'completed');
INSERT INTO antiphon.delivery_tries (delivery_id, tenant_id, number, seconds) VALUES ('{delivery}', '{tenant}', 1, 0.1);
"""


@dataclass(frozen=True, slots=True)
class Belongings:
    """The ids of what a tenant has: a running job with its upload, and an upload that no job was made of."""

    tenant: str
    job: UUID = field(default_factory=uuid4)
    upload: UUID = field(default_factory=uuid4)
    loose: UUID = field(default_factory=uuid4)
    delivery: UUID = field(default_factory=uuid4)

    async def put(self, admin: Connection) -> None:
        """A row of this tenant in every table."""
        ids = {"job": self.job, "upload": self.upload, "loose": self.loose, "delivery": self.delivery}
        await admin.execute(ROWS.format(tenant=self.tenant, **ids))


async def tables(admin: Connection) -> list[str]:
    """All of them, from the catalogue, except the list of migrations, which is nobody's."""
    rows = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'antiphon'::regnamespace"
        " AND relkind IN ('r', 'p') AND relname <> 'migrations' ORDER BY relname"
    )
    return [row["relname"] for row in rows]


async def contents(admin: Connection) -> dict[str, str]:
    """Everything there is, by table."""
    names = await tables(admin)
    return {name: repr(sorted(map(repr, await admin.fetch(f"SELECT * FROM antiphon.{name}")))) for name in names}
