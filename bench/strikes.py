"""What can fall, and how a benchmark makes it fall: replicas, their leases, the database, the connections to it."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import cycle
from time import perf_counter
from typing import Final

import anyio
import httpx2

from bench import Unmeasured
from bench.replicas import Life, Replica
from bench.server import Server
from pipeline.store import JobQueue

STAGES: Final = ("downloader", "demuxer", "transcriber", "interleaver", "committer")
AIM_SECONDS: Final = 1.0  # how long a kill waits for a stage to have something in hand
LOOK_SECONDS: Final = 0.05
PATIENCE: Final = 180.0  # seconds until the last job has ended, each on its own after a loss

COMMITTING: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = $1 AND state <> 'idle' AND query LIKE '%antiphon.transcripts%'"""
HELD: Final = "SELECT count(*) FROM antiphon.leases WHERE replica LIKE $1"
RUN_OUT: Final = "UPDATE antiphon.leases SET lease_until = now() - interval '1 s' WHERE replica LIKE $1 AND NOT waits"
CUT: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service'"


class Fault(StrEnum):
    KILL = "SIGKILL of a replica"
    ZOMBIE = "SIGSTOP beyond the lease, then SIGCONT"
    TAKEN = "leases that run out under a worker who goes on"
    RESTART = "PostgreSQL restarted"
    CRASH = "PostgreSQL killed with -9"
    CUT = "all connections cut"


@dataclass(slots=True)
class Scene:
    """``queue``: a third replica's, which only tends. ``seen``: how often a stage had work in hand when its replica was
    killed. ``held``: processes that were held still, and how long their logs were when they were let go on."""

    server: Server
    queue: JobQueue
    replicas: Sequence[Replica]
    http: httpx2.AsyncClient
    chance: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    held: list[tuple[Life, int]] = field(default_factory=list)
    _aims: Iterator[str] = field(default_factory=lambda: cycle(STAGES))

    async def strike(self, fault: Fault) -> None:
        match fault:
            case Fault.KILL:
                await self._kill(self.chance.choice(self.replicas))
            case Fault.ZOMBIE:
                await self._hold_still(await self._worker())
            case Fault.TAKEN:
                await self._take_away(await self._worker())
            case Fault.RESTART:
                await self.server.restart()
            case Fault.CRASH:
                await self.server.crash()
            case Fault.CUT:
                await self.server.fetch(CUT)

    async def over(self, what: str, statement: str, *values: object) -> None:
        """Wait until ``statement`` counts nothing. Raises ``Unmeasured`` when that does not come."""
        give_up_at = perf_counter() + PATIENCE
        while left := await self.server.count(statement, *values):
            if perf_counter() > give_up_at:
                raise Unmeasured(f"After {PATIENCE:g} s there were {left} {what}.")
            await anyio.sleep(LOOK_SECONDS)

    async def _kill(self, replica: Replica) -> None:
        self.seen.update(await self._aim(replica, next(self._aims)))
        replica.kill()
        replica.start()
        await replica.ready()

    async def _aim(self, replica: Replica, stage: str) -> frozenset[str]:
        """Wait until the stage has something in hand, but not for long. Those that had at the last look."""
        give_up_at = perf_counter() + AIM_SECONDS
        while True:
            if stage == "committer":
                commits = await self.server.count(COMMITTING, replica.name)
                seen = frozenset({stage} if commits else ())
            else:
                seen = await replica.at_work(self.http)
            if stage in seen or perf_counter() > give_up_at:
                return seen

    async def _hold_still(self, replica: Replica) -> None:
        """Until others have taken all that it had."""
        life = replica.life
        life.process.send_signal(signal.SIGSTOP)
        try:
            await self.over("leases of a replica held still", HELD, _name(replica))
            self.held.append((life, life.log.stat().st_size))
        finally:
            life.process.send_signal(signal.SIGCONT)

    async def _take_away(self, replica: Replica) -> None:
        """What it has, most of it nearly done, so that it ends jobs that are no longer its own."""
        await self._aim(replica, "transcriber")
        await self.server.fetch(RUN_OUT, _name(replica))
        await self.queue.tend()

    async def _worker(self) -> Replica:
        """A replica that holds leases. Raises ``Unmeasured`` when none comes to hold any."""
        give_up_at = perf_counter() + PATIENCE
        while perf_counter() < give_up_at:
            for replica in self.chance.sample(self.replicas, len(self.replicas)):
                if await self.server.count(HELD, _name(replica)):
                    return replica
            await anyio.sleep(LOOK_SECONDS)
        raise Unmeasured("No replica holds a job: there is nothing to hit.")


def _name(replica: Replica) -> str:
    """A pattern of what its process calls itself in its leases."""
    return f"%-{replica.pid}-%"
