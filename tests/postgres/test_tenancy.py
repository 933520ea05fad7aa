"""The door's face with what belongs to others: it is as absent as what never was, whatever a tenant is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from pipeline.errors import NotFound
from pipeline.jobs import Tenant
from pipeline.store import IdempotencyKey, Listing, Place, Standing, TenantJobs
from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import ACME, GLOBEX, a_request
from tests.postgres.foreign import NAMES, Belongings, Connection, contents

pytestmark = pytest.mark.postgres

SOMETIME = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def acme(admin: Connection, dsn: str) -> Belongings:
    belongings = Belongings(ACME)
    await belongings.put(admin)
    return belongings


async def expect_nothing(call: Awaitable[object], named: UUID) -> None:
    with pytest.raises(NotFound) as told:
        await call
    assert str(told.value) == f"There is no job {named}."


async def reach_for_a_job(jobs: TenantJobs, job: UUID) -> None:
    for method in (jobs.get, jobs.transcript, jobs.cancel, jobs.delete):
        await expect_nothing(method(job), job)


async def reach_by_list(jobs: TenantJobs, job: UUID) -> None:
    after = Place(datetime.now(UTC), job)
    for listing in (Listing(limit=200), Listing(limit=200, external_id="call"), Listing(limit=200, after=after)):
        assert list(await jobs.list(listing)) == []


async def reach_by_key(jobs: TenantJobs, job: UUID) -> None:
    assert await jobs.made_with(IdempotencyKey("once", b"digest")) is None
    assert await jobs.made_with(IdempotencyKey("once", b"another")) is None


async def reach_for_uploads(jobs: TenantJobs, upload: UUID) -> None:
    await jobs.discard([upload])
    with pytest.raises(NotFound) as told:
        await jobs.submit(a_request(media_url=None), uploads=[upload])
    assert str(told.value) == "One of the uploads is not there; upload the file again."


async def reach_by_standing(jobs: TenantJobs, job: UUID) -> None:
    assert await jobs.standing() == Standing(pending=0, running=0)


Reach = Callable[[TenantJobs, UUID], Awaitable[None]]
REACHES: dict[str, Reach] = {
    "get transcript cancel delete": reach_for_a_job,
    "list": reach_by_list,
    "made_with": reach_by_key,
    "discard submit": reach_for_uploads,
    "standing": reach_by_standing,
}
OWN_ONLY = {"upload"}  # it is given nothing that could be another's


def test_every_method_of_the_face_is_tried() -> None:
    methods = {name for name in vars(TenantJobs) if not name.startswith("_")}
    assert methods == OWN_ONLY | {name for names in REACHES for name in names.split()}


@pytest.mark.parametrize("tenant", [GLOBEX, *NAMES], ids=ascii)
@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
async def test_what_is_anothers_is_not_there(
    store: PostgresStore, admin: Connection, acme: Belongings, reach: Reach, tenant: str
) -> None:
    before = await contents(admin)
    jobs = store.tenant(Tenant(tenant))
    for wanted in (acme.loose, acme.upload) if reach is reach_for_uploads else (acme.job, uuid4()):
        await reach(jobs, wanted)

    assert await contents(admin) == before


@pytest.mark.parametrize("tenant", NAMES, ids=ascii)
async def test_a_tenant_may_be_called_anything(store: PostgresStore, acme: Belongings, tenant: str) -> None:
    jobs = store.tenant(Tenant(tenant))
    async with jobs.upload() as file:
        await file.write(b"media")
    key = IdempotencyKey("once", b"digest")  # as acme's is
    job = await jobs.submit(a_request(media_url=None), uploads=[file.id], key=key)

    assert list(await jobs.list(Listing(limit=200))) == [job]
    assert await jobs.made_with(key) == job
    assert (await jobs.standing()).pending == 1
    await jobs.cancel(job.id)
    await jobs.delete(job.id)
    await expect_nothing(jobs.get(job.id), job.id)


@pytest.mark.parametrize("tenant", ["", "a" * 129, "acme" * 10_000], ids=len)
async def test_a_name_that_no_tenant_has_finds_and_makes_nothing(
    store: PostgresStore, acme: Belongings, tenant: str
) -> None:
    await reach_for_a_job(store.tenant(Tenant(tenant)), acme.job)
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.InsufficientPrivilegeError)):
        await store.tenant(Tenant(tenant)).submit(a_request())


async def test_a_name_with_a_zero_in_it_is_cut_nowhere_but_refused(store: PostgresStore, acme: Belongings) -> None:
    with pytest.raises(asyncpg.DataError):
        await store.tenant(Tenant("acme\0globex")).get(acme.job)


async def test_what_is_its_own_is_there(store: PostgresStore, acme: Belongings) -> None:
    jobs = store.tenant(ACME)
    assert (await jobs.standing()).running == 1
    assert [job.id for job in await jobs.list(Listing(limit=200))] == [acme.job]
    made = await jobs.made_with(IdempotencyKey("once", b"digest"))
    assert made is not None
    assert made.id == acme.job
