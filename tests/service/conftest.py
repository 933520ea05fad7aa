"""Installations for tests, and what they fetch: a web server, and recordings that are hard to take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import weights
from tests.service.installation import Installation, Service
from tests.stages.web import Web, serving


@pytest.fixture(scope="session")
def base_model() -> None:
    """For tests that listen to the real model."""
    try:
        weights.find("base", EngineSettings())
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Empty: nothing was ever started in it."""
    return Installation(tmp_path)


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    """A media server; what it answers is put into ``answers``."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving()) as web:
        yield web


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The installation of a module; its ``SETTINGS``, where it has some, say how it differs."""
    return Installation(tmp_path_factory.mktemp("home"), getattr(request.module, "SETTINGS", {}))


@pytest.fixture(scope="module")
def service(home: Installation) -> Iterator[Service]:
    """One service for all tests of a module."""
    with home.serving() as service:
        yield service
