"""What the composition root tells of its door: where it is, why it cannot open, and what broke behind it."""

from __future__ import annotations

import logging
import socket

import anyio
import httpx2
import pytest
from quart import Quart

from api.service import Service, _listening, reached_at
from pipeline.errors import ConfigError
from pipeline.settings import Settings
from stages.engines.mock import MockEngine


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("door.test", "http://door.test:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_a_service_is_reached_at_an_address_that_can_be_asked(host: str, address: str) -> None:
    assert reached_at(host, 80) == address
    assert httpx2.URL(address).host


def test_a_taken_port_is_told_of_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as told:
            _listening("127.0.0.1", port)
    expected = f"127.0.0.1:{port} cannot be listened on (Address already in use); set HTTP__HOST or HTTP__PORT."
    assert str(told.value) == expected


def test_a_host_that_is_not_there_is_told_of_by_its_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"^192\.0\.2\.1:0 cannot be listened on \(Cannot assign requested address\);"
    ):
        _listening("192.0.2.1", 0)


async def test_what_breaks_in_the_server_itself_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Quart):
        async def __call__(self, scope: object, receive: object, send: object) -> None:
            raise ZeroDivisionError

    service = Service(Settings(), MockEngine())
    with socket.create_server(("127.0.0.1", 0)) as door:
        async with anyio.create_task_group() as group:
            group.start_soon(service._answer, Broken(__name__), door)
            async with httpx2.AsyncClient(trust_env=False) as client:
                answer = await client.get("http://{}:{}".format(*door.getsockname()))
            service._door_closing.set()
    assert answer.status_code == 500
    logged = [(line.name, line.getMessage()) for line in caplog.records if line.levelno >= logging.ERROR]
    assert logged == [("hypercorn.error", "Error in ASGI Framework")]
