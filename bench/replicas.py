"""Replicas of the service as processes: started, looked into, killed, and held still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeAlias

import anyio
import httpx2
from anyio import to_thread

from bench import Unmeasured
from bench.server import free_port

PATIENCE: Final = 60.0  # seconds for a replica to start or to end, on a busy machine
POLL_SECONDS: Final = 0.02

Event: TypeAlias = Mapping[str, Any]  # a line of the log


@dataclass(frozen=True, slots=True)
class Life:
    """A process of a replica, and what it has logged."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self, since: int = 0) -> Iterator[Event]:
        """From that byte of the log on; a last line that is not whole is left out."""
        told = self.log.read_bytes()[since:].rpartition(b"\n")[0]
        return (json.loads(line) for line in told.splitlines() if line.startswith(b"{"))


@dataclass(slots=True)
class Replica:
    """``settings`` are environment variables; port and folder are the replica's own."""

    name: str
    folder: Path
    settings: Mapping[str, str]
    lives: list[Life] = field(default_factory=list)
    port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def life(self) -> Life:
        return self.lives[-1]

    @property
    def pid(self) -> int:
        return self.life.process.pid

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        own = {"DATA_DIR": str(self.folder), "HTTP__HOST": "127.0.0.1", "HTTP__PORT": str(self.port)}
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        log = self.folder / f"log-{len(self.lives)}"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "api", "serve"],
                env={**kept, **self.settings, **own},
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for the benchmark, which ends its replicas itself
            )
        self.lives.append(Life(process, log))

    async def ready(self) -> None:
        """Raises ``Unmeasured`` when the process ends instead, or takes too long."""
        give_up_at = perf_counter() + PATIENCE
        while not any(event["event"] == "service-ready" for event in self.life.events()):
            if self.life.process.poll() is not None or perf_counter() > give_up_at:
                raise Unmeasured(f"A replica did not start; it said: {_last_line(self.life.log)}")
            await anyio.sleep(POLL_SECONDS)

    async def at_work(self, http: httpx2.AsyncClient) -> frozenset[str]:
        """The stages in which it has something in hand right now; none where it does not answer."""
        with suppress(httpx2.HTTPError):
            answer = await http.get(f"{self.address}/v1/engine")
            if answer.is_success:
                return frozenset(stage["stage"] for stage in answer.json()["stages"] if stage["active"])
        return frozenset()

    def kill(self) -> None:
        self.life.process.kill()
        self.life.process.wait()

    async def end(self) -> int:
        """The exit code of an orderly end. Raises ``Unmeasured`` when it does not come."""
        self.life.process.terminate()
        try:
            return await to_thread.run_sync(self.life.process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unmeasured(f"The replica {self.name} did not end when it was asked to.") from None

    def end_now(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        if self.lives and self.life.process.poll() is None:
            self.life.process.send_signal(signal.SIGCONT)
            self.kill()


def _last_line(log: Path) -> str:
    *_, last = ["nothing", *log.read_text(errors="replace").strip().splitlines()]
    return last
