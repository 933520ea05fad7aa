"""Scratch: a folder for one process, gone with it, however it went."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from stages.scratch import remove, scratch
from tests.stages.waiting import until

HOLDER = """
import sys
from pathlib import Path
import anyio
from stages.scratch import scratch

async def hold():
    async with scratch(Path(sys.argv[1])) as folder:
        (folder / "media-0").write_text("half a recording")
        print(folder, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)  # until the test ends, however it does

anyio.run(hold)
"""


def listed(root: Path) -> list[Path]:
    return sorted(root.iterdir())


async def folder_of(process: Process) -> anyio.Path:
    """Where the process keeps its files; it says so when they are there."""
    assert process.stdout is not None
    with anyio.fail_after(30):
        return anyio.Path((await TextReceiveStream(process.stdout).receive()).strip())


async def test_the_folder_is_there_for_its_owner_alone_and_gone_afterwards(tmp_path: Path) -> None:
    async with scratch(tmp_path / "data" / "scratch") as folder:
        there = anyio.Path(folder)
        assert there.parent == anyio.Path(tmp_path / "data" / "scratch")
        assert (await there.stat()).st_mode & 0o777 == 0o700
        await (there / "claim").mkdir()
        await (there / "claim" / "media-0").write_text("a recording")
    assert not await there.exists()


async def test_it_is_gone_after_an_error_and_after_a_cancellation_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        async with scratch(tmp_path):
            raise ValueError("broken")
    with anyio.CancelScope() as scope:
        async with scratch(tmp_path):
            scope.cancel()
            await anyio.sleep_forever()
    assert listed(tmp_path) == []


async def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_kept(tmp_path: Path) -> None:
    run = [sys.executable, "-c", HOLDER, str(tmp_path)]
    async with await anyio.open_process(run) as doomed, await anyio.open_process(run) as living:
        left, kept = await folder_of(doomed), await folder_of(living)
        doomed.kill()
        await doomed.wait()
        assert await left.exists()
        async with scratch(tmp_path) as ours:
            assert listed(tmp_path) == sorted([Path(kept), ours])
            assert await (kept / "media-0").read_text() == "half a recording"


async def test_many_that_start_at_once_do_not_take_each_others_folders_away(tmp_path: Path) -> None:
    folders: list[Path] = []

    async def hold(leave: anyio.Event) -> None:
        async with scratch(tmp_path) as folder:
            folders.append(folder)
            await leave.wait()

    for _ in range(5):
        leave = anyio.Event()
        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(hold, leave)
            await until(lambda: len(folders) == 16)
            assert listed(tmp_path) == sorted(folders)
            leave.set()
        folders.clear()


async def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    await remove(tmp_path / "never made")
