"""The embedded server, its watchdog and its owner, each of them really killed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from anyio import fail_after, to_thread
from structlog.testing import capture_logs

from pipeline.store.embedded import EmbeddedPostgres
from tests.postgres.holding import (
    LONGEST_WAIT,
    Hold,
    answers,
    holding,
    keep_a_word,
    kept_word,
    kill,
    postgres_pid,
    serves,
    the_cluster,
    until,
    watchdog_pid,
    with_proc,
)

pytestmark = pytest.mark.postgres


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return partial(holding, tmp_path)


def the_server(data_dir: Path) -> list[int]:
    return [postgres_pid(data_dir)]


def the_server_and_its_watchdog(data_dir: Path) -> list[int]:
    return [watchdog_pid(data_dir), postgres_pid(data_dir)]


def runs_anew(data_dir: Path, dsn: str, lost: int) -> bool:
    """Whether a server answers at ``dsn`` that is no child of the watchdog ``lost``."""
    try:
        return watchdog_pid(data_dir) not in (lost, 1) and answers(dsn)
    except (FileNotFoundError, IndexError):  # between two servers
        return False


@with_proc
@pytest.mark.parametrize("victims", [the_server, the_server_and_its_watchdog])
async def test_a_server_that_is_killed_comes_back_where_it_was_with_what_was_written(
    tmp_path: Path, victims: Callable[[Path], list[int]]
) -> None:
    async with EmbeddedPostgres(tmp_path) as server:
        await to_thread.run_sync(keep_a_word, server.dsn)
        lost = watchdog_pid(tmp_path)
        kill(*victims(tmp_path))
        await to_thread.run_sync(until, lambda: runs_anew(tmp_path, server.dsn, lost))
        assert await to_thread.run_sync(kept_word, server.dsn) == "kept"
    assert not await to_thread.run_sync(serves, server.dsn)


@with_proc
async def test_the_pause_grows_while_the_server_keeps_dying_and_who_leaves_does_not_wait_for_a_start(
    tmp_path: Path,
) -> None:
    with capture_logs() as logs, ExitStack() as port, fail_after(LONGEST_WAIT):
        async with EmbeddedPostgres(tmp_path) as server:
            said = the_cluster(tmp_path).parent / "log"
            lost = watchdog_pid(tmp_path)
            kill(postgres_pid(tmp_path))
            await to_thread.run_sync(until, lambda: runs_anew(tmp_path, server.dsn, lost))
            kill(postgres_pid(tmp_path))
            await to_thread.run_sync(until, lambda: len(logs) == 2)
            port.enter_context(socket.create_server(("127.0.0.1", urlsplit(server.dsn).port or 0)))
            await to_thread.run_sync(until, lambda: "Address already in use" in said.read_text())
    assert [(log["event"], log["wait_seconds"]) for log in logs] == [("database-died", 0.0), ("database-died", 1.0)]


@with_proc
def test_whoever_attached_takes_the_place_of_an_owner_that_is_killed(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner, hold() as guest:
        assert not guest.owned
        keep_a_word(owner.dsn)
        lost = watchdog_pid(tmp_path)
        kill(owner.process.pid)
        until(lambda: runs_anew(tmp_path, guest.dsn, lost))
        assert kept_word(guest.dsn) == "kept"
        guest.leave()
        assert not serves(guest.dsn)


def test_whoever_attached_takes_the_place_of_an_owner_that_leaves(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner, hold() as guest:
        keep_a_word(owner.dsn)
        owner.leave()
        until(lambda: answers(guest.dsn))
        assert kept_word(guest.dsn) == "kept"
        guest.leave()
        assert not serves(guest.dsn)


def test_the_server_goes_when_its_owner_is_killed_and_keeps_what_was_written(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner:
        keep_a_word(owner.dsn)
        kill(owner.process.pid)
        until(lambda: not (the_cluster(tmp_path) / "postmaster.pid").exists())
        assert not serves(owner.dsn)
    with hold() as owner:
        assert owner.owned
        assert kept_word(owner.dsn) == "kept"


@with_proc
def test_a_server_left_behind_by_owner_and_watchdog_is_replaced(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner:
        keep_a_word(owner.dsn)
        kill(watchdog_pid(tmp_path), owner.process.pid)
    assert serves(owner.dsn)
    with hold() as heir:
        assert heir.owned
        assert not serves(owner.dsn)
        assert kept_word(heir.dsn) == "kept"


@with_proc
def test_a_server_that_lost_its_watchdog_gets_another_and_ends_with_its_owner(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner:
        lost = watchdog_pid(tmp_path)
        kill(lost)
        until(lambda: runs_anew(tmp_path, owner.dsn, lost))
        kill(owner.process.pid)
        until(lambda: not serves(owner.dsn))


@with_proc
def test_a_start_after_everything_was_killed_finds_what_was_written(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner:
        keep_a_word(owner.dsn)
        kill(watchdog_pid(tmp_path), owner.process.pid, postgres_pid(tmp_path))
    with hold() as heir:
        assert heir.owned
        assert kept_word(heir.dsn) == "kept"
