"""Through a real PgBouncer in transaction mode, where all share one connection to the server, or two."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from pipeline.jobs import JobStatus, Tenant
from pipeline.store import Listing
from pipeline.store.postgres import PostgresStore
from pipeline.store.postgres.database import Connection, Database, door
from tests.conformance.store_suite.making import ACME, GLOBEX, TRANSCRIPT, USAGE, a_request, claim, read, submit, upload

pytestmark = pytest.mark.postgres

FETCHED = Path(sys.prefix) / "pgbouncer/usr"  # by scripts/setup-dev.bash
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:{FETCHED / 'sbin'}")

CONFIG = """
[databases]
one = {server} pool_size=1
two = {server} pool_size=2

[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
unix_socket_dir = {folder}
{user}
"""


@pytest.fixture(scope="module")
def folder(server: str) -> Iterator[Path]:
    """The folder of the pooler's socket."""
    if PROGRAM is None:
        pytest.skip("needs PgBouncer, which scripts/setup-dev.bash fetches where Debian's packages can be had")
    url = urlsplit(server)
    shared = f"host={url.hostname} port={url.port} dbname=migrated user=service password=service"
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)  # it does not stay root
        user = "user = nobody" if os.geteuid() == 0 else ""
        (folder / "config").write_text(CONFIG.format(server=shared, folder=folder, user=user))
        libraries = ":".join(str(place) for place in FETCHED.glob("lib/*"))
        with subprocess.Popen([PROGRAM, "-q", folder / "config"], env={"LD_LIBRARY_PATH": libraries}) as pooler:
            yield folder
            pooler.terminate()


@pytest.fixture
async def through(folder: Path, dsn: str) -> Callable[[str], str]:
    """The service's DSN through the pooler, with so many connections behind it."""
    with anyio.fail_after(10):
        while not (folder / ".s.PGSQL.6432").exists():
            await checkpoint()
    return lambda connections: f"postgresql://service@/{connections}?host={folder}&port=6432"


@pytest.fixture
async def pooled(through: Callable[[str], str]) -> str:
    return through("one")


@pytest.fixture
async def store(pooled: str, dsn: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(pooled, direct_dsn=dsn) as store:
        yield store


async def test_a_job_goes_all_its_way(store: PostgresStore) -> None:
    file = await upload(store, b"media")
    job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
    taken = await claim(store)
    assert await read(store, taken, file) == [b"media"]

    await store.queue().renew([taken], lease_seconds=60)
    await store.queue().commit(taken, TRANSCRIPT, USAGE)

    assert (await store.tenant(ACME).get(job.id)).status is JobStatus.COMPLETED
    assert await store.tenant(ACME).transcript(job.id) == TRANSCRIPT


async def test_a_submit_is_heard_by_another_replica(store: PostgresStore, pooled: str, dsn: str) -> None:
    async with PostgresStore(pooled, direct_dsn=dsn) as other:
        listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'"
        direct = await asyncpg.connect(dsn)
        with anyio.fail_after(10):
            while await direct.fetchval(listens) < 2:
                await checkpoint()
            await direct.close()
            await other.queue().work(poll_seconds=0.001)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: other.queue().work(poll_seconds=3600))
                await submit(store)


async def test_who_a_transaction_was_ends_with_it(pooled: str) -> None:
    """A stranger who waits for the connection has it before asyncpg resets what it gives back."""
    who = "SELECT current_user::text, coalesce(current_setting('app.tenant_id', true), '')"
    stranger = await asyncpg.connect(pooled, statement_cache_size=0)
    database = Database(pooled, pool_size=1, pooled=True)
    await database.open()
    found: list[asyncpg.Record | None] = []

    async def ask() -> None:
        found.append(await stranger.fetchrow(who))

    async with anyio.create_task_group() as tasks:

        async def be_acme(connection: Connection) -> None:
            tasks.start_soon(ask)
            await checkpoint()
            await connection.execute("SELECT 1")  # there and back again: by now the stranger stands in line

        await database.unit(door(ACME), be_acme)
    await database.close()
    await stranger.close()
    assert [tuple(row) for row in found if row] == [("service", "")]


async def test_a_statement_runs_on_a_connection_that_has_never_met_it(through: Callable[[str], str], dsn: str) -> None:
    others = await asyncpg.connect(through("two"), statement_cache_size=0)
    async with PostgresStore(through("two"), direct_dsn=dsn) as store:
        job = await submit(store)
        for _ in range(4):
            async with others.transaction():  # keeps a connection to itself, and the store to the other
                await others.execute("SELECT 1")
                assert await store.tenant(ACME).get(job.id) == job
            assert await store.tenant(ACME).get(job.id) == job
    await others.close()


async def test_what_is_set_for_longer_than_a_transaction_does_leak_to_others(pooled: str) -> None:
    """Why nothing of ours is: the test above could not fail otherwise."""
    first, second = [await asyncpg.connect(pooled, statement_cache_size=0) for _ in range(2)]
    await first.execute("SELECT set_config('app.tenant_id', 'acme', false)")

    assert await second.fetchval("SELECT current_setting('app.tenant_id', true)") == "acme"
    await first.execute("RESET app.tenant_id")
    await first.close()
    await second.close()


async def test_tenants_who_share_the_connection_see_their_own(store: PostgresStore) -> None:
    async def use(tenant: Tenant) -> None:
        jobs = store.tenant(tenant)
        for _ in range(10):
            job = await jobs.submit(a_request())
            assert await jobs.get(job.id) == job
        assert {job.tenant for job in await jobs.list(Listing(limit=200))} == {tenant}
        assert (await jobs.standing()).pending == 10

    async with anyio.create_task_group() as tasks:
        for tenant in (ACME, GLOBEX):
            tasks.start_soon(use, tenant)
