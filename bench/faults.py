"""Jobs while everything that can fall falls: nothing is lost, nothing done twice, and everybody told once.

clients ──▶ two replicas of antiphon serve ──▶ one PostgreSQL           media server and receiver of webhooks: here
              ▲ SIGKILL · SIGSTOP … SIGCONT     ▲ restart · kill -9 · connections cut · leases made to run out
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import randbits, token_hex
from time import perf_counter
from typing import Final

import anyio
import httpx2
from pydantic import SecretStr

from api.secret import spelled, webhook_key
from api.security import issue_token
from bench import RECORDINGS, Benchmark, audit
from bench.figures import Figure, Report
from bench.hooks import Receiver, receiving
from bench.replicas import Event, Replica
from bench.server import Server
from bench.strikes import STAGES, Fault, Scene
from bench.submits import TENANTS, Clients
from bench.web import serving
from pipeline.jobs import Tenant
from pipeline.settings import AuthSettings, QueueSettings
from pipeline.store.postgres import PostgresStore

# Several windows, several tracks, and some that are short.
MEDIA: Final = ("austen_0880.flac", "sonnet_p001.mp3", "conversation.mkv", "leopard_de.flac")
LATENCY: Final = (0.05, 0.5)  # seconds until the media server answers
SCRIPT: Final = {"window_seconds": 0.05, "max_batch": 4}
MAX_LOSSES: Final = 1000  # here it is never the file that kills its worker
SETTINGS: Final = {
    "ENGINE__BACKEND": "mock",
    "QUEUE__LEASE_SECONDS": "3",
    "QUEUE__HEARTBEAT_SECONDS": "1.5",  # as rare as may be: who has lost a lease goes on for as long
    "QUEUE__CHECKPOINT_SECONDS": "0.2",
    "QUEUE__RETRY_SECONDS": "0.1",
    "QUEUE__MAX_LOSSES": str(MAX_LOSSES),
    "DOWNLOAD__ALLOW_NETWORKS": "127.0.0.0/8",
    "DOWNLOAD__ALLOW_PORTS": "",
}
PAUSE_SECONDS: Final = 0.6  # the longest between two faults


@dataclass(frozen=True, slots=True)
class Plan:
    """``stages``: in how many of them a kill must have found work, or the run says that it did not bite."""

    jobs: int
    faults: Mapping[Fault, int]
    stages: int
    seed: int = field(default_factory=lambda: randbits(32))

    def shuffled(self, chance: random.Random) -> list[Fault]:
        faults = [fault for fault, times in self.faults.items() for _ in range(times)]
        chance.shuffle(faults)
        return faults


def planned(*, quick: bool) -> Plan:
    few = {Fault.KILL: 5, Fault.ZOMBIE: 1, Fault.TAKEN: 4, Fault.RESTART: 1, Fault.CRASH: 1, Fault.CUT: 1}
    many = {Fault.KILL: 60, Fault.ZOMBIE: 6, Fault.TAKEN: 12, Fault.RESTART: 3, Fault.CRASH: 3, Fault.CUT: 6}
    return (
        Plan(24, few, stages=2) if quick else Plan(200, many, stages=4)
    )  # the interleaver is done before one can look


def run(quick: bool) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), planned(quick=quick))


def measure(folder: Path, plan: Plan) -> Report:
    """With the same seed the same faults in the same order; what they hit is left to chance all the same."""
    print(f"seed {plan.seed}", flush=True)
    return anyio.run(_measure, folder, plan)


async def _measure(folder: Path, plan: Plan) -> Report:
    chance = random.Random(plan.seed)
    async with _set_up(folder, chance) as (scene, clients, receiver):
        began = perf_counter()
        faults = plan.shuffled(chance)
        for left, fault in zip(range(len(faults), 0, -1), faults, strict=True):
            async with anyio.create_task_group() as group:
                group.start_soon(clients.submit, scene.http, -(-(plan.jobs - len(clients.ids)) // left))
                await anyio.sleep(chance.uniform(0, PAUSE_SECONDS))
                await scene.strike(fault)
        await scene.over("jobs that had not ended", audit.OPEN)
        await scene.over("events that had not been told", audit.UNTOLD)
        took = perf_counter() - began
        exits = [await replica.end() for replica in scene.replicas]
        events = [event for replica in scene.replicas for life in replica.lives for event in life.events()]
        figures = [
            *_struck(plan, scene, events, exits),
            Figure("repaired by a sweep", [(await scene.queue.sweep()).repaired], at_most=0),
            *await audit.breaches(scene.server),
            *await audit.agreement(scene.server, clients, receiver),
            await audit.stolen(scene.server, events),
        ]
    return Report("faults", _told(plan, took), figures)


def _struck(plan: Plan, scene: Scene, events: Sequence[Event], exits: Sequence[int]) -> Iterator[Figure]:
    """Whether the faults did bite, and the replicas' own account of it."""
    refused = [any(map(_lost, life.events(since))) for life, since in scene.held]
    for fault, times in plan.faults.items():
        yield Figure(fault, [times])
    for stage in STAGES:
        yield Figure(f"kills while the {stage} was at work", [scene.seen[stage]])
    yield Figure("stages caught at work by a kill", [len(scene.seen)], f"of {len(STAGES)}", at_least=plan.stages)
    yield Figure("zombies that were refused", [sum(refused)], at_least=plan.faults[Fault.ZOMBIE])
    yield Figure("ends refused by the fence", [sum(map(_fenced, events))], at_least=1)
    yield Figure("sweeps of the replicas that repaired the turn", [_number(events, "turn-repaired")], at_most=0)
    yield Figure("replicas that did not end in order", [sum(map(bool, exits))], at_most=0)


def _fenced(event: Event) -> bool:
    return event["event"] == "retrying" and str(event["error"]).startswith("Fenced")


def _lost(event: Event) -> bool:
    """A claim that was dropped since its lease was gone."""
    return event["event"] == "lease-lost" or event.get("ending") == "forfeited" or _fenced(event)


def _number(events: Iterable[Event], name: str) -> int:
    return sum(event["event"] == name for event in events)


@asynccontextmanager
async def _set_up(folder: Path, chance: random.Random) -> AsyncIterator[tuple[Scene, Clients, Receiver]]:
    key = token_hex(32)
    auth = AuthSettings(secret=SecretStr(key))
    tokens = {tenant: issue_token(auth, tenant, seconds=3600) for tenant in TENANTS}
    secrets = {tenant: spelled(webhook_key(key.encode(), Tenant(tenant))) for tenant in TENANTS}
    script = folder / "script.json"
    script.write_text(json.dumps(SCRIPT))
    async with (
        Server(folder) as server,
        PostgresStore(server.dsn, pool_size=2, settings=QueueSettings(max_losses=MAX_LOSSES)) as third,
        serving(RECORDINGS, MEDIA, LATENCY) as web,
        receiving(secrets) as receiver,
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {tokens[TENANTS[0]]}"}, trust_env=False) as http,
    ):
        settings = SETTINGS | {"AUTH__SECRET": key, "ENGINE__MODEL": str(script)}
        replicas = [
            Replica(name, folder / name, settings | {"DATABASE__DSN": f"{server.dsn}?application_name={name}"})
            for name in ("left", "right")
        ]
        hooks = {tenant: receiver.url(tenant) for tenant in TENANTS}
        addresses = [replica.address for replica in replicas]
        files, urls = [RECORDINGS / name for name in MEDIA], [web.url(name) for name in MEDIA]
        clients = Clients(addresses, tokens, hooks, files, urls, chance)
        with ExitStack() as running:
            for replica in replicas:
                running.callback(replica.end_now)
                replica.start()
            for replica in replicas:
                await replica.ready()
            yield Scene(server, third.queue(), replicas, http, chance), clients, receiver


def _told(plan: Plan, took: float) -> dict[str, str]:
    lease, beat = SETTINGS["QUEUE__LEASE_SECONDS"], SETTINGS["QUEUE__HEARTBEAT_SECONDS"]
    return {
        "seed": str(plan.seed),
        "engine": f"mock, {SCRIPT['window_seconds']:g} s a window",
        "leases": f"{lease} s, a beat every {beat} s",
        "jobs": f"{plan.jobs} of {len(TENANTS)} tenants, half of them uploaded, four in five with a webhook",
        "media": f"{', '.join(MEDIA)}; fetched ones after {LATENCY[0]:g} … {LATENCY[1]:g} s",
        "stages": f"{len(STAGES)}, of which the interleaver's work is too short for a kill to be aimed at",
        "time": f"{took:.0f} s until the last event was told",
    }


BENCHMARK: Final = Benchmark(
    "faults",
    "two replicas on one database while they are killed, held still and cut off, and the database crashes",
    "every job once: one transcript, one usage row, one event; nothing left behind",
    run,
)
