"""Ways to wait in tests: for something to become true, or at no cost, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import trio.testing


async def until(true: Callable[[], bool]) -> None:
    """Let everything else run until ``true``; a test that would wait for ever fails."""
    with anyio.fail_after(30):
        while not true():  # noqa: ASYNC110  # what changes it sets no event
            await anyio.sleep(0.001)


def at_mock_time(main: Callable[[], Awaitable[None]]) -> None:
    """Run on trio with a clock that jumps to the next deadline as soon as nothing else can happen."""
    anyio.run(main, backend="trio", backend_options={"clock": trio.testing.MockClock(autojump_threshold=0)})
