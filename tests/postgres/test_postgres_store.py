"""The PostgreSQL store against the suite of all stores."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from tests.conformance.store_suite import *  # noqa: F403  # the suite
from tests.conformance.store_suite.making import Everything, PassTime

pytestmark = pytest.mark.postgres


@pytest.fixture
def pass_time(admin: asyncpg.Connection[asyncpg.Record]) -> PassTime:
    """The server's clock stays; everything that was dated moves into the past."""

    async def age(seconds: float) -> None:
        for table, column in (("leases", "lease_until"), ("jobs", "next_attempt_at"), ("uploads", "touched_at")):
            statement = f"UPDATE antiphon.{table} SET {column} = {column} - $1::interval"
            await admin.execute(statement, timedelta(seconds=seconds))

    return age


@pytest.fixture
def everything(admin: asyncpg.Connection[asyncpg.Record]) -> Everything:
    async def show() -> str:
        tables = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'antiphon'")
        rows = [await admin.fetch(f"SELECT * FROM antiphon.{table['tablename']}") for table in tables]
        return repr(rows)

    return show
