"""The door before a memory store, asked as tenants ask. asyncpg and Quart need asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from quart import Quart

from pipeline.settings import AudioSettings, AuthSettings, DownloadSettings, HttpSettings, Settings
from pipeline.store.memory import MemoryStore
from tests.api.visiting import SECRET, URL, Client, bearer, door


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def settings() -> Settings:
    return Settings(
        auth=AuthSettings(secret=SecretStr(SECRET), leeway_seconds=0),
        http=HttpSettings(max_body_bytes=64 * 1024),
        download=DownloadSettings(max_bytes=512 * 1024),
        audio=AudioSettings(max_tracks=4),
    )


@pytest.fixture
def app(store: MemoryStore, settings: Settings) -> Quart:
    return door(store, settings)


@pytest.fixture
def client(app: Quart) -> Client:
    return app.test_client()


@pytest.fixture
def submit(client: Client) -> Callable[..., Any]:
    """Submit by URL as a tenant; the answer."""

    async def post(tenant: str = "acme", **asked: object) -> Any:
        return await client.post("/v1/jobs", headers=bearer(tenant), json={"media_url": URL, **asked})

    return post
